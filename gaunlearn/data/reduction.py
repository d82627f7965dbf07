"""Exact removal of the dimension d: coordinates in the span of the samples.

Derivation: docs/mathematics.md.

With an orthonormal Q (d, r) whose columns span the training samples (and the mixture mean),
x = C Q^T. Training moves W within that span only, so margins, gradients and the trajectory of W Q
are those of the d-dimensional problem. What lies outside, W(0) - W(0) Q Q^T, stays constant. It
counts in norms, cosines and epsilon, and fresh samples see it.

It needs k further coordinates for k initialisations: within the orthogonal complement, neuron j
has its own orthonormal frame of the k remainders, in which the a-th is row a of a triangular
factor. The samples are zero in these coordinates, so all norms and inner products between
weights come out right and no formula elsewhere has to know.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from gaunlearn.types import Coordinates, Dataset, Problem

__all__ = ["pad_coordinates", "reduce_problem", "rotate"]

# Of the parts outside the span: a direction in which they have less than this share of the most is
# rounding.
_DEPENDENT = 1e-5


def rotate(data: Dataset) -> tuple[Coordinates, Float[np.ndarray, "d p"]]:
    """Coordinates of explicit samples, and the isometry Q (d, p), p = min(d, m + t).

    Its first r = min(d, m) columns span the training samples, all of them the test samples too:
    x = C Q^T for both.
    """
    m = len(data.y)
    together = np.concatenate([np.asarray(data.x), np.asarray(data.x_test)])
    # Householder's Q is as good where samples are linearly dependent.
    basis, factor = np.linalg.qr(together.T)
    span, p = min(basis.shape[1], m), basis.shape[1]
    # Below the diagonal the factor is zero: training samples have no coordinate beyond r.
    coordinates = Dataset(factor.T[:m], data.y, factor.T[m:], data.y_test)
    given = Coordinates(coordinates, span, np.ones(m, bool), np.ones(p, bool), np.array(False))
    return given, basis


def pad_coordinates(given: Coordinates, samples: int, span: int, beyond: int) -> Coordinates:
    """The same coordinates (NumPy arrays) with room for more samples and axes; all zero there."""
    data, r = given.data, given.span
    m, p = data.x.shape

    def widen(x):
        inside = np.pad(x[:, :r], ((0, 0), (0, span - r)))
        return np.concatenate([inside, np.pad(x[:, r:], ((0, 0), (0, beyond - (p - r))))], 1)

    return Coordinates(
        Dataset(
            np.pad(widen(data.x), ((0, samples - m), (0, 0))),
            np.pad(data.y, (0, samples - m), constant_values=1.0),
            widen(data.x_test),
            data.y_test,
        ),
        span,
        np.pad(given.present, (0, samples - m)),
        widen(np.asarray(given.exists)[None, :])[0],
        given.led_by_weights,
    )


def _triangular(columns: Float[np.ndarray, "*lanes k n p"]) -> Float[np.ndarray, "*lanes k n k"]:
    """For each of n, column a is that of R in the QR factorisation of its k columns.

    Modified Gram and Schmidt's: k is small, and all n are worked on at once.
    """
    *lanes, k, n, _ = columns.shape
    rows = np.zeros((*lanes, k, n, k))
    directions: list[np.ndarray] = []
    for a in range(k):
        rest = columns[..., a, :, :]
        for b, direction in enumerate(directions):
            along = (direction * rest).sum(-1)
            rows[..., a, :, b] = along
            rest = rest - along[..., None] * direction
        length = np.linalg.norm(rest, axis=-1)
        rows[..., a, :, a] = length
        directions.append(rest / np.where(length > 0, length, 1.0)[..., None])
    return rows


def _shares(parts: Float[np.ndarray, "*lanes k n k"]) -> Float[np.ndarray, "*lanes k n k"]:
    """What inner products with a sum of the parts say how many times each is in it, by least
    squares: the rows of the pseudoinverse. Where fewer dimensions are left than there are parts,
    these depend on each other, and so does what they stand for.
    """
    flat = parts.reshape(*parts.shape[:-2], -1)
    return np.linalg.pinv(flat.swapaxes(-1, -2), rcond=_DEPENDENT).reshape(parts.shape)


def reduce_problem(
    given: Coordinates,
    weights: Float[np.ndarray, "*lanes k n p+k"],
    u: Float[np.ndarray, "*lanes n"],
    upper: Float[np.ndarray, "*lanes k n e"] | None = None,
) -> Problem:
    """Keep the coordinates of the training samples' span; fold all others into k columns.

    Args:
        given: samples with p coordinates, training samples zero from the ``span``-th on.
        weights: initial weights in these coordinates and k more, in which all samples are zero.
        u: output weights.
        upper: columns of the layers above the first, of deep networks.
    """
    data, r = given.data, given.span
    k, p = weights.shape[-3], data.x.shape[-1]
    if upper is None:
        upper = np.zeros((*weights.shape[:-1], 0))

    def pad(coordinates):
        room = np.zeros((*coordinates.shape[:-1], k + upper.shape[-1]))
        return np.concatenate([coordinates[..., :r], room], axis=-1)

    outside = _triangular(weights[..., r:])
    start = np.concatenate([weights[..., :r], outside, upper], axis=-1)
    fresh = data.x_test[..., None, :, r:]
    made: dict[str, Any] = {
        "x": pad(data.x),
        "y": data.y,
        "present": given.present,
        "u": u,
        "x_test": pad(data.x_test),
        "y_test": data.y_test,
        "initial_weights": start,
        "test_offset": weights[..., r:p] @ fresh.swapaxes(-1, -2),
        "outside_shares": _shares(outside),
    }
    return Problem(**made)

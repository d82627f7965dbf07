"""Exact removal of the dimension d: coordinates in the span of the samples (DESIGN 3.3).

With an orthonormal Q (d, r) whose columns span the training samples (and the mixture mean),
x = C Q^T. Training moves W within that span only, so margins, gradients and the trajectory of W Q
are those of the d-dimensional problem. What lies outside, W(0) - W(0) Q Q^T, stays constant. It
counts in norms, cosines and epsilon, and fresh samples see it.

It needs k further coordinates for k initialisations: within the orthogonal complement, neuron j
has its own orthonormal frame of the k remainders, in which the a-th is row a of a triangular
factor. The samples are zero in these coordinates, so all norms and inner products between
weights come out right and no formula elsewhere has to know.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from gaunlearn.types import Coordinates, Dataset, Problem

__all__ = ["reduce_problem", "rotate"]


def rotate(data: Dataset) -> tuple[Coordinates, Float[np.ndarray, "d p"]]:
    """Coordinates of explicit samples, and the isometry Q (d, p), p = min(d, m + t).

    Its first r = min(d, m) columns span the training samples, all of them the test samples too:
    x = C Q^T for both.
    """
    m = len(data.y)
    together = np.concatenate([np.asarray(data.x), np.asarray(data.x_test)])
    # Householder's Q is as good where samples are linearly dependent.
    basis, factor = np.linalg.qr(together.T)
    span = min(basis.shape[1], m)
    # Below the diagonal the factor is zero: training samples have no coordinate beyond r.
    coordinates = Dataset(factor.T[:m], data.y, factor.T[m:], data.y_test)
    return Coordinates(coordinates, span), basis


def reduce_problem(given: Coordinates, weights: Float[Array, "k n p+k"]) -> Problem:
    """Keep the coordinates of the training samples' span; fold all others into k columns.

    Args:
        given: samples with p coordinates, training samples zero from the ``span``-th on.
        weights: initial weights in these coordinates and k more, in which all samples are zero.
    """
    data, r = given
    k, p = weights.shape[0], data.x.shape[1]
    # For each neuron, Q R of its k remainders: column a of R holds remainder a.
    triangular = jnp.linalg.qr(weights[:, :, r:].transpose(1, 2, 0), mode="r")

    def pad(coordinates):
        return jnp.pad(coordinates[:, :r], ((0, 0), (0, k)))

    return Problem(
        x=pad(data.x),
        y=jnp.asarray(data.y),
        x_test=pad(data.x_test),
        y_test=jnp.asarray(data.y_test),
        initial_weights=jnp.concatenate([weights[:, :, :r], triangular.transpose(2, 0, 1)], axis=2),
        test_offset=weights[:, :, r:p] @ data.x_test[:, r:].T,
    )

"""Synthetic distributions, sampled directly in reduced coordinates but for one (``power_law``).

A Gaussian matrix Z (rows, d) with independent N(0, 1) entries is L Q^T with Q orthonormal and L
lower triangular, where L_kk^2 ~ chi^2(d - k), L_ik ~ N(0, 1) for i > k, all independent (Bartlett
1933, *On the theory of statistical regression*). Everything measured here is invariant under
rotations, so L takes the place of Z and nothing of size d is ever formed.

Many data sets are drawn side by side (``lanes``), in arrays that have room for the largest of them;
what does not exist is zero. Each row is drawn from a key of its own, so that neither room nor
neighbours change a number. NumPy throughout.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from gaunlearn.data.numbers import Keys, folded, gamma, integers, normal, split, uniform
from gaunlearn.types import Coordinates, Dataset

__all__ = ["draw", "initial_upper", "initial_weights", "law_of", "power_law", "triangular_rows"]

# One number for each lane, or one for all.
Scalar = float | Float[np.ndarray, "*lanes"] | Int[np.ndarray, "*lanes"]

# The axis of a coordinate that does not exist: beyond any dimension.
_NOWHERE = np.inf


def _row_keys(keys: Keys, rows: int) -> Keys:
    return folded(keys[..., None, :], np.arange(rows))


def _chi(keys: Keys, dof: Float[np.ndarray, "*lanes"]) -> Float[np.ndarray, "*lanes"]:
    """Norms of standard Gaussian vectors of ``dof`` dimensions, 0 where dof <= 0."""
    squared = 2 * gamma(keys, np.maximum(dof, 1.0) / 2)
    return np.where(dof > 0, np.sqrt(squared), 0.0)


def _assemble(
    normals: Float[np.ndarray, "*lanes rows columns"],
    chi: Float[np.ndarray, "*lanes rows"],
    own: Float[np.ndarray, "*lanes rows"],
    axes: Float[np.ndarray, "*lanes columns"],
    d: Scalar,
) -> Float[np.ndarray, "*lanes rows columns"]:
    exists = (axes < np.asarray(d)[..., None])[..., None, :]
    below = (axes[..., None, :] < own[..., None]) & exists
    at = (axes[..., None, :] == own[..., None]) & exists
    return np.where(below, normals, np.where(at, chi[..., None], 0.0))


def triangular_rows(
    keys: Keys,
    own: Float[np.ndarray, "*lanes rows"],
    axes: Float[np.ndarray, "*lanes columns"],
    d: Scalar,
) -> Float[np.ndarray, "*lanes rows columns"]:
    """Rows of the factor L of a standard Gaussian matrix with d columns, at chosen axes.

    Args:
        own: each row's place in L: up to it entries are normal, at it stands the chi variable,
            beyond it they are 0.
        axes: the columns of L that are wanted. Those from d on do not exist and are 0.
    """
    normal_key, chi_key = split(keys, 2)
    rows = own.shape[-1]
    chi = _chi(_row_keys(chi_key, rows), np.asarray(d, float)[..., None] - own)
    return _assemble(normal(_row_keys(normal_key, rows), axes.shape[-1]), chi, own, axes, d)


class _Rows(NamedTuple):
    """Samples before their noise: x = signal + spread zeta, zeta ~ N(0, I / d).

    Attributes:
        y: their labels.
        signal: their coordinates along the directions that the law sets apart.
        spread: scale of the noise.
    """

    y: Float[np.ndarray, "*lanes rows"]
    signal: Float[np.ndarray, "*#lanes #rows a"]
    spread: Float[np.ndarray, "*#lanes #rows"]


Parameters = Mapping[str, Float[np.ndarray, "*#lanes #rows"]]
# (keys of all rows, the rows' places, parameters, whether they are training samples) -> _Rows. A
# row draws from the key folded with its own place.
Law = Callable[[Keys, Int[np.ndarray, " rows"], Parameters, bool], _Rows]


def _own(keys: Keys, places: Int[np.ndarray, "*#lanes rows"]) -> Keys:
    return folded(keys[..., None, :], places)


def _label(keys: Keys, positive: Scalar = 0.5) -> Float[np.ndarray, "*lanes"]:
    return np.where(uniform(keys) < positive, 1.0, -1.0)


def _mean(p: Parameters) -> Float[np.ndarray, "*#lanes #rows"]:
    """||mu|| = d^(-1/4 + alpha)."""
    return p["d"] ** (p["alpha"] - 0.25)


def _mixture(key: Keys, places: NDArray, p: Parameters, training: bool) -> _Rows:
    """D_MG (MYV, FVBS): x = y mu + noise; then a training sample's label may be flipped."""
    own = _own(key, places)
    y = _label(own, p["positive"])
    wrong = (uniform(folded(own, 1)) < p["label_noise"]) & training
    return _Rows(np.where(wrong, -y, y), (y * _mean(p))[..., None], p["noise_scale"])


def _isotropic(key: Keys, places: NDArray, p: Parameters, training: bool) -> _Rows:
    """N(0, I / d) with a label that is independent of it."""
    del p, training
    y = _label(_own(key, places))
    return _Rows(y, np.zeros((*y.shape, 0)), np.ones(1))


def _clusters(each: int) -> Law:
    """``each`` means for each class, all of one length and orthogonal (FVBS)."""

    def row(key: Keys, places: NDArray, p: Parameters, training: bool) -> _Rows:
        del training
        own = _own(key, places)
        y = _label(own)
        number = integers(folded(own, 1), each) + each * (y < 0)
        chosen = np.arange(2 * each) == number[..., None]
        return _Rows(y, np.where(chosen, _mean(p)[..., None], 0.0), np.ones(1))

    return row


def _xor(key: Keys, places: NDArray, p: Parameters, training: bool) -> _Rows:
    """Means +-mu_1 of one class and +-mu_2 of the other, orthogonal and of one length."""
    del training
    own = _own(key, places)
    y = _label(own)
    side = _label(folded(own, 1)) * _mean(p)
    return _Rows(y, np.stack([y > 0, y < 0], axis=-1) * side[..., None], np.ones(1))


def _heavy_tailed(key: Keys, places: NDArray, p: Parameters, training: bool) -> _Rows:
    """Multivariate Student t with E ||x||^2 = 1; labels independent of it."""
    del training
    own = _own(key, places)
    y = _label(own)
    chi_squared = 2 * gamma(folded(own, 1), p["tail_dof"] / 2)
    return _Rows(y, np.zeros((*y.shape, 0)), np.sqrt((p["tail_dof"] - 2) / chi_squared))


def _correlated(key: Keys, places: NDArray, p: Parameters, training: bool) -> _Rows:
    """E <x_i, x_k> = ``correlation`` for all pairs, E ||x||^2 = 1; labels independent of it."""
    del training
    rho = p["correlation"]
    return _Rows(_label(_own(key, places)), np.sqrt(rho)[..., None], np.sqrt(1 - rho))


def _near_duplicates(key: Keys, places: NDArray, p: Parameters, training: bool) -> _Rows:
    """Training samples 0 to ``copies`` have one label, and E <x_i, x_k> = ``correlation`` among
    them; all others are isotropic.
    """
    alike = (places <= p["copies"]) & training
    y = _label(_own(key, np.where(alike, 0, places)))
    rho = np.where(alike, p["correlation"], 0.0)
    return _Rows(y, np.sqrt(rho)[..., None], np.sqrt(1 - rho))


_LAWS: dict[str, tuple[Law, int]] = {
    "gaussian_mixture": (_mixture, 1),
    "isotropic": (_isotropic, 0),
    "xor": (_xor, 2),
    "heavy_tailed": (_heavy_tailed, 0),
    "correlated": (_correlated, 1),
    "near_duplicates": (_near_duplicates, 1),
}


def law_of(kind: str, clusters: int = 0) -> tuple[Law, int]:
    """A kind's law, and how many directions it sets apart."""
    return (_clusters(clusters), 2 * clusters) if kind == "clusters" else _LAWS[kind]


def draw(
    keys: Keys,
    kind: tuple[str, int],
    room: tuple[int, int, int, int],
    m: Scalar,
    parameters: Mapping[str, Scalar],
) -> Coordinates:
    """Data sets in coordinates, one for each key: the first lie along the directions that their law
    sets apart, the next in the span of what is left of the training samples, then of the test
    samples.

    Args:
        kind: arguments of ``law_of``.
        room: for training samples; of test samples; for the coordinates of the training samples'
            span, min(d, m + directions) of which exist; and for what test samples add to it: as
            many as there are of these, or 0 if the span is everything.
        m: training samples.
        parameters: the kind's numbers, ``d`` among them.
    """
    law, directions = law_of(*kind)
    samples, n_test, span, fresh_axes = room
    label_key, fresh_label_key, row_key, inside_key, beyond_key, *chi_keys = split(keys, 7)
    # One for each lane, and an axis for rows or coordinates.
    p = {
        name: np.broadcast_to(np.asarray(value, float), keys.shape[:-1])[..., None]
        for name, value in parameters.items()
    }
    count, d = np.broadcast_to(m, keys.shape[:-1])[..., None], p["d"]
    first = float(directions)
    r = np.minimum(d, count + first)
    axis = np.arange(float(span))
    axes = np.where(axis < r, axis, _NOWHERE)
    beyond = r + np.arange(float(fresh_axes))
    place, fresh_place = np.arange(samples), np.arange(n_test)
    present = place < count
    fresh_own = first + count + fresh_place
    own = np.concatenate([np.broadcast_to(first + place, present.shape), fresh_own], axis=-1)

    def both(key, fresh_key):
        return np.concatenate([_row_keys(key, samples), _row_keys(fresh_key, n_test)], axis=-2)

    chi = _chi(both(*chi_keys), d - own)
    inside = _assemble(normal(both(row_key, inside_key), span), chi, own, axes, d[..., 0])
    outside = normal(_row_keys(beyond_key, n_test), fresh_axes)
    outside = _assemble(outside, chi[..., samples:], fresh_own, beyond, d[..., 0])
    train, fresh = law(label_key, place, p, True), law(fresh_label_key, fresh_place, p, False)
    x, inside, outside = (
        part / np.sqrt(d)[..., None] * rows.spread[..., None]
        for part, rows in (
            (inside[..., :samples, :], train),
            (inside[..., samples:, :], fresh),
            (outside, fresh),
        )
    )
    x[..., :directions] += train.signal
    inside[..., :directions] += fresh.signal
    x = np.where(present[..., None], x, 0.0)
    x = np.concatenate([x, np.zeros((*x.shape[:-1], fresh_axes))], axis=-1)
    data = Dataset(x, train.y, np.concatenate([inside, outside], axis=-1), fresh.y)
    return Coordinates(data, span, present, np.concatenate([axes < d, beyond < d], axis=-1))


def power_law(words: NDArray[np.uint32], m: int, n_test: int, d: int, exponent: float) -> Dataset:
    """x ~ N(0, Sigma), labels independent of it; Sigma has trace 1 and eigenvalues proportional to
    k^-exponent. In d dimensions: no few directions hold what is not invariant (NumPy arrays).

    Args:
        words: what the random numbers come from.
    """
    x_rng, y_rng = (np.random.default_rng([*words.tolist(), part]) for part in range(2))
    variance = np.arange(1.0, d + 1) ** -exponent
    x = x_rng.normal(size=(m + n_test, d)) * np.sqrt(variance / variance.sum())
    y = y_rng.choice([-1.0, 1.0], size=m + n_test)
    return Dataset(x[:m], y[:m], x[m:], y[m:])


def initial_weights(
    keys: Keys, neurons: int, given: Coordinates, n: Scalar, d: Scalar, scale: Scalar
) -> Float[np.ndarray, "*lanes k n p+k"]:
    """k matrices W(0) with independent N(0, scale^2 / d) entries, as coordinates.

    The first p are those of ``given``, in which the samples are; within what is left of the d
    dimensions each neuron has a frame of its own, in which its k remainders are the rows of a
    triangular factor. Rows of W(0) have norm about ``scale``.

    Args:
        keys: (..., k, 2), one for each of k initialisations; the a-th uses the a-th key only.
        neurons: room for them; those from the n-th on are 0.
    """
    k = keys.shape[-2]
    d = np.asarray(d, float)
    exists = np.asarray(given.exists)
    frame = np.arange(float(k))
    span_key, fresh_key, outside_key = split(keys, 3)
    span = normal(_row_keys(span_key, neurons), given.span)
    fresh = normal(_row_keys(fresh_key, neurons), exists.shape[-1] - given.span)
    inside = np.where(exists[..., None, None, :], np.concatenate([span, fresh], axis=-1), 0.0)
    left = (d - exists.sum(-1))[..., None]
    own = np.broadcast_to(frame[:, None], (k, neurons))
    outside = triangular_rows(outside_key, own, frame, left)
    each = (np.asarray(scale) / np.sqrt(d))[..., None, None, None]
    weights = each * np.concatenate([inside, outside], axis=-1)
    used = np.arange(neurons) < np.asarray(n)[..., None]
    return np.where(used[..., None, :, None], weights, 0.0)


def initial_upper(
    keys: Keys, neurons: int, layers: int, n: Scalar, scale: Scalar
) -> Float[np.ndarray, "*lanes k n e"]:
    """The layers above the first of k initialisations, as columns behind W(0)'s (see ``models``).

    Entries of hidden layers are N(0, 2 / n), so that ReLU layers keep their scale (He et al. 2015,
    *Delving deep into rectifiers*), output weights N(0, 1 / n), all times ``scale``.

    Args:
        keys: one for each initialisation, as for ``initial_weights``.
        neurons: room for them; rows and columns from the n-th on are 0.
        layers: hidden layers above the first.
    """
    # All with axes for initialisations, rows and columns.
    width = np.asarray(n, float)[..., None, None, None]
    place = np.arange(neurons)
    exists = place[:, None] < width
    each = []
    for number in range(layers):
        drawn = normal(_row_keys(folded(keys, number + 1), neurons), neurons)
        each.append(np.where(exists & (place < width), np.sqrt(2 / width) * drawn, 0.0))
    out = normal(_row_keys(folded(keys, layers + 1), neurons), 1)
    each.append(np.where(exists, out / np.sqrt(width), 0.0))
    return np.asarray(scale)[..., None, None, None] * np.concatenate(each, axis=-1)

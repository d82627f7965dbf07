"""Synthetic distributions, sampled directly in reduced coordinates but for one (``power_law``).

A Gaussian matrix Z (rows, d) with independent N(0, 1) entries is L Q^T with Q orthonormal and L
lower triangular, where L_kk^2 ~ chi^2(d - k), L_ik ~ N(0, 1) for i > k, all independent (Bartlett
1933, *On the theory of statistical regression*). Everything measured here is invariant under
rotations, so L takes the place of Z and nothing of size d is ever formed.

First come the coordinates of the training samples' span. Beyond it, t fresh samples and the k n
rows of the initial weights meet in inner products only. The fewer of them get a triangular factor
there, of as many coordinates; in these the others are dense: rotated by what is independent of it,
a Gaussian row stays Gaussian.

Many data sets are drawn side by side (``lanes``), in arrays that have room for the largest of them;
what does not exist is zero. Each row is drawn from a key of its own, so that neither room nor
neighbours change a number. NumPy throughout.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from gaunlearn.data.numbers import Keys, folded, gamma, integers, normal, split, uniform
from gaunlearn.types import Coordinates, Dataset

__all__ = [
    "draw",
    "gaussian_rows",
    "initial_upper",
    "initial_weights",
    "law_of",
    "power_law",
    "weights_lead",
]

# One number for each lane, or one for all.
Scalar = float | Float[np.ndarray, "*lanes"] | Int[np.ndarray, "*lanes"]

# The axis of a coordinate that does not exist: beyond any dimension.
_NOWHERE = np.inf
# Places of rows that have none in a triangular factor (``gaussian_rows``).
_DENSE, _ABSENT = np.inf, -1.0


def _row_keys(keys: Keys, rows: int) -> Keys:
    return folded(keys[..., None, :], np.arange(rows))


def _chi(keys: Keys, dof: Float[np.ndarray, "*lanes"]) -> Float[np.ndarray, "*lanes"]:
    """Norms of standard Gaussian vectors of ``dof`` dimensions, 0 where dof <= 0."""
    dof = np.broadcast_to(dof, keys.shape[:-1])
    exists = dof > 0
    chi = np.zeros(dof.shape)
    if exists.any():
        chi[exists] = np.sqrt(2 * gamma(keys[exists], dof[exists] / 2))
    return chi


def gaussian_rows(
    keys: Keys,
    own: Float[np.ndarray, "*#lanes rows"],
    axes: Float[np.ndarray, "*#lanes columns"],
    d: Scalar,
) -> Float[np.ndarray, "*lanes rows columns"]:
    """Rows of a standard Gaussian matrix with d columns, at chosen axes of rotated coordinates.

    Args:
        own: each row's place in the factor L: up to it entries are normal, at it stands the chi
            variable, beyond it they are 0. Infinite for a row that is independent of those that L
            is of: all are normal. Negative for one that has nothing here: all are 0.
        axes: the columns that are wanted. Those from d on do not exist and are 0.
    """
    normal_key, chi_key = split(keys, 2)
    rows = own.shape[-1]
    d = np.asarray(d, float)[..., None]
    normals = normal(_row_keys(normal_key, rows), axes.shape[-1])
    chi = _chi(_row_keys(chi_key, rows), np.where(own < 0, 0.0, d - own))
    exists = (axes < d)[..., None, :]
    below = (axes[..., None, :] < own[..., None]) & exists
    at = (axes[..., None, :] == own[..., None]) & exists
    return np.where(below, normals, np.where(at, chi[..., None], 0.0))


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


def weights_lead(
    starts: int, n: Int[np.ndarray, "*lanes"] | int, n_test: int
) -> Bool[np.ndarray, "*lanes"]:
    """Whether the triangular factor beyond the span is that of the initial weights, with a row for
    each of n neurons at each start, rather than that of the fresh samples: the smaller.
    """
    return np.asarray(starts * n <= n_test)


def draw(
    keys: Keys,
    beyond_keys: Keys,
    kind: tuple[str, int],
    room: tuple[int, int, int, int],
    m: Scalar,
    led_by_weights: bool | Bool[np.ndarray, "*lanes"],
    parameters: Mapping[str, Scalar],
) -> Coordinates:
    """Data sets in coordinates, one for each key: the first lie along the directions that their law
    sets apart, the next in the span of what is left of the training samples, the last beyond it.
    There, fresh samples are kept as far as initial weights can see them: what they have in no
    weight's direction is left out, and with it inner products between fresh samples.

    Args:
        beyond_keys: for what fresh samples have beyond the span. Each is for one set of initial
            weights: others have other coordinates there.
        kind: arguments of ``law_of``.
        room: for training samples; of test samples; for the coordinates of the training samples'
            span, min(d, m + directions) of which exist; and for those beyond, as many as the
            factor has rows, but no more than are left of d.
        m: training samples.
        led_by_weights: whose the factor beyond the span is (``weights_lead``).
        parameters: the kind's numbers, ``d`` among them.
    """
    law, directions = law_of(*kind)
    samples, n_test, span, beyond = room
    label_key, fresh_label_key, row_key, fresh_key = split(keys, 4)
    # One for each lane, and an axis for rows or coordinates.
    p = {
        name: np.broadcast_to(np.asarray(value, float), keys.shape[:-1])[..., None]
        for name, value in parameters.items()
    }
    count, d = np.broadcast_to(m, keys.shape[:-1])[..., None], p["d"]
    r = np.minimum(d, count + float(directions))
    axis, further = np.arange(float(span)), np.arange(float(beyond))
    axes = np.where(axis < r, axis, _NOWHERE)
    place, fresh_place = np.arange(samples), np.arange(n_test)
    present = place < count
    lead = np.broadcast_to(led_by_weights, keys.shape[:-1])
    own_beyond = np.where(lead[..., None], _DENSE, fresh_place)
    train, fresh = law(label_key, place, p, True), law(fresh_label_key, fresh_place, p, False)

    x, inside, outside = (
        gaussian_rows(row_keys, own, where, dimensions[..., 0])
        / np.sqrt(d)[..., None]
        * rows.spread[..., None]
        for row_keys, own, where, dimensions, rows in (
            (row_key, float(directions) + place, axes, d, train),
            (fresh_key, np.full(n_test, _DENSE), axes, d, fresh),
            (beyond_keys, own_beyond, further, d - r, fresh),
        )
    )
    x[..., :directions] += train.signal
    inside[..., :directions] += fresh.signal
    x = np.where(present[..., None], x, 0.0)
    x = np.concatenate([x, np.zeros((*x.shape[:-1], beyond))], axis=-1)
    data = Dataset(x, train.y, np.concatenate([inside, outside], axis=-1), fresh.y)
    left = np.where(lead[..., None], d - r, np.minimum(d - r, n_test))
    exists = np.concatenate([axes < d, further < left], axis=-1)
    return Coordinates(data, span, present, exists, lead)


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

    The first p are those of ``given``. Where these are not led by the weights themselves, each
    neuron has a frame of its own within what is left of the d dimensions, in which its k remainders
    are the rows of a triangular factor. Rows of W(0) have norm about ``scale``.

    Args:
        keys: (..., k, 2), one for each of k initialisations; the a-th uses the a-th key only.
        neurons: room for them; those from the n-th on are 0.
    """
    k = keys.shape[-2]
    exists, span = np.asarray(given.exists), given.span
    lead = np.asarray(given.led_by_weights)[..., None, None]
    start, neuron = np.arange(float(k))[:, None], np.arange(float(neurons))
    # The factor's rows go neuron by neuron, so that room for more neurons adds to its end.
    own_beyond = np.where(lead, k * neuron + start, _DENSE)
    own_in_frame = np.where(lead, _ABSENT, start + np.zeros(neurons))
    # All with an axis for initialisations.
    axes = np.where(exists, np.arange(float(exists.shape[-1])), _NOWHERE)[..., None, :]
    every = np.asarray(d, float)[..., None]
    left = every - exists[..., :span].sum(-1)[..., None]
    left_for_frames = every - exists.sum(-1)[..., None]
    span_key, beyond_key, frame_key, _ = split(keys, 4)
    parts = (
        gaussian_rows(span_key, np.full(neurons, _DENSE), axes[..., :span], every),
        gaussian_rows(beyond_key, own_beyond, axes[..., span:] - span, left),
        gaussian_rows(frame_key, own_in_frame, start[:, 0], left_for_frames),
    )
    used = np.arange(neurons) < np.asarray(n)[..., None]
    each = (np.asarray(scale) / np.sqrt(d))[..., None, None, None]
    return np.where(used[..., None, :, None], each * np.concatenate(parts, axis=-1), 0.0)


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
    *_, upper_key = split(keys, 4)  # the others are of ``initial_weights``
    for number in range(layers):
        drawn = normal(_row_keys(folded(upper_key, number), neurons), neurons)
        each.append(np.where(exists & (place < width), np.sqrt(2 / width) * drawn, 0.0))
    out = normal(_row_keys(folded(upper_key, layers), neurons), 1)
    each.append(np.where(exists, out / np.sqrt(width), 0.0))
    return np.asarray(scale)[..., None, None, None] * np.concatenate(each, axis=-1)

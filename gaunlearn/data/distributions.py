"""Synthetic distributions, sampled directly in reduced coordinates but for one (``power_law``).

A Gaussian matrix Z (rows, d) with independent N(0, 1) entries is L Q^T with Q orthonormal and L
lower triangular, where L_kk^2 ~ chi^2(d - k), L_ik ~ N(0, 1) for i > k, all independent (Bartlett
1933, *On the theory of statistical regression*). Everything measured here is invariant under
rotations, so L takes the place of Z and nothing of size d is ever formed.

Sizes (m, n, d) may be traced: arrays have room for more, and what does not exist is zero. Each
entry is drawn from a key of its own row, so that the room changes no number.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int
from numpy.typing import NDArray

from gaunlearn.types import Coordinates, Dataset

__all__ = ["draw", "initial_upper", "initial_weights", "law_of", "power_law", "triangular_rows"]

Scalar = float | Float[Array, ""] | Int[Array, ""]

# The axis of a coordinate that does not exist: beyond any dimension.
_NOWHERE = jnp.inf


def _row_keys(key: Array, rows: int) -> Array:
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(rows))


def _normal(key: Array, rows: int, columns: int) -> Float[Array, "rows columns"]:
    """N(0, 1); entry (i, k) depends on the key, i and k, but not on rows and columns."""
    return jax.vmap(lambda row: jax.random.normal(row, (columns,)))(_row_keys(key, rows))


def _chi(keys: Array, dof: Float[Array, " k"]) -> Float[Array, " k"]:
    """Norms of standard Gaussian vectors of ``dof`` dimensions, 0 where dof <= 0."""
    squared = 2 * jax.vmap(jax.random.gamma)(keys, jnp.maximum(dof, 1.0) / 2)
    return jnp.where(dof > 0, jnp.sqrt(squared), 0.0)


def _assemble(
    normal: Float[Array, "rows columns"],
    chi: Float[Array, " rows"],
    own: Float[Array, " rows"],
    axes: Float[Array, " columns"],
    d: Scalar,
) -> Float[Array, "rows columns"]:
    below = (axes < own[:, None]) & (axes < d)
    at = (axes == own[:, None]) & (axes < d)
    return jnp.where(below, normal, jnp.where(at, chi[:, None], 0.0))


def triangular_rows(
    key: Array, own: Float[Array, " rows"], axes: Float[Array, " columns"], d: Scalar
) -> Float[Array, "rows columns"]:
    """Rows of the factor L of a standard Gaussian matrix with d columns, at chosen axes.

    Args:
        own: each row's place in L: up to it entries are normal, at it stands the chi variable,
            beyond it they are 0.
        axes: the columns of L that are wanted. Those from d on do not exist and are 0.
    """
    normal_key, chi_key = jax.random.split(key)
    rows = own.shape[0]
    chi = _chi(_row_keys(chi_key, rows), jnp.asarray(d, float) - own)
    return _assemble(_normal(normal_key, rows, axes.shape[0]), chi, own, axes, d)


class _Row(NamedTuple):
    """A sample before its noise: x = signal + spread zeta, zeta ~ N(0, I / d).

    Attributes:
        y: its label.
        signal: its coordinates along the directions that the law sets apart.
        spread: scale of the noise.
    """

    y: Float[Array, ""]
    signal: Float[Array, " a"]
    spread: Float[Array, ""]


Parameters = Mapping[str, Float[Array, ""]]
# (key of all rows, the row's place, parameters, whether it is a training sample) -> _Row. A row
# draws from the key folded with its own place.
Law = Callable[[Array, Array, Parameters, bool], _Row]


def _label(key: Array, positive: Scalar = 0.5) -> Float[Array, ""]:
    return jnp.where(jax.random.bernoulli(key, positive), 1.0, -1.0)


def _mean(p: Parameters) -> Float[Array, ""]:
    """||mu|| = d^(-1/4 + alpha)."""
    return p["d"] ** (p["alpha"] - 0.25)


def _mixture(key: Array, place: Array, p: Parameters, training: bool) -> _Row:
    """D_MG (MYV, FVBS): x = y mu + noise; then a training sample's label may be flipped."""
    own = jax.random.fold_in(key, place)
    y = _label(own, p["positive"])
    wrong = jax.random.bernoulli(jax.random.fold_in(own, 1), p["label_noise"]) & training
    return _Row(jnp.where(wrong, -y, y), (y * _mean(p))[None], p["noise_scale"])


def _isotropic(key: Array, place: Array, p: Parameters, training: bool) -> _Row:
    """N(0, I / d) with a label that is independent of it."""
    del p, training
    return _Row(_label(jax.random.fold_in(key, place)), jnp.zeros(0), jnp.asarray(1.0))


def _clusters(each: int) -> Law:
    """``each`` means for each class, all of one length and orthogonal (FVBS)."""

    def row(key: Array, place: Array, p: Parameters, training: bool) -> _Row:
        del training
        own = jax.random.fold_in(key, place)
        y = _label(own)
        number = jax.random.randint(jax.random.fold_in(own, 1), (), 0, each)
        chosen = jnp.arange(2 * each) == number + each * (y < 0)
        return _Row(y, jnp.where(chosen, _mean(p), 0.0), jnp.asarray(1.0))

    return row


def _xor(key: Array, place: Array, p: Parameters, training: bool) -> _Row:
    """Means +-mu_1 of one class and +-mu_2 of the other, orthogonal and of one length."""
    del training
    own = jax.random.fold_in(key, place)
    y = _label(own)
    side = _label(jax.random.fold_in(own, 1)) * _mean(p)
    return _Row(y, jnp.stack([y > 0, y < 0]) * side, jnp.asarray(1.0))


def _heavy_tailed(key: Array, place: Array, p: Parameters, training: bool) -> _Row:
    """Multivariate Student t with E ||x||^2 = 1; labels independent of it."""
    del training
    own = jax.random.fold_in(key, place)
    chi_squared = 2 * jax.random.gamma(jax.random.fold_in(own, 1), p["tail_dof"] / 2)
    return _Row(_label(own), jnp.zeros(0), jnp.sqrt((p["tail_dof"] - 2) / chi_squared))


def _correlated(key: Array, place: Array, p: Parameters, training: bool) -> _Row:
    """E <x_i, x_k> = ``correlation`` for all pairs, E ||x||^2 = 1; labels independent of it."""
    del training
    rho = p["correlation"]
    return _Row(_label(jax.random.fold_in(key, place)), jnp.sqrt(rho)[None], jnp.sqrt(1 - rho))


def _near_duplicates(key: Array, place: Array, p: Parameters, training: bool) -> _Row:
    """Training samples 0 to ``copies`` have one label, and E <x_i, x_k> = ``correlation`` among
    them; all others are isotropic.
    """
    alike = (place <= p["copies"]) & training
    y = _label(jax.random.fold_in(key, jnp.where(alike, 0, place)))
    rho = jnp.where(alike, p["correlation"], 0.0)
    return _Row(y, jnp.sqrt(rho)[None], jnp.sqrt(1 - rho))


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
    key: Array,
    kind: tuple[str, int],
    room: tuple[int, int, int, int],
    m: Scalar,
    parameters: Parameters,
) -> Coordinates:
    """A data set in coordinates: the first lie along the directions that its law sets apart, the
    next in the span of what is left of the training samples, then of the test samples.

    Args:
        kind: arguments of ``law_of``.
        room: for training samples; of test samples; for the coordinates of the training samples'
            span, min(d, m + directions) of which exist; and for what test samples add to it: as
            many as there are of these, or 0 if the span is everything.
        m: training samples, possibly traced.
        parameters: the kind's numbers, ``d`` among them, possibly traced.
    """
    law, directions = law_of(*kind)
    samples, n_test, span, fresh_axes = room
    label_key, fresh_label_key, row_key, inside_key, beyond_key, *chi_keys = jax.random.split(
        key, 7
    )
    d = jnp.asarray(parameters["d"], float)
    first = float(directions)
    r = jnp.minimum(d, m + first)
    axis = jnp.arange(float(span))
    axes = jnp.where(axis < r, axis, _NOWHERE)
    beyond = r + jnp.arange(float(fresh_axes))
    place = jnp.arange(float(samples))
    present = place < m
    own, fresh_own = first + place, first + m + jnp.arange(float(n_test))
    rows = jnp.concatenate([own, fresh_own])
    keys = [_row_keys(k, count) for k, count in zip(chi_keys, (samples, n_test), strict=True)]
    chi = _chi(jnp.concatenate(keys), d - rows)
    x = _assemble(_normal(row_key, samples, span), chi[:samples], own, axes, d)
    inside = _assemble(_normal(inside_key, n_test, span), chi[samples:], fresh_own, axes, d)
    outside = _assemble(
        _normal(beyond_key, n_test, fresh_axes), chi[samples:], fresh_own, beyond, d
    )

    def drawn(key, count, training):
        return jax.vmap(lambda place: law(key, place, parameters, training))(jnp.arange(count))

    train, fresh = drawn(label_key, samples, True), drawn(fresh_label_key, n_test, False)
    x, inside, outside = (
        part / jnp.sqrt(d) * row.spread[:, None]
        for part, row in ((x, train), (inside, fresh), (outside, fresh))
    )
    x = x.at[:, :directions].add(train.signal)
    inside = inside.at[:, :directions].add(fresh.signal)
    x = jnp.where(present[:, None], x, 0.0)
    x = jnp.pad(x, ((0, 0), (0, fresh_axes)))
    data = Dataset(x, train.y, jnp.concatenate([inside, outside], axis=1), fresh.y)
    return Coordinates(data, span, present, jnp.concatenate([axes < d, beyond < d]))


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
    keys: Array, neurons: int, given: Coordinates, n: Scalar, d: Scalar, scale: Scalar
) -> Float[Array, "k neurons p+k"]:
    """k matrices W(0) with independent N(0, scale^2 / d) entries, as coordinates.

    The first p are those of ``given``, in which the samples are; within what is left of the d
    dimensions each neuron has a frame of its own, in which its k remainders are the rows of a
    triangular factor. Rows of W(0) have norm about ``scale``.

    Args:
        keys: one for each of k initialisations; the a-th uses the a-th key only.
        neurons: room for them; those from the n-th on are 0.
        n, d, scale: possibly traced.
    """
    k = keys.shape[0]
    d = jnp.asarray(d, float)
    exists = jnp.asarray(given.exists)
    left = d - exists.sum()
    frame = jnp.arange(float(k))

    def one(key, place):
        span_key, fresh_key, outside_key = jax.random.split(key, 3)
        span = _normal(span_key, neurons, given.span)
        fresh = _normal(fresh_key, neurons, exists.shape[0] - given.span)
        inside = jnp.where(exists, jnp.concatenate([span, fresh], axis=1), 0.0)
        outside = triangular_rows(outside_key, jnp.full(neurons, place), frame, left)
        return jnp.concatenate([inside, outside], axis=1)

    weights = scale / jnp.sqrt(d) * jax.vmap(one)(keys, frame)
    return jnp.where((jnp.arange(neurons) < n)[:, None], weights, 0.0)


def initial_upper(
    keys: Array, neurons: int, layers: int, n: Scalar, scale: Scalar
) -> Float[Array, "k n e"]:
    """The layers above the first of k initialisations, as columns behind W(0)'s (see ``models``).

    Entries of hidden layers are N(0, 2 / n), so that ReLU layers keep their scale (He et al. 2015,
    *Delving deep into rectifiers*), output weights N(0, 1 / n), all times ``scale``.

    Args:
        keys: one for each initialisation, as for ``initial_weights``.
        neurons: room for them; rows and columns from the n-th on are 0.
        layers: hidden layers above the first.
        n, scale: possibly traced.
    """
    exists = (jnp.arange(neurons) < n)[:, None]
    width = jnp.asarray(n, float)

    def one(key):
        each = []
        for number in range(layers):
            drawn = _normal(jax.random.fold_in(key, number + 1), neurons, neurons)
            each.append(jnp.where(exists & exists.T, jnp.sqrt(2 / width) * drawn, 0.0))
        out = _normal(jax.random.fold_in(key, layers + 1), neurons, 1)
        each.append(jnp.where(exists, out / jnp.sqrt(width), 0.0))
        return scale * jnp.concatenate(each, axis=1)

    return jax.vmap(one)(keys)

"""Synthetic distributions, sampled directly in reduced coordinates. Real data are in ``real``.

A Gaussian matrix Z (rows, d) with independent N(0, 1) entries is L Q^T with Q orthonormal and L
lower triangular, where L_kk^2 ~ chi^2(d - k), L_ik ~ N(0, 1) for i > k, all independent (Bartlett
1933, *On the theory of statistical regression*). Everything measured here is invariant under
rotations, so L takes the place of Z and nothing of size d is ever formed.

Sizes (m, n, d) may be traced: arrays have room for more, and what does not exist is zero. Each
entry is drawn from a key of its own row, so that the room changes no number.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from gaunlearn.types import Coordinates, Dataset

__all__ = ["gaussian_mixture", "initial_weights", "isotropic", "triangular_rows"]

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


def _labels(key: Array, rows: int) -> Float[Array, " rows"]:
    return jax.vmap(lambda row: jax.random.rademacher(row, (), dtype=float))(_row_keys(key, rows))


def _sample(
    key: Array,
    samples: int,
    n_test: int,
    span: int,
    fresh_axes: int,
    m: Scalar,
    d: Scalar,
    mean: Scalar | None,
) -> Coordinates:
    """x = y mean e_0 + zeta, zeta ~ N(0, I / d); without a mean no axis is set apart for it."""
    label_key, fresh_label_key, row_key, inside_key, beyond_key, *chi_keys = jax.random.split(
        key, 7
    )
    d = jnp.asarray(d, float)
    first = 0.0 if mean is None else 1.0
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
    x, inside, outside = (part / jnp.sqrt(d) for part in (x, inside, outside))
    y, y_test = _labels(label_key, samples), _labels(fresh_label_key, n_test)
    if mean is not None:
        x = x.at[:, 0].add(y * mean)
        inside = inside.at[:, 0].add(y_test * mean)
    x = jnp.where(present[:, None], x, 0.0)
    x = jnp.pad(x, ((0, 0), (0, fresh_axes)))
    data = Dataset(x, y, jnp.concatenate([inside, outside], axis=1), y_test)
    return Coordinates(data, span, present, jnp.concatenate([axes < d, beyond < d]))


def gaussian_mixture(
    key: Array,
    samples: int,
    n_test: int,
    span: int,
    fresh_axes: int,
    m: Scalar,
    d: Scalar,
    alpha: Scalar,
) -> Coordinates:
    """D_MG (MYV, FVBS): x = y mu + zeta, zeta ~ N(0, I / d), ||mu|| = d^(-1/4 + alpha).

    The first coordinate lies along mu, the others in the span of what is left of the training
    samples, then of the test samples.

    Args:
        samples, span, fresh_axes: room for training samples; for the coordinates of their span,
            min(d, m + 1) of which exist; and for what test samples add to it: n_test, or 0 if
            d <= m + 1.
        m, d: samples and dimension, possibly traced.
    """
    mean = jnp.asarray(d, float) ** (alpha - 0.25)
    return _sample(key, samples, n_test, span, fresh_axes, m, d, mean)


def isotropic(
    key: Array, samples: int, n_test: int, span: int, fresh_axes: int, m: Scalar, d: Scalar
) -> Coordinates:
    """x ~ N(0, I / d) with labels that are independent of it: no cluster mean.

    Arguments as of ``gaussian_mixture``; min(d, m) coordinates of the span exist.
    """
    return _sample(key, samples, n_test, span, fresh_axes, m, d, None)


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

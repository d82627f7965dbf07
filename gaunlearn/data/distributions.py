"""Synthetic distributions, sampled directly in reduced coordinates. Real data are in ``real``.

A Gaussian matrix Z (rows, d) with independent N(0, 1) entries is L Q^T with Q orthonormal and L
lower triangular, where L_kk^2 ~ chi^2(d - k), L_ik ~ N(0, 1) for i > k, all independent (Bartlett
1933, *On the theory of statistical regression*). Everything measured here is invariant under
rotations, so L takes the place of Z and nothing of size d is ever formed.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from gaunlearn.types import Coordinates, Dataset

__all__ = ["gaussian_mixture", "initial_weights", "isotropic", "triangular_factor"]

Scalar = float | Float[Array, ""] | Int[Array, ""]


def _chi(key: Array, dof: Float[Array, " k"]) -> Float[Array, " k"]:
    """Norms of standard Gaussian vectors of ``dof`` dimensions, 0 where dof <= 0."""
    squared = 2 * jax.random.gamma(key, jnp.maximum(dof, 1.0) / 2)
    return jnp.where(dof > 0, jnp.sqrt(squared), 0.0)


def triangular_factor(
    key: Array, rows: int, columns: int, d: Scalar
) -> Float[Array, "rows columns"]:
    """The factor L of a standard Gaussian matrix (rows, d); columns must be min(rows, d).

    ``d`` may be traced: it enters as a number of degrees of freedom only.
    """
    diagonal_key, below_key = jax.random.split(key)
    diagonal = _chi(diagonal_key, jnp.asarray(d, float) - jnp.arange(columns))
    below = jax.random.normal(below_key, (rows, columns))
    place = jnp.arange(columns)
    factor = jnp.tril(below, -1)
    return factor.at[place, place].set(diagonal)


def _labels(key: Array, m: int) -> Float[Array, " m"]:
    return jax.random.rademacher(key, (m,), dtype=float)


def gaussian_mixture(
    key: Array, m: int, n_test: int, columns: int, d: Scalar, alpha: Scalar
) -> Coordinates:
    """D_MG (MYV, FVBS): x = y mu + zeta, zeta ~ N(0, I / d), ||mu|| = d^(-1/4 + alpha).

    The first coordinate lies along mu, the others in the span of what is left of the training
    samples, then of the test samples.

    Args:
        columns: how many coordinates all samples need: min(d, m + n_test + 1).
        d: the dimension, possibly traced.
    """
    label_key, along_key, across_key = jax.random.split(key, 3)
    count = m + n_test
    d = jnp.asarray(d, float)
    y = _labels(label_key, count)
    along = y * d ** (alpha - 0.25) + jax.random.normal(along_key, (count,)) / jnp.sqrt(d)
    across = triangular_factor(across_key, count, columns - 1, d - 1) / jnp.sqrt(d)
    x = jnp.concatenate([along[:, None], across], axis=1)
    data = Dataset(x[:m], y[:m], x[m:], y[m:])
    return Coordinates(data, span=min(columns, m + 1))


def isotropic(key: Array, m: int, n_test: int, columns: int, d: Scalar) -> Coordinates:
    """x ~ N(0, I / d) with labels that are independent of it: no cluster mean.

    Args:
        columns: how many coordinates all samples need: min(d, m + n_test).
        d: the dimension, possibly traced.
    """
    label_key, sample_key = jax.random.split(key)
    count = m + n_test
    y = _labels(label_key, count)
    x = triangular_factor(sample_key, count, columns, d) / jnp.sqrt(jnp.asarray(d, float))
    return Coordinates(Dataset(x[:m], y[:m], x[m:], y[m:]), span=min(columns, m))


def initial_weights(
    keys: Array, n: int, columns: int, d: Scalar, scale: Scalar
) -> Float[Array, "k n columns+k"]:
    """k matrices W(0) with independent N(0, scale^2 / d) entries, as coordinates.

    The first ``columns`` are those in which the samples are given; within what is left of the d
    dimensions each neuron has a frame of its own, in which its k remainders are the rows of a
    triangular factor. Rows of W(0) have norm about ``scale``.

    Args:
        keys: one for each of k initialisations; the a-th uses the a-th key only.
    """
    k = keys.shape[0]
    d = jnp.asarray(d, float)
    left = d - columns

    def one(key, place):
        inside_key, below_key, diagonal_key = jax.random.split(key, 3)
        inside = jax.random.normal(inside_key, (n, columns))
        frame = jnp.arange(k)
        below = jax.random.normal(below_key, (n, k)) * ((frame < place) & (frame < left))
        diagonal = _chi(diagonal_key, jnp.full(n, left - place))
        outside = jnp.where(frame == place, diagonal[:, None], below)
        return jnp.concatenate([inside, outside], axis=1)

    return scale / jnp.sqrt(d) * jax.vmap(one)(keys, jnp.arange(k))

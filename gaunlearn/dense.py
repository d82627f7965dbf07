"""Inverses of small positive definite matrices, by the batch.

No LAPACK call: on CPU, JAX 0.10.1 can wait for ever in batched Cholesky and triangular solves.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

__all__ = ["condition", "inverse"]

# Columns that are eliminated at a time.
_BLOCK = 8


def inverse(matrices: Float[Array, "n m m"]) -> Float[Array, "n m m"]:
    """Inverses of positive definite matrices, by symmetric Gauss-Jordan elimination.

    Scaled to unit diagonal first. A block of columns at a time, so that the work is in products.
    """
    m = matrices.shape[1]
    scale = jax.lax.rsqrt(jnp.diagonal(matrices, axis1=1, axis2=2))
    both = scale[:, :, None] * scale[:, None, :]
    padding = -m % _BLOCK
    padded = jnp.pad(matrices * both, ((0, 0), (0, padding), (0, padding)))
    ones = jnp.arange(m + padding) >= m
    padded = padded + jnp.diag(ones.astype(matrices.dtype))
    numbers = jnp.arange(_BLOCK)

    def sweep(k, a):
        """Exchange variable k: after all of them, a is minus its inverse."""
        column, pivot = a[:, :, k], a[:, k, k]
        row = column / pivot[:, None]
        here = numbers == k
        a = a - column[:, :, None] * row[:, None, :]
        a = jnp.where(here[:, None], row[:, None, :], jnp.where(here, row[:, :, None], a))
        return jnp.where(here[:, None] & here, (-1 / pivot)[:, None, None], a)

    def sweep_block(place, a):
        first = place * _BLOCK
        columns = jax.lax.dynamic_slice_in_dim(a, first, _BLOCK, axis=2)
        corner = jax.lax.dynamic_slice_in_dim(columns, first, _BLOCK, axis=1)
        corner = jax.lax.fori_loop(0, _BLOCK, sweep, corner)
        share = -columns @ corner
        a = a - share @ columns.transpose(0, 2, 1)
        a = jax.lax.dynamic_update_slice_in_dim(a, share, first, axis=2)
        a = jax.lax.dynamic_update_slice_in_dim(a, share.transpose(0, 2, 1), first, axis=1)
        return jax.lax.dynamic_update_slice(a, corner, (0, first, first))

    swept = jax.lax.fori_loop(0, (m + padding) // _BLOCK, sweep_block, padded)
    return -swept[:, :m, :m] * both


def condition(
    matrices: Float[Array, "n m m"], inverses: Float[Array, "n m m"]
) -> Float[Array, " n"]:
    """Condition numbers in the maximum norm, of the matrices scaled to unit diagonal."""
    scale = jax.lax.rsqrt(jnp.diagonal(matrices, axis1=1, axis2=2))
    both = scale[:, :, None] * scale[:, None, :]
    largest = jnp.max(jnp.abs(matrices * both).sum(2), axis=1)
    return largest * jnp.max(jnp.abs(inverses / both).sum(2), axis=1)

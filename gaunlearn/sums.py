"""Sums and norms of (n, m) arrays. Rows are summed up as products with ones: XLA's loops on CPUs
take five to nine times as long for the same sum (docs/measurements.md, *Against the machine*).
"""

import jax.numpy as jnp
from jax import Array
from jax.lax import Precision
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

__all__ = [
    "count",
    "dot",
    "is_any",
    "matrix_norm",
    "matrix_sum",
    "row_norms",
    "row_sums",
    "times",
    "total",
]

# Longer sums are split by XLA into windows, which its compiler takes several times as long for.
_SHORT = 32


def row_sums(array: Float[Array, "n m"]) -> Float[Array, " n"]:
    """sum_i a_ji."""
    ones = jnp.ones(array.shape[-1], array.dtype)
    return jnp.matmul(array, ones, precision=Precision.HIGHEST)


def total(vector: Float[Array, " n"]) -> Float[Array, ""]:
    """sum_j a_j."""
    if len(vector) <= _SHORT:
        return vector.sum()
    return jnp.matmul(jnp.ones_like(vector), vector, precision=Precision.HIGHEST)


def matrix_sum(array: Float[Array, "n m"]) -> Float[Array, ""]:
    """sum_ji a_ji."""
    # In few long rows, whichever way the numbers lie.
    return total(row_sums(array.reshape(min(array.shape), -1)))


def dot(a: Float[Array, " m"], b: Float[Array, " m"]) -> Float[Array, ""]:
    """sum_i a_i b_i."""
    return total(a * b)


def times(matrix: Float[Array, "n m"], vector: Float[Array, " m"]) -> Float[Array, " n"]:
    """A v of a small matrix, which in a batch is compiled sooner than ``matmul``."""
    return row_sums(matrix * vector)


def row_norms(array: Float[Array, "n m"]) -> Float[Array, " n"]:
    """||a_j||."""
    return jnp.sqrt(row_sums(array**2))


def matrix_norm(array: Float[Array, "n m"]) -> Float[Array, ""]:
    """||a||, the root of the sum of all squares."""
    return jnp.sqrt(matrix_sum(array**2))


def count(mask: Bool[Array, "..."], dtype: DTypeLike) -> Int[Array, ""]:
    """How many are true.

    Args:
        dtype: of floating-point numbers, in which rows are counted: exact to 2^24 in float32.
    """
    rows = row_sums(mask.reshape(min(mask.shape), -1).astype(dtype))
    return rows.astype(int).sum()


def is_any(mask: Bool[Array, "n m"], dtype: DTypeLike) -> Bool[Array, ""]:
    """Whether anything is true.

    Args:
        dtype: of floating-point numbers, in which it is counted.
    """
    return matrix_sum(mask.astype(dtype)) > 0

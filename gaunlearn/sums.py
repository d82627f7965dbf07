"""Sums and norms of (n, m) arrays as products with ones: XLA's loops on CPUs take five to nine
times as long for the same sum (docs/measurements.md, *Against the machine*).
"""

import jax.numpy as jnp
from jax import Array
from jax.lax import Precision
from jaxtyping import Float

__all__ = ["matrix_norm", "matrix_sum", "row_norms", "row_sums"]


def row_sums(array: Float[Array, "n m"]) -> Float[Array, " n"]:
    """sum_i a_ji."""
    ones = jnp.ones(array.shape[-1], array.dtype)
    return jnp.matmul(array, ones, precision=Precision.HIGHEST)


def matrix_sum(array: Float[Array, "n m"]) -> Float[Array, ""]:
    """sum_ji a_ji."""
    of_rows = row_sums(array)
    return jnp.matmul(jnp.ones_like(of_rows), of_rows, precision=Precision.HIGHEST)


def row_norms(array: Float[Array, "n m"]) -> Float[Array, " n"]:
    """||a_j||."""
    return jnp.sqrt(row_sums(array**2))


def matrix_norm(array: Float[Array, "n m"]) -> Float[Array, ""]:
    """||a||, the root of the sum of all squares."""
    return jnp.sqrt(matrix_sum(array**2))

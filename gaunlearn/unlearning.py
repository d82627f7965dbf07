"""Unlearning by gradient ascent (MYV).

The theorem's step on the forget set F has a size beta with -beta l'(q_r) = lambda_r, that is
``W^ = W - sum_F lambda_r y_r h_r`` in normalised weights. The Clarke element h_r is the one that
the multipliers chose: with 1[z > 0] instead, the step is wrong on every kink of a forgotten point.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from gaunlearn.certificate import Certificate

__all__ = ["ascent_direction"]


def ascent_direction(
    certificate: Certificate,
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    forget: Bool[Array, " m"],
) -> Float[Array, "n r"]:
    """sum_F lambda_r y_r h_r in normalised weights: row j is u_j sum_F c_jr y_r x_r.

    Args:
        certificate: that of the trained model with respect to the full training set.
        forget: the forget set F.
    """
    coefficients = jnp.where(forget, certificate.coefficients, 0.0)
    return (u[:, None] * coefficients) @ (y[:, None] * x)

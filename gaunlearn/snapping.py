"""Projection of weights onto kinks: the rows of a layer with some pre-activations made zero.

Pairs are laid out as in ``cone``: samples first, neurons side by side.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from gaunlearn.sums import is_any, row_sums, total

__all__ = ["snap"]

# Curvature of so many units of rounding is none.
_FLAT_UNITS = 100


@jax.jit
def snap(
    weights: Float[Array, "n r"], x: Float[Array, "m r"], kink: Bool[Array, "m n"]
) -> Float[Array, "n r"]:
    """Project each row w_j onto {w : <w, x_i> = 0 for all i with kink_ij}.

    w_j loses sum_i a_ij x_i, where a_j solves the normal equations on the row's kinks. They are
    solved by conjugate gradients on all rows at once, twice over for full accuracy. Where the Gram
    matrix is singular (duplicates, more kinks than dimensions) the system is consistent but for
    rounding; what rounding is, is left alone.
    """
    gram, dtype = x @ x.T, weights.dtype
    rounding = jnp.finfo(dtype).eps
    tiny = jnp.finfo(dtype).tiny
    squares = jnp.diagonal(gram)
    flat = _FLAT_UNITS * rounding * total(squares)
    noise = rounding**2 * row_sums(weights**2) * jnp.where(kink, squares[:, None], 0.0).sum(0)

    def solve(right_hand_side):
        start = (right_hand_side**2).sum(0)
        goal = jnp.maximum((0.1 * rounding) ** 2 * start, noise)

        def iterate(state):
            a, residual, direction, squared, going, _, count = state
            image = jnp.where(kink, gram @ direction, 0.0)
            bending = (direction * image).sum(0)
            # Rows that have converged, and directions without curvature to rounding, stand still:
            # iterating on rounding errors would diverge.
            going = going & (bending > flat * (direction**2).sum(0))
            length = jnp.where(going, squared / jnp.maximum(bending, tiny), 0.0)
            a = a + length * direction
            residual = residual - length * image
            new_squared = (residual**2).sum(0)
            growth = new_squared / jnp.maximum(squared, tiny)
            going = going & (new_squared > goal)
            direction = residual + growth * direction
            some = is_any(kink & going, dtype)
            return a, residual, direction, new_squared, going, some, count + 1

        going = start > goal
        a, *_ = jax.lax.while_loop(
            lambda state: state[5] & (state[6] < len(gram) + 50),
            iterate,
            (
                jnp.zeros_like(right_hand_side),
                right_hand_side,
                right_hand_side,
                start,
                going,
                is_any(kink & going, dtype),
                0,
            ),
        )
        return a

    def once(state):
        weights, count = state
        return weights - solve(jnp.where(kink, x @ weights.T, 0.0)).T @ x, count + 1

    # Where there are no kinks, in none of a batch's lanes, nothing is computed.
    wanted = is_any(kink, dtype)
    return jax.lax.while_loop(lambda state: wanted & (state[1] < 2), once, (weights, 0))[0]

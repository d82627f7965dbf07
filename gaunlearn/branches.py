"""What a batch computes only if one of its lanes needs it. Nothing here knows what that is."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool

__all__ = ["if_needed"]

Result = TypeVar("Result")


def if_needed(
    needed: Bool[Array, ""],
    compute: Callable[..., Result],
    given: tuple[Any, ...],
    otherwise: Result,
) -> Result:
    """``compute(*given)`` where it is needed, ``otherwise``, of the same shapes, elsewhere.

    Pure, jittable and vmappable. It is a loop of at most one round, which a batch without a lane in
    need goes past; of ``lax.cond`` it would compute both sides, for all lanes.

    Args:
        given: arrays, in tuples or alone. XLA takes what does not change in a loop out of it, and
            computes it needed or not; what depends on these it leaves inside.
    """

    def once(state: tuple[Result, Array]) -> tuple[Result, Array]:
        kept, _ = jax.lax.optimization_barrier((given, state[1]))
        return compute(*kept), jnp.asarray(False)

    return jax.lax.while_loop(lambda state: state[1], once, (otherwise, needed))[0]

"""Bounded least squares in m variables, by block principal pivoting.

Minimised is ``l H l / 2 - b l`` over 0 <= l <= ceiling with a positive semidefinite H. Every
variable is free, at 0 or at its ceiling. The free ones solve a linear system; all that then lie
outside their bounds, or want to leave them, change their state at once, or one at a time when that
has not helped for a while (Júdice and Pires 1994, *A block principal pivoting algorithm for large-
scale strictly monotone linear complementarity problems*; Kim and Park 2011, *Fast nonnegative
matrix factorization*). Few steps as a rule, finitely many where H is nonsingular.

Where gradients depend on each other linearly, H is singular: conjugate gradients from 0 find the
solution of least norm among those with the same free variables. The result is meant as a start
whose optimality the caller checks: nothing is promised of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from gaunlearn.sums import dot, times

__all__ = ["Pivoted", "minimise_in_box"]

_MAX_PIVOTS = 60
# Exchanges of all at once that need not help before they go one at a time.
_CHANCES = 3
# Values within so many units of rounding of their bounds are on them.
_SLACK_UNITS = 100
# A system is solved again from a fresh residual.
_SOLVES = 2
# A residual of so many units of rounding is noise: steps that follow it go far astray along
# directions that have next to no curvature.
_NOISE_UNITS = 2
# Curvature of so many units of rounding, relative to the largest there can be, is none.
_FLAT_UNITS = 10


class Pivoted(NamedTuple):
    """A minimiser.

    Attributes:
        solution: l, within its bounds; 0 where it is not used.
        ended: whether no variable wants to change its state.
    """

    solution: Float[Array, " m"]
    ended: Bool[Array, ""]


def _solve(
    matrix: Float[Array, "m m"], targets: Float[Array, " m"], free: Bool[Array, " m"]
) -> Float[Array, " m"]:
    """H l = b on the free variables, the others 0, by conjugate gradients from 0 in variables that
    are scaled to a unit diagonal: of several solutions the one of least norm in these.
    """
    tiny, rounding = jnp.finfo(targets.dtype).tiny, jnp.finfo(targets.dtype).eps
    own = jnp.where(free, jnp.diagonal(matrix), 0.0)
    scale = jnp.where(own > 0, jax.lax.rsqrt(jnp.where(own > 0, own, 1.0)), 0.0)
    scaled, right = scale[:, None] * matrix * scale, scale * targets
    goal = (_NOISE_UNITS * rounding) ** 2 * dot(right, right)
    # The scaled matrix has eigenvalues up to m: directions without curvature to rounding end it.
    flat = _FLAT_UNITS * rounding * len(targets)

    def iterate(state):
        x, residual, direction, squared, _, count = state
        image = times(scaled, direction)
        bending = dot(direction, image)
        is_flat = bending <= flat * dot(direction, direction)
        length = jnp.where(is_flat, 0.0, squared / jnp.maximum(bending, tiny))
        x, residual = x + length * direction, residual - length * image
        new = dot(residual, residual)
        direction = residual + new / jnp.maximum(squared, tiny) * direction
        return x, residual, direction, new, is_flat, count + 1

    def once(_, x):
        residual = right - times(scaled, x)
        squared = dot(residual, residual)
        found, *_ = jax.lax.while_loop(
            lambda state: (state[3] > goal) & ~state[4] & (state[5] < len(targets) + 10),
            iterate,
            (x, residual, residual, squared, jnp.asarray(False), 0),
        )
        return found

    return scale * jax.lax.fori_loop(0, _SOLVES, once, jnp.zeros_like(targets))


def minimise_in_box(
    matrix: Float[Array, "m m"],
    targets: Float[Array, " m"],
    used: Bool[Array, " m"],
    ceiling: Float[Array, " m"],
    needed: bool | Bool[Array, ""] = True,
) -> Pivoted:
    """Minimise l H l / 2 - b l; pure, jittable and vmappable.

    Args:
        matrix: H.
        targets: b.
        used: variables that are not to stay 0.
        ceiling: at least 0; inf where there is none.
        needed: if false, nothing is computed and all is 0.
    """
    m = len(targets)
    slack = _SLACK_UNITS * jnp.finfo(targets.dtype).eps
    places = jnp.arange(m)

    def exchange(state):
        # 0 is free, -1 at the lower bound, 1 at the upper one.
        place, fewest, chances, _, _, count = state
        free = used & (place == 0)
        fixed = jnp.where(place > 0, ceiling, 0.0)
        found = _solve(matrix, targets - times(matrix, fixed), free) + fixed
        pull = targets - times(matrix, found)
        noise = slack * jnp.maximum(jnp.max(jnp.abs(targets)), jnp.finfo(targets.dtype).tiny)
        level = slack * jnp.max(jnp.abs(found))
        low, high = free & (found < -level), free & (found > ceiling + level)
        freed = used & (((place < 0) & (pull > noise)) | ((place > 0) & (pull < -noise)))
        wrong = low | high | freed
        total = wrong.sum()
        better = total < fewest
        last = jnp.max(jnp.where(wrong, places, -1))
        chosen = jnp.where(better | (chances > 0), wrong, places == last)
        moved = jnp.where(low, -1, jnp.where(high, 1, 0))
        return (
            jnp.where(chosen & wrong, moved, place),
            jnp.minimum(total, fewest),
            jnp.where(better, _CHANCES, jnp.maximum(chances - 1, 0)),
            found,
            total == 0,
            count + 1,
        )

    *_, found, ended, _ = jax.lax.while_loop(
        lambda state: needed & ~state[4] & (state[5] < _MAX_PIVOTS),
        exchange,
        (jnp.zeros(m, int), m + 1, _CHANCES, jnp.zeros_like(targets), jnp.asarray(False), 0),
    )
    found = jnp.clip(jnp.where(used, found, 0.0), 0.0, ceiling)
    return Pivoted(jnp.where(jnp.isfinite(found), found, 0.0), ended & jnp.all(jnp.isfinite(found)))

"""An interior-point method for the limit solver's convex program: slower, but it does not cycle.

Minimised is, over the cone of ``cone`` with same-sign slopes p and opposite-sign coefficients free,

    ||theta||^2 / 2 + e (sum_i lambda_i - 1)^2 / 2,    theta_j = u_j sum_i c_ji y_i x_i,
    c_ji = p_ji lambda_i on same-sign pairs, c_ji = leak lambda_i + s_ji on opposite-sign ones,
    s_ji >= 0,   t_ji = (1 - leak) lambda_i - s_ji >= 0,   lambda_i >= 0,

by a primal-dual path-following method with Mehrotra's predictor and corrector (Mehrotra 1992, *On
the implementation of a primal-dual interior point method*). A neuron's s_j occur in its own Newton
equations and in those of lambda only, so that a step is n inverses of m x m and one more for
lambda. Gram matrices that are singular, or nearly so, are made positive by the barrier's
diagonal: where conjugate gradients on ``cone``'s faces stall, on nearly parallel samples, this does
not. It ends close to the solution and not on its face, which the active set then finds.

No LAPACK call: on CPU, JAX 0.10.1 can wait for ever in batched Cholesky and triangular solves.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

__all__ = ["InteriorPoint", "follow_central_path"]

_MAX_ITERATIONS = 80
# Ends when complementarity is this many units of rounding, relative to the objective's scale.
_GAP_UNITS = 0.01
# Share of the way to the boundary.
_TO_BOUNDARY = 0.995
# Columns that the inverse eliminates at a time.
_BLOCK = 8


class InteriorPoint(NamedTuple):
    """Primal variables and the slopes of the barrier's multipliers, all positive.

    Attributes:
        multipliers: lambda_i; meaningless on samples that do not count.
        above_bottom: s_ji, opposite-sign pairs only (1 elsewhere).
        below_top: t_ji, likewise.
        multiplier_price, bottom_price, top_price: multipliers of lambda, s, t >= 0, the latter two
            over u_j^2. Small where their variable is positive, and the other way round.
    """

    multipliers: Float[Array, " m"]
    above_bottom: Float[Array, "n m"]
    below_top: Float[Array, "n m"]
    multiplier_price: Float[Array, " m"]
    bottom_price: Float[Array, "n m"]
    top_price: Float[Array, "n m"]


def _longest_step(value: Array, change: Array, where: Array) -> Array:
    """The largest step in [0, 1] that keeps ``value`` + step * ``change`` at least 0."""
    lengths = value / jnp.where(change < 0, -change, 1.0)
    return jnp.minimum(1.0, jnp.min(jnp.where(where & (change < 0), lengths, jnp.inf)))


def _inverse(matrices: Float[Array, "n m m"]) -> Float[Array, "n m m"]:
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


def follow_central_path(
    gram: Float[Array, "m m"],
    mass: Float[Array, " n"],
    pattern: Float[Array, "n m"],
    opposite: Bool[Array, "n m"],
    retain: Bool[Array, " m"],
    elastic: Float[Array, ""],
    leak: float,
    needed: bool | Bool[Array, ""] = True,
) -> InteriorPoint:
    """Minimise the program above; pure, jittable and vmappable.

    A batch is worked off one lane after the other: few lanes need this, at different lengths, and
    each works on n matrices of m x m.

    Args:
        gram: K, inner products of signed samples, zero outside ``retain``.
        mass: w_j = u_j^2.
        pattern: p, slopes of same-sign pairs; 0 on all others.
        opposite: opposite-sign pairs of samples in ``retain``.
        retain: samples that count.
        elastic: e.
        leak: static; the activation's slope below 0.
        needed: if false, nothing is computed and the starting point is returned.
    """
    one_by_one = jax.custom_batching.sequential_vmap(partial(_follow, leak))
    return one_by_one(gram, mass, pattern, opposite, retain, elastic, jnp.asarray(needed))


def _follow(
    leak: float,
    gram: Float[Array, "m m"],
    mass: Float[Array, " n"],
    pattern: Float[Array, "n m"],
    opposite: Bool[Array, "n m"],
    retain: Bool[Array, " m"],
    elastic: Float[Array, ""],
    needed: Bool[Array, ""],
) -> InteriorPoint:
    """``follow_central_path`` for one lane."""
    m = gram.shape[0]
    rounding = jnp.finfo(gram.dtype).eps
    room = 1.0 - leak
    slope = pattern + leak * opposite
    off = ~opposite
    identity = jnp.eye(m, dtype=gram.dtype)
    total_mass = jnp.maximum(mass.sum(), jnp.finfo(gram.dtype).tiny)
    pairs = mass @ opposite  # (m,): weight of each sample's barrier terms
    weight = jnp.sum(jnp.where(retain, 2 * pairs + total_mass, 0.0))

    def centrality(point):
        pair_terms = point.above_bottom * point.bottom_price + point.below_top * point.top_price
        alone = point.multipliers * point.multiplier_price
        summed = mass @ jnp.where(opposite, pair_terms, 0.0).sum(1)
        return (summed + total_mass * jnp.sum(jnp.where(retain, alone, 0.0))) / weight

    def step_towards(point, inverse, schur_inverse, bordered, target, corrections):
        """Newton's step to complementarity ``target``, less second-order ``corrections``."""
        lam, s, t = point.multipliers, point.above_bottom, point.below_top
        of_lam, of_s, of_t = corrections
        pull_s, pull_t, pull_lam = (target - of_s) / s, (target - of_t) / t, (target - of_lam) / lam
        g = jnp.where(opposite, s + leak * lam, pattern * lam) @ gram
        right = jnp.where(opposite, pull_s - pull_t - g, 0.0)
        residual = -elastic * (jnp.sum(jnp.where(retain, lam, 0.0)) - 1) + total_mass * pull_lam
        residual = residual + mass @ (jnp.where(opposite, room * pull_t, 0.0) - slope * g)
        solved = jnp.einsum("jik,jk->ji", inverse, right)
        residual = residual + jnp.einsum("j,jki,jk->i", mass, bordered, solved)
        d_lam = schur_inverse @ jnp.where(retain, residual, 0.0)
        d_s = jnp.einsum("jik,jk->ji", inverse, right + bordered @ d_lam)
        d_s = jnp.where(opposite, d_s, 0.0)
        d_t = jnp.where(opposite, room * d_lam - d_s, 0.0)
        return InteriorPoint(
            d_lam,
            d_s,
            d_t,
            jnp.where(retain, pull_lam - point.multiplier_price * (1 + d_lam / lam), 0.0),
            jnp.where(opposite, pull_s - point.bottom_price * (1 + d_s / s), 0.0),
            jnp.where(opposite, pull_t - point.top_price * (1 + d_t / t), 0.0),
        )

    def length_of(point, change):
        where = InteriorPoint(retain, opposite, opposite, retain, opposite, opposite)
        lengths = jax.tree.map(_longest_step, point, change, where)
        return jnp.min(jnp.stack(jax.tree.leaves(lengths)))

    def iterate(state):
        point, _, count = state
        low = jnp.where(opposite, point.bottom_price / point.above_bottom, 0.0)
        high = jnp.where(opposite, point.top_price / point.below_top, 0.0)
        diagonal = jnp.where(opposite, low + high, 1.0)
        inner = opposite[:, :, None] & opposite[:, None, :]
        matrix = jnp.where(inner, gram, 0.0) + diagonal[:, :, None] * identity
        inverse = _inverse(matrix)
        # B: how the right-hand side of s_j's equations moves with lambda.
        bordered = room * high[:, :, None] * identity - jnp.where(
            opposite[:, :, None], gram * slope[:, None, :], 0.0
        )
        schur = gram * jnp.einsum("j,ji,jk->ik", mass, slope, slope) + elastic * (
            retain[:, None] & retain
        )
        weighted = (mass[:, None, None] * bordered).reshape(-1, m)
        schur = schur - weighted.T @ (inverse @ bordered).reshape(-1, m)
        own = room**2 * (mass @ high) + total_mass * point.multiplier_price / point.multipliers
        # Rounding's share added, it stays positive definite.
        own = jnp.where(retain, own, 1.0) + 10 * rounding * jnp.diagonal(schur)
        schur_inverse = _inverse((schur + own * identity)[None])[0]

        mu = centrality(point)

        def newton(_, state):
            """The predictor; then the corrector, with the predictor's second-order terms."""
            target, corrections, _ = state
            change = step_towards(point, inverse, schur_inverse, bordered, target, corrections)
            length = length_of(point, change)
            ahead = jax.tree.map(lambda a, b: a + length * b, point, change)
            return (
                mu * (jnp.maximum(centrality(ahead), 0.0) / mu) ** 3,
                (
                    change.multipliers * change.multiplier_price,
                    change.above_bottom * change.bottom_price,
                    change.below_top * change.top_price,
                ),
                change,
            )

        nothing = jax.tree.map(jnp.zeros_like, point)
        none = nothing.multipliers, nothing.above_bottom, nothing.below_top
        start = jnp.zeros((), gram.dtype), none, nothing
        _, _, change = jax.lax.fori_loop(0, 2, newton, start)
        length = _TO_BOUNDARY * length_of(point, change)
        moved = jax.tree.map(lambda a, b: a + length * b, point, change)
        sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(a)) for a in moved]))
        moved = jax.tree.map(lambda a, b: jnp.where(sound, a, b), moved, point)
        done = ~sound | (centrality(moved) <= _GAP_UNITS * rounding * elastic / weight)
        return moved, done | (length < 1e-6), count + 1

    count = jnp.maximum(retain.sum(), 1).astype(gram.dtype)
    lam = jnp.where(retain, 0.5 / count, 1.0)
    price = elastic / total_mass
    half_room = jnp.where(opposite, 0.5 * room * lam, 1.0)
    start = InteriorPoint(
        lam,
        half_room,
        half_room,
        jnp.full_like(lam, price),
        jnp.where(off, 1.0, price),
        jnp.where(off, 1.0, price),
    )
    point, *_ = jax.lax.while_loop(
        lambda state: ~state[1] & (state[2] < _MAX_ITERATIONS),
        iterate,
        (start, ~needed, 0),
    )
    return point

"""Convex quadratic minimisation over the cone of multipliers and Clarke coefficients.

With multipliers lambda >= 0 (m,) and a slope for every smooth (sample, neuron) pair, the cone holds
the coefficients c (m, n) with

    c_ij = slope_ij lambda_i             on smooth pairs (slope 0 where the neuron is off),
    c_ij in [leak lambda_i, lambda_i]    on kinks, where the derivative is free in [leak, 1],

and, if there are ceilings, lambda_i <= ceiling_i: then it is a part of the cone.

Minimised is ``<c, A c> / 2 - <T, c>`` in the inner product <a, b> = sum_ij w_j a_ij b_ij, with a
positive semidefinite operator A: for the KKT kernel (``kkt``) it is K c with one Gram matrix K for
all neurons, so that its curvature is that of K alone. The limit solver (``limit``), which adds a
term of rank one, uses the step within a face.

The method alternates conjugate gradients within a face of the cone, which find the minimum there,
and projected-gradient steps with momentum, which find the face (after Moré and Toraldo 1991, *On
the solution of large quadratic programming problems with bound constraints*). Every accepted step
lowers the objective, so it converges whatever the rank of A. No LAPACK call: all work is
(m, m) x (m, n) products.

Pairs are laid out samples first here, and neurons, of which there are more, side by side: that is
compiled in less time, and runs in less, than the other way round (docs/measurements.md, *What a
user waits for*). What belongs to one sample is a sum over neurons.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.sums import is_any, matrix_sum, row_sums

__all__ = [
    "Cone",
    "ConePoint",
    "Operator",
    "Start",
    "cone_of",
    "descend_on_face",
    "gershgorin",
    "inner",
    "minimise_over_cone",
    "project_onto_cone",
    "ratio",
]

# Measured on isotropic data and digits (m = 40): more gradient steps find the face sooner, more
# conjugate-gradient iterations are wasted on a face that is not the last one.
_GRADIENT_STEPS = 8
# Relative change in a gradient step after which one more is the last.
_LITTLE = 1e-4
_FIRST_ITERATIONS = 15
_MAX_ROUNDS = 200
_MAX_ROUNDS_IN_DOUBT = 40
_MAX_BISECTIONS = 80
_MAX_NARROWINGS = 10
# Between two trial lengths of a projected step.
_SHORTENING = 4.0
# A gap of so many units of rounding may be all rounding, times sqrt(pairs / _FEW_PAIRS) where there
# are more pairs: measured, what is left of it at the minimum is 560 units of 50 000 pairs, 1000 of
# 150 000.
_DOUBTFUL_GAP = 1000
_FEW_PAIRS = 1000
# Curvature of so many units of rounding is none.
_FLAT_UNITS = 100


Operator = Callable[[Float[Array, "m n"]], Float[Array, "m n"]]


class Cone(NamedTuple):
    """The cone at the head of this file.

    Attributes:
        weights: w_j >= 0.
        slope: of smooth pairs; 0 on kinks and wherever a pair is not to be used.
        kink: pairs with c_ij in [leak lambda_i, lambda_i].
        mass: sum_j w_j slope_ij^2.
        leak: static; the least slope at a kink.
        ceiling: upper bounds on lambda, at least 0, inf where there is none; None for none at all.
    """

    weights: Float[Array, " n"]
    slope: Float[Array, "m n"]
    kink: Bool[Array, "m n"]
    mass: Float[Array, " m"]
    leak: float
    ceiling: Float[Array, " m"] | None

    def at_ceiling(self, multipliers: Float[Array, " m"]) -> Bool[Array, " m"]:
        """Which multipliers can grow no more."""
        if self.ceiling is None:
            return jnp.zeros(multipliers.shape, bool)
        return multipliers >= self.ceiling


def cone_of(
    weights: Float[Array, " n"],
    slope: Float[Array, "m n"],
    kink: Bool[Array, "m n"],
    leak: float = 0.0,
    ceiling: Float[Array, " m"] | None = None,
) -> Cone:
    """The cone of these pairs."""
    return Cone(weights, slope, kink, row_sums(weights * slope**2), leak, ceiling)


class ConePoint(NamedTuple):
    """A minimiser.

    Attributes:
        multipliers: lambda_i >= 0; 0 for samples that no pair refers to.
        coefficients: c_ij.
        gap: what the caller's measure of the gap was at the end.
        rounds: how many rounds the solver took.
    """

    multipliers: Float[Array, " m"]
    coefficients: Float[Array, "m n"]
    gap: Float[Array, ""]
    rounds: Int[Array, ""]


class Start(NamedTuple):
    """Where to begin, and what is known of it.

    Attributes:
        multipliers, coefficients: a member of the cone.
        is_solution: whether it is the solution to rounding, of several the one of least norm, if
            its gap is one of rounding.
        is_unique: whether the problem is known to have one solution only.
        gap, in_doubt: what the caller's measure of the gap says of it.
    """

    multipliers: Float[Array, " m"]
    coefficients: Float[Array, "m n"]
    is_solution: Bool[Array, ""]
    is_unique: Bool[Array, ""]
    gap: Float[Array, ""]
    in_doubt: Bool[Array, ""]


def inner(weights: Float[Array, " n"], a: Float[Array, "m n"], b: Float[Array, "m n"]) -> Array:
    """<a, b> = sum_ij w_j a_ij b_ij."""
    return matrix_sum(weights * a * b)


def gershgorin(gram: Float[Array, "m m"], used: Bool[Array, " m"]) -> Float[Array, ""]:
    """An upper bound on the largest eigenvalue of the Gram matrix of the samples in ``used``:
    within a small factor, and without a LAPACK call.
    """
    return jnp.max(row_sums(jnp.where(used[:, None] & used[None, :], jnp.abs(gram), 0.0)))


def ratio(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, and 0 where the denominator is 0."""
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1.0), 0.0)


def project_onto_cone(
    cone: Cone, point: Float[Array, "m n"], guess: Float[Array, " m"] | None = None
) -> tuple[Float[Array, "m n"], Float[Array, " m"]]:
    """The nearest member of the cone in the norm sum_ij w_j a_ij^2, and its lambda.

    Per sample, lambda is the root of the increasing, piecewise linear function

        sum_smooth w s (s lambda - b) - sum_kink w (b - lambda)_+
                                      + sum_kink w leak (leak lambda - b)_+.

    Without the last sum it is concave: Newton's method comes to the left of the root in one step,
    and climbs to it in finitely many. With it, Newton's steps are kept within a bracket that every
    step shrinks; the step on the piece with the root is exact. The distance is convex in lambda, so
    that bounds only clip it.

    Args:
        guess: lambda, about; None is far below.
    """
    weights, slope, kink, leak = cone.weights, cone.slope, cone.kink, cone.leak
    weighted = weights * point
    smooth_sum = row_sums(slope * weighted)

    def above(level):
        """Weight, and weighted sum, of the pairs that pull a level up."""
        here = kink & (point > level[:, None])
        mass = cone.mass + row_sums(jnp.where(here, weights, 0.0))
        return mass, smooth_sum + row_sums(jnp.where(here, weighted, 0.0))

    def climb(state):
        """Left of the root, or the root itself."""
        level, _, is_first = state
        mass, total = above(level)
        # Above all kinks of a sample without smooth pairs nothing pulls: on from far below them.
        root = jnp.where(mass > 0, ratio(total, mass), -jnp.inf)
        new = jnp.where(is_first, root, jnp.maximum(root, level))
        return new, is_first | jnp.any(new > level), jnp.asarray(False)

    def bracketed(state):
        level, low, high, _, count = state
        mass, total = above(level)
        below = kink & (point < leak * level[:, None])
        mass += leak**2 * row_sums(jnp.where(below, weights, 0.0))
        total += leak * row_sums(jnp.where(below, weighted, 0.0))
        right = mass * level > total
        low, high = jnp.where(right, low, level), jnp.where(right, level, high)
        # Nothing pulls on a level at which there is no mass. An end of the bracket that is no root
        # itself is none of a neighbouring piece either, but for rounding. A root below 0 is at 0.
        root = jnp.where(mass > 0, ratio(total, mass), level).clip(min=0)
        inside = (root > low + noise) & (root < high - noise)
        taken = inside | (jnp.abs(root - level) <= noise)
        return jnp.where(taken, root, 0.5 * (low + high).clip(min=0)), low, high, level, count + 1

    if leak == 0:
        first = jnp.full_like(smooth_sum, -jnp.inf) if guess is None else guess
        yes = jnp.asarray(True)
        level, *_ = jax.lax.while_loop(lambda state: state[1], climb, (first, yes, yes))
    else:
        smooth_root = ratio(smooth_sum, cone.mass)
        high = jnp.maximum(jnp.max(jnp.where(kink, point, -jnp.inf), 1), smooth_root).clip(min=0)
        # At a breakpoint, Newton's steps from both sides may differ by rounding for ever.
        noise = 4 * jnp.finfo(point.dtype).eps * high
        first = (smooth_root if guess is None else guess).clip(0, high)
        level, *_ = jax.lax.while_loop(
            lambda state: (
                jnp.any(jnp.abs(state[0] - state[3]) > noise) & (state[4] < _MAX_BISECTIONS)
            ),
            bracketed,
            bracketed((first, -high, high, high, 0)),
        )
    multipliers = jnp.clip(level, 0.0, cone.ceiling)
    most = multipliers[:, None]
    return jnp.where(kink, jnp.clip(point, leak * most, most), slope * most), multipliers


def descend_on_face(
    gradient: Float[Array, "m n"],
    operator: Operator,
    curvature: Float[Array, ""],
    weights: Float[Array, " n"],
    free: Bool[Array, "m n"],
    slope: Float[Array, "m n"],
    goal: Float[Array, ""],
    max_iterations: int | Int[Array, ""],
) -> tuple[Float[Array, "m n"], Float[Array, " m"]]:
    """The conjugate-gradient step to the minimum over a face's linear span.

    On the face, pairs in ``free`` move independently and the others stay at slope * lambda. The
    objective must have a minimum there; A may be singular. Directions that have no curvature to
    rounding end the iteration: what is left then is rounding too.

    Args:
        gradient: of the objective at the present point.
        operator: A.
        curvature: an upper bound on its eigenvalues.
        slope: 0 on free pairs and on pairs that are to stay 0.
        goal: stop when the squared norm of the gradient within the face is at most this, or has
            fallen by the square of a tenth of a unit of rounding.

    Returns:
        The step in c and the step in lambda.
    """
    tiny, rounding = jnp.finfo(gradient.dtype).tiny, jnp.finfo(gradient.dtype).eps
    weighted_slope = weights * slope
    mass = row_sums(weighted_slope * slope)
    flat = _FLAT_UNITS * rounding * curvature

    def level_of(a):
        return ratio(row_sums(weighted_slope * a), mass)

    def onto_face(a):
        return jnp.where(free, a, slope * level_of(a)[:, None])

    def iterate(state):
        x, residual, direction, squared, length_squared, _, count = state
        image = onto_face(operator(direction))
        bending = inner(weights, direction, image)
        is_flat = bending <= flat * length_squared
        length = jnp.where(is_flat, 0.0, squared / jnp.maximum(bending, tiny))
        x = x + length * direction
        residual = residual - length * image
        new_squared = inner(weights, residual, residual)
        growth = new_squared / jnp.maximum(squared, tiny)
        direction = residual + growth * direction
        # Residual and old direction are orthogonal.
        length_squared = new_squared + growth**2 * length_squared
        return x, residual, direction, new_squared, length_squared, is_flat, count + 1

    residual = -onto_face(gradient)
    start = inner(weights, residual, residual)
    goal = jnp.maximum(goal, 0.1 * rounding**2 * start)
    step, *_ = jax.lax.while_loop(
        lambda state: (state[3] > goal) & ~state[5] & (state[6] < max_iterations),
        iterate,
        (
            jnp.zeros_like(gradient),
            residual,
            residual,
            start,
            start,
            jnp.asarray(False),
            0,
        ),
    )
    return step, level_of(step)


def _lengths(room: Array, change: Array, where: Array) -> Array:
    """How far each value can go along its change before its room is used up; inf if for ever."""
    falls = where & (change < 0)
    return jnp.where(falls, room / jnp.where(falls, -change, 1.0), jnp.inf)


def minimise_over_cone(
    cone: Cone,
    operator: Operator,
    curvature: Float[Array, ""],
    targets: Float[Array, "m n"],
    assess: Callable[[Array, Array, Array], tuple[Array, Array | bool]],
    needed: bool | Bool[Array, ""] = True,
    start: Start | None = None,
) -> ConePoint:
    """Minimise <c, A c> / 2 - <T, c> over the cone.

    Pure, jittable and vmappable; shapes are fixed. Never raises: look at ``gap``.

    Args:
        operator: A, on (m, n) arrays.
        curvature: an upper bound on its eigenvalues, on the pairs that are used.
        targets: T.
        assess: (c, lambda, gradient) -> a gap relative to the objective's natural unit, and whether
            a gap of rounding leaves in doubt what is sought. The solver stops when the gap is
            rounding and, if there is doubt, the face has been found twice running.
        needed: if false, nothing is computed and all is 0.
        start: where to begin; None is at 0, of which nothing is known.
    """
    weights, slope, kink, _, leak, ceiling = cone
    m = len(targets)
    rounding = jnp.finfo(targets.dtype).eps
    curvature = jnp.maximum(curvature, jnp.finfo(targets.dtype).tiny)
    smallest_residual = rounding**2 * inner(weights, targets, targets)
    begin = start
    if begin is None:
        no = jnp.asarray(False)
        # From 0 there is always something to do.
        some = jnp.asarray(jnp.inf, targets.dtype)
        begin = Start(jnp.zeros(m, targets.dtype), jnp.zeros_like(targets), no, no, some, no)

    def gradient(c):
        return operator(c) - targets

    def objective(c, grad):
        return 0.5 * inner(weights, c, grad - targets)

    def gradient_steps(c, multipliers):
        """Projected gradient with Nesterov momentum, restarted when momentum points uphill, until
        it hardly moves or for some steps; the last step has none.
        """

        def step(state):
            number, old, ahead, momentum, multipliers, last = state
            ahead = jnp.where(last, old, ahead)
            new, multipliers = project_onto_cone(
                cone, ahead - gradient(ahead) / curvature, multipliers
            )
            change = new - old
            next_momentum = 0.5 * (1 + jnp.sqrt(1 + 4 * momentum**2))
            uphill = inner(weights, ahead - new, change) > 0
            next_momentum = jnp.where(uphill, 1.0, next_momentum)
            push = jnp.where(uphill, 0.0, (momentum - 1) / next_momentum)
            little = inner(weights, change, change) <= _LITTLE**2 * inner(weights, new, new)
            number = jnp.where(last, _GRADIENT_STEPS, number) + 1
            last = little | (number == _GRADIENT_STEPS)
            return number, new, new + push * change, next_momentum, multipliers, last

        _, c, _, _, multipliers, _ = jax.lax.while_loop(
            lambda state: state[0] <= _GRADIENT_STEPS,
            step,
            (0, c, c, jnp.ones((), c.dtype), multipliers, jnp.asarray(False)),
        )
        return c, multipliers

    def minimise_on_face(c, multipliers, last_face):
        """Conjugate gradients with free pairs, and pairs tied to lambda, as in c; then as much of
        that step as keeps c in the cone, or its projection if that is lower. Also returns a
        lambda near it, the face, to be compared with the next round's, and whether it is the last
        round's.
        """
        level = multipliers[:, None]
        capped = cone.at_ceiling(multipliers)
        positive = (multipliers > 0) & ~capped
        at_top = kink & (c >= level)
        at_bottom = kink & (c <= leak * level) & ~at_top
        free = kink & ~at_top & ~at_bottom
        tied = jnp.where(positive[:, None], slope + at_top + leak * at_bottom, 0.0)
        # A number for each pair: -1, or 0 and more, if lambda may move; less than that if not.
        face = jnp.where(free, -1.0, tied) - jnp.where(capped, 2.0, 0.0)[:, None]
        settled = ~is_any(face != last_face, face.dtype)

        # Accuracy is worth its price only on a face that has been found twice running.
        limit = jnp.where(settled, 4 * m + 50, _FIRST_ITERATIONS)
        step, multiplier_step = descend_on_face(
            gradient(c), operator, curvature, weights, free, tied, 0.01 * smallest_residual, limit
        )
        level_step = multiplier_step[:, None]
        of_pairs = jnp.minimum(
            _lengths(c - leak * level, step - leak * level_step, free),
            _lengths(level - c, level_step - step, free),
        )
        of_samples = _lengths(multipliers, multiplier_step, positive)
        if ceiling is not None:
            to_ceiling = _lengths(ceiling - multipliers, -multiplier_step, positive)
            of_samples = jnp.minimum(of_samples, to_ceiling)
        length = jnp.minimum(jnp.min(of_pairs), jnp.min(of_samples)).clip(max=1.0)
        truncated = c + length * step
        to_beat = objective(truncated, gradient(truncated))

        # Further along the step and projected, many bounds are met at once.
        def shorten(state):
            _, _, share = state
            ahead, _ = project_onto_cone(
                cone, c + share * step, multipliers + share * multiplier_step
            )
            return ahead, objective(ahead, gradient(ahead)), share / _SHORTENING

        projected, value, _ = jax.lax.while_loop(
            lambda state: (state[1] >= to_beat) & (state[2] > length),
            shorten,
            (truncated, to_beat, jnp.ones((), c.dtype)),
        )
        c = jnp.where(value < to_beat, projected, truncated)
        return c, multipliers + length * multiplier_step, face, settled

    def polish(state):
        """The minimum on the final face once more, where there may be others from 0: conjugate
        gradients then find the solution of least norm, the same one wherever the rounds have ended.
        Where that leaves the cone, its face is narrowed by what leaves. Taken if it is in the cone,
        and no worse.
        """
        c, multipliers, gap, to_polish = state

        def narrow(state):
            positive, capped, at_top, free, _, _, _, count = state
            moves = positive & ~capped
            tied = slope + at_top + leak * (kink & ~at_top & ~free)
            fixed = jnp.zeros_like(c)
            if ceiling is not None:
                fixed = tied * jnp.where(capped, ceiling, 0.0)[:, None]
            tied = jnp.where(moves[:, None], tied, 0.0)
            free &= positive[:, None]
            level = jnp.where(begin.is_unique & moves, multipliers, 0.0)
            first = jnp.where(
                free, jnp.where(begin.is_unique, c, 0.0), tied * level[:, None] + fixed
            )
            step, level_step = descend_on_face(
                gradient(first), operator, curvature, weights, free, tied, goal, 4 * m + 50
            )
            level = level + level_step
            new = jnp.where(free, first + step, tied * level[:, None] + fixed)
            too_high = jnp.zeros_like(capped)
            if ceiling is not None:
                level = jnp.where(capped, ceiling, level)
                too_high = ~capped & (level > ceiling)
            stays = positive & (level >= 0)
            above = free & (new > level[:, None])
            below = free & (new < leak * level[:, None])
            inside = ~is_any(above | below, c.dtype) & jnp.all((stays == positive) & ~too_high)
            at_top, free = at_top | above, free & ~above & ~below
            return stays, capped | too_high, at_top, free, new, level, inside, count + 1

        goal = 0.01 * smallest_residual
        capped = cone.at_ceiling(multipliers)
        at_top = kink & (c >= multipliers[:, None])
        free = kink & ~at_top & (c > leak * multipliers[:, None])
        *_, new, level, inside, _ = jax.lax.while_loop(
            lambda state: to_polish & ~state[6] & (state[7] < _MAX_NARROWINGS),
            narrow,
            (multipliers > 0, capped, at_top, free, c, multipliers, jnp.asarray(False), 0),
        )
        new_gap, _ = assess(new, level, gradient(new))
        good = inside & (new_gap <= jnp.maximum(gap, 10 * rounding))
        return (
            jnp.where(good, new, c),
            jnp.where(good, level, multipliers),
            jnp.where(good, new_gap, gap),
            jnp.asarray(False),
        )

    def one_round(state):
        c, multipliers, gap, _, _, face, rounds = state
        c, near, face, settled = minimise_on_face(c, multipliers, face)
        c, multipliers = gradient_steps(c, near)
        new_gap, doubt = assess(c, multipliers, gradient(c))
        doubt = doubt & ~settled & (rounds < _MAX_ROUNDS_IN_DOUBT)
        return c, multipliers, new_gap, gap, doubt, face, rounds + 1

    pairs = matrix_sum(((slope != 0) | kink).astype(targets.dtype))
    doubtful = _DOUBTFUL_GAP * jnp.sqrt(jnp.maximum(pairs / _FEW_PAIRS, 1.0)) * rounding

    def unfinished(state):
        _, _, gap, previous, doubt, _, rounds = state
        # A gap of some units in the last place is as good as 0; so is one that may be rounding and
        # that another round did not halve.
        stalled = (gap <= doubtful) & (gap > 0.5 * previous)
        return ((gap > 10 * rounding) & ~stalled & (rounds < _MAX_ROUNDS)) | doubt

    coefficients, multipliers, gap, _, _, _, rounds = jax.lax.while_loop(
        unfinished,
        one_round,
        (
            jnp.where(needed, begin.coefficients, 0.0),
            jnp.where(needed, begin.multipliers, 0.0),
            jnp.where(needed, begin.gap, 0.0),
            # A solution's gap that may be rounding is taken for it, where there is no doubt.
            jnp.where(begin.is_solution & ~begin.in_doubt, begin.gap, jnp.inf),
            needed & begin.in_doubt & ~begin.is_solution,
            jnp.full(targets.shape, -jnp.inf, targets.dtype),
            0,
        ),
    )
    solved = (rounds == 0) & begin.is_solution
    coefficients, multipliers, gap, _ = jax.lax.while_loop(
        lambda state: state[3], polish, (coefficients, multipliers, gap, needed & ~solved)
    )
    return ConePoint(multipliers, coefficients, gap, jnp.asarray(rounds))

"""Where training goes: the Clarke-KKT point of the max-margin problem, solved for.

Derivation: docs/mathematics.md.

Training on separable data converges in direction to a KKT point of
"min ||theta||^2 / 2 s.t. q_i >= 1" (LL, JT; SHN for the linear model). A pair (j, i) with
y_i u_j > 0 has the same sign: its activation is a convex term of the margin q_i. With the slopes of
these pairs frozen at those of the given weights, what is left is a convex program, since
opposite-sign pairs enter as -|u_j| act(z). Its dual is, over the cone of ``cone``,

    max  sum_i lambda_i - ||theta||^2 / 2,    theta_j = u_j sum_i c_ji y_i x_i,

with c_ji tied to lambda_i on same-sign pairs, in [leak lambda_i, lambda_i] on opposite-sign ones.

*Active set.* Every opposite-sign pair is active, off, or at its kink, and every sample is a support
vector or not. Given these states the solution is a linear system (margins 1 on support vectors,
pre-activations 0 at kinks), solved by conjugate gradients on all neurons at once; states that the
solution contradicts are changed, all at once, until there are none (a semismooth Newton method:
few iterations, no guarantee).
*Fallback.* If it cycles, or the Gram matrix is singular and the system has no solution, the same
program is solved by an interior-point method (``interior``), which needs no guess of the states,
and the active set starts anew from those of its result.
*Same-sign pairs* are changed only once the convex program is solved: an active one whose
pre-activation came out negative is released, an inactive one that came out positive is taken in.
The present solution stays feasible, so the norm falls with every change, and there are finitely
many patterns. Earlier, or on a dead neuron (w_j = 0, which is at a kink of every sample), a change
would lead to another KKT point.

theta is formed from the coefficients, so stationarity holds to rounding by construction; what is
left to check is that margins and signs agree with them.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.branches import if_needed
from gaunlearn.cone import descend_on_face, gershgorin, inner, ratio
from gaunlearn.interior import follow_central_path
from gaunlearn.models import (
    Model,
    activation,
    clean_preactivations,
    largest_logits,
    neuron_count,
    preactivations,
    slopes,
)
from gaunlearn.sums import count, is_any, matrix_norm, row_sums, total

__all__ = ["STATUSES", "Limit", "find_limit"]

# What Limit.status indexes.
STATUSES = ("converged", "fallback", "infeasible", "stalled", "undefined", "unsupported")
_CONVERGED, _FALLBACK, _INFEASIBLE, _STALLED, _UNDEFINED, _UNSUPPORTED = range(6)

# Trained pre-activations within this of zero, relative to the network's scale, start as kinks.
_START_TOL = 1e-2
# Margins up to this many times the least one start as those of support vectors.
_START_SUPPORT = 1.5
# A face's system is solved again from a fresh residual: iterative refinement, which float32 needs.
_SOLVES = 2
_MAX_ITERATIONS = 40
_MAX_ATTEMPTS = 200
# Values within so many units of rounding of zero contradict no state, and are no slack.
_SLACK_UNITS = 300
# A residual of so many units of what rounding allows is one of rounding, and so is a
# pre-activation, relative to the network's scale.
_RESIDUAL_UNITS = 1e4
# Samples whose directions differ by so many units of rounding have the same one.
_SAME_UNITS = 100
# A normalised margin below this many units of rounding (squared) is none.
_MARGIN_UNITS = 100


class Limit(NamedTuple):
    """A Clarke-KKT point with what it takes to check it.

    Attributes:
        weights: normalised to least margin 1 on the retain set.
        multipliers: dual variables lambda_i, 0 outside the retain set.
        coefficients: c_ji = lambda_i times the Clarke derivative of the pair.
        margins: q_i on all samples.
        epsilon: ||theta - sum_i lambda_i y_i h_i||, with h_i from ``coefficients`` where z_ji is
            zero to rounding and from the sign of z_ji elsewhere.
        delta: max_i lambda_i (q_i - 1) over the retain set, where q_i = 1 if its distance from 1 is
            rounding: lambda_i times that would be chance.
        kink_pairs: retained pairs at a kink.
        status: an index of ``STATUSES``. ``converged``: by the active set alone; ``fallback``: the
            convergent method was needed; ``infeasible``: no weights with these same-sign slopes
            have a margin above 1e-7 of the largest that a network of their norm can have (3e-3 in
            float32); ``stalled``: no solution to rounding was found; ``undefined``: the weights
            were not finite; ``unsupported``: the model is not homogeneous of degree 1, and with the
            slopes frozen its problem is not convex. In the last four cases all numbers are NaN.
        iterations: iterations of the active set.
        pattern_changes: same-sign pairs that were released or taken in.
    """

    weights: Float[Array, "n r"]
    multipliers: Float[Array, " m"]
    coefficients: Float[Array, "n m"]
    margins: Float[Array, " m"]
    epsilon: Float[Array, ""]
    delta: Float[Array, ""]
    kink_pairs: Int[Array, ""]
    status: Int[Array, ""]
    iterations: Int[Array, ""]
    pattern_changes: Int[Array, ""]


class _Program(NamedTuple):
    """The convex program but for the slopes of same-sign pairs, the ``pattern`` (m, n); pairs are
    laid out as in ``cone``.

    Attributes:
        gram: K, inner products of signed samples y_i x_i; zero outside ``retain``.
        mass: w_j = u_j^2.
        retain: the constraints, without those that another one implies.
        same_sign, opposite: the pairs of either kind that count.
        leak: the activation's slope below 0 (static).
        lengths: ||x_i||.
        curvature: an upper bound on the eigenvalues of K.
        steepest: an upper bound on the squared norm of any sample's gradient.
        elastic: weight of the term that keeps the dual bounded, of the order of a squared margin.
    """

    gram: Float[Array, "m m"]
    mass: Float[Array, " n"]
    retain: Bool[Array, " m"]
    same_sign: Bool[Array, "m n"]
    opposite: Bool[Array, "m n"]
    leak: float
    lengths: Float[Array, " m"]
    curvature: Float[Array, ""]
    steepest: Float[Array, ""]
    elastic: Float[Array, ""]

    def correlate(self, c: Float[Array, "m n"]) -> Float[Array, "m n"]:
        """(K c)_ij = <theta_j, y_i x_i> / u_j."""
        return self.gram @ c

    def margins(self, pattern: Float[Array, "m n"], correlations: Float[Array, "m n"]) -> Array:
        """The constraint functions, at most the true margins q_i."""
        bent = jnp.minimum(correlations, self.leak * correlations)
        each = pattern * correlations + jnp.where(self.opposite, bent, 0.0)
        return row_sums(self.mass * each)

    def no_margin(self, c: Float[Array, "m n"], level: Float[Array, " m"]) -> Bool[Array, ""]:
        """Whether (c, lambda) proves that no weights of norm 1 have a margin worth the name:
        ||theta|| / sum lambda bounds it from above.
        """
        squared = inner(self.mass, c, self.correlate(c))
        units = _MARGIN_UNITS * jnp.finfo(c.dtype).eps
        return squared < units * self.steepest * total(level) ** 2


class _Face(NamedTuple):
    """States of opposite-sign pairs (1 active, 0 at the kink, -1 off) and support vectors."""

    state: Int[Array, "m n"]
    support: Bool[Array, " m"]


class _Point(NamedTuple):
    """Coefficients and multipliers, up to a common factor, and the face that they ask for."""

    c: Float[Array, "m n"]
    level: Float[Array, " m"]
    face: _Face


def _solve_face(
    program: _Program, pattern: Float[Array, "m n"], point: _Point
) -> tuple[Float[Array, "m n"], Float[Array, " m"]]:
    """Coefficients and multipliers with the states of ``point.face``."""
    leak, mass, face = program.leak, program.mass, point.face
    support = face.support[:, None]
    moving = jnp.where(face.state > 0, 1.0, jnp.where(face.state < 0, leak, 0.0))
    slope = pattern + jnp.where(program.opposite, moving, 0.0)
    slope = jnp.where(support, slope, 0.0)
    free = program.opposite & support & (face.state == 0)
    tied_mass = row_sums(mass * slope**2)
    # <T, c> is the sum of lambda, read off the pairs that are tied to it.
    totals = ratio(slope, tied_mass[:, None])
    size = inner(mass, totals, totals)
    targets = program.elastic * totals
    goal = 100.0 * (jnp.finfo(targets.dtype).eps * program.elastic) ** 2 * size
    curvature = program.curvature + program.elastic * size

    def operator(c):
        """The Hessian."""
        return program.correlate(c) + program.elastic * inner(mass, totals, c) * totals

    def level_of(c):
        return ratio(row_sums(mass * slope * c), tied_mass)

    c = jnp.where(free, point.c, slope * level_of(point.c)[:, None])

    def once(_, c):
        step, _ = descend_on_face(
            operator(c) - targets,
            operator,
            curvature,
            mass,
            free,
            slope,
            goal,
            2 * len(slope) + 20,
        )
        return c + step

    c = jax.lax.fori_loop(0, _SOLVES, once, c)
    return c, level_of(c)


def _judge(
    program: _Program, pattern: Float[Array, "m n"], face: _Face, c: Array, level: Array
) -> tuple[_Face, Bool[Array, ""], Float[Array, "m n"]]:
    """The face that a solution asks for; whether it is the one it was solved for; and the
    pre-activations in the sign of y_i u_j, 0 where they are rounding.
    """
    slack = _SLACK_UNITS * jnp.finfo(c.dtype).eps
    correlations = program.correlate(c)
    norms = jnp.sqrt(jnp.maximum(jnp.sum(c * correlations, 0), 0.0))  # of theta_j / u_j
    noise = slack * jnp.max(norms) * program.lengths
    correlations = jnp.where(jnp.abs(correlations) > noise[:, None], correlations, 0.0)
    uncertain = slack * jnp.max(jnp.abs(level))
    top = level[:, None]
    leaves_kink = jnp.where(c > top + uncertain, 1, 0)
    leaves_kink = leaves_kink - (c < program.leak * top - uncertain)
    # On opposite-sign pairs a positive correlation is a negative pre-activation.
    stays = jnp.where(face.state * correlations > 0, 0, face.state)
    state = jnp.where(face.state == 0, leaves_kink, stays)
    supported = face.support[:, None]
    state = jnp.where(supported, state, jnp.where(correlations < 0, 1, -1))
    wanted = program.elastic * (1 - total(level))
    above = program.margins(pattern, correlations) - wanted
    missing = above < -slack * program.elastic
    support = program.retain & jnp.where(face.support, level >= -uncertain, missing)
    changed = program.opposite & supported & (state != face.state)
    fits = jnp.all(support == face.support) & ~is_any(changed, c.dtype)
    # A singular system may have no solution: signs that happen to fit prove nothing then.
    error = jnp.max(jnp.where(face.support, jnp.abs(above), 0.0))
    fits &= error <= jnp.sqrt(jnp.finfo(c.dtype).eps) * program.elastic
    return _Face(state, support), fits, correlations


def _active_set(
    program: _Program, pattern: Float[Array, "m n"], point: _Point, needed: Bool[Array, ""]
) -> tuple[_Point, Bool[Array, ""], Int[Array, ""]]:
    """Change states until none is contradicted; whether that succeeded, and in how many steps.

    Where it is not needed, in a batch's lanes that have ended, it takes none.
    """

    def iterate(state):
        point, _, count = state
        c, level = _solve_face(program, pattern, point)
        face, fits, _ = _judge(program, pattern, point.face, c, level)
        return _Point(c, level, face), fits, count + 1

    return jax.lax.while_loop(
        lambda state: ~state[1] & (state[2] < _MAX_ITERATIONS),
        iterate,
        (point, ~needed, jnp.asarray(0)),
    )


def _fallback(program: _Program, pattern: Float[Array, "m n"], needed: Bool[Array, ""]) -> _Point:
    """The same program by the interior-point method: close to the solution, and its face."""
    found = follow_central_path(
        program.gram,
        program.mass,
        pattern.T,
        program.opposite.T,
        program.retain,
        program.elastic,
        program.leak,
        needed,
    )
    level = jnp.where(program.retain, found.multipliers, 0.0)
    tied = jnp.where(program.opposite, program.leak, pattern) * level[:, None]
    c = tied + jnp.where(program.opposite, found.above_bottom.T, 0.0)
    # Of a variable and its price one vanishes, the other is of the order of its unit.
    exchange = jnp.max(level) * total(program.mass) / program.elastic
    at_top = found.below_top < exchange * found.top_price
    at_bottom = found.above_bottom < exchange * found.bottom_price
    state = jnp.where(at_top, 1, jnp.where(at_bottom, -1, 0)).T
    return _Point(c, level, _Face(state, level > exchange * found.multiplier_price))


class _Search(NamedTuple):
    """The outer iteration: ``status`` is negative until it ends."""

    pattern: Float[Array, "m n"]
    point: _Point
    needs_fallback: Bool[Array, ""]
    used_fallback: Bool[Array, ""]
    status: Int[Array, ""]
    iterations: Int[Array, ""]
    pattern_changes: Int[Array, ""]
    attempts: Int[Array, ""]


def _attempt(program: _Program, has_kinks: bool, with_fallback: bool, search: _Search) -> _Search:
    """Solve the convex program; if that works, let its solution change the pattern."""
    needed, pattern, start = search.needs_fallback, search.pattern, search.point
    infeasible = jnp.asarray(False)
    if with_fallback:
        start = if_needed(needed, partial(_fallback, program), (pattern, needed), start)
        infeasible = program.no_margin(start.c, start.level) & needed
    point, fits, steps = _active_set(program, pattern, start, search.status < 0)
    infeasible |= program.no_margin(point.c, point.level) & fits
    _, _, correlations = _judge(program, pattern, point.face, point.c, point.level)
    wanted = jnp.where(correlations > 0, 1.0, jnp.where(correlations < 0, program.leak, pattern))
    changes = program.same_sign & (wanted != pattern) & fits & ~infeasible & has_kinks
    # Another attempt: with a new pattern, or with the fallback if that was not tried yet.
    changed = count(changes, point.c.dtype)
    done = infeasible | jnp.where(fits, changed == 0, needed | (not with_fallback))
    status = jnp.where(infeasible, _INFEASIBLE, jnp.where(fits, _CONVERGED, _STALLED))
    return _Search(
        pattern=jnp.where(changes, wanted, pattern),
        point=point,
        needs_fallback=~fits & ~done,
        used_fallback=search.used_fallback | (~fits & ~needed),
        status=jnp.where(done, status, -1),
        iterations=search.iterations + steps,
        pattern_changes=search.pattern_changes + changed,
        attempts=search.attempts + 1,
    )


def _implied(
    signed: Float[Array, "m r"],
    gram: Float[Array, "m m"],
    lengths: Float[Array, " m"],
    same_kind: Bool[Array, "m m"],
) -> Bool[Array, " m"]:
    """Samples whose constraint another one implies: s_i = a s_k with a > 1, or a = 1 and k < i,
    has the margin a q_k. They would leave the multipliers a choice, and the active set a system
    without a solution.

    Only samples whose angle to another is 0 to about half the digits, as the Gram matrix tells,
    are looked at for what it cannot tell.
    """
    m, r = signed.shape
    rounding = jnp.finfo(signed.dtype).eps
    slack = _SAME_UNITS * rounding
    squares = jnp.diagonal(gram)
    cosine = 1 - max(rounding**0.5, 8 * r * rounding)
    near = gram >= cosine * lengths[:, None] * lengths
    near &= same_kind & (gram > 0) & ~jnp.eye(m, dtype=bool)

    def look(state):
        pending, implied = state
        k = jnp.argmax(pending)
        other = signed[k]
        a = ratio(signed @ other, other @ other)
        apart = ((signed - a[:, None] * other) ** 2).sum(1)
        parallel = same_kind[k] & (a > 0) & (apart <= slack**2 * squares)
        more = parallel & ((a > 1 + slack) | ((a >= 1 - slack) & (k < jnp.arange(m))))
        return pending.at[k].set(False), implied | more

    start = near.any(0), jnp.zeros(m, bool)
    return jax.lax.while_loop(lambda state: jnp.any(state[0]), look, start)[1]


def _unsupported(model: Model, weights: Float[Array, "n r"], x: Float[Array, "m r"]) -> Limit:
    """What there is to say of a model without a solver."""
    (m, _), (n, _) = x.shape, weights.shape
    none, nothing = jnp.full((), jnp.nan, weights.dtype), jnp.asarray(0)
    layers = (model.hidden,) if model.is_deep else ()
    return Limit(
        weights=jnp.full_like(weights, jnp.nan),
        multipliers=jnp.full(m, jnp.nan, weights.dtype),
        coefficients=jnp.full((*layers, n, m), jnp.nan, weights.dtype),
        margins=jnp.full(m, jnp.nan, weights.dtype),
        epsilon=none,
        delta=none,
        kink_pairs=nothing,
        status=jnp.asarray(_UNSUPPORTED),
        iterations=nothing,
        pattern_changes=nothing,
    )


@partial(jax.jit, static_argnames=("model", "with_fallback"))
def find_limit(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
    with_fallback: bool = True,
) -> Limit:
    """The limit direction of training on the samples in ``retain``, continued from ``weights``.

    Pure, jittable and vmappable; shapes are fixed. Only the signs of the pre-activations of
    ``weights`` enter, 0 where they are rounding: they are the pattern from which the limit is
    sought. Continued training may still change same-sign signs on its way and then ends elsewhere:
    compare the directions.

    Columns in which ``x`` is zero are zero in the limit: there W stays bounded while the rest
    grows.

    Args:
        with_fallback: if false, the active set is all there is, and what asks for more is
            ``stalled``: a third less to compile, and enough for almost all that are separable.
    """
    if not model.has_limit:
        return _unsupported(model, weights, x)
    rounding = jnp.finfo(weights.dtype).eps
    signed = jnp.where(retain, y, 0.0)[:, None] * x
    products = signed @ signed.T
    lengths = jnp.sqrt(jnp.diagonal(products))
    mass = u**2
    same_kind = (y[:, None] == y) | (not model.has_kinks)
    constrained = retain & ~_implied(signed, products, lengths, same_kind)
    usable = (mass > 0) & constrained[:, None]
    same_sign = usable & ((y[:, None] * u > 0) | (not model.has_kinks))
    steepest = jnp.max(lengths**2) * total(mass)
    gram = jnp.where(constrained[:, None] & constrained, products, 0.0)

    z = clean_preactivations(weights, u, x)
    q = y * (u @ activation(model, z))
    least = jnp.min(jnp.where(retain, q, jnp.inf))
    norm = matrix_norm(weights)
    squared_margin = (jnp.maximum(least, 0.0) / jnp.where(norm > 0, norm, 1.0)) ** 2
    program = _Program(
        gram=gram,
        mass=mass,
        retain=constrained,
        same_sign=same_sign,
        opposite=usable & ~same_sign,
        leak=model.leak,
        lengths=lengths,
        curvature=gershgorin(gram, constrained),
        steepest=steepest,
        elastic=jnp.maximum(squared_margin, 0.01 * steepest / jnp.maximum(retain.sum(), 1)),
    )
    near = jnp.abs(z) <= _START_TOL * norm / jnp.sqrt(neuron_count(u)) * lengths
    face = _Face(
        jnp.where(near, 0, jnp.where(z > 0, 1, -1)).T,
        constrained & ((q <= _START_SUPPORT * least) | (least <= 0)),
    )
    pattern = jnp.where(same_sign, slopes(model, z).T, 0.0)
    smallest = pattern + model.leak * (usable & ~same_sign)
    defined = ~is_any(~jnp.isfinite(weights), weights.dtype)
    hopeless = jnp.any(constrained & (row_sums(mass * smallest**2) == 0)) | ~defined
    no = jnp.asarray(False)
    search = jax.lax.while_loop(
        lambda search: (search.status < 0) & (search.attempts < _MAX_ATTEMPTS),
        lambda search: _attempt(program, model.has_kinks, with_fallback, search),
        _Search(
            pattern=pattern,
            point=_Point(jnp.zeros_like(pattern), jnp.zeros_like(q), face),
            needs_fallback=no,
            used_fallback=no,
            status=jnp.where(hopeless, _INFEASIBLE, -1),
            iterations=jnp.asarray(0),
            pattern_changes=jnp.asarray(0),
            attempts=jnp.asarray(0),
        ),
    )

    level = jnp.maximum(search.point.level, 0.0)
    free = jnp.clip(search.point.c, model.leak * level[:, None], level[:, None])
    c = jnp.where(program.opposite, free, search.pattern * level[:, None]).T
    theta = (u[:, None] * c) @ signed
    q = y * (u @ activation(model, preactivations(theta, x)))
    least = jnp.min(jnp.where(retain, q, jnp.inf))
    theta, q, c, level = (a / jnp.where(least > 0, least, 1.0) for a in (theta, q, c, level))

    # An independent look at the result: derivatives from the signs, except at kinks.
    z = preactivations(theta, x)
    size = matrix_norm(theta) / jnp.sqrt(neuron_count(u)) * lengths
    at_kink = (jnp.abs(z) <= _RESIDUAL_UNITS * rounding * size) & model.has_kinks
    at_kink &= u[:, None] != 0
    c = jnp.where(at_kink, c, jnp.where(retain, slopes(model, z), 0.0) * level)
    epsilon = matrix_norm(theta - (u[:, None] * c) @ signed)
    residual = jnp.maximum(epsilon, jnp.max(jnp.where(retain, level * (q - 1), -jnp.inf)))
    unit = largest_logits(model, theta, u, x)
    at_margin = jnp.abs(q - 1) <= _SLACK_UNITS * rounding * unit
    slack = jnp.where(at_margin, 0.0, q - 1)
    delta = jnp.max(jnp.where(retain, level * slack, -jnp.inf))
    # q_i is a sum over lambda, so that lambda_i (q_i - 1) has rounding errors of lambda^2.
    attainable = rounding * (1 + jnp.max(level) ** 2 * steepest)
    exact = (least > 0) & (residual <= _RESIDUAL_UNITS * attainable)
    infeasible = search.status == _INFEASIBLE
    exact = exact & defined & ~infeasible & (with_fallback | ~search.used_fallback)
    solved = jnp.where(search.used_fallback, _FALLBACK, _CONVERGED)
    status = jnp.where(infeasible, _INFEASIBLE, jnp.where(exact, solved, _STALLED))
    status = jnp.where(defined, status, _UNDEFINED)

    def valid(value):
        return jnp.where(exact, value, jnp.nan)

    return Limit(
        weights=valid(theta),
        multipliers=valid(level),
        coefficients=valid(c),
        margins=valid(q),
        epsilon=valid(epsilon),
        delta=valid(delta),
        kink_pairs=count(at_kink & retain, weights.dtype),
        status=status,
        iterations=search.iterations,
        pattern_changes=search.pattern_changes,
    )

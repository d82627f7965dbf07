"""The frontier of certificates: which triples (epsilon, delta, tau) one model satisfies.

A model W^ satisfies as many triples as there are W~ near it (MYV's definition asks for one). Two
dials trade their numbers against each other.

*tau against epsilon*: W~ may be anywhere. Here it moves along paths that start at W^, projected
onto the kinks of a better point E (a limit, a retrained model), and follow the great circle to E:
on all of it E's kinks are kinks (not of deep networks), so that epsilon falls to that of E while
tau grows. The ladder of kink tolerances (``ladder``) is a path of its own.

*delta against epsilon*: at one W~ the least epsilon under lambda_i (q_i - 1) <= delta is a bounded
least-squares problem, convex, solved to its minimum for each delta.

What comes out is an inner approximation: all triples hold, and there may be better ones.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.certificate import Certificate, certify_at, distinct_rungs, one_minus_cosine
from gaunlearn.ladder import is_better
from gaunlearn.models import Model, clean_preactivations
from gaunlearn.snapping import snap
from gaunlearn.sums import matrix_norm

__all__ = ["Path", "best_and_least", "bounded_triples", "path_to", "point_on", "position_within"]

# Of a path's length: so much short of a budget, a point is within it in spite of rounding; and no
# less than so many units of it, which matters in float32.
_SHORT = 1e-9
_SHORT_UNITS = 100


class Path(NamedTuple):
    """The great circle from W^, projected onto the kinks of a point, to that point.

    Attributes:
        start, end: unit vectors.
        angle: between them.
        tau: 1 - cos between W^ and the start.
    """

    start: Float[Array, "n r"]
    end: Float[Array, "n r"]
    angle: Float[Array, ""]
    tau: Float[Array, ""]


def path_to(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    retain: Bool[Array, " m"],
    end: Float[Array, "n r"],
) -> Path:
    """The path from ``weights`` to ``end``; NaN if ``end`` is. Kinks of deep networks are no linear
    subspace: there it starts at ``weights`` itself.
    """
    start = weights
    if model.has_kinks and not model.is_deep:
        kink = (clean_preactivations(end, u, x) == 0) & retain & (u[:, None] != 0)
        start = snap(weights, x, kink.T)
    start_unit, end_unit = start / matrix_norm(start), end / matrix_norm(end)
    chord = matrix_norm(start_unit - end_unit)
    angle = 2 * jnp.arcsin(jnp.minimum(chord / 2, 1.0))
    return Path(start_unit, end_unit, angle, one_minus_cosine(weights, start))


def point_on(path: Path, position: Float[Array, ""]) -> Float[Array, "n r"]:
    """The unit vector at ``position`` of the way, 0 to 1."""
    size = jnp.sin(path.angle)
    there = jnp.where(
        size > 0, jnp.sin(position * path.angle) / jnp.where(size > 0, size, 1.0), position
    )
    here = jnp.where(
        size > 0,
        jnp.sin((1 - position) * path.angle) / jnp.where(size > 0, size, 1.0),
        1 - position,
    )
    return here * path.start + there * path.end


def position_within(path: Path, tau: Float[Array, ""]) -> Float[Array, ""]:
    """How far along the path 1 - cos to W^ is still within ``tau``; NaN if it nowhere is.

    The start is W^'s projection onto a subspace in which the path lies, so that cosines multiply:
    1 - tau is (1 - tau of the start) times the cosine along the path.
    """
    left = (tau - path.tau) / (1 - path.tau)
    reach = 2 * jnp.arcsin(jnp.sqrt(jnp.clip(left / 2, 0.0, 1.0)))
    short = max(_SHORT, _SHORT_UNITS * float(jnp.finfo(path.start.dtype).eps))
    position = jnp.where(reach < path.angle, (1 - short) * reach / path.angle, 1.0)
    return jnp.where(left >= 0, position, jnp.nan)


def bounded_triples(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
    points: Float[Array, "p n r"],
    kink_tol: Float[Array, ""],
    deltas: Float[Array, " b"],
) -> tuple[Float[Array, "p b"], Float[Array, "p b"], Float[Array, "p b"]]:
    """epsilon, delta and tau with each of some points for W~, within each budget for delta.

    Args:
        weights: W^.
        points: NaN, or points that do not separate the retain set, give NaN.
        kink_tol: 0 takes for kinks what is zero to rounding; negative ignores kinks.
        deltas: budgets; inf is none.
    """

    def triple(point, delta):
        found = certify_at(model, point, u, x, y, retain, kink_tol, delta)
        return found.epsilon, found.delta, one_minus_cosine(weights, found.weights)

    return jax.vmap(lambda point: jax.vmap(lambda delta: triple(point, delta))(deltas))(points)


def _repeats(values: Float[Array, "... t"]) -> Bool[Array, "... t"]:
    """Which entries along the last axis equal one before them."""
    earlier = jnp.tril(jnp.ones((values.shape[-1],) * 2, bool), -1)
    return jnp.any((values[..., :, None] == values[..., None, :]) & earlier, -1)


class _Found(NamedTuple):
    """What has been looked at so far, and what of it is needed further on.

    Attributes:
        pending: (s,) steps that are still to come, unless they turn out to be of no use.
        best: the certificate that the ladder gives.
        epsilon, rung, weights: (t, ...) of the best rung within each budget for tau; inf, -1 and
            NaN if there is none.
        reached: (t + p,) delta of the last solution at each of these rungs, and then points; inf
            before the first, NaN if the point separates nothing.
        triples: (s, 3) epsilon, delta and tau; NaN where nothing was looked at.
    """

    pending: Bool[Array, " s"]
    best: Certificate
    epsilon: Float[Array, " t"]
    rung: Int[Array, " t"]
    weights: Float[Array, "t n r"]
    reached: Float[Array, " t+p"]
    triples: Float[Array, "s 3"]


def best_and_least(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
    kink_tols: Float[Array, " l"],
    tau_budget: Float[Array, ""],
    ends: Float[Array, "e n r"],
    deltas: Float[Array, " b"],
    taus: Float[Array, " t"],
    beyond: Bool[Array, ""] | bool = True,
) -> tuple[Certificate, Float[Array, "b t"]]:
    """The best certificate of a ladder (``ladder.certify``), and the least epsilon found within
    each pair of budgets; NaN if nothing is within.

    Looked at are the rungs; of those within a budget for tau the one with the least epsilon, with
    its multipliers bounded for delta; and, for each end, the point of the path that is as far from
    W^ as the budget for tau allows, likewise. All one after the other, in one loop: the kernel is
    by far the largest part of what is compiled. Passed over are rungs with the kinks of the rung
    before, points that budgets have in common on a path, and bounds that a solution keeps unbidden.

    Args:
        weights: W^.
        kink_tols, tau_budget: as for ``ladder.certify``.
        ends: points to go to, at least one; NaN where there is none.
        deltas, taus: budgets.
        beyond: whether to look beyond the rungs.

    Returns:
        The certificate and (b, t) least epsilons, of the rungs alone if that is all.
    """
    if not model.has_kinks:
        kink_tols = kink_tols[:1]
    paths = jax.vmap(partial(path_to, model, weights, u, x, retain))(ends)
    positions = jax.vmap(lambda path: jax.vmap(partial(position_within, path))(taus))(paths)
    points = jax.vmap(lambda path, where: jax.vmap(partial(point_on, path))(where))(
        paths, positions
    ).reshape(-1, *weights.shape)
    exists = ~jnp.isnan(positions) & ~jnp.isnan(paths.angle)[:, None] & ~_repeats(positions)
    rungs, budgets, free = len(kink_tols), len(deltas), len(taus)
    bounded = (free + len(points)) * budgets
    # What each step looks at: a rung, or else a place: a best rung or, behind these, a point. The
    # loosest bounds come first.
    numbers = jnp.arange(rungs + bounded)
    is_rung = numbers < rungs
    place = jnp.maximum(numbers - rungs, 0) // budgets
    loosest_first = jnp.sort(deltas, descending=True)
    bound = jnp.where(is_rung, jnp.inf, loosest_first[(numbers - rungs) % budgets])
    tol = jnp.where(is_rung, kink_tols[jnp.minimum(numbers, rungs - 1)], kink_tols[0].clip(max=0))

    def useful(found):
        """Of the pending steps, those that can find anything; known of places once all rungs have
        been looked at, which come first.
        """
        # A solution that keeps a tighter bound is its solution too.
        open_ = jnp.append((found.rung >= 0) & ~_repeats(found.rung), exists.ravel())
        finite = jnp.minimum(bound, jnp.finfo(bound.dtype).max)
        return found.pending & (is_rung | (open_[place] & (found.reached[place] > finite)))

    def look(found):
        number = jnp.argmax(useful(found))
        on_ladder, where = is_rung[number], place[number]
        point = jnp.where(
            where < free,
            found.weights[jnp.minimum(where, free - 1)],
            points[jnp.maximum(where - free, 0)],
        )
        new = certify_at(
            model,
            jnp.where(on_ladder, weights, point),
            u,
            x,
            y,
            retain,
            tol[number],
            bound[number],
        )
        tau = jnp.where(on_ladder, new.tau, one_minus_cosine(weights, new.weights))
        taken = on_ladder & ((number == 0) | is_better(new, found.best, tau_budget))
        less = on_ladder & (new.tau <= taus) & (new.epsilon < found.epsilon)
        there = jnp.append(less, jnp.zeros(len(points), bool))
        there |= ~on_ladder & (jnp.arange(free + len(points)) == where)
        here = numbers == number
        triple = jnp.stack([new.epsilon, new.delta, tau])
        return _Found(
            pending=found.pending & ~here,
            best=jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, found.best),
            epsilon=jnp.where(less, new.epsilon, found.epsilon),
            rung=jnp.where(less, number, found.rung),
            weights=jnp.where(less[:, None, None], new.weights, found.weights),
            reached=jnp.where(there, new.delta, found.reached),
            triples=jnp.where(here[:, None], triple, found.triples),
        )

    one = jax.eval_shape(partial(certify_at, model), weights, u, x, y, retain, kink_tols[0])
    distinct = distinct_rungs(model, weights, u, x, retain, kink_tols)
    found = jax.lax.while_loop(
        lambda found: jnp.any(useful(found)),
        look,
        _Found(
            pending=jnp.append(distinct, jnp.full(bounded, beyond)),
            best=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), one),
            epsilon=jnp.full(free, jnp.inf, weights.dtype),
            rung=jnp.full(free, -1),
            weights=jnp.full((free, *weights.shape), jnp.nan, weights.dtype),
            reached=jnp.full(free + len(points), jnp.inf, weights.dtype),
            triples=jnp.full((rungs + bounded, 3), jnp.nan, weights.dtype),
        ),
    )
    epsilon, delta, tau = found.triples.T

    def within(delta_budget, tau_budget):
        fits = (delta <= delta_budget) & (tau <= tau_budget)
        least = jnp.min(jnp.where(fits & ~jnp.isnan(epsilon), epsilon, jnp.inf))
        return jnp.where(jnp.isinf(least), jnp.nan, least)

    least = jax.vmap(lambda d: jax.vmap(lambda t: within(d, t))(taus))(deltas)
    return found.best, least

"""The frontier of certificates: which triples (epsilon, delta, tau) one model satisfies.

A model W^ satisfies as many triples as there are W~ near it (MYV's definition asks for one). Two
dials trade their numbers against each other.

*tau against epsilon*: W~ may be anywhere. Here it moves along paths that start at W^, projected
onto the kinks of a better point E (a limit, a retrained model), and follow the great circle to E:
on all of it E's kinks are kinks (not of deep networks), so that epsilon falls to that of E while
tau grows. The ladder of kink tolerances (``certificate``) is a path of its own.

*delta against epsilon*: at one W~ the least epsilon under lambda_i (q_i - 1) <= delta is a bounded
least-squares problem, convex, solved to its minimum for each delta.

What comes out is an inner approximation: all triples hold, and there may be better ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from gaunlearn.certificate import Certificate, certify_at, one_minus_cosine
from gaunlearn.models import Model, clean_preactivations
from gaunlearn.snapping import snap

__all__ = ["Path", "bounded_triples", "ladder_and_least", "path_to", "point_on", "position_within"]

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
        start = snap(weights, x, kink)
    start_unit, end_unit = start / jnp.linalg.norm(start), end / jnp.linalg.norm(end)
    chord = jnp.linalg.norm(start_unit - end_unit)
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


def _minimum(values: Float[Array, "..."], axis: int | Sequence[int]) -> Array:
    """The least value that is a number; NaN if there is none."""
    least = jnp.min(jnp.where(jnp.isnan(values), jnp.inf, values), axis)
    return jnp.where(jnp.isinf(least), jnp.nan, least)


def ladder_and_least(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
    kink_tols: Float[Array, " l"],
    ends: Sequence[Float[Array, "n r"]],
    deltas: Float[Array, " b"],
    taus: Float[Array, " t"],
    beyond: Bool[Array, ""] | bool = True,
) -> tuple[Certificate, Float[Array, "b t"]]:
    """The ladder of kink tolerances (``certificate.ladder``), and the least epsilon found within
    each pair of budgets; NaN if nothing is within.

    Looked at are the rungs; of those within a budget for tau the one with the least epsilon, with
    its multipliers bounded for delta; and, for each end, the point of the path that is as far from
    W^ as the budget for tau allows, likewise. All one after the other, in one loop: the kernel is
    by far the largest part of what is compiled.

    Args:
        weights: W^.
        kink_tols: as for ``certificate.ladder``.
        ends: points to go to, at least one; NaN where there is none.
        deltas, taus: budgets.
        beyond: whether to look beyond the rungs; one for all of a batch, or nothing is saved.

    Returns:
        The rungs, stacked, and (b, t) least epsilons, of the rungs alone if that is all.
    """
    if not model.has_kinks:
        kink_tols = kink_tols[:1]
    paths = [path_to(model, weights, u, x, retain, end) for end in ends]
    points = jnp.stack([point_on(path, position_within(path, t)) for path in paths for t in taus])
    rungs, budgets = len(kink_tols), len(deltas)
    bounded = (len(taus) + len(points)) * budgets
    # What each step looks at: a rung, or else a point; the first are the best rungs.
    place = jnp.arange(bounded) // budgets
    is_rung = jnp.arange(rungs + bounded) < rungs
    steps = (
        is_rung,
        jnp.concatenate([kink_tols, jnp.full(bounded, jnp.minimum(kink_tols[0], 0.0))]),
        jnp.concatenate([jnp.full(rungs, jnp.inf), jnp.tile(deltas, bounded // budgets)]),
        jnp.concatenate([jnp.zeros(rungs, int), place]),
    )

    def certified(point, tol, delta):
        return certify_at(model, point, u, x, y, retain, tol, delta)

    def look(number, state):
        """``epsilon_of``, ``weights_of``: the least epsilon of a rung within each budget for tau,
        and where. ``kept`` has a last place for all that is no rung.
        """
        epsilon_of, weights_of, kept, triples = state
        is_rung, tol, delta, place = (each[number] for each in steps)
        candidates = jnp.concatenate([weights_of, points])
        found = certified(jnp.where(is_rung, weights, candidates[place]), tol, delta)
        tau = jnp.where(is_rung, found.tau, one_minus_cosine(weights, found.weights))
        better = is_rung & (found.tau <= taus) & (found.epsilon < epsilon_of)
        slot = jnp.minimum(number, rungs)
        return (
            jnp.where(better, found.epsilon, epsilon_of),
            jnp.where(better[:, None, None], found.weights, weights_of),
            jax.tree.map(lambda all_, new: all_.at[slot].set(new), kept, found),
            triples.at[number].set(jnp.stack([found.epsilon, found.delta, tau])),
        )

    one = jax.eval_shape(certified, weights, kink_tols[0], deltas[0])
    *_, kept, triples = jax.lax.fori_loop(
        0,
        jnp.where(beyond, rungs + bounded, rungs),
        look,
        (
            jnp.full(len(taus), jnp.inf, weights.dtype),
            jnp.full((len(taus), *weights.shape), jnp.nan, weights.dtype),
            jax.tree.map(lambda leaf: jnp.zeros((rungs + 1, *leaf.shape), leaf.dtype), one),
            jnp.full((rungs + bounded, 3), jnp.nan, weights.dtype),
        ),
    )
    epsilon, delta, tau = triples.T

    def within(delta_budget, tau_budget):
        fits = (delta <= delta_budget) & (tau <= tau_budget)
        return _minimum(jnp.where(fits, epsilon, jnp.nan), 0)

    least = jax.vmap(lambda d: jax.vmap(lambda t: within(d, t))(taus))(deltas)
    return jax.tree.map(lambda leaf: leaf[:rungs], kept), least

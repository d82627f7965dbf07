"""(epsilon, delta, tau) certificates: normalise, snap onto kinks, solve for multipliers, choose.

A triple certifies weights W with respect to a retain set when some W~ with
``cos(W, W~) >= 1 - tau`` is an (epsilon, delta)-approximate KKT point of the max-margin problem
of that set (MYV). Here W~ is W itself, normalised to least margin 1, with every row w_j projected
onto {w : <w, x_i> = 0} for the pairs (j, i) that lie within ``kink_tol`` of zero. Training ends
near such kinks, never on them, and away from them the Clarke derivative is a single value: without
the projection epsilon stays large for ever. What it moves is paid for in tau.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.cone import ConePoint
from gaunlearn.kkt import solve_multipliers
from gaunlearn.models import (
    Model,
    logits,
    neuron_count,
    preactivations,
    rounding_reach,
    slopes,
)

__all__ = [
    "IGNORED_KINKS",
    "KINK_TOLS",
    "TAU_BUDGET",
    "Certificate",
    "certify",
    "certify_at",
    "choose",
    "ladder",
    "one_minus_cosine",
    "snap",
]

# Trained networks need about 1e-3; the ascent step moves retained kinks by about
# lambda |u_j| phi, so unlearned ones need about phi. What a rung costs in tau decides.
KINK_TOLS = (0.0, 1e-4, 1e-3, 1e-2, 2e-2, 3e-2, 4e-2, 5e-2, 6e-2, 8e-2, 1e-1)
TAU_BUDGET = 1e-3
# A negative tolerance: no pair is at a kink.
IGNORED_KINKS = (-1.0,)

# A projection that leaves a pair further away from zero than so many units of rounding has failed.
_SNAP_ERROR = 1e6

# An epsilon of so many units of rounding, relative to ||W~||, is as good as none.
_EXACT_UNITS = 1e3
# Two of them that differ by so little are equal.
_TIED_UNITS = 4
# Curvature of so many units of rounding is none, and so is a margin, relative to what the network's
# norm allows.
_FLAT_UNITS = _MARGIN_UNITS = 100


class Certificate(NamedTuple):
    """A triple, and what it takes to check it.

    Attributes:
        epsilon: stationarity residual ||W~ - sum_i lambda_i y_i h_i||.
        delta: complementarity, max_i lambda_i (q_i - 1) over the retain set.
        tau: 1 - cos(W, W~).
        multipliers: dual variables lambda_i of W~, 0 outside the retain set.
        coefficients: c_ji = lambda_i times the Clarke derivative chosen for the pair.
        kink_pairs: retained pairs at a kink of W~.
        separated: whether W~ has positive margins on the retain set, by more than rounding; if not,
            all else is NaN.
        kink_tol: the tolerance that was used.
        gap: relative duality gap of the multipliers (see ``kkt.Multipliers``).
        weights: W~, normalised to least retained margin 1.
        margins: its margins on all samples.
    """

    epsilon: Float[Array, ""]
    delta: Float[Array, ""]
    tau: Float[Array, ""]
    multipliers: Float[Array, " m"]
    coefficients: Float[Array, "n m"]
    kink_pairs: Int[Array, ""]
    separated: Bool[Array, ""]
    kink_tol: Float[Array, ""]
    gap: Float[Array, ""]
    weights: Float[Array, "n r"]
    margins: Float[Array, " m"]


def one_minus_cosine(a: Float[Array, "n r"], b: Float[Array, "n r"]) -> Float[Array, ""]:
    """1 - cos of the angle between two weight matrices, without cancellation: it is half the
    squared distance of the unit vectors, so 1e-20 comes out as 1e-20.
    """
    return 0.5 * jnp.sum((a / jnp.linalg.norm(a) - b / jnp.linalg.norm(b)) ** 2)


def snap(
    weights: Float[Array, "n r"], x: Float[Array, "m r"], kink: Bool[Array, "n m"]
) -> Float[Array, "n r"]:
    """Project each row w_j onto {w : <w, x_i> = 0 for all i with kink_ji}.

    w_j loses sum_i a_ji x_i, where a_j solves the normal equations on the row's kinks. They are
    solved by conjugate gradients on all rows at once, twice over for full accuracy. Where the Gram
    matrix is singular (duplicates, more kinks than dimensions) the system is consistent but for
    rounding; what rounding is, is left alone.
    """
    gram = x @ x.T
    rounding = jnp.finfo(weights.dtype).eps
    tiny = jnp.finfo(weights.dtype).tiny
    squares = jnp.diagonal(gram)
    flat = _FLAT_UNITS * rounding * squares.sum()
    noise = rounding**2 * (weights**2).sum(1) * jnp.where(kink, squares, 0.0).sum(1)

    def solve(right_hand_side):
        start = (right_hand_side**2).sum(1)
        goal = jnp.maximum((0.1 * rounding) ** 2 * start, noise)

        def unfinished(state):
            _, _, _, _, going, count = state
            return jnp.any(going) & (count < gram.shape[0] + 50)

        def iterate(state):
            a, residual, direction, squared, going, count = state
            image = jnp.where(kink, direction @ gram, 0.0)
            bending = (direction * image).sum(1)
            # Rows that have converged, and directions without curvature to rounding, stand still:
            # iterating on rounding errors would diverge.
            going = going & (bending > flat * (direction**2).sum(1))
            length = jnp.where(going, squared / jnp.maximum(bending, tiny), 0.0)[:, None]
            a = a + length * direction
            residual = residual - length * image
            new_squared = (residual**2).sum(1)
            growth = (new_squared / jnp.maximum(squared, tiny))[:, None]
            going = going & (new_squared > goal)
            return a, residual, residual + growth * direction, new_squared, going, count + 1

        a, *_ = jax.lax.while_loop(
            unfinished,
            iterate,
            (
                jnp.zeros_like(right_hand_side),
                right_hand_side,
                right_hand_side,
                start,
                start > goal,
                0,
            ),
        )
        return a

    def once(_, weights):
        return weights - solve(jnp.where(kink, weights @ x.T, 0.0)) @ x

    return jax.lax.fori_loop(0, 2, once, weights)


def _multipliers(
    model: Model,
    theta: Float[Array, "n r"],
    u: Float[Array, " n"],
    signed: Float[Array, "m r"],
    slope: Float[Array, "n m"],
    kink: Bool[Array, "n m"],
    retain: Bool[Array, " m"],
    margins: Float[Array, " m"],
    separated: Bool[Array, ""],
    delta: Float[Array, ""] | None,
) -> ConePoint:
    """The multipliers that leave the least residual, on as few samples as that takes. None where
    the margins separate nothing: there is no KKT point to come near, and the solver would look for
    it in vain, at the cost of all lanes of a batch.

    Linearly dependent gradients (duplicated directions, m > d) leave them a choice: an exact KKT
    point has some on the samples with the least margin alone, and these make delta 0 too. With a
    budget ``delta`` they are those with the least residual under lambda_i (q_i - 1) <= delta.
    """
    rounding = jnp.finfo(theta.dtype).eps
    safe_u = jnp.where(u != 0, u, 1.0)
    targets = jnp.where(u[:, None] != 0, theta @ signed.T / safe_u[:, None], 0.0)
    targets = jnp.where(kink, 0.0, targets)
    gram, squared_norm = signed @ signed.T, jnp.sum(theta**2)

    def solve(slope, kink, needed, ceiling=None):
        return solve_multipliers(
            gram, targets, u**2, slope, kink, squared_norm, model.leak, needed, ceiling
        )

    if delta is not None:
        excess = jnp.maximum(margins - 1, 0.0)
        budget = delta * (1 - _TIED_UNITS * rounding)
        ceiling = jnp.where(excess > 0, budget / jnp.where(excess > 0, excess, 1.0), jnp.inf)
        # <theta, sum lambda_i y_i h_i> <= ||theta||^2 bounds the multipliers anyway: a ceiling
        # above that would only cost the duality gap its digits.
        largest = squared_norm / (model.homogeneity * jnp.maximum(margins, 1.0))
        return solve(slope, kink, separated, jnp.where(ceiling > 2 * largest, jnp.inf, ceiling))

    def residual_of(coefficients):
        return theta - (u[:, None] * coefficients) @ signed

    def solve_on(best, allowed):
        """Multipliers that are 0 outside ``allowed``, if their residual is no larger but for
        rounding; else ``best``, the ones found so far. The first call's are always taken.
        """
        outside = jnp.any((best.multipliers > 0) & ~allowed)
        reached = jnp.linalg.norm(residual_of(best.coefficients))
        norm = jnp.sqrt(squared_norm)
        first = best.rounds == 0
        needed = first | (outside & (reached <= jnp.sqrt(rounding) * norm))
        needed &= separated
        found = solve(jnp.where(allowed, slope, 0.0), kink & allowed, needed)
        allowance = jnp.maximum(reached, _EXACT_UNITS * rounding * norm)
        good = needed & (jnp.linalg.norm(residual_of(found.coefficients)) <= allowance)
        return jax.tree.map(lambda a, b: jnp.where(first | good, a, b), found, best), None

    support = retain & (margins <= 1 + jnp.sqrt(rounding))
    nothing = ConePoint(
        jnp.zeros_like(margins), jnp.zeros_like(slope), jnp.zeros_like(squared_norm), jnp.asarray(0)
    )
    solution, _ = jax.lax.scan(solve_on, nothing, jnp.stack([retain, support]))
    return solution


def certify_at(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
    kink_tol: Float[Array, ""],
    delta: Float[Array, ""] | None = None,
) -> Certificate:
    """The certificate at one kink tolerance; with a budget for delta, the least epsilon within."""
    lengths = jnp.linalg.norm(x, axis=1)
    rounding = jnp.finfo(weights.dtype).eps
    # Relative to the network's scale: relative to ||w_j||, a dead neuron would never be at a kink.
    scale = jnp.linalg.norm(weights) / jnp.sqrt(neuron_count(u))
    z = preactivations(weights, x)
    if model.has_kinks:
        reach = jnp.maximum(kink_tol * scale * lengths, rounding_reach(weights, u, x))
        kink = (kink_tol >= 0) & retain & (jnp.abs(z) <= reach) & (u[:, None] != 0)
        snapped = snap(weights, x, kink)
    else:
        kink = jnp.zeros(z.shape, bool)
        snapped = weights
    z = preactivations(snapped, x)
    left_over = jnp.where(kink, jnp.abs(z), 0.0)
    snap_failed = jnp.any(left_over > _SNAP_ERROR * rounding * scale * lengths)
    if model.has_kinks:
        # A neuron of which snapping leaves nothing is at a kink of all other samples too.
        gone = jnp.abs(z) <= rounding_reach(snapped, u, x)
        kink |= gone & (kink_tol >= 0) & retain & (u[:, None] != 0)
    z = jnp.where(kink, 0.0, z)

    margins = y * logits(model, z, u)
    least = jnp.min(jnp.where(retain, margins, jnp.inf))
    # A margin of rounding separates nothing: its sign is chance.
    noise = _MARGIN_UNITS * rounding * jnp.linalg.norm(snapped) * jnp.linalg.norm(u)
    noise = noise * jnp.max(jnp.where(retain, lengths, 0.0))
    separated = (least > noise) & jnp.isfinite(least) & ~snap_failed
    norm = jnp.where(separated, least, 1.0)
    theta = snapped / norm ** (1.0 / model.homogeneity)
    margins = margins / norm

    slope = jnp.where(retain & ~kink, slopes(model, z), 0.0)
    signed = y[:, None] * x
    solution = _multipliers(model, theta, u, signed, slope, kink, retain, margins, separated, delta)
    residual = theta - (u[:, None] * solution.coefficients) @ signed
    slack = jnp.where(retain, solution.multipliers * (margins - 1), -jnp.inf)

    def valid(value):
        return jnp.where(separated, value, jnp.nan)

    return Certificate(
        epsilon=valid(jnp.linalg.norm(residual)),
        delta=valid(jnp.max(slack)),
        tau=valid(one_minus_cosine(weights, snapped)),
        multipliers=valid(solution.multipliers),
        coefficients=valid(solution.coefficients),
        kink_pairs=kink.sum(),
        separated=separated,
        kink_tol=jnp.maximum(kink_tol, 0.0),
        gap=valid(solution.gap),
        weights=valid(theta),
        margins=valid(margins),
    )


def ladder(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
    kink_tols: Float[Array, " l"],
) -> Certificate:
    """One certificate for each kink tolerance, stacked along the first axis.

    A negative tolerance ignores kinks altogether: the derivative is 1[z > 0], tau is 0.
    """
    if not model.has_kinks:
        kink_tols = kink_tols[:1]
    return jax.vmap(lambda tol: certify_at(model, weights, u, x, y, retain, tol))(kink_tols)


def choose(rungs: Certificate, tau_budget: Float[Array, ""]) -> Certificate:
    """The rung with the least epsilon among those with tau <= budget; if there are none, the
    one with the least tau; the first in case of a tie, which differences of rounding do not break.
    """
    tau = jnp.where(rungs.separated, rungs.tau, jnp.inf)
    within = rungs.separated & (tau <= tau_budget)
    epsilon = jnp.where(within, rungs.epsilon, jnp.inf)
    rounding = _TIED_UNITS * jnp.finfo(tau.dtype).eps
    as_good = epsilon <= jnp.min(epsilon) + rounding * jnp.linalg.norm(rungs.weights, axis=(1, 2))
    best = jnp.where(jnp.any(within), jnp.argmax(as_good), jnp.argmin(tau))
    return jax.tree.map(lambda leaf: leaf[best], rungs)


def certify(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
    kink_tols: Float[Array, " l"],
    tau_budget: Float[Array, ""],
) -> Certificate:
    """The best certificate on a ladder of kink tolerances within a budget for tau.

    Pure, jittable, vmappable. A model that does not separate the retain set gets NaN and
    ``separated = False``. The columns of ``x`` must hold the whole of ``weights`` (its
    remainder outside the samples' span as columns in which ``x`` is zero).
    """
    return choose(ladder(model, weights, u, x, y, retain, kink_tols), tau_budget)

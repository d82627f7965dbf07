"""(epsilon, delta, tau) certificates: normalise, snap onto kinks, solve for multipliers.

A triple certifies weights W with respect to a retain set when some W~ with
``cos(W, W~) >= 1 - tau`` is an (epsilon, delta)-approximate KKT point of the max-margin problem
of that set (MYV). Here W~ is W itself, normalised to least margin 1, with every row w_j projected
onto {w : <w, x_i> = 0} for the pairs (j, i) that lie within ``kink_tol`` of zero. Training ends
near such kinks, never on them, and away from them the Clarke derivative is a single value: without
the projection epsilon stays large for ever. What it moves is paid for in tau.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.branches import if_needed
from gaunlearn.cone import ConePoint
from gaunlearn.deep import Layers, layers_of, solve_layers, weighted_gradient
from gaunlearn.kkt import solve_multipliers
from gaunlearn.models import (
    Model,
    activation,
    largest_logits,
    neuron_count,
    rounding_reach,
    slopes,
    upper_layers,
)
from gaunlearn.snapping import snap
from gaunlearn.sums import count, dot, is_any, matrix_norm, matrix_sum, row_norms, row_sums, times

__all__ = ["Certificate", "certify_at", "distinct_rungs", "one_minus_cosine"]

# A projection that leaves a pair further away from zero than so many units of rounding has failed.
_SNAP_ERROR = 1e6

# An epsilon of so many units of rounding, relative to ||W~||, is as good as none.
_EXACT_UNITS = 1e3
# Samples that differ by so many units of rounding are copies.
_COPY_UNITS = 16
# A margin of so many units of rounding is none, relative to what the network's norm allows.
_MARGIN_UNITS = 100


class Certificate(NamedTuple):
    """A triple, and what it takes to check it.

    Attributes:
        epsilon: stationarity residual ||W~ - sum_i lambda_i y_i h_i||.
        delta: complementarity, max_i lambda_i (q_i - 1) over the retain set.
        tau: 1 - cos(W, W~).
        multipliers: dual variables lambda_i of W~, 0 outside the retain set.
        coefficients: c_ji = lambda_i times the Clarke derivative chosen for the pair; of deep
            networks (h, n, m), layers first.
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
    coefficients: Float[Array, "... n m"]
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
    return 0.5 * matrix_sum((a / matrix_norm(a) - b / matrix_norm(b)) ** 2)


def _ceiling(
    model: Model,
    theta: Float[Array, "n r"],
    margins: Float[Array, " m"],
    delta: Float[Array, ""],
) -> Float[Array, " m"]:
    """Upper bounds on multipliers that mean lambda_i (q_i - 1) <= delta; inf where they are idle.

    <theta, sum lambda_i y_i h_i> <= ||theta||^2 bounds the multipliers anyway: a ceiling above that
    would only cost the duality gap its digits.
    """
    excess = jnp.maximum(margins - 1, 0.0)
    # A little short of it: margins near 1 leave q_i - 1 few digits, and delta is to be within.
    budget = delta * (1 - jnp.sqrt(jnp.finfo(theta.dtype).eps))
    ceiling = jnp.where(excess > 0, budget / jnp.where(excess > 0, excess, 1.0), jnp.inf)
    largest = matrix_sum(theta**2) / (model.homogeneity * jnp.maximum(margins, 1.0))
    return jnp.where(ceiling > 2 * largest, jnp.inf, ceiling)


def _close(signed: Float[Array, "m r"], gram: Float[Array, "m m"]) -> Bool[Array, "m m"]:
    """Which pairs of samples may be copies of each other; none is of itself."""
    rounding = jnp.finfo(signed.dtype).eps
    # Products tell samples apart to sqrt(rounding), one blindly chosen direction to rounding.
    squares = jnp.diagonal(gram)
    apart = squares[:, None] + squares - 2 * gram
    blind = jnp.cos(jnp.arange(signed.shape[1], dtype=signed.dtype))
    along, reach = signed @ blind, jnp.linalg.norm(blind) * jnp.sqrt(squares)
    close = apart <= _COPY_UNITS * rounding * squares
    close &= jnp.abs(along[:, None] - along) <= _COPY_UNITS * rounding * reach
    return close & ~jnp.eye(len(squares), dtype=bool)


def _means_over_copies(
    model: Model,
    close: Bool[Array, "m m"],
    slope: Float[Array, "m n"],
    kink: Bool[Array, "m n"],
) -> Float[Array, "m m"]:
    """Averages over samples that have the same gradients: copies of one sample, among which the
    multipliers could be shared out in any way.
    """
    same = close
    for pattern in (slope > 0, slope > model.leak, kink) if model.leak else (slope > 0, kink):
        here = pattern.astype(slope.dtype)
        count = row_sums(here)
        same &= here @ here.T == jnp.maximum(count[:, None], count)
    same = (same & same.T) | jnp.eye(len(same), dtype=bool)
    return same / row_sums(same.astype(slope.dtype))[:, None]


def _multipliers(
    model: Model,
    theta: Float[Array, "n r"],
    u: Float[Array, " n"],
    signed: Float[Array, "m r"],
    correlations: Float[Array, "m n"],
    slope: Float[Array, "m n"],
    kink: Bool[Array, "m n"],
    retain: Bool[Array, " m"],
    margins: Float[Array, " m"],
    separated: Bool[Array, ""],
    ceiling: Float[Array, " m"],
) -> tuple[ConePoint, Float[Array, ""]]:
    """The multipliers that leave the least residual, on as few samples as that takes, and its norm.
    None where the margins separate nothing: there is no KKT point to come near, and the solver
    would look for it in vain, at the cost of all lanes of a batch.

    Linearly dependent gradients (duplicated directions, m > d) leave them a choice: an exact KKT
    point has some on the samples with the least margin alone, and these make delta 0 too. Copies of
    a sample have equal ones: the mean of solutions in which copies change places is a solution.

    Pairs are laid out as in ``cone``.

    Args:
        correlations: <theta_j, y_i x_i>, 0 where that is rounding.
        separated: if false, nothing is computed and all is 0.
    """
    rounding = jnp.finfo(theta.dtype).eps
    exists = u != 0
    targets = jnp.where(exists & ~kink, correlations / jnp.where(exists, u, 1.0), 0.0)
    gram, squared_norm = signed @ signed.T, matrix_sum(theta**2)

    def residual_of(coefficients):
        return matrix_norm(theta - (u * coefficients).T @ signed)

    support = retain & (margins <= 1 + jnp.sqrt(rounding))
    norm = jnp.sqrt(squared_norm)

    def solve_on(state):
        """The multipliers on all samples; then those that are 0 outside the support, if their
        residual is no larger but for rounding.
        """
        count, best, reached, _ = state
        first = count == 0
        allowed = first | support
        used = allowed[:, None]
        found = solve_multipliers(
            gram,
            targets,
            u**2,
            jnp.where(used, slope, 0.0),
            kink & used,
            squared_norm,
            model.leak,
            separated,
            ceiling,
            jnp.where(retain & allowed, model.homogeneity * margins, 0.0),
        )
        residual = residual_of(found.coefficients)
        good = first | (residual <= jnp.maximum(reached, _EXACT_UNITS * rounding * norm))
        best = jax.tree.map(lambda a, b: jnp.where(good, a, b), found, best)
        outside = jnp.any((best.multipliers > 0) & ~support)
        again = first & outside & (residual <= jnp.sqrt(rounding) * norm)
        return count + 1, best, jnp.where(good, residual, reached), again

    nothing = ConePoint(
        jnp.zeros_like(margins), jnp.zeros_like(slope), jnp.zeros_like(squared_norm), jnp.asarray(0)
    )
    _, solution, epsilon, _ = jax.lax.while_loop(
        lambda state: state[3], solve_on, (0, nothing, jnp.zeros_like(squared_norm), separated)
    )

    close = _close(signed, gram)

    def share(point, slope, kink):
        mean = _means_over_copies(model, close, slope, kink)
        multipliers, coefficients = times(mean, point.multipliers), mean @ point.coefficients
        point = point._replace(multipliers=multipliers, coefficients=coefficients)
        return point, residual_of(coefficients)

    given = solution, slope, kink
    solution, epsilon = if_needed(jnp.any(close), share, given, (solution, epsilon))
    return solution, epsilon


class _Candidate(NamedTuple):
    """W~ with what its multipliers are sought from; margins and norm as they are.

    Attributes:
        tau: 1 - cos between them and the weights they were.
        z, kink: (m, n), as in ``cone``, or of deep networks (h, n, m); z is 0 at kinks.
        snap_failed: whether a pair that was to be at a kink is not.
    """

    weights: Float[Array, "n r"]
    tau: Float[Array, ""]
    z: Float[Array, "..."]
    kink: Bool[Array, "..."]
    snap_failed: Bool[Array, ""]


class _Moved(NamedTuple):
    """A candidate's weights, or what they were.

    Attributes:
        lengths: of their rows.
        z: (m, n), as in ``cone``.
    """

    weights: Float[Array, "n r"]
    tau: Float[Array, ""]
    lengths: Float[Array, " n"]
    z: Float[Array, "m n"]


def _unit(
    lengths: Float[Array, " n"], u: Float[Array, " n"], x: Float[Array, "m r"]
) -> Float[Array, " m"]:
    """What tolerances of pre-activations are relative to: the network's scale. Relative to ||w_j||,
    a dead neuron would never be at a kink.
    """
    return jnp.sqrt(dot(lengths, lengths) / neuron_count(u)) * row_norms(x)


def _kinks_within(
    z: Float[Array, "m n"],
    lengths: Float[Array, " n"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    retain: Bool[Array, " m"],
    kink_tol: Float[Array, ""],
) -> Bool[Array, "m n"]:
    """Which pairs are taken for kinks: within a tolerance of 0, or of rounding; none if the
    tolerance is negative.
    """
    reach = kink_tol * _unit(lengths, u, x)[:, None]
    reach = jnp.maximum(reach, rounding_reach(lengths, u, x).T)
    return (jnp.abs(z) <= reach) & retain[:, None] & (u != 0) & (kink_tol >= 0)


def distinct_rungs(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    retain: Bool[Array, " m"],
    kink_tols: Float[Array, " l"],
) -> Bool[Array, " l"]:
    """Which tolerances of a ladder find other kinks than the one before: the certificates at all
    others are those before them. Of deep networks, whose later kinks depend on how the earlier
    ones were moved, all.
    """
    if model.is_deep or not model.has_kinks:
        return jnp.ones(kink_tols.shape, bool)
    z, lengths = x @ weights.T, row_norms(weights)

    def kinks(tol):
        return matrix_sum(_kinks_within(z, lengths, u, x, retain, tol).astype(z.dtype))

    # What is within a tolerance is within a larger one: as many are the same ones.
    found = jax.vmap(kinks)(kink_tols)
    return jnp.append(True, found[1:] != found[:-1])


def _snapped(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    retain: Bool[Array, " m"],
    kink_tol: Float[Array, ""],
) -> _Candidate:
    """Weights moved onto the kinks within a tolerance."""
    rounding = jnp.finfo(weights.dtype).eps
    if model.is_deep:
        layers = layers_of(model, weights, u, x, retain, kink_tol)
        failed = layers.left_over > _SNAP_ERROR * rounding
        tau = one_minus_cosine(weights, layers.weights)
        return _Candidate(layers.weights, tau, layers.z, layers.kink, failed)
    z, nothing = x @ weights.T, jnp.zeros((), weights.dtype)
    if not model.has_kinks:
        return _Candidate(weights, nothing, z, jnp.zeros(z.shape, bool), jnp.asarray(False))
    lengths = row_norms(weights)
    unit = _unit(lengths, u, x)
    may = (kink_tol >= 0) & retain[:, None] & (u != 0)
    kink = _kinks_within(z, lengths, u, x, retain, kink_tol)

    def move(weights, x, kink):
        moved = snap(weights, x, kink)
        return _Moved(moved, one_minus_cosine(weights, moved), row_norms(moved), x @ moved.T)

    start = _Moved(weights, nothing, lengths, z)
    any_kink = is_any(kink, z.dtype)
    snapped, tau, lengths, z = if_needed(any_kink, move, (weights, x, kink), start)
    failed = is_any(kink & (jnp.abs(z) > _SNAP_ERROR * rounding * unit[:, None]), z.dtype)
    # A neuron of which snapping leaves nothing is at a kink of all other samples too. Where kinks
    # are ignored, such a pre-activation is off: its sign is chance.
    is_zero = jnp.abs(z) <= rounding_reach(lengths, u, x).T
    kink |= may & is_zero
    return _Candidate(snapped, tau, jnp.where(kink | is_zero, 0.0, z), kink, failed)


def _logits_of(model: Model, candidate: _Candidate, u: Float[Array, " n"]) -> Float[Array, " m"]:
    """Logits from pre-activations in which kinks are 0."""
    if not model.is_deep:
        return row_sums(u * activation(model, candidate.z))
    _, out = upper_layers(model, candidate.weights)
    return out @ activation(model, candidate.z[-1])


@partial(jax.jit, static_argnames="model")
def certify_at(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
    kink_tol: Float[Array, ""],
    delta: float | Float[Array, ""] = jnp.inf,
) -> Certificate:
    """The certificate at one kink tolerance: the least epsilon within a budget for delta."""
    rounding = jnp.finfo(weights.dtype).eps
    candidate = _snapped(model, weights, u, x, retain, kink_tol)
    snapped, kink = candidate.weights, candidate.kink
    margins = y * _logits_of(model, candidate, u)
    least = jnp.min(jnp.where(retain, margins, jnp.inf))
    # A margin of rounding separates nothing: its sign is chance.
    kept = jnp.where(retain[:, None], x, 0.0)
    noise = _MARGIN_UNITS * rounding * jnp.max(largest_logits(model, snapped, u, kept))
    separated = (least > noise) & jnp.isfinite(least) & ~candidate.snap_failed
    norm = jnp.where(separated, least, 1.0)
    shrink = norm ** (-1.0 / model.homogeneity)
    theta = snapped * shrink
    margins = margins / norm

    ceiling = _ceiling(model, theta, margins, jnp.asarray(delta, theta.dtype))
    if model.is_deep:
        factor = shrink ** jnp.arange(1, model.hidden + 1, dtype=shrink.dtype)
        layers = Layers(theta, candidate.z * factor[:, None, None], kink, jnp.zeros_like(least))
        found = solve_layers(model, layers, x, y, retain, separated, ceiling)
        multipliers, gap = found.multipliers, found.gap
        coefficients = multipliers * found.slopes
        fitted = weighted_gradient(model, theta, x, multipliers * y, layers.z, found.slopes)
        epsilon = matrix_norm(theta - fitted)
    else:
        z = candidate.z * shrink
        slope = jnp.where(retain[:, None] & ~kink, slopes(model, z), 0.0)
        point, epsilon = _multipliers(
            model,
            theta,
            u,
            y[:, None] * x,
            y[:, None] * z,
            slope,
            kink,
            retain,
            margins,
            separated,
            ceiling,
        )
        multipliers, gap, coefficients = point.multipliers, point.gap, point.coefficients.T
    slack = jnp.where(retain, multipliers * (margins - 1), -jnp.inf)

    def valid(value):
        return jnp.where(separated, value, jnp.nan)

    return Certificate(
        epsilon=valid(epsilon),
        delta=valid(jnp.max(slack)),
        tau=valid(candidate.tau),
        multipliers=valid(multipliers),
        coefficients=valid(coefficients),
        kink_pairs=count(kink, theta.dtype),
        separated=separated,
        kink_tol=jnp.maximum(kink_tol, 0.0),
        gap=valid(gap),
        weights=valid(theta),
        margins=valid(margins),
    )

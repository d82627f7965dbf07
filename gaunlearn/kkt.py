"""The kink-aware KKT kernel: which multipliers leave the smallest stationarity residual.

For parameters theta with rows theta_j (n, r), output weights u and signed samples
``s_i = y_i x_i``, a KKT point of "min ||theta||^2 / 2 s.t. q_i >= 1" has

    theta_j = u_j sum_i c_ij s_i,    c_ij = lambda_i  where neuron j is active on sample i,
                                     c_ij = leak lambda_i  where it is inactive,
                                     c_ij in [leak lambda_i, lambda_i]  where <theta_j, x_i> = 0,

c_ij / lambda_i being the Clarke derivative of the activation (leak 0 for ReLU; MYV; LL for
Clarke-KKT). ``solve_multipliers`` minimises ``||theta - G c||`` over this cone: epsilon is the
minimum. Write w_j = u_j^2, K = (s_i . s_k) and T_ij = theta_j . s_i / u_j. Then half the squared
residual is sum_j w_j (c_j K c_j / 2 - c_j . T_j) + ||theta||^2 / 2 with the columns c_j and T_j,
which ``cone`` minimises.
Without kinks it is a problem in lambda alone, which ``pivoting`` solves.

Only arrays come in here: normalising, snapping and choosing a tolerance are ``certificate``'s.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from gaunlearn.cone import (
    Cone,
    ConePoint,
    Operator,
    Start,
    cone_of,
    gershgorin,
    inner,
    minimise_over_cone,
    ratio,
)
from gaunlearn.pivoting import minimise_in_box
from gaunlearn.sums import dot, is_any, row_sums, times

__all__ = ["minimise_residual", "solve_multipliers"]

# epsilon / ||theta|| below which a duality gap of rounding does not settle its digits.
_SMALL_RESIDUAL = 1e-5
# By how much a Gram matrix's unit diagonal has to exceed the rest of each row to be called regular.
_DOMINANCE = 0.05


def _dominant(gram: Float[Array, "m m"], used: Bool[Array, " m"]) -> Bool[Array, ""]:
    """Whether the Gram matrix of the samples in ``used`` is regular, as far as Gershgorin's circles
    tell after scaling to a unit diagonal: then coefficients of other pairs have other residuals.
    """
    own = jnp.where(used, jnp.diagonal(gram), 1.0)
    scale = jax.lax.rsqrt(jnp.where(own > 0, own, 1.0))
    size = jnp.where(used[:, None] & used, jnp.abs(gram), 0.0) * scale[:, None] * scale
    return jnp.all(own > 0) & (jnp.max(row_sums(size)) <= 2 - _DOMINANCE)


@partial(jax.jit, static_argnames="leak")
def solve_multipliers(
    gram: Float[Array, "m m"],
    targets: Float[Array, "m n"],
    weights: Float[Array, " n"],
    slope: Float[Array, "m n"],
    kink: Bool[Array, "m n"],
    squared_norm: Float[Array, ""],
    leak: float = 0.0,
    needed: bool | Bool[Array, ""] = True,
    ceiling: Float[Array, " m"] | None = None,
    theta_margins: Float[Array, " m"] | None = None,
) -> ConePoint:
    """Minimise ||theta - G c|| over the cone described at the head of this file; pairs are laid out
    as in ``cone``.

    Pure, jittable and vmappable; shapes are fixed, unused samples are those without a slope and
    without a kink. Never raises: look at ``gap``.

    Args:
        gram: K, inner products of signed samples y_i x_i.
        targets: T, theta_j . (y_i x_i) / u_j; 0 where u_j = 0.
        weights: w_j = u_j^2.
        slope: the derivative on smooth pairs; 0 on kinks and unused pairs.
        kink: pairs whose derivative is free in [leak, 1].
        squared_norm: ||theta||^2, in full: including what lies outside the samples' span.
        leak: static; the activation's slope below 0.
        needed: if false, nothing is computed and all is 0.
        ceiling: upper bounds on the multipliers, inf where there is none; None for none at all.
        theta_margins: <theta, h_i> = sum_j w_j slope_ij T_ij, if it is known.

    Returns:
        The minimiser. Where it is not unique (linearly dependent gradients), epsilon still is.
        Its gap is (primal - dual) / (||theta||^2 / 2): no other point of the cone has a squared
        residual smaller by more than gap * ||theta||^2.
    """
    dtype = targets.dtype
    used = row_sums(((slope > 0) | kink).astype(dtype)) > 0
    weighted_slope = weights * slope
    reduced = gram * (weighted_slope @ slope.T)
    smooth = ~is_any(kink, dtype)
    limits = jnp.full_like(gram[0], jnp.inf) if ceiling is None else ceiling
    if theta_margins is None:
        theta_margins = row_sums(weighted_slope * targets)
    found = minimise_in_box(reduced, theta_margins, used, limits, needed & smooth)
    # Where there are kinks, whose targets are 0, this is the gap at 0.
    grad = times(reduced, found.solution) - theta_margins
    gap, in_doubt = _assess(
        -grad,
        theta_margins,
        dot(found.solution, grad - theta_margins),
        dot(found.solution, grad),
        squared_norm,
        used,
        ceiling,
    )
    start = Start(
        multipliers=found.solution,
        coefficients=slope * found.solution[:, None],
        is_solution=smooth & found.ended,
        is_unique=_dominant(gram, used),
        gap=gap,
        in_doubt=in_doubt,
    )
    return minimise_residual(
        cone_of(weights, slope, kink, leak, ceiling),
        lambda a: gram @ a,
        gershgorin(gram, used),
        targets,
        squared_norm,
        needed,
        start,
        theta_margins,
    )


def _assess(
    signed_residual: Float[Array, " m"],
    theta_margins: Float[Array, " m"],
    fitted: Float[Array, ""],
    along: Float[Array, ""],
    squared_norm: Float[Array, ""],
    used: Bool[Array, " m"],
    ceiling: Float[Array, " m"] | None,
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Duality gap from rho = residual - s theta, s just large enough for rho to be dual feasible:
    <theta, h_i> = q_i > 0 makes -theta a strictly feasible direction. A bounded multiplier's
    constraint may be violated, at the price of its ceiling times the violation. Also whether
    epsilon^2 is too small for the gap to say enough: it is no better than the gap.

    Args:
        signed_residual: <residual, h_i>, the largest over the Clarke set.
        theta_margins: <theta, h_i>, likewise.
        fitted: ||residual||^2 - ||theta||^2.
        along: -<residual, theta - residual>.
    """
    tiny = jnp.finfo(fitted.dtype).tiny
    bounded = jnp.zeros(used.shape, bool) if ceiling is None else jnp.isfinite(ceiling)
    violation = jnp.where(bounded, 0.0, jnp.maximum(signed_residual, 0.0))
    shift = jnp.max(jnp.where(used, ratio(violation, theta_margins), 0.0), initial=0.0)
    feasible = jnp.all(~used | (theta_margins > 0) | (violation <= 0))
    squared_residual = jnp.maximum(squared_norm + fitted, 0.0)
    theta_residual = squared_residual - along
    theta_rho = theta_residual - shift * squared_norm
    if ceiling is not None:
        excess = jnp.maximum(signed_residual - shift * theta_margins, 0.0)
        theta_rho -= jnp.sum(jnp.where(bounded & used, ceiling * excess, 0.0))
    squared_rho = squared_residual - 2 * shift * theta_residual + shift**2 * squared_norm
    # The best multiple of rho as a dual point has the value <theta, rho>^2 / (2 ||rho||^2), the
    # price of violations being taken off <theta, rho>.
    dual = jnp.where(theta_rho > 0, theta_rho**2 / jnp.maximum(squared_rho, tiny), 0.0)
    dual = jnp.where(feasible, dual, 0.0)
    gap = jnp.maximum(squared_residual - dual, 0.0) / jnp.maximum(squared_norm, tiny)
    return gap, squared_residual < _SMALL_RESIDUAL**2 * squared_norm


def minimise_residual(
    cone: Cone,
    operator: Operator,
    curvature: Float[Array, ""],
    targets: Float[Array, "m n"],
    squared_norm: Float[Array, ""],
    needed: bool | Bool[Array, ""] = True,
    start: Start | None = None,
    theta_margins: Float[Array, " m"] | None = None,
) -> ConePoint:
    """``solve_multipliers`` for gradients of any structure, with pairs laid out as in ``cone``.

    Args:
        operator: A, with <c, A c> = ||sum c_ij g_ij||^2 over the gradients g_ij that the pairs'
            coefficients multiply, in ``cone``'s inner product.
        curvature: an upper bound on its eigenvalues.
        targets: T, with <T, c> = <theta, sum c_ij g_ij>; 0 at kinks.
        start: where to begin; None is at 0.

    Other arguments as of ``solve_multipliers``.
    """
    weights, slope, kink, _, leak, ceiling = cone
    used = row_sums(((slope > 0) | kink).astype(targets.dtype)) > 0

    def signed_margins(grad):
        # max over the Clarke set of <-gradient, h_i>: the dual constraint of sample i.
        at_kinks = jnp.where(kink, jnp.maximum(-grad, -leak * grad), 0.0)
        return row_sums(weights * (at_kinks - slope * grad))

    along_theta = -signed_margins(targets) if theta_margins is None else theta_margins

    def assess(c, _, grad):
        return _assess(
            signed_margins(grad),
            along_theta,
            inner(weights, c, grad - targets),
            inner(weights, c, grad),
            squared_norm,
            used,
            ceiling,
        )

    return minimise_over_cone(cone, operator, curvature, targets, assess, needed, start)

"""The kink-aware KKT kernel: which multipliers leave the smallest stationarity residual.

For parameters theta with rows theta_j (n, r), output weights u and signed samples
``s_i = y_i x_i``, a KKT point of "min ||theta||^2 / 2 s.t. q_i >= 1" has

    theta_j = u_j sum_i c_ji s_i,    c_ji = lambda_i  where neuron j is active on sample i,
                                     c_ji = 0         where it is inactive,
                                     c_ji in [0, lambda_i]  where <theta_j, x_i> = 0 (a kink),

c_ji / lambda_i being the Clarke derivative of ReLU (MYV; LL for Clarke-KKT). ``solve_multipliers``
minimises ``||theta - G c||`` over this cone of (lambda >= 0, c): epsilon is the minimum.

Write w_j = u_j^2, K = (s_i . s_k) and T_ji = theta_j . s_i / u_j. Then half the squared residual is

    sum_j w_j (c_j K c_j / 2 - c_j . T_j) + ||theta||^2 / 2,

in the inner product <A, B> = sum_ji w_j A_ji B_ji a quadratic whose curvature is that of K alone.
The solver alternates projected-gradient steps with momentum, which find the face of the cone, and
conjugate gradients within the face, which find the minimum there (after Moré and Toraldo 1991,
*On the solution of large quadratic programming problems with bound constraints*). Every accepted
step lowers the objective, so it converges whatever the rank of K. It stops at a duality gap.

Only arrays come in here: normalising, snapping and choosing a tolerance are ``certificate``'s.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

__all__ = ["Multipliers", "project_onto_cone", "solve_multipliers"]

# Measured on isotropic data and digits (m = 40): more gradient steps find the face sooner, more
# conjugate-gradient iterations are wasted on a face that is not the last one.
_GRADIENT_STEPS = 8
_FIRST_ITERATIONS = 15
_MAX_ROUNDS = 200


class Multipliers(NamedTuple):
    """The solution of the kernel's least-squares problem.

    Attributes:
        multipliers: dual variables lambda_i >= 0; 0 for samples that no pair refers to.
        coefficients: c_ji, equal to lambda_i on active pairs, within [0, lambda_i] on kinks.
        gap: (primal - dual) / (||theta||^2 / 2), the relative duality gap: no other point of
            the cone has a squared residual smaller by more than gap * ||theta||^2.
        rounds: how many rounds the solver took.
    """

    multipliers: Float[Array, " m"]
    coefficients: Float[Array, "n m"]
    gap: Float[Array, ""]
    rounds: Int[Array, ""]


def _sum_rows(weights: Array, pairs: Array) -> Array:
    """Per sample: sum_j w_j pairs_ji."""
    return weights @ pairs


def _ratio(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, and 0 where the denominator is 0."""
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1.0), 0.0)


def project_onto_cone(
    point: Float[Array, "n m"],
    weights: Float[Array, " n"],
    active: Bool[Array, "n m"],
    kink: Bool[Array, "n m"],
) -> tuple[Float[Array, "n m"], Float[Array, " m"]]:
    """The nearest member of the cone in the norm sum_ji w_j a_ji^2, and its lambda.

    Per sample, lambda solves sum_A w_j (lambda - b_j) = sum_P w_j (b_j - lambda)_+, whose left
    minus right side is increasing and concave: Newton's method from the mean over A, which lies
    left of the root, climbs to it in finitely many steps, each a mean over A and the kinks that
    stand above the present lambda.
    """
    kink_weights = weights[:, None] * kink
    active_mass = _sum_rows(weights, active)
    active_sum = _sum_rows(weights, jnp.where(active, point, 0.0))
    # A sample without active neurons starts from the mean of its kinks instead.
    start = jnp.where(
        active_mass > 0,
        _ratio(active_sum, active_mass),
        _ratio((kink_weights * point).sum(0), kink_weights.sum(0)),
    )

    def climb(state):
        level, _ = state
        above = kink_weights * (point > level)
        mass = active_mass + above.sum(0)
        mean = (active_sum + (above * point).sum(0)) / jnp.where(mass > 0, mass, 1.0)
        return jnp.where(mass > 0, jnp.maximum(mean, level), level), level

    level, _ = jax.lax.while_loop(
        lambda state: jnp.any(state[0] > state[1]), climb, climb((start, start))
    )
    multipliers = jnp.maximum(level, 0.0)
    coefficients = jnp.where(
        active, multipliers, jnp.where(kink, jnp.clip(point, 0.0, multipliers), 0.0)
    )
    return coefficients, multipliers


def solve_multipliers(
    gram: Float[Array, "m m"],
    targets: Float[Array, "n m"],
    weights: Float[Array, " n"],
    active: Bool[Array, "n m"],
    kink: Bool[Array, "n m"],
    squared_norm: Float[Array, ""],
) -> Multipliers:
    """Minimise ||theta - G c|| over the cone described at the head of this file.

    Pure, jittable and vmappable; shapes are fixed, unused samples are those without a pair in
    ``active`` or ``kink``. Never raises: look at ``gap``.

    Args:
        gram: K, inner products of signed samples y_i x_i.
        targets: T, theta_j . (y_i x_i) / u_j; rows with u_j = 0 are to be 0.
        weights: w_j = u_j^2.
        active: pairs with c_ji = lambda_i.
        kink: pairs with c_ji in [0, lambda_i]; disjoint from ``active``.
        squared_norm: ||theta||^2, in full: including what lies outside the samples' span.

    Returns:
        The minimiser. Where it is not unique (linearly dependent gradients), epsilon still is.
    """
    m = gram.shape[0]
    tiny = jnp.finfo(targets.dtype).tiny
    rounding = jnp.finfo(targets.dtype).eps
    used = (active | kink).any(0)
    used_gram = jnp.where(used[:, None] & used[None, :], gram, 0.0)
    # Gershgorin's bound on the largest eigenvalue: within a small factor, and no LAPACK call.
    curvature = jnp.maximum(jnp.max(jnp.abs(used_gram).sum(1)), tiny)
    smallest_residual = rounding**2 * (weights @ (targets**2)).sum()

    def inner(a, b):
        return weights @ (a * b).sum(1)

    def gradient(c):
        return c @ used_gram - targets

    def objective(c, grad):
        return 0.5 * inner(c, grad - targets)

    def signed_margins(grad):
        # max over the Clarke set of <-gradient, h_i>: the dual constraint of sample i.
        return _sum_rows(weights, jnp.where(active, -grad, jnp.where(kink, -grad.clip(max=0), 0)))

    theta_margins = -signed_margins(targets)

    def relative_gap(c, grad):
        """Duality gap from rho = residual - s theta, s just large enough for rho to be dual
        feasible: <theta, h_i> = q_i > 0 makes -theta a strictly feasible direction.
        """
        violation = jnp.maximum(signed_margins(grad), 0.0)
        shift = jnp.max(jnp.where(used, _ratio(violation, theta_margins), 0.0), initial=0.0)
        feasible = jnp.all(~used | (theta_margins > 0) | (violation <= 0))
        squared_residual = jnp.maximum(squared_norm + 2 * objective(c, grad), 0.0)
        theta_residual = squared_residual - inner(c, grad)
        theta_rho = theta_residual - shift * squared_norm
        squared_rho = squared_residual - 2 * shift * theta_residual + shift**2 * squared_norm
        # The best multiple of rho as a dual point has the value <theta, rho>^2 / (2 ||rho||^2).
        dual = jnp.where(theta_rho > 0, theta_rho**2 / jnp.maximum(squared_rho, tiny), 0.0)
        dual = jnp.where(feasible, dual, 0.0)
        return jnp.maximum(squared_residual - dual, 0.0) / jnp.maximum(squared_norm, tiny)

    def project(c):
        return project_onto_cone(c, weights, active, kink)

    def gradient_steps(c):
        """Projected gradient with Nesterov momentum, restarted when momentum points uphill."""

        def step(_, state):
            old, ahead, momentum = state
            new, _ = project(ahead - gradient(ahead) / curvature)
            next_momentum = 0.5 * (1 + jnp.sqrt(1 + 4 * momentum**2))
            uphill = inner(ahead - new, new - old) > 0
            next_momentum = jnp.where(uphill, 1.0, next_momentum)
            push = jnp.where(uphill, 0.0, (momentum - 1) / next_momentum)
            return new, new + push * (new - old), next_momentum

        one = jnp.ones((), c.dtype)
        c, _, _ = jax.lax.fori_loop(0, _GRADIENT_STEPS, step, (c, c, one))
        return project(c - gradient(c) / curvature)

    def minimise_on_face(c, multipliers, last_face):
        """Conjugate gradients with free pairs, zero pairs and tied pairs (c = lambda) as in c,
        then as much of that step as keeps c in the cone, or its projection if that is lower.
        Also returns the face, to be compared with the next round's.
        """
        positive = multipliers > 0
        free = kink & (c > 0) & (c < multipliers)
        tied = (active | (kink & (c >= multipliers))) & positive
        tied_mass = _sum_rows(weights, tied)
        face = free + 2 * tied.astype(jnp.int8)
        settled = jnp.all(face == last_face)

        def onto_face(a):
            mean = _ratio(_sum_rows(weights, jnp.where(tied, a, 0.0)), tied_mass)
            return jnp.where(free, a, jnp.where(tied, mean, 0.0))

        def iterate(state):
            x, residual, direction, squared, count = state
            image = onto_face(direction @ used_gram)
            length = squared / jnp.maximum(inner(direction, image), tiny)
            x = x + length * direction
            residual = residual - length * image
            new_squared = inner(residual, residual)
            direction = residual + new_squared / jnp.maximum(squared, tiny) * direction
            return x, residual, direction, new_squared, count + 1

        residual = -onto_face(gradient(c))
        start = inner(residual, residual)
        # Accuracy is worth its price only on a face that has been found twice running.
        limit = jnp.where(settled, 4 * m + 50, _FIRST_ITERATIONS)
        goal = jnp.maximum(0.1 * rounding**2 * start, 0.01 * smallest_residual)
        step, *_ = jax.lax.while_loop(
            lambda state: (state[3] > goal) & (state[4] < limit),
            iterate,
            (jnp.zeros_like(c), residual, residual, start, 0),
        )
        multiplier_step = jnp.where(positive, jnp.max(jnp.where(tied, step, -jnp.inf), 0), 0.0)
        slack, slack_step = multipliers - c, multiplier_step - step

        def longest(room, change, where):
            lengths = room / jnp.where(change < 0, -change, 1.0)
            return jnp.min(jnp.where(where & (change < 0), lengths, jnp.inf), initial=jnp.inf)

        length = jnp.minimum(1.0, longest(c, step, free))
        length = jnp.minimum(length, longest(slack, slack_step, free))
        length = jnp.minimum(length, longest(multipliers, multiplier_step, positive))
        truncated = c + length * step
        projected, _ = project(c + step)
        lower = objective(projected, gradient(projected)) < objective(
            truncated, gradient(truncated)
        )
        return jnp.where(lower, projected, truncated), face

    def one_round(state):
        c, _, gap, _, face, rounds = state
        c, multipliers = gradient_steps(c)
        c, face = minimise_on_face(c, multipliers, face)
        c, multipliers = project(c - gradient(c) / curvature)
        return c, multipliers, relative_gap(c, gradient(c)), gap, face, rounds + 1

    def unfinished(state):
        _, _, gap, previous, _, rounds = state
        # A gap of some units in the last place is as good as 0; so is one of a few hundred that
        # another round did not halve.
        stalled = (gap <= 1000 * rounding) & (gap > 0.5 * previous)
        return (gap > 10 * rounding) & ~stalled & (rounds < _MAX_ROUNDS)

    coefficients, multipliers, gap, _, _, rounds = jax.lax.while_loop(
        unfinished,
        one_round,
        (
            jnp.zeros_like(targets),
            jnp.zeros(m, targets.dtype),
            jnp.asarray(jnp.inf, targets.dtype),
            jnp.asarray(jnp.inf, targets.dtype),
            jnp.full(targets.shape, -1, jnp.int8),
            0,
        ),
    )
    return Multipliers(multipliers, coefficients, gap, jnp.asarray(rounds))

"""What theory says about a trial: the data conditions, an a-posteriori bound on the ascent, and up
to which correlation of the samples that guarantees a stated epsilon (docs/mathematics.md).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from gaunlearn.models import (
    Model,
    active_pairs,
    clean_preactivations,
    logits,
    neuron_count,
    parameter_gradient,
    preactivations,
    slopes,
)
from gaunlearn.sums import count, matrix_norm, row_sums

__all__ = [
    "AscentBound",
    "DataConditions",
    "ascent_bound",
    "data_conditions",
    "largest_phi",
]


class DataConditions(NamedTuple):
    """The quantities that MYV's assumptions on the data speak of.

    Attributes:
        psi: max_i | ||x_i||^2 - 1 |.
        phi: max_{i != k} |<x_i, x_k>|.
        eps_d: 4 m n phi for two-layer (leaky) ReLU, 4 m phi for linear; NaN for all others.
        nearly_orthogonal: (m - 1) phi < 1 - psi: the Gram matrix is diagonally dominant, so that
            every labelling is separable (the bounds of docs/mathematics.md start from there).
    """

    psi: Float[Array, ""]
    phi: Float[Array, ""]
    eps_d: Float[Array, ""]
    nearly_orthogonal: Bool[Array, ""]


def data_conditions(
    model: Model, u: Float[Array, " n"], x: Float[Array, "m r"], present: Bool[Array, " m"]
) -> DataConditions:
    """psi, phi and eps_d of the samples that are ``present``; absent ones are to be zero."""
    m, n = present.sum().astype(x.dtype), neuron_count(u)
    gram = x @ x.T
    diagonal = jnp.eye(x.shape[0], dtype=bool)
    psi = jnp.max(jnp.where(present, jnp.abs(jnp.diagonal(gram) - 1), 0.0))
    phi = jnp.max(jnp.where(diagonal, 0.0, jnp.abs(gram)))
    units = m if model.is_linear else m * n
    eps_d = 4 * units * phi if model.homogeneity == 1 else jnp.full_like(phi, jnp.nan)
    return DataConditions(psi, phi, eps_d, (m - 1) * phi < 1 - psi)


def largest_phi(
    m: Float[Array, ""],
    k: Float[Array, ""],
    psi: Float[Array, ""],
    epsilon_1: Float[Array, ""],
    delta_1: Float[Array, ""],
    share: Float[Array, ""],
    missed: Float[Array, ""],
    step_fraction: Float[Array, ""],
    target: float,
) -> Float[Array, ""]:
    """The largest phi at which an ascent step that flips no retained sign is certain to end within
    ``target``, whatever else the samples are:

        phi* = t a (1 - psi) / (f k c + t (m - 1)),   t = 1 - (epsilon_1 + missed) / target,
                                                      c = 1 + delta_1 + epsilon_1 sqrt(1 + psi).

    Derived in docs/mathematics.md from the bound of ``ascent_bound``; not MYV's theorem.

    Args:
        m, k: training samples, and how many are forgotten.
        epsilon_1, delta_1: of the trained model with the derivatives 1[z > 0].
        share: a, the least sum_j u_j^2 s_ji^2 of a support vector's derivatives s_ji.
        missed: ||sum_F lambda_r y_r h_r - f v||, 0 for the theorem's step away from kinks.
        step_fraction: f.
        target: epsilon.

    Returns:
        NaN where nothing is certain: epsilon_1 + missed >= target, or psi >= 1.
    """
    t = 1 - (epsilon_1 + missed) / target
    c = 1 + delta_1 + epsilon_1 * jnp.sqrt(1 + psi)
    phi = t * share * (1 - psi) / (step_fraction * k * c + t * (m - 1))
    return jnp.where((t > 0) & (psi < 1), phi, jnp.nan)


class AscentBound(NamedTuple):
    """The triple that the trained model's multipliers give, and a bound on it beforehand.

    Attributes:
        epsilon: ||W^ - sum_R lambda_i y_i h_i|| / gamma, gamma being the least retained margin of
            W^ and lambda the trained model's multipliers: with (delta, tau = 0), a valid triple.
        delta: max_R lambda_i / gamma (q_i / gamma - 1).
        sign_flips: retained pairs whose ReLU sign the step changed; NaN without a step.
        bound_epsilon: bound on ``epsilon``; NaN if a sign flipped or the interference s >= 1.
        bound_delta: likewise for ``delta``.
        phi_guarantee: ``largest_phi`` at which ``epsilon`` is at most the target.
    """

    epsilon: Float[Array, ""]
    delta: Float[Array, ""]
    sign_flips: Float[Array, ""]
    bound_epsilon: Float[Array, ""]
    bound_delta: Float[Array, ""]
    phi_guarantee: Float[Array, ""]


def ascent_bound(
    model: Model,
    theta: Float[Array, "n r"],
    theta_hat: Float[Array, "n r"],
    multipliers: Float[Array, " m"],
    coefficients: Float[Array, "n m"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    forget: Bool[Array, " m"],
    retain: Bool[Array, " m"],
    step_fraction: Float[Array, ""],
    target: float,
) -> AscentBound:
    """Bound the ascent step's outcome from what is known before it.

    With f the step fraction, h_i the gradients of theta on the retained samples, v = sum_F v_r
    the ascent direction (v_r = lambda_r y_r h_r where no forgotten pair is a kink), and
    s = f max_i sum_F |<h_i, v_r>|. If no retained sign changes, every retained margin moves by at
    most s, so gamma >= 1 - s, and the residual moves from r = theta - sum_S lambda_i y_i h_i by
    sum_F lambda_r y_r h_r - f v. Hence for s < 1

        epsilon <= (||r|| + ||sum_F lambda_r y_r h_r - f v||) / (1 - s),
        delta   <= (delta_1 + 2 lambda_max s) / (1 - s)^2,

    which for f = 1 without kinks is epsilon_1 / (1 - s) (derived here; it is not MYV's theorem).

    Args:
        theta: trained weights, normalised to least margin 1 on the full training set.
        theta_hat: unlearned weights, at the same scale. The bounds are only valid if they are
            theta - f v; what is measured with the trained model's multipliers is for any.
        multipliers: its dual variables.
        coefficients: c_ji that defined the ascent step.
        forget, retain: the two parts of the training set.
        target: the epsilon that ``phi_guarantee`` is about.

    For models of higher homogeneity there is no bound, and what is measured is measured.
    """
    if model.homogeneity > 1:
        return _measured(model, theta, theta_hat, multipliers, u, x, y, retain)
    signed = y[:, None] * x
    z = clean_preactivations(theta, u, x)
    derivative = slopes(model, z)
    directions = jnp.where(forget, coefficients, 0.0)
    z_hat = clean_preactivations(theta_hat, u, x)
    derivative_after = slopes(model, z_hat)
    sign_flips = count((derivative != derivative_after) & retain, theta.dtype)

    # <h_i, v_r> = y_i (x_i . x_r) y_r sum_j u_j^2 derivative_ji c_jr
    overlap = (u**2 * derivative.T) @ directions
    interference = step_fraction * row_sums(jnp.abs(overlap * (x @ x.T)))
    s = jnp.max(jnp.where(retain, interference, 0.0))

    def gradient_sum(pattern, lam):
        return (u[:, None] * pattern * lam) @ signed

    start = theta - gradient_sum(derivative, multipliers)
    lam_retain = jnp.where(retain, multipliers, 0.0)
    lam_forget = jnp.where(retain, 0.0, multipliers)
    change = gradient_sum(derivative, lam_forget) - (theta - theta_hat)
    q = y * logits(model, z, u, theta)
    delta_start = jnp.max(jnp.where(retain, multipliers * (q - 1), -jnp.inf))
    holds = (sign_flips == 0) & (s < 1)
    room = jnp.where(holds, 1 - s, jnp.nan)

    q_hat = y * logits(model, z_hat, u, theta_hat)
    least = jnp.min(jnp.where(retain, q_hat, jnp.inf))
    gamma = jnp.where(least > 0, least, jnp.nan)
    residual = theta_hat - gradient_sum(derivative_after, lam_retain)
    slack = lam_retain / gamma * (q_hat / gamma - 1)
    return AscentBound(
        epsilon=matrix_norm(residual) / gamma,
        delta=jnp.max(jnp.where(retain, slack, -jnp.inf)),
        sign_flips=jnp.where(jnp.isfinite(least), sign_flips, jnp.nan),
        bound_epsilon=(matrix_norm(start) + matrix_norm(change)) / room,
        bound_delta=(delta_start + 2 * jnp.max(lam_retain) * s) / room**2,
        phi_guarantee=largest_phi(
            jnp.sum(forget | retain).astype(s.dtype),
            jnp.sum(forget).astype(s.dtype),
            data_conditions(model, u, x, forget | retain).psi,
            matrix_norm(start),
            jnp.max(jnp.where(forget | retain, multipliers * (q - 1), 0.0)),
            jnp.min(jnp.where(multipliers > 0, u**2 @ derivative**2, jnp.inf)),
            matrix_norm(change),
            step_fraction,
            target,
        ),
    )


def _measured(
    model: Model,
    theta: Float[Array, "n r"],
    theta_hat: Float[Array, "n r"],
    multipliers: Float[Array, " m"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
) -> AscentBound:
    """The triple of the trained model's multipliers, without a bound.

    Gradients are homogeneous of degree L - 1: with theta^ at least margin gamma, multipliers lambda
    of theta^ = sum lambda_i y_i h_i are lambda gamma^((L - 2) / L) at least margin 1.
    """
    flips = active_pairs(model, theta, u, x) != active_pairs(model, theta_hat, u, x)
    q = y * logits(model, preactivations(theta_hat, x), u, theta_hat)
    least = jnp.min(jnp.where(retain, q, jnp.inf))
    gamma = jnp.where(least > 0, least, jnp.nan)
    degree = model.homogeneity
    scaled = theta_hat * gamma ** (-1 / degree)
    lam = jnp.where(retain, multipliers, 0.0) * gamma ** ((degree - 2) / degree)
    residual = scaled - parameter_gradient(model, scaled, u, x, lam * y)
    none = jnp.full_like(gamma, jnp.nan)
    return AscentBound(
        epsilon=matrix_norm(residual),
        delta=jnp.max(jnp.where(retain, lam * (q / gamma - 1), -jnp.inf)),
        sign_flips=jnp.where(jnp.isfinite(least), count(flips & retain, theta.dtype), jnp.nan),
        bound_epsilon=none,
        bound_delta=none,
        phi_guarantee=none,
    )

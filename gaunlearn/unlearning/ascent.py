"""Gradient ascent on the forget set: the theorem's step (MYV), and what is used in its place.

The theorem's step on the forget set F has a size beta with -beta l'(q_r) = lambda_r, that is
``W^ = W - sum_F lambda_r y_r h_r`` in normalised weights. The Clarke element h_r is the one that
the multipliers chose: with 1[z > 0] instead, the step is wrong on every kink of a forgotten point.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from gaunlearn.certificate import Certificate
from gaunlearn.deep import forward, weighted_gradient
from gaunlearn.ladder import certify
from gaunlearn.losses import Loss, relative_slopes
from gaunlearn.models import Model
from gaunlearn.sums import matrix_sum
from gaunlearn.training import margins
from gaunlearn.unlearning.situation import (
    Effort,
    Situation,
    Unlearned,
    gradient_sum,
)

__all__ = [
    "ascent",
    "ascent_direction",
    "estimated_ascent",
    "estimated_multipliers",
    "identity",
    "repeated_ascent",
    "sequential_ascent",
]


def ascent_direction(
    model: Model,
    certificate: Certificate,
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    forget: Bool[Array, " m"],
) -> Float[Array, "n r"]:
    """sum_F lambda_r y_r h_r in normalised weights: row j is u_j sum_F c_jr y_r x_r; for deep
    networks, the gradients at the certificate's weights with its derivatives.

    Args:
        certificate: that of the trained model with respect to the full training set.
        forget: the forget set F.
    """
    if model.is_deep:
        level = jnp.where(forget, certificate.multipliers, 0.0)
        share = jnp.where(level > 0, certificate.coefficients / level, 0.0)
        z = forward(model, certificate.weights, x)
        return weighted_gradient(model, certificate.weights, x, level * y, z, share)
    coefficients = jnp.where(forget, certificate.coefficients, 0.0)
    return (u[:, None] * coefficients) @ (y[:, None] * x)


def _unit(model: Model, situation: Situation) -> Float[Array, ""]:
    """What lambda_r y_r grad N(x_r; W) is to be multiplied by: gradients are homogeneous of degree
    L - 1, and the step is wanted at the scale of W, not at that of least margin 1.
    """
    return situation.scale ** (2 - model.homogeneity)


def identity(model: Model, loss: Loss, situation: Situation, effort: Effort) -> Unlearned:
    """No unlearning: what the others have to beat."""
    del model, loss, effort
    return Unlearned(situation.weights, jnp.zeros_like(situation.scale))


def ascent(model: Model, loss: Loss, situation: Situation, effort: Effort) -> Unlearned:
    """The theorem's step, f times (MYV). Multipliers need the gradients of all samples."""
    del loss
    s = situation
    direction = ascent_direction(model, s.certificate, s.u, s.x, s.y, s.forget)
    weights = s.weights - effort.step_fraction * s.scale * direction
    return Unlearned(weights, jnp.sum(s.present).astype(s.scale.dtype))


def estimated_multipliers(model: Model, loss: Loss, situation: Situation) -> Float[Array, " m"]:
    """Multipliers from the loss alone, for normalised weights theta.

    Late in training theta is along sum_i p_i y_i grad N(x_i), p_i = -l'(q_i) (LL), so lambda is
    about t p. Euler's identity <theta, grad N(x_i; theta)> = L N(x_i; theta) gives
    ||theta||^2 = L sum_i lambda_i q_i, and that t.
    """
    q = margins(model, situation.weights, situation.u, situation.x, situation.y)
    factors, _ = relative_slopes(loss, q, situation.present)
    least = situation.scale**model.homogeneity
    theta = situation.weights / situation.scale
    return factors * matrix_sum(theta**2) / (model.homogeneity * jnp.sum(factors * q / least))


def estimated_ascent(model: Model, loss: Loss, situation: Situation, effort: Effort) -> Unlearned:
    """The theorem's step with ``estimated_multipliers`` and the derivative 1[z > 0]."""
    s = situation
    multipliers = jnp.where(s.forget, estimated_multipliers(model, loss, s), 0.0)
    step = _unit(model, s) * gradient_sum(model, s, s.weights, multipliers)
    gradients = jnp.sum(s.forget) + 0.5 * jnp.sum(s.retain)
    return Unlearned(s.weights - effort.step_fraction * step, gradients.astype(s.scale.dtype))


def repeated_ascent(model: Model, loss: Loss, situation: Situation, effort: Effort) -> Unlearned:
    """The theorem's step in ``steps`` equal parts, each along the gradient where it is taken."""
    del loss
    s = situation
    multipliers = jnp.where(s.forget, s.certificate.multipliers, 0.0)
    part = effort.step_fraction * _unit(model, s) / effort.steps

    def step(_, weights):
        return weights - part * gradient_sum(model, s, weights, multipliers)

    weights = jax.lax.fori_loop(0, effort.steps, step, s.weights)
    gradients = jnp.sum(s.present) + effort.steps * jnp.sum(s.forget)
    return Unlearned(weights, gradients.astype(s.scale.dtype))


def sequential_ascent(model: Model, loss: Loss, situation: Situation, effort: Effort) -> Unlearned:
    """The theorem's step for one sample of the forget set after the other, each with multipliers
    of the model that the last one left, on the samples that were left. For one sample this is
    ``ascent``.
    """
    del loss
    s = situation

    def step(number, weights):
        left = s.present & ((s.order == 0) | (s.order >= number))
        found = certify(model, weights, s.u, s.x, s.y, left, s.kink_tols, s.tau_budget)
        least = jnp.min(jnp.where(left, margins(model, weights, s.u, s.x, s.y), jnp.inf))
        scale = jnp.where(least > 0, least, jnp.nan) ** (1 / model.homogeneity)
        direction = ascent_direction(model, found, s.u, s.x, s.y, s.order == number)
        return weights - effort.step_fraction * scale * direction

    requests = jnp.max(s.order)
    weights = jax.lax.fori_loop(1, requests + 1, step, s.weights)
    return Unlearned(weights, (requests * jnp.sum(s.present)).astype(s.scale.dtype))

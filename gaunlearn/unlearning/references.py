"""Methods that are references rather than proposals: the exact limit, and retraining itself."""

import jax.numpy as jnp

from gaunlearn.limit import find_limit
from gaunlearn.losses import Loss
from gaunlearn.models import Model
from gaunlearn.unlearning.ascent import ascent
from gaunlearn.unlearning.situation import Effort, Situation, Unlearned

__all__ = ["limit_polishing", "retraining"]


def limit_polishing(model: Model, loss: Loss, situation: Situation, effort: Effort) -> Unlearned:
    """Gradient ascent, then the limit that training on the retain set would reach from there; at
    the trained model's norm. Each iteration of the limit solver counts as a gradient a sample.
    """
    s = situation
    start = ascent(model, loss, s, effort)
    limit = find_limit(model, start.weights, s.u, s.x, s.y, s.retain)
    norm = jnp.linalg.norm(limit.weights)
    weights = limit.weights * (jnp.linalg.norm(s.weights) / norm)
    return Unlearned(weights, start.gradients + limit.iterations * jnp.sum(s.retain))


def retraining(model: Model, loss: Loss, situation: Situation, effort: Effort) -> Unlearned:
    """The retrained model."""
    del model, loss, effort
    s = situation
    gradients = s.retraining_steps * jnp.sum(s.retain)
    return Unlearned(s.retrained, gradients.astype(s.scale.dtype))

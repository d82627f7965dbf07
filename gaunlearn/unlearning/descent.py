"""Methods that train on: descent on some samples, ascent on others, ``Effort.steps`` times.

All take steps of normalised descent, divided by the loss: without that, a model trained for long
would not move.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gaunlearn.losses import Loss, relative_slopes
from gaunlearn.models import Model
from gaunlearn.training import bounded_gain, margins
from gaunlearn.unlearning.situation import (
    Effort,
    Situation,
    Unlearned,
    gradient_sum,
)

__all__ = ["fine_tuning", "gradient_difference", "random_labels"]


def _descend(
    model: Model,
    situation: Situation,
    effort: Effort,
    factors_at: Callable[[Float[Array, " m"]], Float[Array, " m"]],
) -> Float[Array, "n r"]:
    """Steps along sum_i factor_i y_i grad N(x_i), the factors being a function of the margins."""

    def step(_, weights):
        factors = factors_at(margins(model, weights, situation.u, situation.x, situation.y))
        step = gradient_sum(model, situation, weights, factors)
        return weights + effort.step_size * bounded_gain(model.homogeneity, step)

    return jax.lax.fori_loop(0, effort.steps, step, situation.weights)


def _cost(effort: Effort, samples: Array) -> Float[Array, ""]:
    return jnp.asarray(effort.steps * jnp.sum(samples), float)


def gradient_difference(
    model: Model, loss: Loss, situation: Situation, effort: Effort
) -> Unlearned:
    """Descent on the retain set's loss minus f times the forget set's (NegGrad+; Kurmanji et al.
    2023, *Towards unbounded machine unlearning*).
    """
    s = situation

    def factors_at(q):
        factors, _ = relative_slopes(loss, q, s.present)
        return jnp.where(s.forget, -effort.step_fraction * factors, factors)

    return Unlearned(_descend(model, s, effort, factors_at), _cost(effort, s.present))


def fine_tuning(model: Model, loss: Loss, situation: Situation, effort: Effort) -> Unlearned:
    """Descent on the retain set alone, with f times the step size."""
    s = situation

    def factors_at(q):
        return effort.step_fraction * relative_slopes(loss, q, s.retain)[0]

    return Unlearned(_descend(model, s, effort, factors_at), _cost(effort, s.retain))


def random_labels(model: Model, loss: Loss, situation: Situation, effort: Effort) -> Unlearned:
    """Descent on all samples, the forgotten ones with a wrong label (Golatkar et al. 2020, *Eternal
    sunshine of the spotless net*), with f times the step size. With two classes a random wrong
    label is the other one.
    """
    s = situation

    def factors_at(q):
        factors, _ = relative_slopes(loss, jnp.where(s.forget, -q, q), s.present)
        return effort.step_fraction * jnp.where(s.forget, -factors, factors)

    return Unlearned(_descend(model, s, effort, factors_at), _cost(effort, s.present))

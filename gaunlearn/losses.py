"""The losses and their slopes as logarithms, summed over samples.

Only logarithms are ever formed: the loss of a well-separated sample, exp(-q), underflows at a
margin of q = 745, which normalised descent passes, while log loss and log slope stay of order q.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp
from jaxtyping import Bool, Float

__all__ = ["LOSSES", "Loss", "log_total_loss", "relative_slopes"]

# Above this margin log(1 + exp(-q)) equals exp(-q) to less than a unit in the last place.
_ASYMPTOTIC_MARGIN = 40.0


class Loss(NamedTuple):
    """log l(q), log(-l'(q)) and the ratio -l''(q) / l'(q) as functions of the margin q.

    A loss is known by its name: programs are kept under it, and other processes are told it.
    """

    name: str
    log_value: Callable[[Array], Array]
    log_slope: Callable[[Array], Array]
    bending: Callable[[Array], Array]

    def __repr__(self) -> str:
        return f"Loss({self.name!r})"

    def __reduce__(self) -> tuple[Callable[[str], "Loss"], tuple[str]]:
        return _loss, (self.name,)


def _logistic_log_value(margin: Array) -> Array:
    bounded = jnp.minimum(margin, _ASYMPTOTIC_MARGIN)
    return jnp.where(margin > _ASYMPTOTIC_MARGIN, -margin, jnp.log(jax.nn.softplus(-bounded)))


LOSSES = {
    "logistic": Loss(
        "logistic", _logistic_log_value, lambda q: -jax.nn.softplus(q), jax.nn.sigmoid
    ),
    "exponential": Loss("exponential", lambda q: -q, lambda q: -q, jnp.ones_like),
}


def _loss(name: str) -> Loss:
    return LOSSES[name]


def log_total_loss(
    loss: Loss, margins: Float[Array, " m"], keep: Bool[Array, " m"]
) -> Float[Array, ""]:
    """log of the summed loss over the samples that ``keep`` selects."""
    return logsumexp(jnp.where(keep, loss.log_value(margins), -jnp.inf))


def relative_slopes(
    loss: Loss, margins: Float[Array, " m"], keep: Bool[Array, " m"]
) -> tuple[Float[Array, " m"], Float[Array, ""]]:
    """-l'(q_i) / L for each kept sample (0 elsewhere), and log L, L being the summed loss.

    ``grad log L = -sum_i slope_i y_i grad N(x_i)``: the direction of loss-normalised descent,
    of order 1 however small L is.
    """
    total = log_total_loss(loss, margins, keep)
    slopes = jnp.where(keep, jnp.exp(loss.log_slope(margins) - total), 0.0)
    return slopes, total

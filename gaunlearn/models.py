"""The models: their pre-activations, logits, output weights and initial weights.

All are one hidden layer of n units with fixed output weights u,
``N(x; W) = sum_j u_j act(<w_j, x>)`` with act(z) = z for z > 0 and leak z below: positively
homogeneous of degree 1 in W (MYV for ReLU, leak 0; SHN for the linear model, which is one unit with
u = [1] and leak 1).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

__all__ = [
    "LINEAR",
    "MODELS",
    "RELU",
    "Model",
    "activation",
    "clean_preactivations",
    "leaky_relu",
    "logits",
    "neuron_count",
    "output_weights",
    "preactivations",
    "rounding_reach",
    "slopes",
]

# A pre-activation of so many units of rounding is zero.
_ZERO_UNITS = 100


@dataclass(frozen=True)
class Model:
    """What the rest of the package needs to know about an architecture.

    Attributes:
        name: as a specification writes it.
        leak: the activation's slope below 0; 0 for ReLU, 1 for the linear model.
        homogeneity: L in N(x; cW) = c^L N(x; W).
    """

    name: str
    leak: float = 0.0
    homogeneity: int = 1

    @property
    def has_kinks(self) -> bool:
        """Whether a zero pre-activation is a kink, with derivatives [leak, 1]."""
        return self.leak != 1.0


def leaky_relu(leak: float) -> Model:
    """The two-layer network with slope ``leak`` in [0, 1) below 0."""
    return Model("two_layer_leaky_relu", leak) if leak else RELU


LINEAR = Model("linear", leak=1.0)
RELU = Model("two_layer_relu")
MODELS = {"linear": LINEAR, "two_layer_relu": RELU}


def activation(model: Model, preactivation: Array) -> Array:
    """act(z), with derivative ``leak`` at 0."""
    if not model.has_kinks:
        return preactivation
    if model.leak == 0:
        return jax.nn.relu(preactivation)
    return jnp.where(preactivation > 0, preactivation, model.leak * preactivation)


def slopes(model: Model, preactivation: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """act'(z) away from kinks: 1 where z > 0, ``leak`` elsewhere; 1 everywhere for ``linear``."""
    return jnp.where(preactivation > 0, 1.0, model.leak).astype(preactivation.dtype)


def output_weights(
    model: Model, n: int, neurons: int | Int[Array, ""] | None = None
) -> Float[Array, " n"]:
    """The fixed second layer: [1] for ``linear``, alternating +-1/sqrt(n) otherwise (MYV).

    Args:
        neurons: if given, only so many of n exist; the others have u_j = 0.
    """
    if not model.has_kinks:
        return jnp.ones(1)
    count = n if neurons is None else neurons
    place = jnp.arange(n)
    signs = jnp.where(place % 2 == 0, 1.0, -1.0) / jnp.sqrt(jnp.asarray(count, float))
    return jnp.where(place < count, signs, 0.0)


def neuron_count(u: Float[Array, " n"]) -> Float[Array, ""]:
    """How many neurons have an output: those with u_j = 0 take part in nothing."""
    return jnp.sum(u != 0).astype(u.dtype)


def preactivations(weights: Float[Array, "n r"], x: Float[Array, "m r"]) -> Float[Array, "n m"]:
    """z_ji = <w_j, x_i>."""
    return weights @ x.T


def rounding_reach(
    weights: Float[Array, "n r"], u: Float[Array, " n"], x: Float[Array, "m r"]
) -> Float[Array, "n m"]:
    """Pre-activations up to this may be rounding: relative to the network's scale, from which steps
    and projections leave errors on small rows too, and to the row's own.
    """
    scale = jnp.linalg.norm(weights) / jnp.sqrt(neuron_count(u))
    size = jnp.maximum(scale, jnp.linalg.norm(weights, axis=1))
    units = _ZERO_UNITS * jnp.finfo(weights.dtype).eps
    return units * size[:, None] * jnp.linalg.norm(x, axis=1)


def clean_preactivations(
    weights: Float[Array, "n r"], u: Float[Array, " n"], x: Float[Array, "m r"]
) -> Float[Array, "n m"]:
    """z_ji, and exactly 0 where it may be rounding: at a kink the sign of that means nothing."""
    z = preactivations(weights, x)
    return jnp.where(jnp.abs(z) <= rounding_reach(weights, u, x), 0.0, z)


def logits(
    model: Model, preactivation: Float[Array, "n m"], u: Float[Array, " n"]
) -> Float[Array, " m"]:
    """N(x_i; W) from the pre-activations of x_i."""
    return u @ activation(model, preactivation)

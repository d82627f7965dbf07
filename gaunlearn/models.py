"""The models: their pre-activations, logits, output weights and initial weights.

Both models are one hidden layer of n units with fixed output weights u,
``N(x; W) = sum_j u_j act(<w_j, x>)``, positively homogeneous of degree 1 in W (MYV; SHN for the
linear case, which is one unit with u = [1] and the identity for ``act``).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

__all__ = [
    "MODELS",
    "Model",
    "active_pairs",
    "initial_weights",
    "logits",
    "output_weights",
    "preactivations",
]


@dataclass(frozen=True)
class Model:
    """What the rest of the package needs to know about an architecture.

    Attributes:
        name: as a specification writes it.
        activation: the hidden unit's function of its pre-activation.
        is_active: where its derivative is 1 (elsewhere it is 0), away from kinks.
        has_kinks: whether a zero pre-activation is a kink.
        homogeneity: L in N(x; cW) = c^L N(x; W).
    """

    name: str
    activation: Callable[[Array], Array]
    is_active: Callable[[Array], Array]
    has_kinks: bool
    homogeneity: int = 1


MODELS = {
    "linear": Model("linear", lambda z: z, lambda z: jnp.ones_like(z, bool), has_kinks=False),
    "two_layer_relu": Model("two_layer_relu", jax.nn.relu, lambda z: z > 0, has_kinks=True),
}


def output_weights(model: Model, n: int) -> Float[Array, " n"]:
    """The fixed second layer: [1] for ``linear``, alternating +-1/sqrt(n) otherwise (MYV)."""
    if model.name == "linear":
        return jnp.ones(1)
    return jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0) / jnp.sqrt(float(n))


def initial_weights(key: Array, n: int, d: int, scale: Float[Array, ""]) -> Float[Array, "n d"]:
    """W(0) with independent N(0, scale^2 / d) entries: each row has norm about ``scale``."""
    return scale / jnp.sqrt(float(d)) * jax.random.normal(key, (n, d))


def preactivations(weights: Float[Array, "n r"], x: Float[Array, "m r"]) -> Float[Array, "n m"]:
    """z_ji = <w_j, x_i>."""
    return weights @ x.T


def logits(
    model: Model, preactivation: Float[Array, "n m"], u: Float[Array, " n"]
) -> Float[Array, " m"]:
    """N(x_i; W) from the pre-activations of x_i."""
    return u @ model.activation(preactivation)


def active_pairs(model: Model, preactivation: Float[Array, "n m"]) -> Bool[Array, "n m"]:
    """Where the hidden unit passes its input on: 1[z > 0] for ReLU, everywhere for ``linear``."""
    return model.is_active(preactivation)

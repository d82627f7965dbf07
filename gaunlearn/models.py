"""The models: their pre-activations, logits, output weights and initial weights.

Most are one hidden layer of n units with fixed output weights u,
``N(x; W) = sum_j u_j act(<w_j, x>)``, positively homogeneous in W: of degree 1 with act(z) = z for
z > 0 and leak z below (MYV for ReLU, leak 0; SHN for the linear model, which is one unit with
u = [1] and leak 1), of degree 2 with act(z) = relu(z)^2.

Deep ReLU networks have more trained layers, all without bias, on top of the first, and are
homogeneous of the degree of their depth (LL). Their parameters are one matrix all the same: behind
W's own columns stand the ``upper`` ones, one (n, n) block for each further hidden layer and a
column of output weights. Samples are zero in them, so that norms, cosines and first-layer
pre-activations need not know.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from gaunlearn.sums import dot, matrix_norm, row_norms, total

__all__ = [
    "LINEAR",
    "MODELS",
    "RELU",
    "SQUARED_RELU",
    "Model",
    "activation",
    "active_pairs",
    "clean_preactivations",
    "deep_relu",
    "largest_logits",
    "leaky_relu",
    "logits",
    "neuron_count",
    "output_weights",
    "parameter_gradient",
    "preactivations",
    "rounding_reach",
    "slopes",
    "upper_columns",
    "upper_layers",
    "without_room",
]

# A pre-activation of so many units of rounding is zero.
_ZERO_UNITS = 100


@dataclass(frozen=True)
class Model:
    """What the rest of the package needs to know about an architecture.

    Attributes:
        name: as a specification writes it.
        leak: the activation's slope below 0; 0 for ReLU, 1 for the linear model.
        power: the activation is ReLU to this power.
        hidden: hidden layers.
        is_deep: whether what is above the first layer is trained too.
    """

    name: str
    leak: float = 0.0
    power: int = 1
    hidden: int = 1
    is_deep: bool = False

    @property
    def homogeneity(self) -> int:
        """L in N(x; c theta) = c^L N(x; theta)."""
        return self.hidden + 1 if self.is_deep else self.power

    @property
    def is_linear(self) -> bool:
        """Whether there is no activation."""
        return self.leak == 1.0

    @property
    def has_kinks(self) -> bool:
        """Whether a zero pre-activation is a kink, with derivatives [leak, 1]."""
        return not self.is_linear and self.power == 1

    @property
    def has_limit(self) -> bool:
        """Whether ``limit`` can solve for where training leads."""
        return self.homogeneity == 1


def leaky_relu(leak: float) -> Model:
    """The two-layer network with slope ``leak`` in [0, 1) below 0."""
    return Model("two_layer_leaky_relu", leak) if leak else RELU


def deep_relu(depth: int) -> Model:
    """The bias-free ReLU network of ``depth`` >= 2 trained layers."""
    return Model("deep_relu", hidden=depth - 1, is_deep=True)


LINEAR = Model("linear", leak=1.0)
RELU = Model("two_layer_relu")
SQUARED_RELU = Model("two_layer_squared_relu", power=2)
MODELS = {model.name: model for model in (LINEAR, RELU, SQUARED_RELU)}


def activation(model: Model, preactivation: Array) -> Array:
    """act(z), with derivative ``leak`` at 0."""
    if model.is_linear:
        return preactivation
    if model.power > 1:
        return jax.nn.relu(preactivation) ** model.power
    if model.leak == 0:
        return jax.nn.relu(preactivation)
    return jnp.where(preactivation > 0, preactivation, model.leak * preactivation)


def slopes(model: Model, preactivation: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """act'(z) away from kinks: 1 where z > 0, ``leak`` elsewhere; 1 everywhere for ``linear``."""
    if model.power > 1:
        return model.power * jax.nn.relu(preactivation) ** (model.power - 1)
    return jnp.where(preactivation > 0, 1.0, model.leak).astype(preactivation.dtype)


def output_weights(
    model: Model, n: int, neurons: int | Int[np.ndarray, "*lanes"] | None = None
) -> Float[np.ndarray, "*lanes n"]:
    """The fixed second layer: [1] for ``linear``, alternating +-1/sqrt(n) otherwise (MYV); of deep
    networks, which train theirs, 1 for every neuron that exists.

    Args:
        neurons: if given, only so many of n exist; the others have u_j = 0.
    """
    count = np.asarray(n if neurons is None else neurons)[..., None]
    place = np.arange(n)
    if model.is_linear or model.is_deep:
        return np.where(place < count, 1.0, 0.0)
    signs = np.where(place % 2 == 0, 1.0, -1.0) / np.sqrt(count)
    return np.where(place < count, signs, 0.0)


def upper_columns(model: Model, n: int) -> int:
    """How many columns of the parameters stand for the layers above the first."""
    return (model.hidden - 1) * n + 1 if model.is_deep else 0


def upper_layers(
    model: Model, weights: Float[Array, "n r"]
) -> tuple[tuple[Float[Array, "n n"], ...], Float[Array, " n"]]:
    """Of a deep network: the hidden layers above the first, and the output weights."""
    n = weights.shape[0]
    upper = weights[:, -upper_columns(model, n) :]
    hidden = tuple(upper[:, place * n : (place + 1) * n] for place in range(model.hidden - 1))
    return hidden, upper[:, -1]


def without_room(
    model: Model, weights: Any, used: NDArray[np.bool_]
) -> tuple[NDArray[Any], tuple[NDArray[Any], ...]]:
    """Of NumPy arrays, the first layer's weights (n, r) of the neurons that exist, and the layers
    above: (n, n) each, the output weights last; none of models that train the first alone.
    """
    columns = upper_columns(model, len(weights))
    first = weights[used, : weights.shape[1] - columns]
    if not model.is_deep:
        return first, ()
    hidden, out = upper_layers(model, weights)
    blocks = (np.asarray(layer)[np.ix_(used, used)] for layer in hidden)
    return first, (*blocks, np.asarray(out)[used])


def neuron_count(u: Float[Array, " n"]) -> Float[Array, ""]:
    """How many neurons have an output: those with u_j = 0 take part in nothing."""
    return total((u != 0).astype(u.dtype))


def preactivations(weights: Float[Array, "n r"], x: Float[Array, "m r"]) -> Float[Array, "n m"]:
    """z_ji = <w_j, x_i>."""
    return weights @ x.T


def rounding_reach(
    lengths: Float[Array, " n"], u: Float[Array, " n"], x: Float[Array, "m r"]
) -> Float[Array, "n m"]:
    """Pre-activations up to this may be rounding: relative to the network's scale, from which steps
    and projections leave errors on small rows too, and to the row's own.

    Args:
        lengths: of the rows w_j.
    """
    scale = jnp.sqrt(dot(lengths, lengths)) / jnp.sqrt(neuron_count(u))
    size = jnp.maximum(scale, lengths)
    units = _ZERO_UNITS * jnp.finfo(lengths.dtype).eps
    return units * size[:, None] * row_norms(x)


def clean_preactivations(
    weights: Float[Array, "n r"], u: Float[Array, " n"], x: Float[Array, "m r"]
) -> Float[Array, "n m"]:
    """z_ji, and exactly 0 where it may be rounding: at a kink the sign of that means nothing."""
    z = preactivations(weights, x)
    return jnp.where(jnp.abs(z) <= rounding_reach(row_norms(weights), u, x), 0.0, z)


def logits(
    model: Model,
    preactivation: Float[Array, "n m"],
    u: Float[Array, " n"],
    weights: Float[Array, "n r"],
) -> Float[Array, " m"]:
    """N(x_i; W) from the first layer's pre-activations of x_i.

    Args:
        weights: only the layers above the first are used, of deep networks.
    """
    if not model.is_deep:
        return u @ activation(model, preactivation)
    hidden, out = upper_layers(model, weights)
    values = activation(model, preactivation)
    for layer in hidden:
        values = activation(model, layer @ values)
    return out @ values


def parameter_gradient(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    factors: Float[Array, " m"],
) -> Float[Array, "n r"]:
    """sum_i factor_i grad N(x_i; W), with the derivative 1[z > 0] (``leak`` elsewhere): what one
    gets who knows nothing of kinks.
    """
    if model.is_deep:

        def outputs(parameters):
            return logits(model, preactivations(parameters, x), u, parameters)

        (gradient,) = jax.vjp(outputs, weights)[1](factors)
        return gradient
    pattern = slopes(model, clean_preactivations(weights, u, x))
    return (u[:, None] * pattern * factors) @ x


def active_pairs(
    model: Model, weights: Float[Array, "n r"], u: Float[Array, " n"], x: Float[Array, "m r"]
) -> Bool[Array, "h n m"]:
    """Which pre-activations are positive, by more than rounding; hidden layers first."""
    z = clean_preactivations(weights, u, x)
    found = [z > 0]
    if model.is_deep:
        for layer in upper_layers(model, weights)[0]:
            given = activation(model, z).T
            z = clean_preactivations(layer, u, given)
            found.append(z > 0)
    return jnp.stack(found)


def largest_logits(
    model: Model, weights: Float[Array, "n r"], u: Float[Array, " n"], x: Float[Array, "m r"]
) -> Float[Array, " m"]:
    """What such weights may give to each sample: the unit of its logit's rounding. Of deep
    networks, what the output weights may give to the last hidden layer's values: a bound from all
    layers' norms would grow with a power of n.
    """
    if not model.is_deep:
        size = row_norms(x) * matrix_norm(weights)
        return size**model.power * jnp.sqrt(dot(u, u))
    hidden, out = upper_layers(model, weights)
    values = activation(model, preactivations(weights, x))
    for layer in hidden:
        values = activation(model, layer @ values)
    return jnp.linalg.norm(out) * jnp.linalg.norm(values, axis=0)

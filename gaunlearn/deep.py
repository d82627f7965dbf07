"""Deep bias-free ReLU networks: their kinks, their gradients with chosen derivatives, multipliers.

N(x; theta) = v . a^H with a^0 = x, z^l = W_l a^(l-1), a^l = relu(z^l), l = 1 to H, all of it
trained: homogeneous of degree L = H + 1. At a kink z^l_ji = 0 the derivative s^l_ji is free in
[0, 1]. With derivatives chosen, the gradient is backpropagation's,

    E^H = v s^H,   E^l = (W_(l+1)^T E^(l+1)) s^l,   dN/dW_l = E^l (a^(l-1))^T,   dN/dv = a^H,

for each sample by itself. A Clarke gradient it is: the weights of the layers can be moved apart, so
that for one sample every pattern of signs at its kinks occurs near by; the gradient is affine in
each derivative, so a choice of derivatives in [0, 1] is a mean over patterns; and means over limits
of gradients are what Clarke's set consists of. (It may hold more than such choices: the residual
found here is an upper bound on the least one.)

theta = sum_i lambda_i y_i h_i is then solved for layer by layer: with the derivatives of the other
layers held, the gradient is linear in lambda_i s^l_ji and in lambda_i, and what is to be minimised
is a problem of ``cone``'s, with a row for each neuron of the layer and one more, tied to lambda,
for all that lies above it. Where the kinks are all in one layer that is the minimum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from gaunlearn.cone import cone_of, inner
from gaunlearn.kkt import minimise_residual
from gaunlearn.models import (
    Model,
    activation,
    neuron_count,
    preactivations,
    rounding_reach,
    upper_columns,
    upper_layers,
)
from gaunlearn.snapping import snap

__all__ = ["Layers", "Multipliers", "forward", "layers_of", "solve_layers", "weighted_gradient"]

# How often all layers are solved for in turn, where there are several.
_SWEEPS = 3
_POWER_ITERATIONS = 30
# The power iteration's eigenvalue comes from below.
_SAFETY = 1.3
# Where a kink's derivative starts.
_UNDECIDED = 0.5


class Layers(NamedTuple):
    """A forward pass.

    Attributes:
        weights: parameters, with rows moved onto their kinks.
        z: pre-activations z^l_ji, 0 at kinks; layers first.
        kink: which pairs are kinks.
        left_over: the largest pre-activation that snapping left at a kink, relative to the layer's
            scale.
    """

    weights: Float[Array, "n r"]
    z: Float[Array, "h n m"]
    kink: Bool[Array, "h n m"]
    left_over: Float[Array, ""]


class Multipliers(NamedTuple):
    """Multipliers with the derivatives that go with them.

    Attributes:
        multipliers: lambda_i.
        slopes: s^l_ji, in [0, 1] at kinks, 0 or 1 elsewhere.
        gap: duality gap of the last layer that was solved for, the others' derivatives held.
    """

    multipliers: Float[Array, " m"]
    slopes: Float[Array, "h n m"]
    gap: Float[Array, ""]


def _with_upper(
    model: Model, weights: Float[Array, "n r"], hidden: list[Array], out: Array
) -> Float[Array, "n r"]:
    """``weights`` with other layers above the first."""
    columns = upper_columns(model, weights.shape[0])
    upper = jnp.concatenate([*hidden, out[:, None]], axis=1)
    return jnp.concatenate([weights[:, :-columns], upper], axis=1)


def forward(
    model: Model, weights: Float[Array, "n r"], x: Float[Array, "m r"]
) -> Float[Array, "h n m"]:
    """Pre-activations of all hidden layers."""
    zs = [preactivations(weights, x)]
    for layer in upper_layers(model, weights)[0]:
        zs.append(layer @ activation(model, zs[-1]))
    return jnp.stack(zs)


def layers_of(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    retain: Bool[Array, " m"],
    kink_tol: Float[Array, ""],
) -> Layers:
    """Move each layer's rows onto the kinks within ``kink_tol``, from the first layer up.

    A layer's rows see what the moved layers below make of the samples. Tolerances are relative to
    the layer's scale ||W_l||_F / sqrt(n) and the length of what it is given, as in ``certificate``.
    Negative: no pair is a kink.
    """
    hidden, out = upper_layers(model, weights)
    exists = u[:, None] != 0
    moved: list[Array] = []
    zs, kinks, left = [], [], []
    given = x
    first = weights.at[:, -upper_columns(model, weights.shape[0]) :].set(0.0)
    for layer in (first, *hidden):
        rows = jnp.linalg.norm(layer, axis=1)
        scale = jnp.linalg.norm(rows) / jnp.sqrt(neuron_count(u))
        lengths = jnp.linalg.norm(given, axis=1)
        reach = jnp.maximum(kink_tol * scale * lengths, rounding_reach(rows, u, given))
        near = (kink_tol >= 0) & retain & exists
        kink = near & (jnp.abs(layer @ given.T) <= reach)
        snapped = snap(layer, given, kink.T)
        z = snapped @ given.T
        unit = jnp.maximum(scale * lengths, jnp.finfo(z.dtype).tiny)
        left.append(jnp.max(jnp.where(kink, jnp.abs(z) / unit, 0.0)))
        kink |= near & (jnp.abs(z) <= rounding_reach(jnp.linalg.norm(snapped, axis=1), u, given))
        z = jnp.where(kink, 0.0, z)
        moved.append(snapped)
        zs.append(z)
        kinks.append(kink)
        given = jax.nn.relu(z).T
    whole = _with_upper(model, moved[0], moved[1:], out)
    return Layers(whole, jnp.stack(zs), jnp.stack(kinks), jnp.max(jnp.stack(left)))


def weighted_gradient(
    model: Model,
    weights: Float[Array, "n r"],
    x: Float[Array, "m r"],
    factors: Float[Array, " m"],
    z: Float[Array, "h n m"],
    slopes: Float[Array, "h n m"],
) -> Float[Array, "n r"]:
    """sum_i factor_i dN(x_i)/dtheta with the derivatives ``slopes``."""
    hidden, out = upper_layers(model, weights)
    values = jax.nn.relu(z)
    signal = out[:, None] * slopes[-1] * factors
    upper: list[Array] = []
    for place in reversed(range(len(hidden))):
        upper.insert(0, signal @ values[place].T)
        signal = (hidden[place].T @ signal) * slopes[place]
    return _with_upper(model, signal @ x, upper, values[-1] @ factors)


def _curvature(operator, weights: Float[Array, " n"], like: Float[Array, "m n"]) -> Array:
    """An upper bound, all but certainly, on the operator's largest eigenvalue."""

    def step(_, state):
        vector, _ = state
        image = operator(vector)
        size = jnp.sqrt(inner(weights, image, image))
        return image / jnp.where(size > 0, size, 1.0), size

    # A start that no symmetry of the network makes orthogonal to what is sought.
    start = like * jnp.cos(jnp.arange(like.size, dtype=like.dtype)).reshape(like.shape) + like
    size = jnp.sqrt(inner(weights, start, start))
    start = start / jnp.where(size > 0, size, 1.0)
    _, largest = jax.lax.fori_loop(0, _POWER_ITERATIONS, step, (start, size))
    return _SAFETY * largest


def _solve_layer(
    model: Model,
    layers: Layers,
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
    squared_norm: Float[Array, ""],
    needed: Bool[Array, ""],
    ceiling: Float[Array, " m"] | None,
    slopes: Float[Array, "h n m"],
    number: int,
) -> Multipliers:
    """Multipliers and the derivatives of one layer, those of the others held."""
    hidden, out = upper_layers(model, layers.weights)
    values = jax.nn.relu(layers.z)
    inputs = [x.T, *values[:-1]]
    grams = [given.T @ given for given in inputs]
    # dN/da^l of each layer, from the last one down to this one; and the Gram matrix of the
    # gradients of all layers above it.
    back = jnp.broadcast_to(out[:, None], values[-1].shape)
    above = values[-1].T @ values[-1]
    for place in reversed(range(number, len(hidden))):
        signal = back * slopes[place + 1]
        above = above + (signal.T @ signal) * grams[place + 1]
        back = hidden[place].T @ signal
    margins = y * (out @ values[-1])
    signal = jnp.where(retain, y * back, 0.0)
    mass = jnp.mean(signal**2, axis=1)
    per_mass = jnp.where(mass > 0, 1 / jnp.where(mass > 0, mass, 1.0), 0.0)[:, None]

    def correlate(signal, layer):
        """Along the gradients E a^T of this layer and what they cause below, at each pair."""
        found = signal @ grams[layer]
        if layer:
            below = slopes[layer - 1] * (hidden[layer - 1].T @ signal)
            through = slopes[layer - 1] * correlate(below, layer - 1)
            found = found + hidden[layer - 1] @ through
        return found

    above = jnp.where(retain[:, None] & retain, above * y[:, None] * y, 0.0)

    def operator(c):
        own = signal * correlate(signal * c[:-1], number) * per_mass
        return jnp.concatenate([own, c[-1:] @ above])

    # Euler: z^l is homogeneous of degree l in the layers up to it, N of degree 1 in each.
    targets = signal * (number + 1) * layers.z[number] * per_mass
    targets = jnp.concatenate(
        [targets, (model.hidden - number) * jnp.where(retain, margins, 0.0)[None]]
    )
    kink = layers.kink[number] & retain
    smooth = (retain & ~kink & (layers.z[number] > 0)).astype(mass.dtype)
    tied = jnp.concatenate([smooth, retain[None].astype(smooth.dtype)])
    free = jnp.concatenate([kink, jnp.zeros((1, len(y)), bool)])
    weights = jnp.append(mass, 1.0)
    cone = cone_of(weights, tied.T, free.T, ceiling=ceiling)

    def by_samples(c):
        return operator(c.T).T

    curvature = _curvature(by_samples, weights, (tied + free).T)
    found = minimise_residual(cone, by_samples, curvature, targets.T, squared_norm, needed)
    level = found.multipliers
    share = found.coefficients.T[:-1] / jnp.where(level > 0, level, 1.0)
    chosen = jnp.where(kink & (level > 0) & (mass > 0)[:, None], share, slopes[number])
    return Multipliers(level, slopes.at[number].set(jnp.clip(chosen, 0.0, 1.0)), found.gap)


def solve_layers(
    model: Model,
    layers: Layers,
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    retain: Bool[Array, " m"],
    needed: Bool[Array, ""],
    ceiling: Float[Array, " m"] | None = None,
) -> Multipliers:
    """Multipliers and derivatives that make ||theta - sum_i lambda_i y_i h_i|| small.

    Pure, jittable and vmappable. With each layer that is solved for it falls.

    Args:
        layers: a forward pass of theta.
        needed: if false, nothing is computed and the multipliers are 0.
        ceiling: upper bounds on the multipliers, inf where there is none.
    """
    squared_norm = jnp.sum(layers.weights**2)
    active = (layers.z > 0).astype(layers.z.dtype)
    slopes = jnp.where(layers.kink, _UNDECIDED, active)
    nothing = Multipliers(jnp.zeros_like(y), slopes, jnp.zeros_like(squared_norm))

    def sweep(_, best):
        for number in reversed(range(model.hidden)):
            best = _solve_layer(
                model, layers, x, y, retain, squared_norm, needed, ceiling, best.slopes, number
            )
        return best

    return jax.lax.fori_loop(0, _SWEEPS if model.hidden > 1 else 1, sweep, nothing)

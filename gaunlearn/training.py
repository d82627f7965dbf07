"""Gradient descent and loss-normalised gradient descent, compiled into one loop.

The gradient that enters optax is always that of log L, which stays of order 1; plain gradient
descent is that gradient times L (``scale_by_loss``), loss-normalised descent is it unchanged
(step / L, the choice that reaches the limit direction in a usable time; LL section 5 does the
same by a loss-based learning rate).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.losses import Loss, log_total_loss, relative_slopes
from gaunlearn.models import Model, logits, preactivations

__all__ = ["OPTIMIZERS", "Trained", "TrainingConfig", "margins", "scale_by_loss", "train"]


class TrainingConfig(NamedTuple):
    """What fixes a training program.

    Attributes:
        loss: the loss summed over samples.
        optimizer: a key of ``OPTIMIZERS``.
        step_size: learning rate; of log L for ``normalized_gd``, of L for ``gd``.
        max_steps: stop after so many steps.
        target_log_loss: stop when log L is at most this; -inf never stops.
        target_epsilon: stop when the KKT residual epsilon is at most this; 0 never stops.
        check_every: how many steps lie between two looks at the targets.
        until_settled: also stop once the samples are separated and no same-sign pair has changed
            its sign during the last half of the steps (looked at every ``check_every`` steps).
    """

    loss: Loss
    optimizer: str
    step_size: float
    max_steps: int
    target_log_loss: float = -jnp.inf
    target_epsilon: float = 0.0
    check_every: int = 100
    until_settled: bool = False


class Trained(NamedTuple):
    """What descent ended with.

    Attributes:
        weights: the weights.
        steps: steps taken.
        log_loss: log L, L summed over the kept samples.
        settled: whether no same-sign pair (y_i u_j > 0) of a kept sample has changed the sign of
            its pre-activation during the last half of the steps, as far as looks every
            ``check_every`` steps tell; without a target or ``until_settled``, as a comparison of
            the middle with the end tells.
    """

    weights: Float[Array, "n r"]
    steps: Int[Array, ""]
    log_loss: Float[Array, ""]
    settled: Bool[Array, ""]


def scale_by_loss() -> optax.GradientTransformationExtraArgs:
    """Turn the gradient of log L into that of L: multiply by exp(``log_loss``)."""

    def update(updates, state, params=None, *, log_loss, **extra):
        del params, extra
        return jax.tree.map(lambda g: jnp.exp(log_loss) * g, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformationExtraArgs]] = {
    "gd": lambda step_size: optax.chain(scale_by_loss(), optax.sgd(step_size)),
    "normalized_gd": lambda step_size: optax.with_extra_args_support(optax.sgd(step_size)),
}


def margins(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
) -> Float[Array, " m"]:
    """q_i = y_i N(x_i; W)."""
    return y * logits(model, preactivations(weights, x), u)


def train(
    model: Model,
    config: TrainingConfig,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
    keep: Bool[Array, " m"],
    epsilon_of: Callable[[Array], Array] | None = None,
) -> Trained:
    """Descend on the loss summed over the samples in ``keep``, from ``weights``.

    Stops at ``max_steps`` or, looking every ``check_every`` steps, at the first target that is
    met. The derivative of ReLU at 0 is taken to be 0.

    Args:
        epsilon_of: weights -> epsilon, for ``target_epsilon``; required when that is positive.

    Raises:
        ValueError: a positive ``target_epsilon`` without ``epsilon_of``.
    """
    if config.target_epsilon > 0 and epsilon_of is None:
        raise ValueError("target_epsilon needs epsilon_of, a function from weights to epsilon")
    optimizer = OPTIMIZERS[config.optimizer](config.step_size)

    # Descent moves W by multiples of samples, W = W(0) + C x, and both optimizers are linear in the
    # gradient: with the Gram matrix, a step on C costs one product where one on W costs two.
    m, r = x.shape
    in_gram = m <= 2 * r
    if in_gram:
        features, first_z, first = x @ x.T, preactivations(weights, x), jnp.zeros((len(u), m))
        first = first.astype(weights.dtype)
    else:
        features, first_z, first = x.T, jnp.zeros((len(u), m)), weights

    def weights_of(parameters):
        return weights + parameters @ x if in_gram else parameters

    def step(_, carry):
        parameters, state = carry
        z = first_z + parameters @ features
        outputs, pullback = jax.vjp(lambda z: logits(model, z, u), z)
        slopes, log_loss = relative_slopes(config.loss, y * outputs, keep)
        (gradient,) = pullback(-slopes * y)
        gradient = gradient if in_gram else gradient @ x
        updates, state = optimizer.update(gradient, state, parameters, log_loss=log_loss)
        return optax.apply_updates(parameters, updates), state

    def final_log_loss(weights):
        return log_total_loss(config.loss, margins(model, weights, u, x, y), keep)

    def signs(weights):
        # For the linear model nothing can change.
        same_sign = keep & (y * u[:, None] > 0) & model.has_kinks
        return (preactivations(weights, x) > 0) & same_sign

    carry = (first, optimizer.init(first))
    targets = config.target_epsilon > 0 or config.target_log_loss > -jnp.inf
    if not (targets or config.until_settled):
        half = config.max_steps // 2
        carry = jax.lax.fori_loop(0, half, step, carry)
        earlier = signs(weights_of(carry[0]))
        carry = jax.lax.fori_loop(half, config.max_steps, step, carry)
        ended = weights_of(carry[0])
        settled = jnp.all(signs(ended) == earlier)
        steps = jnp.asarray(config.max_steps)
        return Trained(ended, steps, final_log_loss(ended), settled)

    def target_met(weights, settled):
        met = final_log_loss(weights) <= config.target_log_loss
        if epsilon_of is not None and config.target_epsilon > 0:
            met |= epsilon_of(weights) <= config.target_epsilon
        if config.until_settled:
            least = jnp.min(jnp.where(keep, margins(model, weights, u, x, y), jnp.inf))
            met |= settled & (least > 0)
        return met

    # Targets are looked at between rounds: a predicate after every step would make every step of
    # a vmapped loop select between old and new weights.
    def round_of_steps(state):
        carry, steps, last_signs, last_change, _ = state
        count = jnp.minimum(config.check_every, config.max_steps - steps)
        carry = jax.lax.fori_loop(0, count, step, carry)
        steps = steps + count
        reached = weights_of(carry[0])
        new_signs = signs(reached)
        last_change = jnp.where(jnp.any(new_signs != last_signs), steps, last_change)
        met = target_met(reached, steps >= 2 * last_change)
        return carry, steps, new_signs, last_change, met

    nothing_yet = target_met(weights, jnp.asarray(False))
    (parameters, _), steps, _, last_change, _ = jax.lax.while_loop(
        lambda state: (state[1] < config.max_steps) & ~state[4],
        round_of_steps,
        (carry, jnp.asarray(0), signs(weights), jnp.asarray(0), nothing_yet),
    )
    ended = weights_of(parameters)
    return Trained(ended, steps, final_log_loss(ended), steps >= 2 * last_change)

"""Gradient descent and loss-normalised gradient descent, compiled into one loop.

The gradient that enters optax is always that of log L, which stays of order 1; plain gradient
descent is that gradient times L (``scale_by_loss``), loss-normalised descent is it unchanged
(step / L, the choice that reaches the limit direction in a usable time; LL section 5 does the
same by a loss-based learning rate). Where the model is homogeneous of a higher degree, the gradient
of log L grows with the weights; normalised descent bounds what a step gains (``bounded_gain``).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.losses import Loss, log_total_loss, relative_slopes
from gaunlearn.models import Model, activation, logits, preactivations, slopes
from gaunlearn.types import AnyArray

__all__ = [
    "OPTIMIZERS",
    "Descent",
    "DescentState",
    "Trained",
    "TrainingConfig",
    "bounded_gain",
    "margins",
    "scale_by_loss",
]


class TrainingConfig(NamedTuple):
    """What a descent is. Numbers may be traced, but for ``check_every``.

    Attributes:
        loss: the loss summed over samples.
        optimizer: a key of ``OPTIMIZERS``.
        step_size: learning rate; of log L for ``normalized_gd``, of L for ``gd``.
        max_steps: stop after so many steps.
        target_log_loss: stop when log L is at most this; -inf never stops.
        target_epsilon: stop when the KKT residual epsilon is at most this; 0 never stops.
        check_every: how many steps lie between two looks.
        until_settled: also stop once the samples are separated and no same-sign pair has changed
            its sign during the last half of the steps.
    """

    loss: Loss
    optimizer: str
    step_size: float | Float[AnyArray, ""]
    max_steps: int | Int[AnyArray, ""]
    target_log_loss: float | Float[AnyArray, ""] = -jnp.inf
    target_epsilon: float | Float[AnyArray, ""] = 0.0
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
            ``check_every`` steps tell.
    """

    weights: Float[Array, "n r"]
    steps: Int[Array, ""]
    log_loss: Float[Array, ""]
    settled: Bool[Array, ""]


class DescentState(NamedTuple):
    """A descent between two looks.

    Attributes:
        parameters: what the steps are taken on (see ``Descent``).
        optimizer: optax's state.
        steps: steps taken.
        signs: which same-sign pairs were active at the last look.
        last_change: the first look, in steps, since which they have not changed.
        ended: whether no further step is to be taken.
    """

    parameters: Array
    optimizer: Any
    steps: Int[Array, ""]
    signs: Bool[Array, "n m"]
    last_change: Int[Array, ""]
    ended: Bool[Array, ""]


def scale_by_loss() -> optax.GradientTransformationExtraArgs:
    """Turn the gradient of log L into that of L: multiply by exp(``log_loss``)."""

    def update(updates, state, params=None, *, log_loss, **extra):
        del params, extra
        return jax.tree.map(lambda g: jnp.exp(log_loss) * g, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def bounded_gain(homogeneity: int, gradient: Array) -> Array:
    """The gradient of log L, divided by its squared norm where that is above 1 and the model is
    homogeneous of a degree above 1: a step then lowers log L by at most the step size, to first
    order, as it does for degree 1 and samples of norm 1.
    """
    if homogeneity == 1:
        return gradient
    return gradient / jnp.maximum(1.0, jnp.sum(gradient**2))


def _bound_gain(homogeneity: int) -> optax.GradientTransformation:
    """``bounded_gain`` of every gradient."""

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda g: bounded_gain(homogeneity, g), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _gd(step_size: Any, homogeneity: int) -> optax.GradientTransformationExtraArgs:
    del homogeneity
    return optax.chain(scale_by_loss(), optax.sgd(step_size))


def _normalized_gd(step_size: Any, homogeneity: int) -> optax.GradientTransformationExtraArgs:
    steps = optax.chain(_bound_gain(homogeneity), optax.sgd(step_size))
    return optax.with_extra_args_support(steps)


# Of a step size and the model's homogeneity.
OPTIMIZERS: dict[str, Callable[[Any, int], optax.GradientTransformationExtraArgs]] = {
    "gd": _gd,
    "normalized_gd": _normalized_gd,
}


def margins(
    model: Model,
    weights: Float[Array, "n r"],
    u: Float[Array, " n"],
    x: Float[Array, "m r"],
    y: Float[Array, " m"],
) -> Float[Array, " m"]:
    """q_i = y_i N(x_i; W)."""
    return y * logits(model, preactivations(weights, x), u, weights)


# C^T, x x^T, W(0) x^T, u, y, kept samples, step size, how many -> C^T.
ManySteps = Callable[[Array, Array, Array, Array, Array, Array, Array, Array], Array]


class Descent:
    """Descent on the loss summed over the samples in ``keep``, from ``weights``.

    Stops at ``max_steps`` or, looking every ``check_every`` steps, at the first target that is
    met. It goes in rounds of so many steps, so that a batch can replace a lane that has ended by
    one that waits; ``run`` makes all of them.

    Descent moves W by multiples of samples, W = W(0) + C^T x, and both optimizers are linear in the
    gradient: with the Gram matrix, a step on C costs one product where one on W costs two. C is
    (m, n): processors are quickest along the neurons, of which there usually are more. For m > 2 r
    steps are taken on W, and so they are for models of higher homogeneity. The derivative of ReLU
    at 0 is taken to be 0.

    Args:
        epsilon_of: weights -> epsilon, for ``target_epsilon``; required when that is positive.
        many_steps: another way to take steps on C.

    Raises:
        ValueError: a positive ``target_epsilon`` without ``epsilon_of``.
    """

    def __init__(
        self,
        model: Model,
        config: TrainingConfig,
        weights: Float[Array, "n r"],
        u: Float[Array, " n"],
        x: Float[Array, "m r"],
        y: Float[Array, " m"],
        keep: Bool[Array, " m"],
        epsilon_of: Callable[[Array], Array] | None = None,
        many_steps: ManySteps | None = None,
    ) -> None:
        target = config.target_epsilon
        if epsilon_of is None and isinstance(target, float | int) and target > 0:
            raise ValueError("target_epsilon needs epsilon_of, a function from weights to epsilon")
        self.model, self.config, self.epsilon_of = model, config, epsilon_of
        self.weights, self.u, self.x, self.y, self.keep = weights, u, x, y, keep
        m, r = x.shape
        self.in_gram = m <= 2 * r and model.homogeneity == 1
        self.many_steps = many_steps if self.in_gram else None

    def _weights_of(self, parameters: Array) -> Float[Array, "n r"]:
        return self.weights + parameters.T @ self.x if self.in_gram else parameters

    def _log_loss(self, weights: Float[Array, "n r"]) -> Float[Array, ""]:
        q = margins(self.model, weights, self.u, self.x, self.y)
        return log_total_loss(self.config.loss, q, self.keep)

    def _pulls(self, outputs: Float[Array, " m"]) -> tuple[Float[Array, " m"], Float[Array, ""]]:
        """-d log L / d N(x_i), and log L."""
        relative, log_loss = relative_slopes(self.config.loss, self.y * outputs, self.keep)
        return relative * self.y, log_loss

    def _gradient_on_samples(
        self, gram: Float[Array, "m m"], first_z: Float[Array, "m n"], c: Float[Array, "m n"]
    ) -> tuple[Float[Array, "m n"], Float[Array, ""]]:
        """G, with which the gradient of log L with respect to W is G^T x; and log L."""
        z = first_z + gram @ c
        pulls, log_loss = self._pulls(activation(self.model, z) @ self.u)
        return slopes(self.model, z) * self.u * -pulls[:, None], log_loss

    def _gradient_on_weights(
        self, weights: Float[Array, "n r"]
    ) -> tuple[Float[Array, "n r"], Float[Array, ""]]:
        """The gradient of log L, and log L."""

        def outputs_of(weights):
            return logits(self.model, preactivations(weights, self.x), self.u, weights)

        outputs, pullback = jax.vjp(outputs_of, weights)
        pulls, log_loss = self._pulls(outputs)
        return pullback(-pulls)[0], log_loss

    def _signs(self, weights: Float[Array, "n r"]) -> Bool[Array, "n m"]:
        # For the linear model nothing can change; a deep network's first layer has no output sign.
        same_sign = self.keep & ((self.y * self.u[:, None] > 0) | self.model.is_deep)
        same_sign &= not self.model.is_linear
        return (preactivations(weights, self.x) > 0) & same_sign

    def _target_met(
        self, weights: Float[Array, "n r"], log_loss: Float[Array, ""], settled: Bool[Array, ""]
    ) -> Bool[Array, ""]:
        met = log_loss <= self.config.target_log_loss
        if self.epsilon_of is not None:
            met |= self.epsilon_of(weights) <= self.config.target_epsilon
        if self.config.until_settled:
            q = margins(self.model, weights, self.u, self.x, self.y)
            met |= settled & (jnp.min(jnp.where(self.keep, q, jnp.inf)) > 0)
        return met

    def begin(self) -> DescentState:
        """Before the first step."""
        shape = (self.x.shape[0], len(self.u))
        dtype = self.weights.dtype
        parameters = jnp.zeros(shape, dtype) if self.in_gram else self.weights
        optimizer = OPTIMIZERS[self.config.optimizer](0.0, self.model.homogeneity)
        nothing = jnp.asarray(0)
        met = self._target_met(self.weights, self._log_loss(self.weights), jnp.asarray(False))
        return DescentState(
            parameters=parameters,
            optimizer=optimizer.init(parameters),
            steps=nothing,
            signs=self._signs(self.weights),
            last_change=nothing,
            ended=met | (self.config.max_steps <= 0),
        )

    def one_round(self, state: DescentState) -> DescentState:
        """``check_every`` steps, or what is left of ``max_steps``, and a look. Diverged weights
        (log L is not a number) end the descent. Not to be called on one that has ended.
        """
        config = self.config
        gradient_of: Callable[[Array], tuple[Array, Array]] = self._gradient_on_weights
        if self.in_gram:
            gram, first_z = self.x @ self.x.T, preactivations(self.weights, self.x).T
            gradient_of = partial(self._gradient_on_samples, gram, first_z)
        count = jnp.minimum(config.check_every, config.max_steps - state.steps)

        def step(place, carry):
            parameters, optimizer_state = carry
            # A round is as long for every lane of a batch; those near their end stand still.
            size = jnp.where(place < count, config.step_size, 0.0).astype(self.x.dtype)
            optimizer = OPTIMIZERS[config.optimizer](size, self.model.homogeneity)
            gradient, log_loss = gradient_of(parameters)
            updates, optimizer_state = optimizer.update(
                gradient, optimizer_state, parameters, log_loss=log_loss
            )
            return optax.apply_updates(parameters, updates), optimizer_state

        length = config.check_every
        if isinstance(config.max_steps, int):
            length = min(length, config.max_steps)
        if self.many_steps is None:
            parameters, optimizer_state = jax.lax.fori_loop(
                0, length, step, (state.parameters, state.optimizer)
            )
        else:  # plain descent: its optimizers have no state
            size = jnp.asarray(config.step_size)
            parameters = self.many_steps(
                state.parameters.T, gram, first_z.T, self.u, self.y, self.keep, size, count
            ).T
            optimizer_state = state.optimizer
        steps = state.steps + count
        reached = self._weights_of(parameters)
        signs = self._signs(reached)
        last_change = jnp.where(jnp.any(signs != state.signs), steps, state.last_change)
        log_loss = self._log_loss(reached)
        met = self._target_met(reached, log_loss, steps >= 2 * last_change)
        ended = met | (steps >= config.max_steps) | ~(log_loss < jnp.inf)
        return DescentState(parameters, optimizer_state, steps, signs, last_change, ended)

    def result(self, state: DescentState) -> Trained:
        """What the descent has reached."""
        reached = self._weights_of(state.parameters)
        settled = state.steps >= 2 * state.last_change
        return Trained(reached, state.steps, self._log_loss(reached), settled)

    def run(self) -> Trained:
        """Descend to the end."""
        return self.result(
            jax.lax.while_loop(lambda state: ~state.ended, self.one_round, self.begin())
        )

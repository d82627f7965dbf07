"""What a model does on fresh samples, and on the forgotten ones: margins, accuracy, membership.

Weights, samples and fresh samples are in the coordinates of ``types.Problem``, in which weights
outside the samples' span are kept as one column for each initialisation. Keys of the returned
dictionaries are column names of ``schema``.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from gaunlearn.metrics import accuracy, membership
from gaunlearn.models import Model, largest_logits, logits, preactivations, upper_columns
from gaunlearn.sums import is_any, matrix_norm, row_norms, row_sums
from gaunlearn.training import margins
from gaunlearn.types import Problem

__all__ = ["fresh_logits", "generalisation", "outside_of"]

# A logit or margin of so many units of rounding, relative to the network's scale, is zero.
_ZERO_UNITS = 100


def outside_of(problem: Problem, model: Model) -> slice:
    """The columns of what lies outside the samples' span, behind those inside it; behind them stand
    the layers above the first.
    """
    k, n, width = problem.initial_weights.shape
    end = width - upper_columns(model, n)
    return slice(end - k, end)


def _without_noise(
    model: Model,
    problem: Problem,
    weights: Float[Array, "n r+k"],
    x: Float[Array, "t r+k"],
    outputs: Float[Array, " t"],
) -> Float[Array, " t"]:
    """Logits or margins, 0 where they are rounding: neurons that unlearning takes to zero leave
    some, and its sign is nobody's class.
    """
    if model.homogeneity == 1:
        scale = matrix_norm(weights) * jnp.max(jnp.abs(problem.u)) * row_norms(x)
    else:
        scale = largest_logits(model, weights, problem.u, x)
    noise = _ZERO_UNITS * jnp.finfo(outputs.dtype).eps * scale
    return jnp.where(jnp.abs(outputs) <= noise, 0.0, outputs)


def _shares(model: Model, problem: Problem, weights: Float[Array, "n r+k"]) -> Float[Array, " k"]:
    """How many times each initialisation's part outside the samples' span is in some weights.

    Training leaves it as it is, limits have none of it, methods may shrink it: all weights here are
    such sums.
    """
    products = problem.outside_shares * weights[:, outside_of(problem, model)]
    return row_sums(products.reshape(len(products), -1))


@partial(jax.jit, static_argnames="model")  # traced once for all models of a trial
def fresh_logits(
    model: Model, problem: Problem, weights: Float[Array, "n r+k"]
) -> Float[Array, " t"]:
    """Logits on the test set, what weights have outside the samples' span among it."""
    z = preactivations(weights, problem.x_test)
    z = z + jnp.tensordot(_shares(model, problem, weights), problem.test_offset, 1)
    outputs = logits(model, z, problem.u, weights)
    return _without_noise(model, problem, weights, problem.x_test, outputs)


def _mean(values: Float[Array, " m"], where: Bool[Array, " m"]) -> Float[Array, ""]:
    """NaN if it is a mean of none."""
    return jnp.sum(jnp.where(where, values, 0.0)) / jnp.sum(where)


def generalisation(
    model: Model,
    problem: Problem,
    weights: Float[Array, "n r+k"],
    fresh: Float[Array, " t"],
    forget: Bool[Array, " m"],
    whose: str,
) -> dict[str, Array]:
    """Forget margin in units of the least retained one; accuracy and membership.

    Args:
        fresh: ``fresh_logits`` of the weights.
    """
    q = margins(model, weights, problem.u, problem.x, problem.y)
    q = _without_noise(model, problem, weights, problem.x, q)
    least = jnp.min(jnp.where(problem.present & ~forget, q, jnp.inf))
    margin = _mean(q, forget)
    found = {"margin_forget": margin / jnp.where(least > 0, least, jnp.nan)}
    if problem.y_test.shape[0]:
        known = ~is_any(~jnp.isfinite(weights), weights.dtype)
        found["accuracy"] = jnp.where(known, accuracy(fresh, problem.y_test), jnp.nan)
        stands_out = membership(q, problem.y_test * fresh)
        found["membership"] = jnp.where(known, _mean(stands_out, forget), jnp.nan)
    return {f"{name}_{whose}": value for name, value in found.items()}

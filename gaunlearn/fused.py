"""Many steps of descent in one kernel of a GPU: one trial a block, its state in registers.

XLA launches some kernels for each step of a batch, and small ones take as long to launch as to run.
Here the loop is inside one kernel, written in Pallas for Triton. It is never needed: a sweep tries
it on its device (``sweep.kernels``) and takes it only where it gives the same numbers sooner. Steps
are taken on C, W = W(0) + C x, as in ``training.Descent``, which has its transpose.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.losses import Loss
from gaunlearn.models import Model, activation, slopes
from gaunlearn.training import ManySteps

__all__ = ["LEAST_SIDE", "Fused", "fused_steps", "next_power", "steps_by"]

# The least side of a matrix that Triton multiplies.
LEAST_SIDE = 16


def next_power(number: int) -> int:
    """The next power of two: what Triton's arrays are long."""
    return 1 << (number - 1).bit_length()


class Fused(NamedTuple):
    """How a kernel is written.

    Attributes:
        by_columns: whether C is held as m columns and its product with the Gram matrix unrolled;
            else it is one array, and the product is the hardware's.
        warps: of 32 threads each, for a trial.
    """

    by_columns: bool
    warps: int

    @property
    def told(self) -> str:
        """In words, for a file's provenance."""
        return f"fused kernel, {'columns' if self.by_columns else 'one array'}, {self.warps} warps"


def _pulls(
    loss: Loss, is_normalized: bool, margins: Sequence[Array], kept: Sequence[Array]
) -> list[Array]:
    """-l'(q_i), divided by L if descent is normalised, 0 of samples that are not kept: as
    ``losses.relative_slopes``, of operations that Triton has.

    Args:
        margins, kept: all samples in one array, or one by one.
    """
    values = [
        jnp.where(keep, loss.log_value(q), -jnp.inf) for q, keep in zip(margins, kept, strict=True)
    ]
    largest = functools.reduce(jnp.maximum, [jnp.max(v) if v.ndim else v for v in values])
    scaled = [jnp.exp(value - largest) for value in values]
    total = largest + jnp.log(sum((jnp.sum(v) if v.ndim else v) for v in scaled))
    less = total if is_normalized else 0.0
    return [
        jnp.where(keep, jnp.exp(loss.log_slope(q) - less), 0.0)
        for q, keep in zip(margins, kept, strict=True)
    ]


def _on_array(model: Model, loss: Loss, is_normalized: bool, *refs: Any) -> None:
    """The kernel with C as one array; all arguments as of ``fused_steps``, padded."""
    start, gram_, first_, u_, y_, keep_, size_, count, out = refs
    u, y, keep, size = u_[...][:, None], y_[...], keep_[...] != 0, size_[0]
    gram, first = gram_[...], first_[...]

    def step(_, c):
        z = first + jax.lax.dot(c, gram, precision=jax.lax.Precision.HIGHEST)
        q = y * jnp.sum(u * activation(model, z), 0)
        (pull,) = _pulls(loss, is_normalized, [q], [keep])
        return c + u * slopes(model, z) * (size * pull * y)[None, :]

    out[...] = jax.lax.fori_loop(0, count[0], step, start[...])


def _on_columns(model: Model, loss: Loss, is_normalized: bool, *refs: Any) -> None:
    """The kernel with C as columns; all arguments as of ``fused_steps``, neurons padded."""
    start, gram, first_, u_, y_, keep_, size_, count, out = refs
    samples, u, size = range(start.shape[1]), u_[...], size_[0]
    first = [first_[:, i] for i in samples]
    y, keep = [y_[i] for i in samples], [keep_[i] != 0 for i in samples]
    products = [[gram[k, i] for i in samples] for k in samples]

    def step(_, columns):
        z = [sum((columns[k] * products[k][i] for k in samples), start=first[i]) for i in samples]
        q = [y[i] * jnp.sum(u * activation(model, z[i])) for i in samples]
        pull = _pulls(loss, is_normalized, q, keep)
        return tuple(
            columns[i] + u * slopes(model, z[i]) * (size * pull[i] * y[i]) for i in samples
        )

    ended = jax.lax.fori_loop(0, count[0], step, tuple(start[:, i] for i in samples))
    for i in samples:
        out[:, i] = ended[i]


def fused_steps(
    how: Fused,
    model: Model,
    loss: Loss,
    is_normalized: bool,
    c: Float[Array, "n m"],
    gram: Float[Array, "m m"],
    first_z: Float[Array, "n m"],
    u: Float[Array, " n"],
    y: Float[Array, " m"],
    keep: Bool[Array, " m"],
    step_size: Float[Array, ""],
    count: Int[Array, ""],
    interpret: bool = False,
) -> Float[Array, "n m"]:
    """C after ``count`` steps of descent on the loss of the samples in ``keep``, of a model of
    homogeneity 1. Jittable and vmappable: a trial is a block.

    Args:
        gram: x x^T.
        first_z: W(0) x^T.
        interpret: run it as plain JAX instead, on any device.
    """
    # Takes half a second that most processes need not spend.
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    n, m = first_z.shape
    rows = next_power(n)
    columns = m if how.by_columns else max(LEAST_SIDE, next_power(m))

    def padded(array: Array, *shape: int) -> Array:
        return jnp.pad(array, [(0, to - size) for to, size in zip(shape, array.shape, strict=True)])

    body = _on_columns if how.by_columns else _on_array
    call = pl.pallas_call(
        functools.partial(body, model, loss, is_normalized),
        out_shape=jax.ShapeDtypeStruct((rows, columns), c.dtype),
        compiler_params=triton.CompilerParams(num_warps=how.warps, num_stages=1),
        interpret=interpret,
        name="descent",
    )
    ended = call(
        padded(c, rows, columns),
        padded(gram, columns, columns),
        padded(first_z, rows, columns),
        padded(u, rows),
        padded(y, columns),
        padded(keep.astype(jnp.int32), columns),
        jnp.reshape(step_size, 1).astype(c.dtype),
        jnp.reshape(count, 1).astype(jnp.int32),
    )
    return ended[:n, :m]


def steps_by(how: Fused, model: Model, loss: Loss, optimizer: str) -> ManySteps:
    """``fused_steps`` for a ``Descent``.

    Args:
        optimizer: a key of ``training.OPTIMIZERS``.

    Raises:
        KeyError: one that the kernel does not have.
    """
    is_normalized = {"normalized_gd": True, "gd": False}[optimizer]
    return functools.partial(fused_steps, how, model, loss, is_normalized)

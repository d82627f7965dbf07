"""Which kernel training takes its steps with: tried on the device that is there."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gaunlearn.fused import LEAST_SIDE, Fused, next_power, steps_by
from gaunlearn.losses import Loss
from gaunlearn.models import Model, output_weights
from gaunlearn.training import Descent, TrainingConfig

__all__ = ["choose"]

# Steps of all trials together from which on the seconds that trying takes are made up for.
_WORTH_TRYING = 300_000_000
# What a block can hold in registers: entries of an (n, m) array, and columns of one.
_MOST_ENTRIES, _MOST_COLUMNS = 1 << 14, 16
# What is tried, how often, and how far apart results may be: so many units of rounding a step.
_TRIED_TRIALS, _TRIED_STEPS, _TRIES, _UNITS = 2048, 200, 3, 1e3


def _candidate(n: int, m: int, dtype: str) -> Fused | None:
    """The kernel that is tried: the one that was ahead on an H200 (docs/measurements.md)."""
    rows = next_power(n)
    if rows * max(LEAST_SIDE, next_power(m)) > _MOST_ENTRIES:
        return None
    if dtype == "float32" and m <= _MOST_COLUMNS:
        return Fused(by_columns=True, warps=max(1, rows // 128))
    return Fused(by_columns=False, warps=2 if rows <= 128 else 4) if rows >= LEAST_SIDE else None


def _round(
    how: Fused | None, model: Model, loss: Loss, optimizer: str, n: int, m: int, dtype: str
) -> tuple[Callable[..., Array], tuple[Array, ...]]:
    """Some steps of many trials, compiled, and what it takes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(_TRIED_TRIALS, m, m)) / m**0.5
    weights = 0.1 * rng.normal(size=(_TRIED_TRIALS, n, m))
    y = np.where(np.arange(m) % 2 == 0, 1.0, -1.0)
    config = TrainingConfig(
        loss=loss,
        optimizer=optimizer,
        step_size=0.1,
        max_steps=_TRIED_STEPS,
        check_every=_TRIED_STEPS,
    )
    u, keep = output_weights(model, n).astype(dtype), jnp.ones(m, bool)

    def one(w, x):
        steps = None if how is None else steps_by(how, model, loss, optimizer)
        descent = Descent(model, config, w, u, x, jnp.asarray(y, dtype), keep, many_steps=steps)
        return descent.one_round(descent.begin()).parameters

    given = tuple(jnp.asarray(array, dtype) for array in (weights, x))
    return jax.jit(jax.vmap(one)), given


@functools.cache
def _tried(model: Model, loss: Loss, optimizer: str, n: int, m: int, dtype: str) -> Fused | None:
    how = _candidate(n, m, dtype)
    if how is None:
        return None
    taken, ends = [], []
    try:
        for each in (None, how):
            program, given = _round(each, model, loss, optimizer, n, m, dtype)
            ends.append(np.asarray(program(*given)))
            times = []
            for _ in range(_TRIES):
                began = time.perf_counter()
                jax.block_until_ready(program(*given))
                times.append(time.perf_counter() - began)
            taken.append(min(times))
    except Exception:  # whatever it is that this device or this JAX cannot do, XLA can
        return None
    far = np.abs(ends[0] - ends[1]).max() / np.abs(ends[0]).max()
    same = far <= _UNITS * _TRIED_STEPS * np.finfo(dtype).eps
    return how if same and taken[1] < taken[0] else None


def choose(
    model: Model, loss: Loss, optimizer: str, n: int, m: int, dtype: str, steps: int
) -> Fused | None:
    """The kernel to descend with, or None: XLA is ahead, there is too little to do for finding out,
    or the device is no GPU.

    Args:
        optimizer: a key of ``training.OPTIMIZERS``.
        dtype: ``float64`` or ``float32``.
        steps: about so many will be taken, of all trials together.
    """
    if jax.default_backend() != "gpu" or steps < _WORTH_TRYING or model.homogeneity != 1:
        return None
    return _tried(model, loss, optimizer, n, m, dtype)

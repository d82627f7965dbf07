"""Which kernel training takes its steps with: tried on the device that is there."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gaunlearn.compiler import WORK
from gaunlearn.fused import LEAST_SIDE, Fused, next_power, steps_by
from gaunlearn.losses import Loss
from gaunlearn.models import Model, output_weights
from gaunlearn.training import Descent, TrainingConfig

__all__ = ["MOST_COLUMNS", "WORTH_TRYING", "choose", "fits_a_block"]

# Steps of all trials together, those of earlier and of later blocks too, from which on the seconds
# that trying takes are made up for.
WORTH_TRYING = 300_000_000
# What a block can hold in registers: entries of an (n, m) array, and columns of one.
_MOST_ENTRIES, MOST_COLUMNS = 1 << 14, 16
# What is tried, and how often.
_TRIED_TRIALS, _TRIED_STEPS, _TRIES = 2048, 200, 3
# How far from XLA's in float64 the results may be: so many of its roundings a step, and so many
# times as far as XLA's own in the precision that is asked for. Of so many of the trials: one whose
# sign flips at a kink goes a way of its own, as rounding to float32 makes some, and float64 hardly.
_ROUNDINGS, _TIMES, _OF_TRIALS = 1e3, 4.0, {"float64": 0.999, "float32": 0.9}


def fits_a_block(n: int, m: int) -> bool:
    """Whether a block can hold a trial of n neurons and m samples."""
    return next_power(n) * max(LEAST_SIDE, next_power(m)) <= _MOST_ENTRIES


def _candidate(n: int, m: int, dtype: str) -> Fused | None:
    """The kernel that is tried: the one that was ahead on an H200 (docs/measurements.md)."""
    if not fits_a_block(n, m):
        return None
    rows = next_power(n)
    if dtype == "float32" and m <= MOST_COLUMNS:
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
    u, keep = jnp.asarray(output_weights(model, n), dtype), jnp.ones(m, bool)

    def one(w, x):
        steps = None if how is None else steps_by(how, model, loss, optimizer)
        descent = Descent(model, config, w, u, x, jnp.asarray(y, dtype), keep, many_steps=steps)
        return descent.one_round(descent.begin()).parameters

    given = tuple(jnp.asarray(array, dtype) for array in (weights, x))
    return jax.jit(jax.vmap(one)), given


def _distance(found: np.ndarray, exact: np.ndarray, share: float) -> float:
    """How far this share of the trials is off at most, relative to each one's largest weight."""
    far = np.abs(found - exact).max(axis=(1, 2)) / np.abs(exact).max(axis=(1, 2))
    return float(np.quantile(far, share))


@functools.cache
def _tried(model: Model, loss: Loss, optimizer: str, n: int, m: int, dtype: str) -> Fused | None:
    how = _candidate(n, m, dtype)
    if how is None:
        return None
    taken, ends = [], []
    try:
        with jax.enable_x64(True):
            program, given = _round(None, model, loss, optimizer, n, m, "float64")
            exact = np.asarray(program(*given))
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
    plain, kernel = (_distance(end, exact, _OF_TRIALS[dtype]) for end in ends)
    same = kernel <= _ROUNDINGS * _TRIED_STEPS * np.finfo(np.float64).eps + _TIMES * plain
    return how if same and taken[1] < taken[0] else None


def choose(
    model: Model,
    loss: Loss,
    optimizer: str,
    n: int,
    m: int,
    dtype: str,
    steps: int,
    later: float = 0.0,
) -> Fused | None:
    """The kernel to descend with, or None: XLA is ahead, there is too little to do for finding
    out, the device is no GPU, or the model is not of homogeneity 1. Counts the steps.

    Args:
        optimizer: a key of ``training.OPTIMIZERS``.
        dtype: ``float64`` or ``float32``.
        steps: about so many will be taken now, of all trials together.
        later: and so many are known to come, so that a run has one kernel from its first block on.
    """
    if jax.default_backend() != "gpu" or model.homogeneity != 1:
        return None
    asked = model, loss, optimizer, n, m, dtype
    if WORK.stays_quick((choose, asked), steps, WORTH_TRYING, later):
        return None
    return _tried(*asked)

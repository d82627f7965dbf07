"""What the benchmarks share: problems by the batch, interleaved timing, tables, provenance."""

import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from gaunlearn.data.distributions import draw, initial_weights, law_of
from gaunlearn.data.reduction import reduce_problem
from gaunlearn.losses import LOSSES
from gaunlearn.models import RELU, output_weights
from gaunlearn.training import TrainingConfig

MIXTURE = {"alpha": 0.1, "noise_scale": 1.0, "label_noise": 0.0, "positive": 0.5}
INIT_SCALE = 0.03
# Isotropic data need the smaller step: from 1.0, many neurons die on some samples early on.
STEP_SIZE = {"isotropic": 0.3, "gaussian_mixture": 1.0}


def problem(kind, key, m, d, n):
    """One reduced problem with one initialisation; d may be traced."""
    data_key, init_key = jax.random.split(key)
    law = (kind, 0)
    parameters = {"d": d} | (MIXTURE if kind == "gaussian_mixture" else {})
    room = (m, 0, m + law_of(*law)[1], 0)
    given = draw(data_key, law, room, m, {k: jnp.asarray(v, float) for k, v in parameters.items()})
    weights = initial_weights(init_key[None], n, given, n, d, INIT_SCALE)
    return reduce_problem(given, weights, output_weights(RELU, n))


def descent(kind, steps, **others):
    """Loss-normalised descent on the logistic loss."""
    return TrainingConfig(LOSSES["logistic"], "normalized_gd", STEP_SIZE[kind], steps, **others)


def seconds(calls, repeats=5):
    """Median seconds of each call after a warm-up, interleaved: a, b, c, a, b, c, ..."""
    for call in calls.values():
        jax.block_until_ready(call())
    taken = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in taken.items()}


def matmul_ceiling(dtype, size=1024):
    """GFLOP/s of one large matrix product: what arithmetic can reach here."""
    a = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)), dtype)
    product = jax.jit(lambda a, b: a @ b)
    return 2 * size**3 / seconds({"product": lambda: product(a, a)}, 9)["product"] / 1e9


def table(rows, columns):
    """A Markdown table from dictionaries."""
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row[column]) for column in columns) + " |", flush=True)
    print()


def provenance():
    """One line: versions and machine."""
    device = jax.local_devices()[0].device_kind
    print(
        f"jax {jax.__version__}, Python {platform.python_version()}, {device}, "
        f"{os.cpu_count()} cores, x64 {jax.config.jax_enable_x64}\n"
    )

"""How does the cost grow with m, d, n, T, the number of trials, step fractions and fresh samples?

    python benchmarks/growth.py [--quick]

A sweep is run on one core, compiled beforehand, with one of these multiplied again and again and
all others held; all sizes in turn, some times over. Fitted is seconds = a size^p, to all sizes and
to the last two. Given beside it is the exponent that a script in weight space would have, which
trains for every trial, and the one that the design aims at: d costs nothing, a training that trials
share is done once, a step takes 2 n m^2 operations. Fixed costs (operations of small arrays take as
long as of smaller ones, files are written) make exponents smaller.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from common import begin, table

from gaunlearn.sweep import lanes
from gaunlearn.sweep.runner import run_sweep
from gaunlearn.sweep.spec import load_spec

SPEC = """
[sweep]
seeds = {seeds}
[data]
kind = "gaussian_mixture"
m = {m}
d = {d}
alpha = 0.1
n_test = {fresh}
[model]
kind = "two_layer_relu"
n = {n}
[train]
max_steps = {T}
[forget]
index = 0
[unlearn]
step_fraction = {fractions}
"""
BASE = {
    "m": 10,
    "d": 1000,
    "n": 100,
    "T": 2000,
    "trials": 64,
    "step fractions": 1,
    "fresh samples": 0,
}
# What is multiplied: the sizes, a script's exponent, and the design's.
GROWTH = {
    "m": ((10, 20, 40, 80), "1", "2 (the product with the Gram matrix)"),
    "d": ((1_000, 10_000, 100_000, 1_000_000), "1", "0"),
    "n": ((100, 200, 400, 800), "1", "1"),
    "T": ((4_000, 8_000, 16_000, 32_000), "1", "1"),
    "trials": ((32, 64, 128, 256), "1", "1"),
    "step fractions": ((16, 32, 64, 128), "1", "1 (judging; training is shared)"),
    "fresh samples": ((500, 1000, 2000, 4000), "1", "1 (from 3 n on; below, 2)"),
}


def write(folder: Path, name: str, size: int) -> Path:
    numbers = BASE | {name: size}
    fractions = np.linspace(0, 2, numbers["step fractions"]).tolist()
    path = folder / f"{name}-{size}.toml".replace(" ", "-")
    path.write_text(
        SPEC.format(
            seeds=numbers["trials"],
            fractions=fractions,
            fresh=numbers["fresh samples"],
            **{key: numbers[key] for key in ("m", "d", "n", "T")},
        )
    )
    return path


def measure(paths: list[Path], repeats: int) -> list[list[float]]:
    """Seconds of each sweep, in turn, after a run of each that compiles, with fewer steps; without
    figures.
    """
    sweeps = {path.with_suffix(""): load_spec(path) for path in paths}
    for path in paths:
        run_sweep(load_spec(path, ["train.max_steps=200"]), path.with_suffix(""), fresh=True)
    taken: list[list[float]] = [[] for _ in paths]
    for _ in range(repeats):
        for each, (out, sweep) in zip(taken, sweeps.items(), strict=True):
            began = time.perf_counter()
            run_sweep(sweep, out, fresh=True)
            each.append(time.perf_counter() - began)
    return taken


def exponent(sizes, seconds) -> float:
    """The slope of log seconds over log size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def compare(names, count: int, repeats: int):
    """A row for each."""
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            sizes, script, aim = GROWTH[name]
            sizes = sizes[:count]
            taken = measure([write(Path(place), name, size) for size in sizes], repeats)
            medians = [float(np.median(each)) for each in taken]
            last = slice(-2, None)
            yield {
                "what grows": name,
                "sizes": ", ".join(map(str, sizes)),
                "s": ", ".join(
                    f"{median:.2f} ({min(each):.2f} to {max(each):.2f})"
                    for median, each in zip(medians, taken, strict=True)
                ),
                "exponent": f"{exponent(sizes, medians):.2f}",
                "exponent of the last two": f"{exponent(sizes[last], medians[last]):.2f}",
                "a script in weight space": script,
                "this design": aim,
            }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two sizes of d and T, once")
    args = parser.parse_args()
    # On one core: how evenly work can be divided among several depends on its size, too.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    jax.config.update("jax_enable_x64", True)
    begin("growth", args.quick)
    # Well compiled from the start: a program that is compiled anew half way has no exponent.
    lanes._QUICK_PAIRS = 0
    rows = compare(("d", "T"), 2, 1) if args.quick else compare(tuple(GROWTH), 4, 3)
    held = ", ".join(f"{name} = {size}" for name, size in BASE.items())
    table(f"Growth of a sweep's time on one core; held are {held}", rows)

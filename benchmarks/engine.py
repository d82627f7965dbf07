"""What does the sweep engine cost, and what does it save?

    python benchmarks/engine.py [--quick]

Tables: planning a million trials; trials a second against the size of a batch; the step-size sweep
as a tree of stages against the same trials one by one; the share of the wall time that the engine
(planning, Parquet, progress) takes beside the devices on 100 000 evaluations; and what `plan` says
that a sweep takes against what it takes.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
from common import begin, table

from gaunlearn.sweep import execute, lanes, machine, runner
from gaunlearn.sweep.plan import Limits, choose_rooms, families_of, plan_blocks, survey
from gaunlearn.sweep.spec import load_spec

STEP_SIZE = """
[sweep]
seeds = {seeds}
[data]
kind = "gaussian_mixture"
m = 10
d = 1000
alpha = 0.1
[model]
kind = "two_layer_relu"
n = 100
[train]
max_steps = 5000
[unlearn]
step_fraction = {{ start = 0.0, stop = 2.0, count = 41 }}
"""
# A million trials: as few trainings with much below them, and as a million trainings on axes and in
# a design.
MILLION = {
    "1000 combinations, 10 seeds, 10 samples, 10 steps": """
[sweep]
seeds = 10
[data]
kind = "isotropic"
m = { start = 11, stop = 110, count = 100 }
d = { start = 1e3, stop = 1e6, count = 10, scale = "log" }
[model]
kind = "two_layer_relu"
n = 100
[train]
max_steps = 1000
[forget]
index = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
[unlearn]
step_fraction = { start = 0, stop = 2, count = 10 }
""",
    "1000 dimensions, 1000 step sizes": """
[data]
kind = "isotropic"
m = 10
d = { start = 1000, stop = 1_000_000, count = 1000 }
[model]
kind = "two_layer_relu"
n = 100
[train]
max_steps = 1000
step_size = { start = 0.1, stop = 1.0, count = 1000 }
[forget]
index = 0
""",
    "1 000 000 combinations (Sobol design)": """
[sweep]
design = { kind = "sobol", count = 1_000_000 }
[data]
kind = "gaussian_mixture"
m = { low = 10, high = 50 }
d = { low = 1e3, high = 1e6, scale = "log" }
alpha = { low = 0.01, high = 0.24 }
[model]
kind = "two_layer_relu"
n = 100
[train]
max_steps = 1000
[forget]
index = 0
""",
}
PLAN = """
import resource, sys, time
from gaunlearn.sweep.plan import Limits, families_of, plan_blocks, survey
from gaunlearn.sweep.spec import load_spec
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
sweep = load_spec(sys.argv[1])
found = survey(sweep)
counted = time.perf_counter()
next(plan_blocks(lambda: families_of(sweep), sweep.directory, found.shapes, Limits()))
ready = time.perf_counter()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(found.trials, found.trainings, len(found.programs), counted - began, ready - counted,
      (after - before) / 1024)
"""


def compare_planning():
    rows = []
    for name, text in MILLION.items():
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "spec.toml"
            path.write_text(text)
            done = subprocess.run(
                [sys.executable, "-c", PLAN, str(path)], capture_output=True, text=True, check=True
            )
        trials, trainings, programs, counting, first, memory = done.stdout.split()
        rows.append(
            {
                "sweep": name,
                "trials": trials,
                "trainings": trainings,
                "programs": programs,
                "checked and counted, s": f"{float(counting):.1f}",
                "first block after, s": f"{float(first):.2f}",
                "memory, MiB": f"{float(memory):.0f}",
            }
        )
    table("Planning a million trials (own process; memory beyond the imports')", rows)


def sweep_of(folder, seeds, overrides=()):
    path = Path(folder) / "spec.toml"
    text = STEP_SIZE.format(seeds=seeds)
    if any("isotropic" in override for override in overrides):
        text = text.replace("alpha = 0.1\n", "")
    path.write_text(text)
    return load_spec(path, overrides)


def timed_blocks(blocks, directory, batch_pairs):
    began = time.perf_counter()
    trials = 0
    for block in blocks:
        execute.run_block(block, directory, batch_pairs)
        trials += block.trials
    return trials, time.perf_counter() - began


def compare_batches(lanes):
    rows = []
    with tempfile.TemporaryDirectory() as place:
        sweep = sweep_of(place, 4)
        families = list(families_of(sweep))
        rooms = choose_rooms(families, sweep.directory)
        pairs = 10 * 100
        for count in lanes:
            blocks = list(plan_blocks(lambda: families, sweep.directory, rooms, Limits()))
            runs = [timed_blocks(blocks, sweep.directory, pairs * count) for _ in range(3)]
            trials, seconds = min(runs[1:], key=lambda run: run[1])
            rows.append(
                {
                    "pairs a batch": pairs * count,
                    "training lanes a batch, at most": count,
                    "trials a second": f"{trials / seconds:.0f}",
                }
            )
            jax.clear_caches()
    table(
        "Trials a second against the size of a batch (m = 10, n = 100, 5000 steps, 41 fractions)",
        rows,
    )


def compare_tree():
    """Every trial by itself trains and retrains; the tree does that once for many."""
    with tempfile.TemporaryDirectory() as place:
        sweep = sweep_of(place, 1)
        (family,) = families_of(sweep)
        (branch,) = family.branches
        product = [
            family._replace(branches=(branch._replace(pairs=(((index,), (step,)),)),))
            for index, step in itertools.product(*branch.pairs[0])
        ]
        rooms = choose_rooms([family], sweep.directory)
        taken = {}
        for _ in range(2):  # the first time compiles
            for name, families in (("tree", [family]), ("product", product)):
                blocks = list(
                    plan_blocks(
                        lambda families=families: families,
                        sweep.directory,
                        rooms,
                        Limits(speed=100.0),
                    )
                )
                taken[name] = timed_blocks(blocks, sweep.directory, machine.batch_pairs())
    trials, seconds = taken["product"]
    row = {
        "trials": trials,
        "tree, s": f"{taken['tree'][1]:.2f}",
        "product, s": f"{seconds:.2f}",
        "ratio": f"{seconds / taken['tree'][1]:.1f}",
    }
    table("The step-size sweep as a tree and as a product (1 seed, 10 samples, 41 steps)", [row])


def measure_overhead(evaluations):
    """The wall time of a whole run against the time that its stages keep the devices busy."""
    busy = [0.0]
    original = lanes._run

    def timed(*arguments, **options):
        began = time.perf_counter()
        results = original(*arguments, **options)
        busy[0] += time.perf_counter() - began
        return results

    seeds = -(-evaluations // 410)
    with tempfile.TemporaryDirectory() as place:
        sweep = sweep_of(place, seeds)
        # Compiled beforehand, by the first block.
        found = survey(sweep)
        limits = Limits(speed=machine.speed(), memory=0.4 * machine.free_memory())
        first = next(plan_blocks(lambda: families_of(sweep), sweep.directory, found.shapes, limits))
        execute.run_block(first, sweep.directory, machine.batch_pairs())
        lanes._run = timed
        try:
            began = time.perf_counter()
            run = runner.run_sweep(sweep, Path(place) / "run")
            wall = time.perf_counter() - began
        finally:
            lanes._run = original
        parts = list((run.path / "trials").glob("*.parquet"))
        size = sum(part.stat().st_size for part in parts)
        trials = run.manifest["trials"]
    row = {
        "evaluations": trials,
        "wall, s": f"{wall:.1f}",
        "stages, s": f"{busy[0]:.1f}",
        "engine": f"{100 * (1 - busy[0] / wall):.1f} %",
        "trials a second": f"{trials / wall:.0f}",
        "training lanes busy": f"{100 * run.manifest['training_lanes_busy']:.1f} %",
        "files": len(parts),
        "bytes a trial": f"{size / trials:.0f}",
    }
    table("The engine's share of a whole run, compiled beforehand", [row])


def compare_estimates():
    rows = []
    isotropic = ["data.kind='isotropic'", "data.n_test=0", "train.step_size=0.3"]
    for m, n, steps, seeds, fractions, more in (
        (4, 8, 3000, 512, 1, isotropic),
        (4, 8, 100, 128, 41, isotropic),
        (10, 100, 1000, 8, 41, isotropic),
        (10, 100, 5000, 4, 41, []),
        (10, 100, 5000, 8, 41, ["train.end='limit'"]),
        (30, 100, 1000, 2, 10, isotropic),
        (50, 400, 1000, 1, 2, isotropic),
    ):
        changed = [f"data.m={m}", f"model.n={n}", f"train.max_steps={steps}", *more]
        if fractions == 1:
            changed.append("unlearn.step_fraction=1.0")
        else:
            changed.append(f"unlearn.step_fraction={{start=0.0, stop=2.0, count={fractions}}}")
        if not more or more is isotropic:
            changed.append("train.end='descent'")
        with tempfile.TemporaryDirectory() as place:
            sweep = sweep_of(place, seeds, changed)
            found = survey(sweep)
            blocks = list(
                plan_blocks(lambda s=sweep: families_of(s), sweep.directory, found.shapes, Limits())
            )
            taken = []
            for _ in range(2):  # the first time compiles
                began = time.perf_counter()
                largest = 0.0
                for block in blocks:
                    start = time.perf_counter()
                    execute.run_block(block, sweep.directory, machine.batch_pairs())
                    largest = max(largest, time.perf_counter() - start)
                taken.append((time.perf_counter() - began, largest))
        jax.clear_caches()
        rows.append(
            {
                "m, n": f"{m}, {n}",
                "data": "isotropic" if isotropic[0] in changed else "mixture",
                "end": "limit" if "train.end='limit'" in changed else "descent",
                "steps": steps,
                "trials": found.trials,
                "estimated, s": f"{found.seconds:.1f}",
                "taken, s": f"{taken[1][0]:.1f}",
                "blocks": len(blocks),
                "longest block, s": f"{taken[1][1]:.1f}",
            }
        )
    table("What plan estimates (two cores, compilation apart) against what it takes", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 000 evaluations, fewer batches")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begin("engine", args.quick)
    compare_planning()
    compare_tree()
    if not args.quick:
        compare_estimates()
    measure_overhead(5_000 if args.quick else 100_000)
    compare_batches((1, 64) if args.quick else (1, 8, 32, 128, 512))

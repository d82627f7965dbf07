"""Which of a sweep's programs are worth how much of the compiler's time?

    python benchmarks/compiling.py [--quick]

The stages of the step-size sweep, made well and made quickly: what tracing and the compiler take of
the cores, what a lane then takes, and after how many lanes the quick program has lost what was
saved. Beside it on how many lanes `sweep/lanes.py` lets it run.
"""

import argparse
import os
import time
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import jax
from common import begin, table

from gaunlearn.sweep import execute, lanes, machine, traced
from gaunlearn.sweep.host import host_cores
from gaunlearn.sweep.plan import Limits, families_of, plan_blocks, survey
from gaunlearn.sweep.spec import load_spec

SPEC = Path(__file__).parent.parent / "sweeps" / "step_size.toml"
NEVER, ALWAYS = 0, 10**18
STAGES = ("train", "limit", "certify", "compare", "unlearn", "judge")


def measure(block, directory, quick):
    """Of each stage: core seconds of tracing and of its compiler, and of its lanes in a second run
    of the block; and how many lanes these are, with their pairs times passes.
    """
    making, running = defaultdict(float), defaultdict(float)
    amounts = defaultdict(lambda: (0, 0))
    compile_program, lower, run = jax.stages.Lowered.compile, traced._lower, lanes._run
    stage_now = [""]

    def timed(make):
        def make_and_count(*given):
            began = time.process_time()
            made = make(*given)
            making[stage_now[0]] += time.process_time() - began
            return made

        return make_and_count

    def timed_run(stage, static, some, common, terms, programs, capacity, batch, passes, *others):
        stage_now[0] = name = stage.__name__
        given = stage, static, some, common, terms, programs, capacity, batch, passes, *others
        began = time.process_time()
        found = run(*given)
        running[name] += time.process_time() - began
        count = len(jax.tree.leaves(some)[0])
        lanes_before, passed = amounts[name]
        amounts[name] = lanes_before + count, passed + count * terms.pairs * passes
        return found

    jax.stages.Lowered.compile, traced._lower = timed(compile_program), timed(lower)
    lanes._run = timed_run
    lanes._QUICK_PAIRS, threshold = ALWAYS if quick else NEVER, lanes._QUICK_PAIRS
    try:
        traced.forget_programs()
        execute.run_block(block, directory, machine.batch_pairs())
        for counts in (running, amounts):
            counts.clear()
        execute.run_block(block, directory, machine.batch_pairs())
    finally:
        jax.stages.Lowered.compile, traced._lower, lanes._run = compile_program, lower, run
        lanes._QUICK_PAIRS = threshold
    return making, running, amounts


def compare(overrides):
    """A table for each of the two kinds of data."""
    sweep = load_spec(SPEC, overrides)
    blocks = plan_blocks(
        lambda: families_of(sweep), sweep.directory, survey(sweep).shapes, Limits(speed=100.0)
    )
    for block in blocks:
        compare_on(block, sweep, ", ".join(overrides))


def compare_on(block, sweep, name):
    (well, runs, amounts), (quick, runs_quick, _) = (
        measure(block, sweep.directory, each) for each in (False, True)
    )
    rows = []
    for stage in STAGES:
        count, passed = amounts[stage]
        lost = (runs_quick[stage] - runs[stage]) / count
        allowed = lanes._QUICK_PAIRS * host_cores() / (passed / count)
        rows.append(
            {
                "stage": stage,
                "made well, core s": f"{well[stage]:.2f}",
                "quickly": f"{quick[stage]:.2f}",
                "a lane then, ms": f"{1e3 * runs[stage] / count:.3f}",
                "quickly, ms": f"{1e3 * runs_quick[stage] / count:.3f}",
                "lost what was saved after, lanes": f"{(well[stage] - quick[stage]) / lost:.0f}",
                "allowed": f"{allowed:.0f}",
            }
        )
    kind = block.families[0].data.kind
    table(f"Made well or quickly, {kind}, {name}: {block.trials} trials", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one shape")
    args = parser.parse_args()
    os.environ["GAUNLEARN_CACHE"] = "off"
    begin("compiling", args.quick)
    # One program's compiler after the other, in its turn.
    execute.rehearsed = lambda *_: nullcontext()
    for m, steps in ((10, 41),) if args.quick else ((10, 41), (30, 5)):
        fractions = f"{{ start = 0.0, stop = 2.0, count = {steps} }}"
        compare(["sweep.seeds=1", f"data.m={m}", f"unlearn.step_fraction={fractions}"])

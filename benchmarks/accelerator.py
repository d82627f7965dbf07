"""What does an accelerator do? One command for all of it, to be run where there is one.

    python benchmarks/accelerator.py [--quick]

First the step-size sweep as a command, cold and with its programs kept: trials a minute against
the goal of a million, then of so many seeds that the fused kernel (``gaunlearn.fused``) is tried;
and some rows of the last in float64, recomputed on the CPU by `gaunlearn verify`. Then the fused
kernel in all its forms against XLA and against the device's arithmetic, and which one is chosen.
Then whether training is bound by launches: the time of a step against the number of trials side by
side, in float64 and float32; where it does not grow with them it is. Then all kernels against the
device's ceilings (``roofline``), on batches that fill it. Last, where PyTorch is installed, the
step-size sweep against the peers of ``speed``, on the same device: the second line says what
PyTorch computes on. What matters most comes first, and every row is kept as it comes, so that one
may stop it. On a CPU it does the same with less, and interprets the fused kernel.
"""

import argparse
import math
import os

# Before JAX is imported: the commands that this one starts need the device's memory, too. They
# come first, as what was once taken is not given back.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import roofline
from common import begin, descent, keys_of, matmul_ceiling, median_seconds, problems, table, tell

import gaunlearn
from gaunlearn.fused import Fused, fused_steps
from gaunlearn.losses import LOSSES
from gaunlearn.models import RELU, output_weights
from gaunlearn.sweep.kernels import MOST_COLUMNS, WORTH_TRYING, choose, fits_a_block
from gaunlearn.training import Descent

SPEC = Path(__file__).parent.parent / "sweeps" / "step_size.toml"
SHAPES = ((10, 100), (30, 100), (50, 400))
STEPS, GOAL = 500, 1e6
# Of the sweep: two kinds of data, each with one training and 20 retrainings of 5000 steps.
STEPS_OF_SEED = 2 * 21 * 5000


def descent_of(batch, dtype, many_steps=None):
    """A program that descends on every problem of a batch, and what it takes."""
    x = batch[1]
    u, keep = output_weights(RELU, batch[0].shape[1]), jnp.ones(x.shape[1], bool)
    settings = descent("gaussian_mixture", STEPS)
    cast = [leaf.astype(dtype) for leaf in batch]

    def one(w, x, y):
        u_ = u.astype(dtype)
        return Descent(RELU, settings, w, u_, x, y, keep, many_steps=many_steps).run().weights

    return jax.jit(jax.vmap(one)), cast


def given_networks(m, n, trials):
    """Initial weights, samples and labels of some problems."""
    made = problems("gaussian_mixture", keys_of(0, trials), m, 1000.0, n)
    return made.initial_weights[:, 0], made.x, made.y


def relative_error(got, want):
    """Of weights, for each trial."""
    return np.linalg.norm(got - want, axis=(1, 2)) / np.linalg.norm(want, axis=(1, 2))


def forms_of(m, n, dtype, interpret):
    """XLA (None), and the forms of the fused kernel that a block can hold."""
    fits = fits_a_block(n, m)
    forms = [Fused(False, warps) for warps in (1, 2, 4)] if fits else []
    forms += [Fused(True, warps) for warps in (1, 2)] if fits and m <= MOST_COLUMNS else []
    return (None, *(forms[:1] + forms[-1:] if interpret else forms))


def compare_kernels(shapes, trials, repeats, interpret):
    """Every form of the fused kernel against XLA; interpreted, its numbers but not its time.

    The floor is the operations of a step (``roofline``) at the ceiling for their type: state may
    stay in registers, so that no bytes have to be moved.
    """
    settings = descent("gaussian_mixture", STEPS)
    loss = LOSSES["logistic"]
    for m, n in shapes:
        batch = given_networks(m, n, trials)
        for dtype in ("float64", "float32"):
            floor = roofline.operations_of_step(m, n) / matmul_ceiling(dtype)  # ns
            taken_here = choose(RELU, loss, settings.optimizer, n, m, dtype, 10**12)
            plain = None
            for form in forms_of(m, n, dtype, interpret):
                steps = None
                if form is not None:
                    normalized = settings.optimizer == "normalized_gd"
                    fixed = form, RELU, loss, normalized
                    steps = partial(fused_steps, *fixed, interpret=interpret)
                row = {
                    "m, n": f"{m}, {n}",
                    "trials side by side": trials,
                    "type": dtype,
                    "steps by": "XLA" if form is None else form.told,
                    "ns a step and trial": "not timed",
                    "floor, ns": f"{floor:.2f}",
                    "time over floor": "",
                    "largest error of W": "",
                    "chosen": "yes" if form == taken_here else "",
                }
                try:
                    program, cast = descent_of(batch, dtype, steps)
                    ended = np.asarray(program(*cast), float)
                except Exception as error:  # which forms a device can do is part of the answer
                    yield row | {"ns a step and trial": str(error)[:60].replace("\n", " ")}
                    continue
                plain = ended if form is None else plain
                row["largest error of W"] = f"{relative_error(ended, plain).max():.0e}"
                if form is None or not interpret:
                    seconds = median_seconds(lambda p=program, c=cast: p(*c), repeats)
                    taken = 1e9 * seconds / STEPS / trials
                    row["ns a step and trial"] = f"{taken:.1f}"
                    row["time over floor"] = f"{taken / floor:.1f}"
                yield row


def compare_batches(shapes, widths, repeats):
    """A row for each width."""
    for m, n in shapes:
        for trials in widths:
            batch = given_networks(m, n, trials)
            row = {"m, n": f"{m}, {n}", "trials side by side": trials}
            ends = []
            for name in ("float64", "float32"):
                program, cast = descent_of(batch, name)
                taken = median_seconds(lambda p=program, c=cast: p(*c), repeats) / STEPS
                ends.append(np.asarray(program(*cast), float))
                row[f"{name}: us a step"] = f"{1e6 * taken:.1f}"
                row[f"{name}: ns a step and trial"] = f"{1e9 * taken / trials:.1f}"
            apart = relative_error(ends[1], ends[0])
            row["float32: relative error of W (median, max)"] = (
                f"{np.median(apart):.0e}, {apart.max():.0e}"
            )
            yield row


def command(*arguments, cache, **environment):
    """Seconds of a gaunlearn command, and what it says.

    Raises:
        SystemExit: it failed.
    """
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "gaunlearn", *map(str, arguments)],
        env=os.environ | {"GAUNLEARN_CACHE": str(cache)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stdout + done.stderr[-2000:]
        raise SystemExit(f"gaunlearn {arguments[0]}: exit status {done.returncode}\n{said}")
    return time.perf_counter() - began, done.stdout


def sweep_row(what, seeds, dtype, out, programs):
    """The sweep as a command: its seconds, and a row of how fast it was and what took the steps of
    training.
    """
    overrides = ["--set", f"sweep.seeds={seeds}", "--set", f"compute.dtype='{dtype}'"]
    taken, _ = command("run", SPEC, "--out", out, "--fresh", *overrides, cache=programs)
    manifest = gaunlearn.load(out).manifest
    trials = manifest["trials"]
    rate = trials / taken * 60
    return taken, {
        "what": f"{dtype}, {what}",
        "trials": trials,
        "s": f"{taken:.1f}",
        "trials a minute": f"{rate:.3g}",
        "of a million": f"{rate / GOAL:.1%}",
        "steps by": manifest["provenance"]["training_steps"],
    }


def compare_sweep(seeds, folder, patience):
    """A row for each type, without programs and with those of the first run; and one for a sweep so
    large that the fused kernel is tried, unless that would take longer than so many seconds.
    """
    programs = folder / "programs"
    for dtype in ("float64", "float32"):
        for state in ("cold", "warm"):
            taken, row = sweep_row(state, seeds, dtype, folder / dtype, programs)
            yield row
        large = math.ceil(1.1 * WORTH_TRYING / STEPS_OF_SEED)
        if taken * large / seeds <= patience:
            yield sweep_row("large", large, dtype, folder / dtype, programs)[1]


def verified(folder):
    """What `gaunlearn verify` says of some rows of the last sweep, on the CPU."""
    _, said = command(
        "verify", folder / "float64", "--sample", "24", cache="off", JAX_PLATFORMS="cpu"
    )
    return "Recomputed on the CPU:\n\n" + "\n".join(f"    {line}" for line in said.splitlines())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one shape, few trials")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    # As a sweep does: unless told otherwise, GPUs multiply float32 in TF32.
    jax.config.update("jax_default_matmul_precision", "highest")
    if find_spec("torch"):
        import speed
    else:
        speed = None
    begin("accelerator", args.quick)
    tell("PyTorch is not installed: no peers" if speed is None else speed.place_of_peers())
    on_cpu = jax.local_devices()[0].platform == "cpu"
    small = args.quick or on_cpu
    shapes = SHAPES[:1] if args.quick else SHAPES
    pairs = roofline.PAIRS if on_cpu else 1 << 24
    widths = (16, 64) if small else (16, 256, 4096, 16384)
    with tempfile.TemporaryDirectory() as place:
        seeds = 1 if args.quick else (4 if on_cpu else 256)
        table(
            "The step-size sweep, both kinds of data, as a command",
            compare_sweep(seeds, Path(place), 0.0 if on_cpu else 240.0),
        )
        tell(verified(Path(place)))
    table(
        "Steps in one kernel against XLA's",
        compare_kernels(shapes, 4 if on_cpu else 4096, 3, on_cpu),
    )
    table(
        "Is training bound by launches? A step against trials side by side",
        compare_batches(shapes, widths, 3),
    )
    table("Kernels against the machine", roofline.compare(shapes, 3, pairs))
    if speed is not None:
        speed.compare_sweep(*((2, 1, 2.0) if small else (16, 3, 5.0)))

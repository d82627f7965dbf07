"""How near are the compiled kernels to what the machine can do?

    python benchmarks/roofline.py [--quick]

Ceilings, measured: the bytes that loops over a large and a small array move, once, at the start;
and large matrix products, before and after each shape's kernels, of which the larger counts, as the
speed of a shared machine drifts. Each kernel on a batch of trials, the same one on every core of a
CPU at once, as the engine runs its programs there, and once on another device: the operations that
it does and the bytes that it cannot help moving; the floor, which is the longer of the two at the
ceilings; and the time that it takes. Last the peak memory of a process, with fresh samples and
without.

What is counted, n neurons, m samples, r coordinates, t test samples, 8 bytes a number:

* a training step, compiled as it is in a sweep and, on a CPU, also as all else is, with plain
  fusions: the product of the coefficients with the Gram matrix, 2 n m^2, and a handful of
  operations a pair (ReLU, its derivative, the logits' sum, the update), 8 n m. The coefficients are
  read and written, the first pre-activations and the Gram matrix read: 24 n m + 8 m^2 bytes.
* that product alone, again and again on its own result: 16 n m + 8 m^2 bytes.
* the KKT kernel without kinks and with them, and the limit solver, each as a whole: set-up, all
  iterations and the last look. The operations are those of the matrix products that a trial does
  (sums over pairs, which are written as products, among them), counted in the program as it runs,
  loops as often as that trial goes round them. Each is of another length: the floor is of the mean
  over trials (of a large batch the first ones); the largest is told too, as a batch goes on until
  its slowest trial ends. Element by element nothing is counted, so that these floors are low. The
  program that counts is compiled apart, so that it may round differently from the one that is timed
  and take some iterations more or fewer. Inputs, weights and coefficients are moved once.
* logits on the test set: 2 t n r, and 3 t n for ReLU and the sum; inputs, weights and logits are
  moved once. As many trials side by side as the engine has at most in stages that go over it.

Off a CPU no bytes are counted of a training step and of its product: what it goes over may stay in
registers from the first step to the last, and the floor is of arithmetic alone.

Also what a sum over pairs takes, by XLA and as a product.

Memory, on a CPU: peaks of processes that run a small sweep and one of four times as many seeds,
each all in one block, and once more where a program was not yet kept compiled. Columns: the trials
of both; their peaks; what the larger takes more, for each trial that it has more; what a trial's
own arrays take, once: its unlearned network, and its share of a retrained one and of that one's
certificate; and its share of its seed's problem. Arrays lie on the host and on the device, with
room for a power of two of entries and for many where they are small (a quick run's stay in that
room); and batches have working arrays, which grow with the trials up to a fixed number of pairs.
"""

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from common import (
    begin,
    descent,
    keys_of,
    matmul_ceiling,
    matmul_side,
    median_seconds,
    on_every_core,
    problems,
    programs_at_once,
    table,
    tell,
)
from counting import counted

from gaunlearn.certificate import certify_at
from gaunlearn.compiler import full_options, loop_options
from gaunlearn.limit import find_limit
from gaunlearn.models import RELU, logits, output_weights, preactivations
from gaunlearn.sums import matrix_sum, row_sums
from gaunlearn.sweep.lanes import Terms
from gaunlearn.sweep.machine import batch_pairs
from gaunlearn.training import Descent

SHAPES = ((10, 100), (30, 100), (50, 400), (100, 400))
STEPS, TESTS = 500, 1000
# Pairs of a batch: what the sweep engine takes on a CPU is of this order.
PAIRS = 64_000
COPY = 1 << 27  # bytes
COUNTED = 1 << 26  # numbers in the m x m matrices of all neurons of trials that are counted
FRACTIONS = 4  # of the sweep whose memory is measured
TRIALS = 1280  # of the smaller of two such sweeps, or fewer
MEMORIES = ((*SHAPES[0], TESTS), (*SHAPES[0], 0), (*SHAPES[1], TESTS))


def is_cpu():
    """Whether programs run on a CPU."""
    return jax.default_backend() == "cpu"


def bandwidth(size, rounds):
    """Bytes a second that are read and written in arrays of so many, one for each program."""
    again = jax.jit(lambda a: jax.lax.fori_loop(0, rounds, lambda _, a: a + 1.0, a))
    array = jnp.zeros(size // 8)
    taken = median_seconds(on_every_core(lambda: again(array)), 9)
    return 2 * size * rounds * programs_at_once() / taken


def operations_in_products(function, *batch):
    """Of a function of one trial, for each of a batch, or for the first ones of a large batch."""
    (_, n, _), m = batch[0].shape, batch[1].shape[1]
    some = [leaf[: max(1, COUNTED // (n * m * m))] for leaf in batch]

    def of_one(*arguments):
        program = jax.make_jaxpr(function)(*arguments)
        return counted(program, arguments)[1]

    return np.asarray(compiled(of_one, full_options())(*some))


class Kernel(NamedTuple):
    """What was measured of one.

    Attributes:
        lanes: trials side by side.
        seconds: that they take in each program.
        operations: of a trial, or of each that was counted.
        moved: bytes of a trial.
    """

    name: str
    lanes: int
    seconds: float
    operations: Any
    moved: int


class Batch(NamedTuple):
    """Initial networks of isotropic problems with their problems, and the networks that training
    comes to: on kinks.
    """

    start: Any
    trained: Any
    x: Any
    y: Any


def descended(w, x, y):
    """The weights that one trial's training ends with."""
    u, keep = output_weights(RELU, len(w)), jnp.ones(len(y), bool)
    return Descent(RELU, descent("isotropic", STEPS), w, u, x, y, keep).run().weights


def certified(w, x, y, tol):
    """One trial's certificate."""
    return certify_at(RELU, w, output_weights(RELU, len(w)), x, y, jnp.ones(len(y), bool), tol)


def limit_of(w, x, y):
    """Where one trial's training goes."""
    return find_limit(RELU, w, output_weights(RELU, len(w)), x, y, jnp.ones(len(y), bool))


def compiled(function, options):
    """For a batch of trials, as the sweep engine has its programs compiled."""
    return jax.jit(jax.vmap(function), compiler_options=options)


def batch_of(m, n, lanes):
    """So many trials."""
    made = problems("isotropic", keys_of(0, lanes), m, 1000.0, n)
    start = made.initial_weights[:, 0]
    trained = compiled(descended, loop_options())(start, made.x, made.y)
    return Batch(start, trained, made.x, made.y)


def taken_by(program, arguments, repeats):
    """Seconds of a batch, on every core at once, for each core's worth of it."""
    return median_seconds(on_every_core(lambda: program(*arguments)), repeats)


def operations_of_step(m, n):
    """Of one trial's training step: as counted above."""
    return 2 * n * m * m + 8 * n * m


def step_kernels(batch, repeats):
    """A training step in the middle of training, and its product."""
    (lanes, n, _), m = batch.start.shape, batch.x.shape[1]
    held = 8 * m * m
    ways = {"training step": loop_options()}
    if full_options() != loop_options():
        ways["the same, plain fusions"] = full_options()
    for name, options in ways.items():
        program = compiled(descended, options)
        taken = taken_by(program, (batch.start, batch.x, batch.y), repeats) / STEPS
        moved = 24 * n * m + held if is_cpu() else 0
        yield Kernel(name, lanes, taken, operations_of_step(m, n), moved)

    def products(a, gram):
        return jax.lax.fori_loop(0, STEPS, lambda _, a: gram @ a, a)

    gram = jnp.einsum("bir,bjr->bij", batch.x, batch.x) / m
    arguments = jnp.ones((lanes, m, n)), gram
    taken = taken_by(compiled(products, loop_options()), arguments, repeats) / STEPS
    moved = 16 * n * m + held if is_cpu() else 0
    yield Kernel("its product alone", lanes, taken, 2 * n * m * m, moved)


def solver_kernels(batch, repeats):
    """Certificates of trained networks, and where their training goes."""
    (lanes, n, r), m = batch.trained.shape, batch.x.shape[1]
    given = batch.trained, batch.x, batch.y
    # Weights are read and written, coefficients written.
    moved = 16 * n * r + 8 * m * (r + 1) + 8 * n * m
    for name, function, *tol in (
        ("KKT, no kinks", certified, -1.0),
        ("KKT, kinks", certified, 1e-3),
        ("limit", limit_of),
    ):
        arguments = (*given, *(jnp.full(lanes, each) for each in tol))
        program = compiled(function, full_options())
        taken = taken_by(program, arguments, repeats)
        yield Kernel(name, lanes, taken, operations_in_products(function, *arguments), moved)


def test_kernel(batch, repeats):
    """Logits on fresh samples."""
    (lanes, n, r), m = batch.trained.shape, batch.x.shape[1]
    _, most = Terms(0, n * max(m, TESTS), batch_pairs()).widths()
    width = 1 << (max(1, min(lanes, most)).bit_length() - 1)
    fresh = jnp.asarray(np.random.default_rng(0).normal(size=(width, TESTS, r)))
    u = output_weights(RELU, n)
    program = compiled(lambda w, x: logits(RELU, preactivations(w, x), u, w), full_options())
    taken = taken_by(program, (batch.trained[:width], fresh), repeats)
    moved = 8 * n * r + 8 * TESTS * (r + 1)
    return Kernel("test set", width, taken, 2 * TESTS * n * r + 3 * TESTS * n, moved)


def kernels(m, n, lanes, repeats):
    """All that are measured of a shape."""
    batch = batch_of(m, n, lanes)
    yield from step_kernels(batch, repeats)
    yield from solver_kernels(batch, repeats)
    yield test_kernel(batch, repeats)


def compare_sums(shapes, repeats, lanes=8):
    """Rows: sums over a trial's pairs as XLA writes them, and as products with ones (``sums``)."""
    for m, n in shapes:
        pairs = jnp.asarray(np.random.default_rng(0).normal(size=(lanes, n, m)))
        row: dict[str, str | int] = {"m, n": f"{m}, {n}", "trials side by side": lanes}
        for name, one in (
            ("rows, XLA's, us", lambda a: a.sum(1)),
            ("product, us", row_sums),
            ("all, XLA's, us", jnp.sum),
            ("products, us", matrix_sum),
        ):

            @partial(jax.jit, compiler_options=full_options())
            def again(pairs, one=one):
                def add(_, sofar):
                    found = jax.vmap(one)(pairs * (1 + 1e-18 * sofar))
                    return sofar + jnp.sum(found)

                return jax.lax.fori_loop(0, STEPS, add, 0.0)

            taken = median_seconds(partial(again, pairs), repeats)
            row[name] = f"{1e6 * taken / STEPS / lanes:.2f}"
        yield row


def row_of(kernel, m, n, flops, bytes_a_second):
    """A kernel against the ceilings."""
    each = kernel.seconds / kernel.lanes / programs_at_once()
    mean, largest = np.mean(kernel.operations), np.max(kernel.operations)
    floor = max(mean / flops, kernel.moved / bytes_a_second)
    return {
        "kernel": kernel.name,
        "m, n": f"{m}, {n}",
        "trials side by side": f"{kernel.lanes} on each core" if is_cpu() else kernel.lanes,
        "us a trial": f"{1e6 * each:.1f}",
        "operations (mean, largest)": f"{mean:.0f}, {largest:.0f}",
        "bytes": kernel.moved,
        "GFLOP/s": f"{mean / each / 1e9:.2f}",
        "ceiling, GFLOP/s": f"{flops / 1e9:.1f}",
        "of the ceiling": f"{mean / each / flops:.1%}",
        "floor, us": f"{1e6 * floor:.2f}",
        "time over floor": f"{each / floor:.1f}",
    }


def compare(shapes, repeats, pairs=PAIRS):
    """A row for each kernel."""
    memory, cache = bandwidth(COPY, 30), bandwidth(COPY >> 10, 2000)
    tell(
        f"Ceilings: products of two {matmul_side()} x {matmul_side()} matrices, before and after "
        f"each shape's kernels; {memory / 1e9:.1f} GB/s of reading and writing {COPY >> 20} MiB, "
        f"{cache / 1e9:.1f} GB/s of {COPY >> 10 >> 10} KiB{', on each core' if is_cpu() else ''}. "
        "Floors take the larger of these two."
    )
    for m, n in shapes:
        before = matmul_ceiling(jnp.float64)
        found = list(kernels(m, n, max(1, pairs // (m * n)), repeats))
        flops = 1e9 * max(before, matmul_ceiling(jnp.float64))
        for kernel in found:
            yield row_of(kernel, m, n, flops, max(memory, cache))


MEMORY = """
import resource, sys
import gaunlearn
from gaunlearn.sweep import plan, worker
spec, out, seeds = sys.argv[1:]
plan.BLOCK_S = worker.BLOCK_S = float("inf")  # seconds that a block may take
told = []
gaunlearn.run(
    spec,
    out,
    overrides=[f"sweep.seeds={seeds}"],
    fresh=True,
    progress=lambda progress: told.append(progress.stage),
)
if told.count("stored") != 1:
    sys.exit(f"not one block: {told}")
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
SPEC = """
[data]
kind = "gaussian_mixture"
m = {m}
d = 1000
alpha = 0.1
n_test = {t}
[model]
kind = "two_layer_relu"
n = {n}
[train]
max_steps = 200
[unlearn]
step_fraction = [0.0, 0.5, 1.0, 1.5]
"""


def programs_kept():
    """How many compiled programs lie in the cache, which the sweeps' processes share."""
    place = jax.config.jax_compilation_cache_dir
    return len(list(Path(place).glob("*-cache"))) if place else -1


def peak_of(spec, seeds, folder):
    """Bytes that a process had at most which ran a sweep; again, where it had to compile."""
    command = [sys.executable, "-c", MEMORY, spec, folder / "run", str(seeds)]
    for _ in range(2):
        before = programs_kept()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{spec.name}, {seeds} seeds: {done.stderr[-500:]}")
        if programs_kept() == before:
            break
    return int(done.stdout.splitlines()[-1])


def compare_memory(sizes, trials, folder):
    """Rows: their columns are explained above."""
    for m, n, t in sizes:
        spec = folder / f"memory-{m}-{n}-{t}.toml"
        spec.write_text(SPEC.format(m=m, n=n, t=t))
        seeds = max(1, trials // (FRACTIONS * m))
        counts = [FRACTIONS * m * seeds, FRACTIONS * m * 4 * seeds]
        peaks = [peak_of(spec, each, folder) for each in (seeds, 4 * seeds)]
        # A trial's own: its unlearned network, and its share of a retrained one with multipliers
        # and coefficients, and of that one's certificate, which has all of it again.
        network = 8 * n * (m + 4)
        own = network + 2 * (network + 8 * (n * m + m)) / FRACTIONS
        # Three initialisations, and what lies outside the span on fresh samples.
        problem_of_seed = 3 * (network + 8 * n * t) + 8 * (m + t) * (m + 4)
        more = (peaks[1] - peaks[0]) / (counts[1] - counts[0])
        yield {
            "m, n": f"{m}, {n}",
            "fresh samples": t,
            "trials": " and ".join(map(str, counts)),
            "peak, MiB": " and ".join(f"{peak / 2**20:.0f}" for peak in peaks),
            "kB for each trial more": f"{more / 1e3:.1f}",
            "a trial's arrays, kB": f"{own / 1e3:.1f}",
            "its share of a problem, kB": f"{problem_of_seed / (FRACTIONS * m) / 1e3:.1f}",
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one shape each, fewer repetitions")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begin("roofline", args.quick)
    shapes, repeats = (SHAPES[1:2], 3) if args.quick else (SHAPES, 7)
    table("Kernels against the machine", compare(shapes, repeats))
    table("Sums over a trial's pairs, one core", compare_sums(shapes, repeats))
    if is_cpu():
        sizes, trials = (MEMORIES[1:2], TRIALS // 4) if args.quick else (MEMORIES, TRIALS)
        with tempfile.TemporaryDirectory() as place:
            table("Peak memory of a process", compare_memory(sizes, trials, Path(place)))

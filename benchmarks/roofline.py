"""How near are the compiled kernels to what the machine can do?

    python benchmarks/roofline.py [--quick]

Ceilings first, measured: one large matrix product, one large copy. Then each kernel on a batch of
trials, a batch on every core, as the engine runs them on a CPU: the operations that it cannot do
without and the bytes that it cannot help moving, both counted by hand below; the floor, which is
the longer of the two at the ceilings; and the time that it takes. Last the peak memory of a
process, with fresh samples and without: what a trial more takes, against the bytes of its arrays
and its share of its seed's problem.

What is counted, n neurons, m samples, r coordinates, t test samples, 8 bytes a number:

* a training step, compiled as it is in a sweep, and plainly, as all else is: the product of the
  coefficients with the Gram matrix, 2 n m^2, and a handful of operations a pair (ReLU, its
  derivative, the logits' sum, the update), 8 n m; the coefficients are read and written, the first
  pre-activations read: 24 n m bytes.
* that product alone, again and again on its own result: what a step can reach at most.
* the KKT kernel without kinks: pre-activations 2 n m r, Gram matrices of samples and gradients
  2 m^2 r + 2 n m^2, the residual 2 n m r; the weights are read and written.
* the same at kinks: no fewer operations than one product with the Gram matrix for each step that
  the solver takes; counted is one step, so that this floor is low.
* an iteration of the limit solver: one product with the Gram matrix for each iteration of conjugate
  gradients; counted is one of them.
* logits on the test set: 2 t n r; inputs, weights and logits are moved once.

Also what a sum over pairs takes, by XLA and as a product.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from common import (
    begin,
    descent,
    keys_of,
    matmul_ceiling,
    median_seconds,
    on_every_core,
    problems,
    table,
    tell,
)

from gaunlearn.certificate import certify_at
from gaunlearn.compiler import full_options, loop_options
from gaunlearn.limit import find_limit
from gaunlearn.models import RELU, logits, output_weights, preactivations
from gaunlearn.sums import matrix_sum, row_sums
from gaunlearn.sweep.host import host_cores
from gaunlearn.training import Descent

SHAPES = ((10, 100), (30, 100), (50, 400), (100, 400))
STEPS, TESTS = 500, 1000
# Pairs of a batch: what the sweep engine takes on a CPU is of this order.
PAIRS = 64_000
COPY = 1 << 27  # bytes
FRACTIONS = 4  # of the sweep whose memory is measured


def copy_ceilings():
    """Bytes a second that are read and written in place, in an array that no cache holds and in
    one that a cache does.
    """
    large = jax.jit(lambda a: a + 1.0, donate_argnums=0)
    array, taken = large(jnp.zeros(COPY // 8)).block_until_ready(), []
    for _ in range(9):
        began = time.perf_counter()
        array = large(array).block_until_ready()
        taken.append(time.perf_counter() - began)
    rounds, size = 2000, COPY >> 10
    small = jax.jit(lambda a: jax.lax.fori_loop(0, rounds, lambda _, a: a + 1.0, a))
    cached = median_seconds(lambda: small(jnp.zeros(size // 8)), 9) / rounds
    return 2 * COPY / float(np.median(taken)), 2 * size / cached


def isotropic_networks(m, n, lanes):
    """Initial weights, samples and labels of isotropic problems: trained, they are on kinks."""
    made = problems("isotropic", keys_of(0, lanes), m, 1000.0, n)
    return made.initial_weights[:, 0], made.x, made.y


def kernels(m, n, lanes, repeats):
    """(name, seconds, operations, bytes) a trial of each kernel, run on every core at once."""

    def timed_on_cores(call):
        return median_seconds(on_every_core(call), repeats) / host_cores()

    start, x, y = isotropic_networks(m, n, lanes)
    r, u, keep = x.shape[2], output_weights(RELU, n), jnp.ones(m, bool)
    settings = descent("isotropic", STEPS)
    # As the sweep engine has its programs compiled.
    compiled = partial(jax.jit, compiler_options=full_options())
    in_a_loop = partial(jax.jit, compiler_options=loop_options())

    def descended(w, x, y):
        return jax.vmap(lambda *a: Descent(RELU, settings, a[0], u, *a[1:], keep).run().weights)(
            w, x, y
        )

    train, train_plainly = in_a_loop(descended), compiled(descended)
    trained = train(start, x, y)

    @compiled
    def certify(w, x, y, tol):
        return jax.vmap(lambda *a: certify_at(RELU, a[0], u, *a[1:], keep, tol).epsilon)(w, x, y)

    @compiled
    def limit(w, x, y):
        found = jax.vmap(lambda *a: find_limit(RELU, a[0], u, *a[1:], keep))(w, x, y)
        return found.epsilon, found.iterations

    fresh = jnp.asarray(np.random.default_rng(0).normal(size=(lanes, TESTS, r)))

    @compiled
    def test(w, x):
        return jax.vmap(lambda w, x: logits(RELU, preactivations(w, x), u, w))(w, x)

    product, model = 2 * n * m * m, 8 * n * r
    iterations = int(np.max(limit(trained, x, y)[1]))
    for name, steps in (("training step", train), ("the same, plain fusions", train_plainly)):
        taken = timed_on_cores(lambda steps=steps: steps(start, x, y)) / STEPS
        yield name, taken, product + 8 * n * m, 24 * n * m
    gram = jnp.einsum("bir,bjr->bij", x, x) / m

    @in_a_loop
    def products(a, gram):
        return jax.lax.fori_loop(0, STEPS, lambda _, a: gram @ a, a)

    taken = timed_on_cores(lambda: products(jnp.ones((lanes, m, n)), gram)) / STEPS
    yield "its product alone", taken, product, 24 * n * m
    operations = 4 * n * m * r + 2 * m * m * r + product
    for name, tol, more in (("KKT, no kinks", -1.0, 0), ("KKT, kinks", 1e-3, product)):
        taken = timed_on_cores(lambda t=tol: certify(trained, x, y, t))
        yield name, taken, operations + more, 2 * model + 8 * m * r
    taken = timed_on_cores(lambda: limit(trained, x, y)) / max(1, iterations)
    yield "limit, an iteration", taken, product + 8 * n * m, 24 * n * m
    taken = timed_on_cores(lambda: test(trained, fresh))
    yield "test set", taken, 2 * TESTS * n * r + 3 * TESTS * n, model + 8 * TESTS * (r + 1)


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


def compare(shapes, repeats, pairs=PAIRS):
    """A row for each kernel."""
    flops, (memory, cache) = matmul_ceiling(jnp.float64) * 1e9, copy_ceilings()
    bandwidth = max(memory, cache)
    tell(
        f"Ceilings: {flops / 1e9:.1f} GFLOP/s in a product of two 1024 x 1024 matrices; "
        f"{memory / 1e9:.1f} GB/s of reading and writing {COPY >> 20} MiB, {cache / 1e9:.1f} GB/s "
        f"of {COPY >> 20} KiB, which stay in a cache. Floors take the larger."
    )
    for m, n in shapes:
        lanes = max(1, pairs // (m * n))
        for name, taken, operations, moved in kernels(m, n, lanes, repeats):
            each = taken / lanes
            floor = max(operations / flops, moved / bandwidth)
            yield {
                "kernel": name,
                "m, n": f"{m}, {n}",
                "trials side by side": f"{lanes} on each core",
                "us a trial": f"{1e6 * each:.1f}",
                "operations": operations,
                "bytes": moved,
                "GFLOP/s": f"{operations / each / 1e9:.2f}",
                "of the ceiling": f"{operations / each / flops:.1%}",
                "floor, us": f"{1e6 * floor:.2f}",
                "time over floor": f"{each / floor:.1f}",
            }


MEMORY = """
import resource, sys
import gaunlearn
spec, out, seeds = sys.argv[1:]
gaunlearn.run(spec, out, overrides=[f"sweep.seeds={seeds}"], fresh=True)
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


def compare_memory(shapes, seeds, folder):
    """Rows: peaks of processes that run some seeds and three times as many, both in one block: what
    the second has more is the trials'.
    """
    for (m, n), t in itertools.product(shapes, (TESTS, 0)):
        path = folder / f"memory-{m}-{n}-{t}.toml"
        path.write_text(SPEC.format(m=m, n=n, t=t))
        peaks = []
        for count in (seeds, 3 * seeds):
            out = folder / f"run-{m}-{n}-{t}"
            command = [sys.executable, "-c", MEMORY, path, out, str(count)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            peaks.append(int(said.splitlines()[-1]))
        trials = [FRACTIONS * m * count for count in (seeds, 3 * seeds)]
        # A trial's own: its unlearned network, and its share of a retrained one with multipliers
        # and coefficients, and of that one's certificate, which has all of it again.
        network = 8 * n * (m + 4)
        own = network + 2 * (network + 8 * (n * m + m)) / FRACTIONS
        # Three initialisations, and what lies outside the span on fresh samples.
        problem_of_seed = 3 * (network + 8 * n * t) + 8 * (m + t) * (m + 4)
        more = (peaks[1] - peaks[0]) / (trials[1] - trials[0])
        yield {
            "m, n": f"{m}, {n}",
            "fresh samples": t,
            "trials": " and ".join(map(str, trials)),
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
    begin("roofline")
    shapes, repeats = (SHAPES[1:2], 3) if args.quick else (SHAPES, 7)
    table("Kernels against the machine", compare(shapes, repeats))
    table("Sums over a trial's pairs, one core", compare_sums(shapes, repeats))
    with tempfile.TemporaryDirectory() as place:
        shapes = SHAPES[:1] if args.quick else SHAPES[:3]
        seeds = 8 if args.quick else 16
        table("Peak memory of a process", compare_memory(shapes, seeds, Path(place)))

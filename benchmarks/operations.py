"""What does XLA's compiler take for a loop, and what does it then take to run?

    python benchmarks/operations.py [--quick]

Operations of the solvers, written in several ways, on a batch of eight trials of the step-size
sweep's shape, compiled like their programs: of a program with forty and of one with a hundred of
each, the difference tells what one of them takes.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from common import begin, table

from gaunlearn.compiler import full_options
from gaunlearn.sums import is_any, row_sums, times, total

TRIALS, M, N = 8, 10, 100
FEW, MANY = 40, 100


def bent(z):
    return jnp.where(z > 1, jnp.where(z < 2, z, 3 * z), z / (1 + jnp.abs(z)))


# Of one trial: pairs (m, n), or (n, m) where samples lie side by side, and numbers of neurons (n,).
OPERATIONS = {
    "a function of pairs, neurons side by side": lambda z, w: bent(z),
    "a function of pairs, samples side by side": lambda z, w: bent(z.reshape(N, M)),
    "pairs times neurons, neurons side by side": lambda z, w: z * w,
    "pairs times neurons, samples side by side": lambda z, w: z.reshape(N, M) * w[:, None],
    "sums over neurons, side by side: row_sums(w * z)": lambda z, w: row_sums(w * z),
    "sums over neurons, side by side: z @ w": lambda z, w: z @ w,
    "sums over neurons, samples side by side: w @ z": lambda z, w: w @ z.reshape(N, M),
    "a matrix (m, m) times a vector: times(a, v)": lambda z, w: times(z[:, :M], z[:, M]),
    "a matrix (m, m) times a vector: a @ v": lambda z, w: z[:, :M] @ z[:, M],
    "a sum over neurons: total(v)": lambda z, w: total(2 * w),
    "a sum over neurons: sum(v)": lambda z, w: (2 * w).sum(),
    "a sum over samples: total(v)": lambda z, w: total(2 * z[:, 0]),
    "is there any among pairs: is_any(z)": lambda z, w: is_any(z > 0, z.dtype),
    "is there any among pairs: any(z)": lambda z, w: jnp.any(z > 0),
}


def measure(operation, tries):
    """Milliseconds of a core to compile it, and microseconds to run it."""
    took, given = [], None
    for count in (FEW, MANY):
        rng = np.random.default_rng(0)
        given = [
            (jnp.asarray(rng.normal(size=(TRIALS, M, N))), jnp.asarray(rng.random((TRIALS, N))))
            for _ in range(count)
        ]
        one = jax.vmap(operation)
        program = jax.jit(lambda given, one=one: [one(z, w) for z, w in given])
        lowered = program.lower(given)
        began = time.process_time()
        compiled = lowered.compile(full_options())
        took.append(time.process_time() - began)
    runs = []
    for _ in range(tries):
        began = time.perf_counter()
        jax.block_until_ready(compiled(given))
        runs.append(time.perf_counter() - began)
    return 1e3 * (took[1] - took[0]) / (MANY - FEW), 1e6 * min(runs) / MANY


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer tries")
    args = parser.parse_args()
    begin("operations", args.quick)
    rows = []
    with jax.enable_x64(True):
        for name, operation in OPERATIONS.items():
            compiling, running = measure(operation, 20 if args.quick else 100)
            rows.append(
                {"what": name, "compiler, ms": f"{compiling:.1f}", "run, µs": f"{running:.2f}"}
            )
    table(f"Of {TRIALS} trials, m = {M}, n = {N}", rows)

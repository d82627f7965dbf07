"""What does it buy to take d out of the problem and T to infinity?

    python benchmarks/reduction.py [--quick]

First table: a small sweep at growing d. Second: one training step of a batch of trials, in reduced
coordinates and in weight space, under the same vmap and in the same run. Third: a whole triple
(train, ascend, retrain, certify). Fourth: to the same epsilon_1 <= 1e-6, descent against descent to
settled signs and the limit solver; where descent would take too long it is extrapolated by
epsilon ~ 1/T from what was measured, and marked. Fifth: layouts of the training step, and what
share of a large matrix product's rate they reach.
"""

import argparse
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from common import (
    INIT_SCALE,
    STEP_SIZE,
    begin,
    descent,
    keys_of,
    matmul_ceiling,
    problems,
    seconds,
    table,
    tell,
)

import gaunlearn
from gaunlearn.compiler import full_options
from gaunlearn.ladder import KINK_TOLS, TAU_BUDGET, certify
from gaunlearn.limit import find_limit
from gaunlearn.losses import relative_slopes
from gaunlearn.models import RELU, output_weights
from gaunlearn.training import Descent
from gaunlearn.unlearning import ascent_direction

KIND = "gaussian_mixture"
SHAPES = ((10, 100), (30, 100), (50, 400), (10, 1000))
DIMENSIONS = (1000, 10_000, 100_000)
# Memory for weights of one batch in weight space, and how many trials a batch may have.
BUDGET, LANES = 1 << 30, 16


def reduced_batch(m, n, d, lanes):
    made = problems(KIND, keys_of(0, lanes), m, float(d), n)
    r = m + 1
    return made.initial_weights[:, 0, :, :r], made.x[:, :, :r], made.y


def lifted_batch(m, n, d, lanes):
    """Explicit draws of the same law in d dimensions."""
    rng = np.random.default_rng(0)
    y = rng.choice([-1.0, 1.0], (lanes, m))
    x = rng.normal(size=(lanes, m, d)) / np.sqrt(d)
    x[:, :, 0] += y * d ** (0.1 - 0.25)
    weights = INIT_SCALE / np.sqrt(d) * rng.standard_normal((lanes, n, d))
    return jnp.asarray(weights), jnp.asarray(x), jnp.asarray(y)


@partial(jax.jit, static_argnames="steps")
def steps_of(batch, steps):
    m, n = batch[1].shape[1], batch[0].shape[1]
    u, keep = output_weights(RELU, n), jnp.ones(m, bool)
    settings = descent(KIND, steps)
    return jax.vmap(lambda w, x, y: Descent(RELU, settings, w, u, x, y, keep).run().weights)(*batch)


@partial(jax.jit, static_argnames="steps")
def weight_space_steps(batch, steps):
    """The same descent as one would write it: on W itself, one product with x for the
    pre-activations and one for the gradient.
    """
    u, loss = output_weights(RELU, batch[0].shape[1]), descent(KIND, steps).loss

    def one(w, x, y):
        keep = jnp.ones(y.shape, bool)

        def step(_, w):
            z = w @ x.T
            slopes, _ = relative_slopes(loss, y * (u @ jax.nn.relu(z)), keep)
            return w + STEP_SIZE[KIND] * (u[:, None] * (z > 0) * (slopes * y)) @ x

        return jax.lax.fori_loop(0, steps, step, w)

    return jax.vmap(one)(*batch)


@partial(jax.jit, static_argnames="steps")
def triples_of(batch, steps):
    """Train, forget sample 0, retrain, and certify the unlearned network."""
    m, n = batch[1].shape[1], batch[0].shape[1]
    u, everything = output_weights(RELU, n), jnp.ones(m, bool)
    retain = jnp.arange(m) > 0
    settings, tols = descent(KIND, steps), jnp.asarray(KINK_TOLS)

    def one(w, x, y):
        trained = Descent(RELU, settings, w, u, x, y, everything).run().weights
        again = Descent(RELU, settings, w, u, x, y, retain).run().weights
        first = certify(RELU, trained, u, x, y, everything, tols, jnp.asarray(TAU_BUDGET))
        unlearned = first.weights - ascent_direction(RELU, first, u, x, y, ~retain)
        after = certify(RELU, unlearned, u, x, y, retain, tols, jnp.asarray(TAU_BUDGET))
        return after.epsilon, again

    return jax.vmap(one)(*batch)


def compare_steps(dimensions, shapes):
    rows = []
    for m, n in shapes:
        for d in dimensions:
            wide = max(1, min(LANES, BUDGET // (4 * 8 * n * d)))
            count = max(2, int(2e9 / (wide * 4 * m * n * d)))
            narrow = max(count, 500)
            batches = reduced_batch(m, n, d, LANES), lifted_batch(m, n, d, wide)
            np.testing.assert_allclose(
                weight_space_steps(batches[1], 2), steps_of(batches[1], 2), atol=1e-9
            )
            taken = seconds(
                {
                    "reduced": lambda b=batches[0], c=narrow: steps_of(b, c),
                    "weights": lambda b=batches[1], c=count: weight_space_steps(b, c),
                },
                3,
            )
            reduced = taken["reduced"] / (narrow * LANES)
            weights = taken["weights"] / (count * wide)
            operations = 2 * n * m * m  # one product with the Gram matrix
            rows.append(
                {
                    "m, n": f"{m}, {n}",
                    "d": d,
                    "reduced, us": f"{1e6 * reduced:.1f}",
                    "weight space, us": f"{1e6 * weights:.0f}",
                    "ratio": f"{weights / reduced:.0f}",
                    "ratio of operations": f"{2 * d / m:.0f}",
                    "reduced, GFLOP/s": f"{operations / reduced / 1e9:.1f}",
                    "weight space, GFLOP/s": f"{4 * n * m * d / weights / 1e9:.1f}",
                }
            )
    table("One training step of one trial", rows)


def compare_triples(dimensions, shapes, steps=1000):
    rows = []
    for m, n in shapes:
        for d in dimensions:
            short = max(2, int(1e9 / (4 * m * n * d)))
            batches = reduced_batch(m, n, d, LANES), lifted_batch(m, n, d, 1)
            calls = {
                "reduced": lambda b=batches[0]: triples_of(b, steps),
                "weights": lambda b=batches[1], c=short: weight_space_steps(b, c),
            }
            # Eleven rungs of a ladder of weights would not fit into memory: a lower bound there.
            certified = n * d <= 10**7
            if certified:
                calls["certified"] = lambda b=batches[1]: triples_of(b, 1)
            taken = seconds(calls, 1)
            reduced = taken["reduced"] / LANES
            # Steps dominate: timed on a few and multiplied, plus both certificates once.
            weights = 2 * steps * taken["weights"] / short + taken.get("certified", 0.0)
            rows.append(
                {
                    "m, n": f"{m}, {n}",
                    "d": d,
                    "reduced, ms": f"{1e3 * reduced:.1f}",
                    "weight space, ms (scaled)": f"{1e3 * weights:.0f}",
                    "ratio": f"{'' if certified else '> '}{weights / reduced:.0f}",
                }
            )
    table(f"One triple of {steps} steps twice: train, ascend, retrain, certify", rows)


@partial(jax.jit, static_argnames="settings")
def settle_and_solve(batch, settings):
    m, n = batch[1].shape[1], batch[0].shape[1]
    u, keep = output_weights(RELU, n), jnp.ones(m, bool)

    def one(w, x, y):
        trained = Descent(RELU, settings, w, u, x, y, keep).run()
        limit = find_limit(RELU, trained.weights, u, x, y, keep)
        return limit.epsilon, trained.steps, limit.status

    return jax.vmap(one)(*batch)


@jax.jit
def epsilon_of(weights, x, y):
    m, n = x.shape[1], weights.shape[1]
    u, keep = output_weights(RELU, n), jnp.ones(m, bool)
    tols, budget = jnp.asarray(KINK_TOLS), jnp.asarray(TAU_BUDGET)
    found = jax.vmap(lambda w, x, y: certify(RELU, w, u, x, y, keep, tols, budget).epsilon)
    return found(weights, x, y)


def compare_limit(shapes, goal=1e-6, measured=20_000):
    rows = []
    for m, n in shapes:
        batch = reduced_batch(m, n, 1000, LANES)
        steps = measured if m * n <= 3000 else measured // 10
        settings = descent(KIND, 100_000, until_settled=True)
        taken = seconds(
            {
                "descent": lambda b=batch, c=steps: steps_of(b, c),
                "limit": lambda b=batch, s=settings: settle_and_solve(b, s),
            },
            3,
        )
        epsilon = float(jnp.median(epsilon_of(steps_of(batch, steps), *batch[1:])))
        reached, settled, status = jax.device_get(settle_and_solve(batch, settings))
        assert np.all(reached <= goal), "the limit solver is to reach the goal"
        assert np.all(status <= 1)
        needed = steps * epsilon / goal
        scaled = taken["descent"] * needed / steps / LANES
        solved = taken["limit"] / LANES
        rows.append(
            {
                "m, n": f"{m}, {n}",
                "descent: epsilon at T": f"{epsilon:.1e} at {steps}",
                f"steps to {goal:g} (extrapolated)": f"{needed:.1e}",
                "descent, s (extrapolated)": f"{scaled:.2f}",
                "limit: steps until settled": f"{np.median(settled):.0f}",
                "limit, ms": f"{1e3 * solved:.2f}",
                "limit: largest epsilon": f"{reached.max():.0e}",
                "ratio": f"{scaled / solved:.0f}",
            }
        )
    table(f"To epsilon_1 <= {goal:g}, d = 1000, per trial", rows)


SWEEP = """
[sweep]
seeds = 4
[data]
kind = "gaussian_mixture"
m = 10
d = {d}
alpha = 0.1
[model]
kind = "two_layer_relu"
n = 100
[train]
max_steps = 2000
[unlearn]
step_fraction = [0.0, 0.5, 1.0, 1.5, 2.0]
"""


def compare_dimensions():
    rows = []
    with tempfile.TemporaryDirectory() as place:
        # The first one compiles: it is run twice and its first run is left out.
        for which, d in enumerate((10_000, *(10**k for k in range(4, 10)))):
            path = Path(place) / f"{which}.toml"
            path.write_text(SWEEP.format(d=d))
            began = time.perf_counter()
            frame = gaunlearn.run(path, out=Path(place) / f"run{which}").to_pandas()
            taken = time.perf_counter() - began
            best = frame[frame["step_fraction"] == 1.0]
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            rows.append(
                {
                    "d": f"{d:.0e}",
                    "s": f"{taken:.2f}",
                    "peak memory of the process, GiB": f"{peak:.2f}",
                    "phi (median)": f"{frame['phi'].median():.1e}",
                    "epsilon at f = 1 (median)": f"{best['epsilon'].median():.1e}",
                }
            )
    table("The same sweep of 200 trials at growing d, compiled beforehand", rows[1:])


def layouts(shapes):
    """Loss-normalised descent on the exponential loss, written plainly in several layouts."""
    count = 300

    def slopes(q):
        weight = jnp.exp(-(q - q.min(-1, keepdims=True)))
        return weight / weight.sum(-1, keepdims=True)

    def neurons_first(batch, dtype, unroll, gram):
        w, x, y = (a.astype(dtype) for a in batch)
        u = output_weights(RELU, w.shape[1]).astype(dtype)
        signed = y[:, :, None] * x
        z0, k = w @ x.transpose(0, 2, 1), signed @ x.transpose(0, 2, 1)

        def in_weights(w, _):
            z = w @ x.transpose(0, 2, 1)
            q = y * jnp.einsum("j,bjm->bm", u, jax.nn.relu(z))
            c = u[:, None] * jnp.where(z > 0, slopes(q)[:, None], 0)
            return w + c @ signed, None

        def in_gram(z, _):
            q = y * jnp.einsum("j,bjm->bm", u, jax.nn.relu(z))
            c = u[:, None] * jnp.where(z > 0, slopes(q)[:, None], 0)
            return z + c @ k, None

        step, start = (in_gram, z0) if gram else (in_weights, w)
        return jax.lax.scan(step, start, None, count, unroll=unroll)[0]

    def batch_last(batch, dtype, unroll, gram):
        w, x, y = (jnp.moveaxis(a, 0, -1).astype(dtype) for a in batch)
        u = output_weights(RELU, w.shape[0]).astype(dtype)
        signed = y[:, None] * x
        z0, k = jnp.einsum("jrb,mrb->jmb", w, x), jnp.einsum("mrb,irb->mib", signed, x)

        def pattern(z):
            q = y * jnp.einsum("j,jmb->mb", u, jax.nn.relu(z))
            weight = slopes(q.T).T
            return u[:, None, None] * jnp.where(z > 0, weight[None], 0)

        def in_weights(w, _):
            c = pattern(jnp.einsum("jrb,mrb->jmb", w, x))
            return w + jnp.einsum("jmb,mrb->jrb", c, signed), None

        def in_gram(z, _):
            return z + jnp.einsum("jmb,mib->jib", pattern(z), k), None

        step, start = (in_gram, z0) if gram else (in_weights, w)
        return jax.lax.scan(step, start, None, count, unroll=unroll)[0]

    def samples_first(batch, dtype, unroll, _):
        w, x, y = (a.astype(dtype) for a in batch)
        u = output_weights(RELU, w.shape[1]).astype(dtype)
        k = x @ (y[:, :, None] * x).transpose(0, 2, 1)

        def step(z, _):
            q = y * (jax.nn.relu(z) @ u)
            return z + k @ (u * jnp.where(z > 0, slopes(q)[:, :, None], 0)), None

        return jax.lax.scan(step, x @ w.transpose(0, 2, 1), None, count, unroll=unroll)[0]

    rows = []
    for m, n in shapes:
        batch = reduced_batch(m, n, 1000, LANES)
        calls = {"as shipped, Gram, float64": lambda b=batch: steps_of(b, count)}
        plainly = jax.jit(steps_of, static_argnums=1, compiler_options=full_options())
        calls["the same, fusions compiled plainly, Gram, float64"] = partial(plainly, batch, count)
        for name, layout, kinds in (
            ("samples first", samples_first, (True,)),
            ("neurons first", neurons_first, (False, True)),
            ("batch last", batch_last, (False, True)),
        ):
            for gram in kinds:
                for dtype, unroll in ((jnp.float64, 1), (jnp.float64, 4), (jnp.float32, 1)):
                    label = f"{name}, {'Gram' if gram else 'weights'}, {dtype.__name__}, x{unroll}"
                    compiled = jax.jit(layout, static_argnums=(1, 2, 3))
                    calls[label] = partial(compiled, batch, dtype, unroll, gram)
        taken = seconds(calls, 3)
        ceiling = {"float64": matmul_ceiling(jnp.float64), "float32": matmul_ceiling(jnp.float32)}
        for label, value in taken.items():
            products = m if "Gram" in label else 2 * (m + 1)
            rate = 2 * n * m * products / (value / count / LANES) / 1e9
            share = rate / ceiling["float32" if "float32" in label else "float64"]
            rows.append(
                {
                    "m, n": f"{m}, {n}",
                    "layout": label,
                    "us a step": f"{1e6 * value / count / LANES:.1f}",
                    "GFLOP/s": f"{rate:.1f}",
                    "of the ceiling": f"{100 * share:.0f} %",
                }
            )
    table("Layouts of the training step; GFLOP/s count that layout's own products", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two shapes, d up to 10^4")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    shapes = SHAPES[:2] if args.quick else SHAPES
    dimensions = DIMENSIONS[:2] if args.quick else DIMENSIONS
    begin("reduction", args.quick)
    tell(
        f"Large matrix product: {matmul_ceiling(jnp.float64):.0f} GFLOP/s in float64, "
        f"{matmul_ceiling(jnp.float32):.0f} in float32"
    )
    # First: the peak of memory is that of the process.
    compare_dimensions()
    compare_steps(dimensions, shapes)
    compare_triples(dimensions, shapes)
    compare_limit(shapes)
    layouts(shapes)

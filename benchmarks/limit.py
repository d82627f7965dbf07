"""Does the limit solver solve, and is it where training goes?

    python benchmarks/limit.py [--count 11400] [--quick]

First table: random problems, each with its own m in [2, 100], d/m in [1.5, 1000] and n in [2, 400]
(all log-uniform), descended for 1000 steps and then solved; the residual is that of an independent
certificate (kink_tol 1e-9) of the solution. They are padded to a few shapes, so that few programs
are compiled: masked samples and neurons with u_j = 0 change nothing. Descent separates 10 000 of
11 400 such problems. Second table: harder problems, with more samples than dimensions, parallel and
nearly parallel samples, leaky networks and the linear model. Third table: how 1 - cos between
descent and the limit solved for after 1000 steps falls with the number of steps, and how many
trials part from it.
"""

import argparse
from collections import Counter
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from common import begin, descent, keys_of, problems, table

from gaunlearn.certificate import one_minus_cosine
from gaunlearn.ladder import certify
from gaunlearn.limit import STATUSES, find_limit
from gaunlearn.models import LINEAR, RELU, leaky_relu, output_weights
from gaunlearn.training import Descent, margins

GOAL = 1e-10
LANES = 8
KINDS = ("isotropic", "gaussian_mixture")
# Bounds of the shapes to which problems are padded.
SAMPLES, NEURONS = (2, 40, 100), (2, 100, 400)


def descend_and_solve(kind, model, weights, u, x, y, keep, steps):
    """One problem: what descent reached, its limit, and a certificate of that."""
    weights = Descent(model, descent(kind, steps), weights, u, x, y, keep).run().weights
    limit = find_limit(model, weights, u, x, y, keep)
    checked = certify(model, limit.weights, u, x, y, keep, jnp.asarray([1e-9]), jnp.asarray(1.0))
    q = margins(model, weights, u, x, y)
    return {
        "separated": jnp.min(jnp.where(keep, q, jnp.inf)) > 0,
        "status": limit.status,
        "own": jnp.maximum(limit.epsilon, limit.delta),
        "residual": jnp.maximum(checked.epsilon, checked.delta),
        "iterations": limit.iterations,
    }


@partial(jax.jit, static_argnames="kind")
def solve_batch(kind, given, m, n):
    """Of larger problems, the first m samples and n neurons of each."""
    samples, neurons = given.y.shape[1], given.u.shape[1]

    def one(lane):
        given, m, n = lane
        keep, used = jnp.arange(samples) < m, jnp.arange(neurons) < n
        u = jnp.where(used, output_weights(RELU, neurons) * jnp.sqrt(neurons / n), 0.0)
        weights = jnp.where(used[:, None], given.initial_weights[0], 0.0)
        # The factor is triangular: the first m samples are a problem of their own.
        x = jnp.where(keep[:, None], given.x, 0.0)
        return descend_and_solve(kind, RELU, weights, u, x, given.y, keep, 1000)

    return jax.lax.map(one, (given, m, n), batch_size=LANES)


def log_uniform(rng, low, high, size):
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def solve_many(count):
    rng = np.random.default_rng(0)
    rows = []
    for kind in KINDS:
        half = count // 2
        m = log_uniform(rng, 2, 101, half).astype(int)
        n = log_uniform(rng, 2, 401, half).astype(int)
        d = np.maximum(np.floor(m * log_uniform(rng, 1.5, 1000, half)), m + 1.0)
        keys = keys_of(rng.integers(2**31), half)
        found = []
        for lowest_m, samples in pairwise(SAMPLES):
            for lowest_n, neurons in pairwise(NEURONS):
                inside = (m <= samples) & (n <= neurons)
                inside &= (m > lowest_m) | (lowest_m == SAMPLES[0])
                inside &= (n > lowest_n) | (lowest_n == NEURONS[0])
                chosen = np.flatnonzero(inside)
                given = problems(kind, keys[chosen], samples, d[chosen], neurons)
                got = jax.device_get(solve_batch(kind, given, m[chosen], n[chosen]))
                found.append(got)
                jax.clear_caches()
                print(
                    f"  {kind}, m <= {samples}, n <= {neurons}: {len(chosen)} problems, descent "
                    f"separates {got['separated'].sum()}",
                    flush=True,
                )
                for i in np.flatnonzero(got["separated"] & ~(got["residual"] <= GOAL)):
                    which = chosen[i]
                    print(
                        f"  missed: {kind} m = {m[which]}, d = {d[which]:g}, n = {n[which]}: "
                        f"{STATUSES[got['status'][i]]}, residual {got['residual'][i]:.1e}, "
                        f"by its own multipliers {got['own'][i]:.1e}",
                        flush=True,
                    )
        every = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        for separated in (True, False):
            rows.append(
                {
                    "data": kind,
                    "descent separates": separated,
                    **summary({k: v[every["separated"] == separated] for k, v in every.items()}),
                }
            )
    table("Random problems", rows)


def summary(found):
    """Columns on a set of problems."""
    solved, total = found["residual"] <= GOAL, len(found["status"])
    status = Counter(STATUSES[s] for s in found["status"])
    share = f" ({100 * solved.mean():.2f} %)" if total else ""
    return {
        "problems": total,
        f"residual <= {GOAL:g}": f"{solved.sum()}{share}",
        "by its own multipliers": f"{np.sum(found['own'] <= GOAL)}",
        "status": ", ".join(f"{k} {v}" for k, v in status.most_common()),
        "largest residual": f"{np.nanmax(found['residual'], initial=0):.1e}",
        "iterations (median, max)": f"{np.median(found['iterations']):.0f}, "
        f"{found['iterations'].max()}"
        if total
        else "",
    }


@partial(jax.jit, static_argnames="model")
def solve_explicit(model, weights, x, y):
    u, keep = output_weights(model, weights.shape[1]), jnp.ones(x.shape[1], bool)
    return jax.lax.map(
        lambda lane: descend_and_solve("isotropic", model, lane[0], u, *lane[1:], keep, 3000),
        (weights, x, y),
        batch_size=LANES,
    )


def solve_hard(lanes):
    """A third of the samples are parallel to the first, exactly or to an angle."""
    rows = []
    for model, name in ((RELU, "ReLU"), (leaky_relu(0.1), "leaky, 0.1"), (LINEAR, "linear")):
        for m, d, n in ((10, 5, 50), (30, 40, 60)):
            n = 1 if model is LINEAR else n
            for angle in (None, 0.0, 1e-3, 1e-6, 1e-8):
                rng = np.random.default_rng(m)
                x = rng.normal(size=(lanes, m, d)) / np.sqrt(d)
                y = rng.choice([-1.0, 1.0], (lanes, m))
                if angle is not None:
                    apart = angle * x[:, 1::3]
                    lengths = rng.uniform(0.5, 2, (lanes, apart.shape[1], 1))
                    x[:, 1::3], y[:, 1::3] = lengths * (x[:, :1] + apart), y[:, :1]
                weights = 0.03 / np.sqrt(d) * rng.normal(size=(lanes, n, d))
                got = jax.device_get(solve_explicit(model, weights, x, y))
                rows.append(
                    {
                        "model": name,
                        "m, d, n": f"{m}, {d}, {n}",
                        "angle": "random" if angle is None else f"{angle:g}",
                        **summary({k: v[got["separated"]] for k, v in got.items()}),
                    }
                )
            jax.clear_caches()
    table("Harder problems, isotropic, those that 3000 steps of descent separate", rows)


@partial(jax.jit, static_argnames=("kind", "stops"))
def follow_batch(kind, stops, batch):
    keep = jnp.ones(batch.y.shape[1], bool)

    def one(given):
        u, x, y = given.u, given.x, given.y
        weights, done, distances, limits = given.initial_weights[0], 0, [], []
        for stop in stops:
            settings = descent(kind, stop - done)
            weights = Descent(RELU, settings, weights, u, x, y, keep).run().weights
            done = stop
            limits.append(find_limit(RELU, weights, u, x, y, keep).weights)
            distances.append(one_minus_cosine(weights, limits[0]))
        return (
            jnp.min(margins(RELU, weights, u, x, y)) > 0,
            jnp.stack(distances),
            one_minus_cosine(limits[0], limits[-1]),
        )

    return jax.lax.map(one, batch, batch_size=LANES)


def follow_training(lanes):
    stops = (1000, 10_000, 100_000)
    rows = []
    for kind in KINDS:
        for m, d, n in ((5, 100, 20), (10, 100, 100), (10, 1000, 100), (20, 40, 50)):
            batch = problems(kind, keys_of(m + d, lanes), m, float(d), n)
            got = jax.device_get(follow_batch(kind, stops, batch))
            separated, distances, apart = got
            parted = separated & ~(apart < 1e-12)
            same = separated & ~parted
            medians = np.median(distances[same], axis=0) if same.any() else [np.nan] * len(stops)
            rows.append(
                {
                    "data": kind,
                    "m, d, n": f"{m}, {d}, {n}",
                    "separated": f"{separated.sum()} of {lanes}",
                    "parted": f"{parted.sum()}",
                    **{
                        f"1 - cos at {stop:.0e}": f"{value:.1e}"
                        for stop, value in zip(stops, medians, strict=True)
                    },
                    "limits apart by (median of parted)": (
                        f"{np.median(apart[parted]):.1e}" if parted.any() else ""
                    ),
                }
            )
    table("Descent against the limit solved for after 1000 steps", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=11_400)
    parser.add_argument("--quick", action="store_true", help="200 random problems and no more")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begin("limit", args.quick)
    solve_many(200 if args.quick else args.count)
    if not args.quick:
        solve_hard(32)
        follow_training(32)

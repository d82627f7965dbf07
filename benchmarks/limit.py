"""Does the limit solver solve, and is it where training goes?

    python benchmarks/limit.py [--count 10000] [--shapes 40] [--skip-agreement]

First table: random problems, m in [2, 100], d/m in [1.5, 1000], n in [2, 400] (all log-uniform),
each descended for 1000 steps and then solved; the residual is that of an independent certificate
(kink_tol 1e-9) of the solution. Second table: how 1 - cos between descent and the limit solved for
after 1000 steps falls with the number of steps, and how many trials part from it.
"""

import argparse
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from common import descent, problem, provenance, table

from gaunlearn.certificate import certify, one_minus_cosine
from gaunlearn.limit import STATUSES, find_limit
from gaunlearn.models import RELU, output_weights
from gaunlearn.training import margins, train

GOAL = 1e-10
LANES = 8


@partial(jax.jit, static_argnames=("kind", "m", "n"))
def solve_batch(kind, m, n, keys, dimensions):
    u, keep = output_weights(RELU, n), jnp.ones(m, bool)

    def one(lane):
        key, d = lane
        given = problem(kind, key, m, d, n)
        x, y = given.x, given.y
        weights = train(RELU, descent(kind, 1000), given.initial_weights[0], u, x, y, keep).weights
        limit = find_limit(RELU, weights, u, x, y, keep)
        checked = certify(RELU, limit.weights, u, x, y, keep, jnp.asarray([1e-9]), jnp.asarray(1.0))
        return {
            "separated": jnp.min(margins(RELU, weights, u, x, y)) > 0,
            "status": limit.status,
            "own": jnp.maximum(limit.epsilon, limit.delta),
            "residual": jnp.maximum(checked.epsilon, checked.delta),
            "tau": checked.tau,
            "iterations": limit.iterations,
        }

    return jax.lax.map(one, (keys, dimensions), batch_size=LANES)


def solve_many(count, shapes):
    rng = np.random.default_rng(0)
    rows = []
    for kind in ("isotropic", "gaussian_mixture"):
        found = []
        for _ in range(shapes):
            m = int(np.exp(rng.uniform(np.log(2), np.log(100.999))))
            n = int(np.exp(rng.uniform(np.log(2), np.log(400.999))))
            share = -(-count // (2 * shapes))
            d = np.floor(m * np.exp(rng.uniform(np.log(1.5), np.log(1000), share)))
            keys = jax.random.split(jax.random.key(rng.integers(2**31)), share)
            got = jax.device_get(solve_batch(kind, m, n, keys, jnp.maximum(d, m + 1.0)))
            found.append(got)
            jax.clear_caches()  # hundreds of programs in one process exhaust its memory maps
            bad = got["separated"] & ~(got["residual"] <= GOAL)
            for i in np.flatnonzero(bad):
                status = STATUSES[got["status"][i]]
                print(
                    f"  missed: {kind} m = {m}, d = {d[i]:g}, n = {n}: {status}, "
                    f"residual {got['residual'][i]:.1e}, own {got['own'][i]:.1e}",
                    flush=True,
                )
        every = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        for separated in (True, False):
            chosen = {k: v[every["separated"] == separated] for k, v in every.items()}
            total = len(chosen["status"])
            if not total:
                continue
            solved = chosen["residual"] <= GOAL
            status = Counter(STATUSES[s] for s in chosen["status"])
            rows.append(
                {
                    "data": kind,
                    "descent separates": separated,
                    "problems": total,
                    f"residual <= {GOAL:g}": f"{solved.sum()} ({100 * solved.mean():.2f} %)",
                    "status": ", ".join(f"{k} {v}" for k, v in status.most_common()),
                    "largest residual": f"{np.nanmax(chosen['residual'], initial=0):.1e}",
                    "iterations (median, max)": f"{np.median(chosen['iterations']):.0f}, "
                    f"{chosen['iterations'].max()}",
                }
            )
    table(rows, list(rows[0]))


@partial(jax.jit, static_argnames=("kind", "m", "n", "stops"))
def follow_batch(kind, m, d, n, stops, keys):
    u, keep = output_weights(RELU, n), jnp.ones(m, bool)

    def one(key):
        given = problem(kind, key, m, d, n)
        x, y = given.x, given.y
        weights, done, distances, limits = given.initial_weights[0], 0, [], []
        for stop in stops:
            weights = train(RELU, descent(kind, stop - done), weights, u, x, y, keep).weights
            done = stop
            limits.append(find_limit(RELU, weights, u, x, y, keep).weights)
            distances.append(one_minus_cosine(weights, limits[0]))
        return (
            jnp.min(margins(RELU, weights, u, x, y)) > 0,
            jnp.stack(distances),
            one_minus_cosine(limits[0], limits[-1]),
        )

    return jax.lax.map(one, keys, batch_size=LANES)


def follow_training(lanes):
    stops = (1000, 10_000, 100_000)
    rows = []
    for kind in ("isotropic", "gaussian_mixture"):
        for m, d, n in ((5, 100, 20), (10, 100, 100), (10, 1000, 100), (20, 40, 50)):
            keys = jax.random.split(jax.random.key(m + d), lanes)
            got = jax.device_get(follow_batch(kind, m, float(d), n, stops, keys))
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
    table(rows, list(rows[0]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--shapes", type=int, default=40)
    parser.add_argument("--skip-agreement", action="store_true")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    provenance()
    solve_many(args.count, args.shapes)
    if not args.skip_agreement:
        follow_training(32)

"""Is it faster than the solvers that are made for its two convex problems?

    python benchmarks/solvers.py [--quick]

First table: the hard-margin problem of the linear model, which ``find_limit`` solves by the batch,
against solvers that take one problem after the other (and qpax, which takes batches). All are given
the same samples in reduced coordinates, m + 1 of them, which is to the others' advantage: what d
was does not matter to anyone. Second: the multipliers of trained networks at one step fraction,
bounded or not, against SciPy's nnls and lsq_linear on m x m systems. Errors are relative, the
largest of a batch, against quadprog and against SciPy.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from common import begin, descent, keys_of, problems, side_by_side, spread, table, tell, timed
from peers.solvers import HARD_MARGIN, bounded_least_squares, nonnegative_least_squares
from threadpoolctl import threadpool_limits

from gaunlearn.certificate import certify_at
from gaunlearn.limit import find_limit
from gaunlearn.models import MODELS, RELU, output_weights
from gaunlearn.training import Descent

KIND = "gaussian_mixture"
SHAPES = ((10, 1000), (30, 1000), (50, 10_000))
# Entries of the largest array that a batch of gaunlearn's goes over at a time: what stays in a
# cache, as in a sweep. Wider calls are mapped over batches.
ENTRIES = 1 << 16
# A solver that takes one problem after the other is timed on so many of a batch.
ENOUGH = 100
REPEATS = 5


def by_batches(one, given, entries):
    """``one`` of each of some problems; the last batch is filled with copies, as in a sweep."""
    count = len(given[0])
    batches = -(-count * entries // ENTRIES)
    width = -(-count // batches)
    places = jnp.minimum(jnp.arange(batches * width), count - 1)
    filled = [leaf[places] for leaf in given]
    return jax.lax.map(lambda each: one(*each), filled, batch_size=width)[:count]


@jax.jit
def limits(signed):
    """Hard-margin solutions (b, r)."""
    _, m, r = signed.shape

    def one(signed):
        ones = jnp.ones(m)
        start = signed.sum(0)[None]
        found = find_limit(MODELS["linear"], start, jnp.ones(1), signed, ones, jnp.ones(m, bool))
        return found.weights[0]

    return by_batches(one, (signed,), m * r)


def compare_hard_margin(shapes, batches):
    """A row for each solver."""
    for m, d in shapes:
        every = problems(KIND, keys_of(0, max(batches)), m, float(d), 1)
        everything = np.asarray(every.y[:, :, None] * every.x[:, :, : m + 1])
        solvers = {name: make((m, m + 1)) for name, make in HARD_MARGIN.items()}
        for count in batches:
            signed = everything[:count]
            part = dict.fromkeys(solvers, signed[:ENOUGH]) | {"qpax, batched": signed}
            calls = {"gaunlearn": side_by_side(limits, signed)}
            calls |= {name: lambda s=solve, b=part[name]: s(b) for name, solve in solvers.items()}
            taken = timed(calls, REPEATS)
            own = np.median(taken["gaunlearn"]) / count
            right = solvers["quadprog"](part["quadprog"])
            for name, call in calls.items():
                found = np.asarray(call())[: len(right)]
                apart = np.linalg.norm(found - right, axis=1) / np.linalg.norm(right, axis=1)
                each = np.asarray(taken[name]) / len(part.get(name, signed))
                yield {
                    "m, d": f"{m}, {d}",
                    "batch": count,
                    "solver": name,
                    "us a problem": spread(1e6 * each),
                    "gaunlearn is faster by": f"{np.median(each) / own:.1f}",
                    "error": f"{apart.max():.0e}",
                }


@partial(jax.jit, static_argnames="steps")
def trained(given, steps):
    """Weights (b, n, r) after some steps of descent."""
    u, keep = output_weights(RELU, given.u.shape[1]), jnp.ones(given.y.shape[1], bool)
    settings = descent(KIND, steps)
    return jax.vmap(lambda w, x, y: Descent(RELU, settings, w, u, x, y, keep).run().weights)(
        given.initial_weights[:, 0], given.x, given.y
    )


@jax.jit
def epsilons(w, x, y, delta):
    """Least residuals (b,), kinks ignored, with multipliers that keep delta."""
    u, keep = output_weights(RELU, w.shape[1]), jnp.ones(y.shape[1], bool)

    def one(w, x, y):
        return certify_at(RELU, w, u, x, y, keep, jnp.asarray(-1.0), delta).epsilon

    return by_batches(one, (w, x, y), w.shape[1] * y.shape[1])


def epsilons_by_scipy(w, x, y, delta):
    """The same, one after the other."""
    u = np.asarray(output_weights(RELU, w.shape[1]))
    found = []
    for weights, samples, labels in zip(w, x, y, strict=True):
        z = weights @ samples.T
        q = labels * (u @ np.maximum(z, 0))
        theta, q = weights / q.min(), q / q.min()
        slopes = labels * (z > 0) * u[:, None]
        gram = (slopes.T @ slopes) * (samples @ samples.T)
        if np.isinf(delta):
            level = nonnegative_least_squares(gram, q)
        else:
            top = np.where(q > 1, delta / np.where(q > 1, q - 1, 1.0), np.inf)
            level = bounded_least_squares(gram, q, top)
        found.append(np.linalg.norm(theta - (slopes * level) @ samples))
    return np.array(found)


def compare_multipliers(shapes, batches, steps=1000):
    """A row for each batch."""
    for m, d, n in shapes:
        given = problems(KIND, keys_of(0, max(batches)), m, float(d), n)
        every = [np.asarray(leaf) for leaf in (trained(given, steps), given.x, given.y)]
        for name, delta in (("nnls", np.inf), ("lsq_linear", 1e-3)):
            for count in batches:
                part = [leaf[:count] for leaf in every]
                few = [leaf[: min(count, ENOUGH)] for leaf in every]
                calls = {
                    "gaunlearn": side_by_side(partial(epsilons, delta=delta), *part),
                    name: lambda f=few, d=delta: epsilons_by_scipy(*f, d),
                }
                taken = timed(calls, REPEATS)
                own, right = np.asarray(calls["gaunlearn"]()), calls[name]()
                apart = np.abs(own[: len(right)] - right) / right
                each = [
                    1e6 * np.asarray(taken[solver]) / size
                    for solver, size in (("gaunlearn", count), (name, len(right)))
                ]
                yield {
                    "m, d, n": f"{m}, {d}, {n}",
                    "batch": count,
                    "solver": name,
                    "gaunlearn, us a problem": spread(each[0]),
                    "SciPy, us a problem": spread(each[1]),
                    "gaunlearn is faster by": f"{np.median(each[1]) / np.median(each[0]):.1f}",
                    "largest difference": f"{apart.max():.0e}",
                }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one shape, two batches")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begin("solvers")
    # BLAS's threads spin for a while after each call, on the core of what is timed next.
    threadpool_limits(1)
    tell("gaunlearn has a program on each core, qpax XLA's threads, the others one each.")
    batches = (1, 100) if args.quick else (1, 10, 100, 1000)
    shapes = SHAPES[:1] if args.quick else SHAPES
    table("Hard margin, the linear model", compare_hard_margin(shapes, batches))
    networks = ((10, 1000, 100), (30, 1000, 100), (50, 10_000, 400))
    networks = networks[:1] if args.quick else networks
    table("Multipliers of trained networks, kinks ignored", compare_multipliers(networks, batches))

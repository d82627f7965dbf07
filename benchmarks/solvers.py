"""Is it faster than the solvers that are made for its two convex problems?

    python benchmarks/solvers.py [--quick]

First table: the hard-margin problem of the linear model, which ``find_limit`` solves, against
specialised solvers. All are given the same samples in reduced coordinates, m + 1 of them, which is
to the others' advantage: what d was does not matter to anyone. Second: the multipliers of networks
after 1000 steps of descent, bounded or not, against SciPy's nnls and lsq_linear on m x m systems.

*What is timed.* gaunlearn solves batches as a sweep does, by the functions that it compiles; no
public one takes a batch. Limits have their interior-point fallback at hand, which a sweep on CPUs
at first leaves out where samples are no more than dimensions. The public ``gaunlearn.find_limit``
takes one problem and is timed on one, with its checks and its own reduction of the coordinates.
gaunlearn and qpax have a program on each core, if a batch takes long enough to be worth threads.
The others take one problem after the other on one core, and 100 of a batch are timed; quadprog and
SciPy also in as many processes as there are cores, on all of a batch, which is sent to them, and
the solutions back, within the time. That is for batches of 100 and more: ten problems take quadprog
less than the sending. Processes and compiled programs are there before the time begins; solutions
are judged after it.

*What they are asked for.* SVC always fits an offset and is given every sample twice, mirrored, to
have none. It and LinearSVC are asked for 1e-6, not their 1e-3 and 1e-4, for w to be within 1e-6;
qpax for 1e-7, not its 1e-5: w may be off by the square root. lsq_linear is SciPy's method "bvls",
at its default tolerance, and Clarabel has its defaults too.

*What they found.* w is held against quadprog's (its error is relative), and judged as gaunlearn
judges any model: at least margin 1, epsilon = ||w - sum lambda_i y_i x_i||, delta = max lambda_i
(q_i - 1), tau = 1 - cos with quadprog's w. The multipliers lambda are those that leave w the least
residual, by nnls, for all solvers alike. Of trained networks, gaunlearn's epsilon and delta are
held against SciPy's (relative differences). All are the largest of a batch's first 100.
It stops if one is not as accurate as ``peers.solvers``, ``ACCURACY`` and ``BUDGETS`` say it is.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from common import begin, descent, durations, keys_of, problems, side_by_side, table, tell, timed
from peers.solvers import (
    HARD_MARGIN,
    by_qpax,
    by_quadprog,
    certificate_by_scipy,
    in_processes,
    nonnegative_least_squares,
    one_by_one,
)
from threadpoolctl import threadpool_limits

import gaunlearn
from gaunlearn.certificate import certify_at
from gaunlearn.limit import find_limit
from gaunlearn.models import MODELS, RELU, output_weights
from gaunlearn.sweep.host import host_cores
from gaunlearn.training import Descent

KIND = "gaussian_mixture"
SHAPES = ((10, 1000), (30, 1000), (50, 10_000))
# Entries of the largest array that a batch of gaunlearn's goes over at a time: what stays in a
# cache, as in a sweep. Wider calls are mapped over batches.
ENTRIES = 1 << 16
# A solver that takes one problem after the other is timed on so many of a batch, and so many of any
# solver's solutions are judged. A batch in several processes has no fewer.
ENOUGH = 100
REPEATS = 5
# gaunlearn is direct too: rounding, and what the Gram matrix's condition makes of it.
ACCURACY = 1e-9
# SciPy's function -> (budget for delta, how far its epsilon and delta may be from gaunlearn's).
# Both are direct, but gaunlearn stays sqrt(rounding), 1.5e-8, short of a budget.
BUDGETS = {"nnls": (np.inf, 1e-9), "lsq_linear": (1e-3, 1e-7)}


def by_batches(one, given, entries):
    """``one`` of each of some problems; the last batch is filled with copies, as in a sweep. One
    problem alone is no batch there either.
    """
    count = len(given[0])
    batches = -(-count * entries // ENTRIES)
    width = -(-count // batches)
    places = jnp.minimum(jnp.arange(batches * width), count - 1)
    filled = [leaf[places] for leaf in given]
    batch = width if count > 1 else None
    return jax.lax.map(lambda each: one(*each), filled, batch_size=batch)[:count]


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


class Contender(NamedTuple):
    """A solver with its problems.

    Attributes:
        solve: the call that is timed.
        size: problems that it solves.
        accuracy: how far its solutions may be from quadprog's.
    """

    solve: Callable[[], np.ndarray]
    size: int
    accuracy: float


def contenders(x, y, signed, solvers):
    """Name -> contender, for one batch of samples, labels, and both multiplied."""
    count, cores, few = len(signed), host_cores(), signed[:ENOUGH]
    found = {"gaunlearn": Contender(side_by_side(limits, signed), count, ACCURACY)}
    if count == 1:
        public = partial(gaunlearn.find_limit, signed[0].sum(0), None, x[0], y[0])
        found["gaunlearn.find_limit, the public call"] = Contender(
            lambda: public().W[None], 1, ACCURACY
        )
    for name, solve in solvers.items():
        accuracy = HARD_MARGIN[name].accuracy
        if solve is by_qpax:
            found[name] = Contender(side_by_side(solve, signed), count, accuracy)
            continue
        found[name] = Contender(partial(solve, few), len(few), accuracy)
        if name == "quadprog" and count >= ENOUGH and cores > 1:
            spread_out = partial(in_processes, cores, by_quadprog, signed)
            found[f"{name}, {cores} processes"] = Contender(spread_out, count, accuracy)
    return found


def triple(signed, w, right):
    """Epsilon, delta and tau of a solution, with multipliers by nnls."""
    q = signed @ w
    theta, q = w / q.min(), q / q.min()
    level = nonnegative_least_squares(signed @ signed.T, q)
    epsilon = np.linalg.norm(theta - level @ signed)
    apart = w / np.linalg.norm(w) - right / np.linalg.norm(right)
    return epsilon, np.max(level * (q - 1)), 0.5 * np.sum(apart**2)


def check(what, figures):
    """Figures against what they may be, at most.

    Raises:
        SystemExit: one is larger, or no number.
    """
    for name, (figure, level) in figures.items():
        if not figure <= level:
            raise SystemExit(f"{what}: {name} is {figure:.1e}, not within {level:.0e}")


def judged(what, signed, found, right, accuracy):
    """Largest error of solutions, and their largest epsilon, delta and tau.

    Raises:
        SystemExit: they are not accurate. Tau is to be within the accuracy squared: of unit vectors
            it is half the squared distance.
    """
    error = np.max(np.linalg.norm(found - right, axis=1) / np.linalg.norm(right, axis=1))
    check(what, {"error of w": (error, accuracy)})
    epsilon, delta, tau = np.max([*map(triple, signed, found, right)], axis=0)
    levels = {"epsilon": (epsilon, accuracy), "delta": (delta, accuracy)}
    check(what, levels | {"tau": (tau, accuracy**2)})
    return error, epsilon, delta, tau


def compare_hard_margin(shapes, batches):
    """A row for each solver."""
    for m, d in shapes:
        every = problems(KIND, keys_of(0, max(batches)), m, float(d), 1)
        x, y = np.asarray(every.x[:, :, : m + 1]), np.asarray(every.y)
        solvers = {name: each.make((m, m + 1)) for name, each in HARD_MARGIN.items()}
        for count in batches:
            signed = y[:count, :, None] * x[:count]
            entered = contenders(x[:count], y[:count], signed, solvers)
            taken = timed({name: each.solve for name, each in entered.items()}, REPEATS)
            own = np.median(taken["gaunlearn"]) / count
            right = one_by_one(by_quadprog, signed[:ENOUGH])
            for name, (solve, size, accuracy) in entered.items():
                found = np.asarray(solve())[: len(right)]
                what = f"{name}, m, d = {m}, {d}, batch of {count}"
                error, *figures = judged(what, signed[:ENOUGH], found, right, accuracy)
                each = np.asarray(taken[name]) / size
                yield {
                    "m, d": f"{m}, {d}",
                    "batch": count,
                    "solver": name,
                    "a problem": durations(each),
                    "gaunlearn is faster by": f"{np.median(each) / own:.1f}",
                    "error of w": f"{error:.0e}",
                    "epsilon, delta, tau": ", ".join(f"{figure:.0e}" for figure in figures),
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
def certificates(w, x, y, budget):
    """(Epsilon, delta) of each (b, 2), kinks ignored: of the multipliers with the least residual
    that keep delta within a budget.
    """
    u, keep = output_weights(RELU, w.shape[1]), jnp.ones(y.shape[1], bool)

    def one(w, x, y):
        found = certify_at(RELU, w, u, x, y, keep, jnp.asarray(-1.0), budget)
        return jnp.stack([found.epsilon, found.delta])

    return by_batches(one, (w, x, y), w.shape[1] * y.shape[1])


def compare_multipliers(shapes, batches, steps=1000):
    """A row for each batch of SciPy's."""
    cores = host_cores()
    for m, d, n in shapes:
        given = problems(KIND, keys_of(0, max(batches)), m, float(d), n)
        every = [np.asarray(leaf) for leaf in (trained(given, steps), given.x, given.y)]
        u = np.asarray(output_weights(RELU, n))
        for name, (budget, accuracy) in BUDGETS.items():
            solve = partial(certificate_by_scipy, u, budget)
            for count in batches:
                part = [leaf[:count] for leaf in every]
                few = [leaf[:ENOUGH] for leaf in part]
                calls = {
                    "gaunlearn": side_by_side(partial(certificates, budget=budget), *part),
                    name: partial(one_by_one, solve, *few),
                }
                if count >= ENOUGH and cores > 1:
                    spread_out = partial(in_processes, cores, solve, *part)
                    calls[f"{name}, {cores} processes"] = spread_out
                taken = timed(calls, REPEATS)
                found = {solver: call() for solver, call in calls.items()}
                own, mine = found.pop("gaunlearn"), np.asarray(taken["gaunlearn"]) / count
                for solver, right in found.items():
                    judge = slice(min(len(right), ENOUGH))
                    apart = np.abs(own[judge] - right[judge]) / right[judge]
                    epsilon, delta = apart.max(axis=0)
                    what = f"{solver}, m, d, n = {m}, {d}, {n}, batch of {count}"
                    levels = {"epsilon": (epsilon, accuracy), "delta": (delta, accuracy)}
                    check(f"{what}, relative difference from gaunlearn", levels)
                    each = np.asarray(taken[solver]) / len(right)
                    yield {
                        "m, d, n": f"{m}, {d}, {n}",
                        "batch": count,
                        "solver": solver,
                        "gaunlearn, a problem": durations(mine),
                        "SciPy, a problem": durations(each),
                        "gaunlearn is faster by": f"{np.median(each) / np.median(mine):.1f}",
                        "difference of epsilon, delta": f"{epsilon:.0e}, {delta:.0e}",
                    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one shape, two batches")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begin("solvers", args.quick)
    # BLAS's threads spin for a while after each call, on the core of what is timed next.
    threadpool_limits(1)
    tell("gaunlearn and qpax may have a program on each core, the others have a core a process.")
    batches = (1, 100) if args.quick else (1, 10, 100, 1000)
    shapes = SHAPES[:1] if args.quick else SHAPES
    table("Hard margin, the linear model", compare_hard_margin(shapes, batches))
    networks = ((10, 1000, 100), (30, 1000, 100), (50, 10_000, 400))
    networks = networks[:1] if args.quick else networks
    table("Multipliers of trained networks, kinks ignored", compare_multipliers(networks, batches))

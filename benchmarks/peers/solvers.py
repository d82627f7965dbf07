"""Specialised solvers of the two problems that gaunlearn solves by the batch.

*Hard margin*: min ||w||^2 / 2 s.t. y_i <w, x_i> >= 1, without an offset. *Bounded least squares*:
min ||A c - b|| with 0 <= c <= top.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from threading import Barrier
from typing import NamedTuple

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import qpax
import quadprog
from scipy.linalg import solve_triangular
from scipy.optimize import lsq_linear, nnls
from sklearn.svm import SVC, LinearSVC
from threadpoolctl import threadpool_limits

from .trials import Array

__all__ = [
    "HARD_MARGIN",
    "HardMargin",
    "by_qpax",
    "by_quadprog",
    "certificate_by_scipy",
    "in_processes",
    "nonnegative_least_squares",
    "one_by_one",
]

# So large a price of a violated margin that none is.
HARD = 1e8
# Asked of libsvm and liblinear: how far an optimality condition may be violated.
VIOLATION = 1e-6
# Asked of qpax: the largest KKT residual. It keeps slacks and multipliers at the square root of
# rounding, 1.5e-8, or more: asked for 1e-8, it always goes on to its last iteration, the 30th.
RESIDUAL = 1e-7
# Entries of the largest array that a batch of qpax's goes over at a time.
ENTRIES = 1 << 13


def by_quadprog(signed: Array) -> Array:
    """The dual, min lambda K lambda / 2 - sum lambda; Goldfarb and Idnani's method."""
    m = len(signed)
    level = quadprog.solve_qp(signed @ signed.T, np.ones(m), np.eye(m), np.zeros(m))[0]
    return level @ signed


def by_svc(signed: Array) -> Array:
    """libsvm. It always fits an offset: mirrored samples make it 0."""
    both = np.concatenate([signed, -signed])
    labels = np.repeat([1, -1], len(signed))
    return SVC(kernel="linear", C=HARD, tol=VIOLATION).fit(both, labels).coef_[0]


def by_linear_svc(signed: Array) -> Array:
    """liblinear's dual coordinate descent. Without an offset any labels do, if there are two."""
    labels = np.where(np.arange(len(signed)) % 2 == 0, 1, -1)
    solver = LinearSVC(
        loss="hinge",
        C=HARD,
        tol=VIOLATION,
        fit_intercept=False,
        max_iter=100_000,
        dual=True,
        random_state=0,
    )
    return solver.fit(labels[:, None] * signed, labels).coef_[0]


def by_clarabel(shape: tuple[int, int]) -> Callable[[Array], Array]:
    """cvxpy, its problem compiled once for all samples of a shape."""
    signed, w = cp.Parameter(shape), cp.Variable(shape[1])
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(w)), [signed @ w >= 1])

    def solve(given: Array) -> Array:
        signed.value = given
        problem.solve(solver=cp.CLARABEL)
        return w.value

    return solve


@jax.jit
def by_qpax(batch: jax.Array) -> jax.Array:
    """The dual, by batches that stay in a cache: up to 1.8 times as fast as by all at once."""
    m = batch.shape[1]
    none = jnp.zeros((0, m)), jnp.zeros(0)

    def one(signed):
        level, *_ = qpax.solve_qp(
            signed @ signed.T, -jnp.ones(m), *none, -jnp.eye(m), jnp.zeros(m), solver_tol=RESIDUAL
        )
        return level @ signed

    # One problem alone is solved sooner without a batch.
    width = max(1, ENTRIES // m**2) if len(batch) > 1 else None
    return jax.lax.map(one, batch, batch_size=width)


def one_by_one(solve: Callable[..., Array], *batch: Array) -> Array:
    """A solver of one problem on those of a batch (arrays with one leading axis), in turn."""
    return np.stack([solve(*problem) for problem in zip(*batch, strict=True)])


def in_processes(count: int, solve: Callable[..., Array], *batch: Array) -> Array:
    """``one_by_one`` in so many processes, each of which is sent its part of the batch."""
    parts = [np.array_split(leaf, count) for leaf in batch]
    return np.concatenate(list(_workers(count).map(partial(one_by_one, solve), *parts)))


@cache
def _workers(count: int) -> ProcessPoolExecutor:
    """Processes that are started by the first call and stay. They are spawned, not forked: JAX has
    threads.
    """
    context = get_context("spawn")
    return ProcessPoolExecutor(count, context, _start, (context.Barrier(count),))


def _start(all_there: Barrier) -> None:
    """One thread for BLAS; no work before every process has imported what it needs."""
    threadpool_limits(1)
    all_there.wait()


class HardMargin(NamedTuple):
    """A solver of hard-margin problems.

    Attributes:
        make: shape of one problem's signed samples -> solver of a batch of them (b, m, r).
        accuracy: how far w may be from the solution, relative to its norm.
    """

    make: Callable[[tuple[int, int]], Callable[[Array], Array]]
    accuracy: float


HARD_MARGIN = {
    # Direct: rounding, and what the Gram matrix's condition makes of it.
    "quadprog": HardMargin(lambda shape: partial(one_by_one, by_quadprog), 1e-9),
    # Interior points end at a duality gap, which is of the order of w's squared error where a
    # multiplier and its slack both are small.
    "qpax, batched": HardMargin(lambda shape: by_qpax, RESIDUAL**0.5),
    # The margins of support vectors are within what is asked, and these are the right ones.
    "SVC": HardMargin(lambda shape: partial(one_by_one, by_svc), VIOLATION),
    "LinearSVC": HardMargin(lambda shape: partial(one_by_one, by_linear_svc), VIOLATION),
    # Its default, a gap of 1e-8.
    "cvxpy, Clarabel": HardMargin(lambda shape: partial(one_by_one, by_clarabel(shape)), 1e-4),
}


def _factored(gram: Array, correlations: Array) -> tuple[Array, Array]:
    factor = np.linalg.cholesky(gram)
    return factor.T, solve_triangular(factor, correlations, lower=True)


def nonnegative_least_squares(gram: Array, correlations: Array) -> Array:
    """SciPy's, on the Cholesky factor of the normal equations: the fastest way to ask it."""
    return nnls(*_factored(gram, correlations))[0]


def bounded_least_squares(gram: Array, correlations: Array, top: Array) -> Array:
    """SciPy's, on the same factor, by its active-set method: on systems as small as these it is
    faster than the default, and ends at the solution.
    """
    return lsq_linear(*_factored(gram, correlations), bounds=(0.0, top), method="bvls").x


def certificate_by_scipy(
    u: Array, budget: float, weights: Array, samples: Array, labels: Array
) -> Array:
    """(epsilon, delta) of a two-layer ReLU network, kinks ignored: of the multipliers with the
    least residual that keep delta within a budget.
    """
    z = weights @ samples.T
    q = labels * (u @ np.maximum(z, 0))
    theta, q = weights / q.min(), q / q.min()
    slopes = labels * (z > 0) * u[:, None]
    gram = (slopes.T @ slopes) * (samples @ samples.T)
    if np.isinf(budget):
        level = nonnegative_least_squares(gram, q)
    else:
        top = np.where(q > 1, budget / np.where(q > 1, q - 1, 1.0), np.inf)
        level = bounded_least_squares(gram, q, top)
    return np.array([np.linalg.norm(theta - (slopes * level) @ samples), np.max(level * (q - 1))])

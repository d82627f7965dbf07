"""Specialised solvers of the two problems that gaunlearn solves by the batch, one at a time.

*Hard margin*: min ||w||^2 / 2 s.t. y_i <w, x_i> >= 1, without an offset. *Bounded least squares*:
min ||A c - b|| with 0 <= c <= top.
"""

from collections.abc import Callable

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import qpax
import quadprog
from scipy.linalg import solve_triangular
from scipy.optimize import lsq_linear, nnls
from sklearn.svm import SVC, LinearSVC

from .trials import Array

__all__ = ["HARD_MARGIN", "bounded_least_squares", "nonnegative_least_squares"]

# So large a price of a violated margin that none is.
HARD = 1e8


def by_quadprog(signed: Array) -> Array:
    """The dual, min lambda K lambda / 2 - sum lambda; Goldfarb and Idnani's method."""
    m = len(signed)
    level = quadprog.solve_qp(signed @ signed.T, np.ones(m), np.eye(m), np.zeros(m))[0]
    return level @ signed


def by_svc(signed: Array) -> Array:
    """libsvm. It always fits an offset: mirrored samples make it 0."""
    both = np.concatenate([signed, -signed])
    labels = np.repeat([1, -1], len(signed))
    return SVC(kernel="linear", C=HARD, tol=1e-10).fit(both, labels).coef_[0]


def by_linear_svc(signed: Array) -> Array:
    """liblinear's dual coordinate descent. Without an offset any labels do, if there are two."""
    labels = np.where(np.arange(len(signed)) % 2 == 0, 1, -1)
    solver = LinearSVC(
        loss="hinge", C=HARD, tol=1e-10, fit_intercept=False, max_iter=100_000, dual=True
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
@jax.vmap
def _dual_by_qpax(signed):
    m = signed.shape[0]
    none = jnp.zeros((0, m)), jnp.zeros(0)
    level, *_ = qpax.solve_qp(
        signed @ signed.T, -jnp.ones(m), *none, -jnp.eye(m), jnp.zeros(m), solver_tol=1e-8
    )
    return level @ signed


def each(solve: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A solver of one problem, on one after the other."""
    return lambda batch: np.stack([solve(signed) for signed in batch])


# Name -> (shape of one problem's signed samples -> solver of a batch of them (b, m, r)).
HARD_MARGIN: dict[str, Callable[[tuple[int, int]], Callable[[Array], Array]]] = {
    "quadprog": lambda shape: each(by_quadprog),
    "qpax, batched": lambda shape: lambda batch: np.asarray(_dual_by_qpax(batch)),
    "SVC": lambda shape: each(by_svc),
    "LinearSVC": lambda shape: each(by_linear_svc),
    "cvxpy, Clarabel": lambda shape: each(by_clarabel(shape)),
}


def _factored(gram: Array, correlations: Array) -> tuple[Array, Array]:
    factor = np.linalg.cholesky(gram)
    return factor.T, solve_triangular(factor, correlations, lower=True)


def nonnegative_least_squares(gram: Array, correlations: Array) -> Array:
    """SciPy's, on the Cholesky factor of the normal equations: the fastest way to ask it."""
    return nnls(*_factored(gram, correlations))[0]


def bounded_least_squares(gram: Array, correlations: Array, top: Array) -> Array:
    """SciPy's, on the same factor."""
    return lsq_linear(*_factored(gram, correlations), bounds=(0.0, top), tol=1e-12).x

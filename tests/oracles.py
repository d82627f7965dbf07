"""Independent references in NumPy, SciPy and cvxpy. Nothing here imports gaunlearn.

Written from the definitions (docs/mathematics.md), for clarity and not for speed.
"""

import itertools

import cvxpy as cp
import numpy as np
from scipy.optimize import linprog, nnls

__all__ = [
    "ascend_plainly",
    "bounded_epsilon_by_cvxpy",
    "certificate_by_cvxpy",
    "clarke_kkt_residual",
    "epsilon_by_generators",
    "hard_margin",
    "largest_frozen_margin",
    "largest_margin",
    "limit_by_cvxpy",
    "plain_descent",
    "sample_in_d_dimensions",
    "snap_rows",
    "trained_output_epsilon_by_cvxpy",
]


def snap_rows(W, x, retain, tol):
    """Project each row onto <w, x_i> = 0 for retained pairs within tol of the network's scale."""
    n = len(W)
    scale = np.linalg.norm(W) / np.sqrt(n)
    kink = (np.abs(W @ x.T) <= tol * scale * np.linalg.norm(x, axis=1)) & retain
    snapped = W.copy()
    for j in range(n):
        if kink[j].any():
            rows = x[kink[j]]
            snapped[j] -= np.linalg.pinv(rows) @ (rows @ W[j])
    return snapped, kink


def certificate_by_cvxpy(W, u, x, y, retain, tol):
    """epsilon, delta, tau at one tolerance: snap, normalise, then a quadratic program.

    ``tol`` None ignores kinks; ``u`` None is the linear model. None if W does not separate.
    """
    linear = u is None
    W = np.atleast_2d(W)
    u = np.ones(1) if linear else u
    snapped, kink = W, np.zeros((len(W), len(x)), bool)
    if not linear and tol is not None:
        snapped, kink = snap_rows(W, x, retain, tol)
    z = np.where(kink, 0.0, snapped @ x.T)
    active = (np.ones_like(kink) if linear else (z > 0) & ~kink) & retain
    margins = y * (u @ (z if linear else np.maximum(z, 0)))
    least = margins[retain].min()
    if not least > 0:
        return None
    theta, margins = snapped / least, margins / least
    lam = cp.Variable(len(x), nonneg=True)
    c = cp.Variable((len(W), len(x)), nonneg=True)
    tied = cp.reshape(lam, (1, len(x)), order="C")
    rows = np.ones((len(W), 1))
    constraints = [
        c <= rows @ tied,
        cp.multiply(active, c - rows @ tied) == 0,
        cp.multiply(~active & ~kink, c) == 0,
    ]
    residual = theta - np.diag(u) @ c @ (y[:, None] * x)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(residual)), constraints)
    problem.solve(
        solver="CLARABEL",
        tol_gap_abs=1e-12,
        tol_gap_rel=1e-12,
        tol_feas=1e-12,
        reduced_tol_gap_abs=1e-10,
        reduced_tol_gap_rel=1e-10,
        reduced_tol_feas=1e-10,
    )
    epsilon = float(np.linalg.norm(residual.value))
    delta = float(np.max((lam.value * (margins - 1))[retain]))
    unit_a, unit_b = W / np.linalg.norm(W), snapped / np.linalg.norm(snapped)
    return epsilon, delta, 0.5 * float(np.sum((unit_a - unit_b) ** 2))


def bounded_epsilon_by_cvxpy(theta, u, x, y, active, kink, ceiling, leak=0.0):
    """The least ||theta - sum_i lambda_i y_i h_i|| with lambda_i <= ceiling_i (inf for none), to
    about 1e-7 of ||theta||.
    """
    lam, c = cp.Variable(len(x), nonneg=True), cp.Variable(active.shape)
    tied = np.ones((len(theta), 1)) @ cp.reshape(lam, (1, len(x)), order="C")
    bounded = np.isfinite(ceiling)
    constraints = [
        c <= tied,
        c >= leak * tied,
        cp.multiply(active, c - tied) == 0,
        cp.multiply(~active & ~kink, c - leak * tied) == 0,
        lam[bounded] <= ceiling[bounded],
    ]
    residual = theta - np.diag(u) @ c @ (y[:, None] * x)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(residual)), constraints)
    problem.solve(solver="CLARABEL")
    return float(np.linalg.norm(residual.value))


def trained_output_epsilon_by_cvxpy(W, out, x, y, kink):
    """The least residual of a two-layer ReLU network whose output weights are trained too."""
    z = np.where(kink, 0.0, W @ x.T)
    lam, c = cp.Variable(len(x), nonneg=True), cp.Variable(z.shape)
    tied = np.ones((len(W), 1)) @ cp.reshape(lam, (1, len(x)), order="C")
    constraints = [
        c >= 0,
        c <= tied,
        cp.multiply(z > 0, c - tied) == 0,
        cp.multiply(z < 0, c) == 0,
    ]
    first = W - np.diag(out) @ c @ (y[:, None] * x)
    second = out - np.maximum(z, 0) @ cp.multiply(y, lam)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(first) + cp.sum_squares(second)), constraints)
    problem.solve(solver="CLARABEL")
    return float(np.sqrt(problem.value))


def epsilon_by_generators(theta, u, x, y, active, kink):
    """The same minimum to rounding, by non-negative least squares over the cone's generators:
    for each sample lambda = 1 with every subset of its kinks at c = 1 (few kinks only).
    """
    columns = []
    for i in range(len(x)):
        kinks = np.flatnonzero(kink[:, i])
        if not (active[:, i].any() or kinks.size):
            continue
        for chosen in itertools.product((0.0, 1.0), repeat=len(kinks)):
            c = active[:, i].astype(float)
            c[kinks] = chosen
            columns.append(np.outer(u * c, y[i] * x[i]).ravel())
    if not columns:
        return float(np.linalg.norm(theta))
    matrix = np.stack(columns, axis=1)
    return float(nnls(matrix, theta.ravel(), maxiter=100 * matrix.shape[1])[1])


def hard_margin(x, y):
    """The minimum-norm w with y_i <w, x_i> >= 1, and its dual variables."""
    w = cp.Variable(x.shape[1])
    separation = cp.multiply(y, x @ w) >= 1
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(w)), [separation])
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-13, tol_gap_rel=1e-13, tol_feas=1e-13)
    return w.value, separation.dual_value


def plain_descent(W, u, x, y, keep, step_size, steps, loss="logistic", normalized=True):
    """Gradient descent in d dimensions, one step after the other; u None is the linear model.

    The loss and its slope are formed directly, so margins must stay moderate.
    """
    linear = u is None
    W = np.array(np.atleast_2d(W))
    u = np.ones(1) if linear else u
    x, y = x[keep], y[keep]
    for _ in range(steps):
        z = W @ x.T
        q = y * (u @ (z if linear else np.maximum(z, 0)))
        if loss == "logistic":
            total, slope = np.log1p(np.exp(-q)).sum(), 1 / (1 + np.exp(q))
        else:
            total, slope = np.exp(-q).sum(), np.exp(-q)
        weight = slope / total if normalized else slope
        derivative = np.ones_like(z) if linear else (z > 0).astype(float)
        W += step_size * (u[:, None] * derivative * (weight * y)) @ x
    return W


def ascend_plainly(W, u, x, y, forget, fraction, coefficients):
    """W - f q_min u_j c_jr y_r x_r, one forgotten sample r, in d dimensions."""
    q_min = (y * (u @ np.maximum(W @ x.T, 0))).min()
    step = np.outer(u * coefficients[:, forget], y[forget] * x[forget])
    return W - fraction * q_min * step


def clarke_kkt_residual(W, u, x, y, retain, multipliers, coefficients, leak=0.0, tol=1e-9):
    """The largest violation of any condition of a Clarke-KKT point, in NumPy from its definition.

    ``u`` None is the linear model.
    """
    linear = u is None
    W, u = np.atleast_2d(W), np.ones(1) if linear else u
    z = W @ x.T
    q = y * (u @ (z if linear else np.where(z > 0, z, leak * z)))
    low = np.where(z > tol, 1.0, leak) * multipliers
    high = np.where(z < -tol, leak, 1.0) * multipliers
    if linear:
        low = high = np.broadcast_to(multipliers, z.shape)
    outside = np.maximum(low - coefficients, coefficients - high).max()
    stationarity = np.linalg.norm(W - (u[:, None] * coefficients) @ (y[:, None] * x))
    return max(
        stationarity,
        outside,
        -multipliers.min(),
        np.abs(multipliers[~retain]).max(initial=0.0),
        (1 - q[retain]).max(),
        np.abs(multipliers * (q - 1))[retain].max(),
    )


def limit_by_cvxpy(u, x, y, retain, pattern, leak=0.0):
    """The convex program whose same-sign slopes are frozen at ``pattern`` (n, m).

    Neurons that can only do harm are 0 in the optimum; they would leave it degenerate, and an
    interior-point method without its last digits.
    """
    same_sign = (y * u[:, None] > 0) & retain
    useful = np.any(same_sign & (pattern > 0), axis=1)
    everyone, u, pattern = u, u[useful], pattern[useful]
    W = cp.Variable((len(u), x.shape[1]))
    constraints = []
    for i in np.flatnonzero(retain):
        z = W @ x[i]
        same = y[i] * u > 0
        kept = (np.abs(u) * pattern[:, i])[same] @ z[same]
        bent = cp.maximum(z[~same], leak * z[~same]) if leak else cp.pos(z[~same])
        lost = np.abs(u)[~same] @ bent if (~same).any() else 0
        constraints.append(kept - lost >= 1)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(W)), constraints)
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    found = np.zeros((len(everyone), x.shape[1]))
    found[useful] = W.value
    return found


def largest_frozen_margin(u, x, y, pattern):
    """max over ||W|| <= 1 of the least margin with same-sign slopes frozen at ``pattern``, ReLU;
    0 if that program cannot separate.
    """
    W, least = cp.Variable((len(u), x.shape[1])), cp.Variable()
    constraints = [cp.norm(W, "fro") <= 1]
    for i in range(len(y)):
        same = y[i] * u > 0
        z = W @ x[i]
        kept = (np.abs(u) * pattern[:, i])[same] @ z[same] if same.any() else 0
        lost = np.abs(u)[~same] @ cp.pos(z[~same]) if (~same).any() else 0
        constraints.append(kept - lost >= least)
    problem = cp.Problem(cp.Maximize(least), constraints)
    problem.solve(solver="CLARABEL")
    return float(least.value)


def largest_margin(x, y):
    """max over |w|_inf <= 1 of min_i y_i <w, x_i>, by linear programming: 0 if not separable."""
    m, d = x.shape
    result = linprog(
        np.r_[np.zeros(d), -1.0],
        A_ub=np.c_[-(y[:, None] * x), np.ones(m)],
        b_ub=np.zeros(m),
        bounds=[(-1, 1)] * d + [(0, None)],
    )
    return result.x[-1]


def sample_in_d_dimensions(rng, m, d, alpha=None):
    """(x, y) of the mixture, or of isotropic data if ``alpha`` is None, entry by entry."""
    y = rng.choice([-1.0, 1.0], m)
    x = rng.normal(size=(m, d)) / np.sqrt(d)
    if alpha is not None:
        x[:, 0] += y * d ** (alpha - 0.25)
    return x, y

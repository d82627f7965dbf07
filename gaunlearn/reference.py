"""A certificate in NumPy and SciPy, from its definition: what ``verify`` holds the kernel against.

Written for clarity and independence, not for speed: it shares no code, no algorithm and no library
with the engine's. The cone of multipliers is that of its generators (for each sample, lambda = 1
with each kink at one end of its interval); they are found one by one, by column generation around
SciPy's non-negative least squares.
"""

from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear, nnls

__all__ = ["ReferenceCertificate", "ascend", "certify", "certify_best"]

Float = NDArray[np.float64]

_PRECISION = float(np.finfo(float).eps)
_MAX_GENERATORS = 5000
# A generator that lowers the residual by less than this, relative to it, changes no digit.
_LEAST_GAIN = 1e-11
# Gradients nearer to dependent than this leave their coefficients few digits.
_LEAST_ANGLE = 1e-5


class ReferenceCertificate(NamedTuple):
    """epsilon, delta, tau; multipliers (m,) and coefficients (n, m) at the minimum; and whether
    these, and so delta, are the only ones.
    """

    epsilon: float
    delta: float
    tau: float
    multipliers: Float
    coefficients: Float
    unique: bool


def _project_rows(W: Float, x: Float, kink: NDArray[np.bool_]) -> Float:
    """Each row of W orthogonal to its kinks' samples."""
    snapped = W.copy()
    for j in np.flatnonzero(kink.any(1)):
        rows = x[kink[j]]
        snapped[j] -= np.linalg.pinv(rows) @ (rows @ W[j])
    return snapped


def _rounding(W: Float, x: Float, precision: float) -> Float:
    """Pre-activations up to this may be rounding, (n, m)."""
    rows = np.linalg.norm(W, axis=1)
    size = np.maximum(rows, np.linalg.norm(W) / np.sqrt(len(W)))
    return 100 * precision * size[:, None] * np.linalg.norm(x, axis=1)


def _unit(W: Float) -> Float:
    return W / np.linalg.norm(W)


def certify(
    W: Float,
    u: Float | None,
    x: Float,
    y: Float,
    retain: NDArray[np.bool_],
    kink_tol: float | None,
    leak: float = 0.0,
    precision: float = _PRECISION,
    power: int = 1,
    is_limit: bool = False,
) -> ReferenceCertificate | None:
    """The certificate at one kink tolerance; None if W does not separate the retain set.

    Args:
        W: weights (n, r); (1, r) for the linear model.
        u: output weights (n,), or None for the linear model.
        x, y: samples (m, r) and labels (m,).
        retain: mask (m,).
        kink_tol: None ignores kinks.
        leak: slope of the activation below 0.
        precision: relative, of the weights.
        power: the activation is ReLU to this power; squared ReLU has no kinks.
        is_limit: W is a limit that was solved for: a margin that is 1 to rounding is 1.
    """
    linear = u is None
    out = np.ones(1) if u is None else u
    kink = np.zeros((len(W), len(x)), bool)
    kink_tol = kink_tol if power == 1 else None
    if not linear and kink_tol is not None:
        scale = np.linalg.norm(W) / np.sqrt(len(W)) * np.linalg.norm(x, axis=1)
        reach = np.maximum(kink_tol * scale, _rounding(W, x, precision))
        kink = (np.abs(W @ x.T) <= reach) & retain
    snapped = _project_rows(W, x, kink)
    if not linear and kink_tol is not None:
        kink |= (np.abs(snapped @ x.T) <= _rounding(snapped, x, precision)) & retain
    z = np.where(kink, 0.0, snapped @ x.T)
    if not linear and power == 1:  # a sign of rounding is chance
        z = np.where(np.abs(z) <= _rounding(snapped, x, precision), 0.0, z)
    slope = np.ones_like(z) if linear else np.where(z > 0, 1.0, leak)
    q = y * (out @ (slope * z**power))
    least = q[retain].min()
    lengths = np.linalg.norm(x, axis=1)
    rounding = precision * (np.linalg.norm(snapped) * lengths) ** power * np.linalg.norm(out)
    if not least > 100 * rounding[retain].max():
        return None
    unit = least ** (1 / power)
    theta, q = snapped / unit, q / least
    slope = power * slope * (z / unit) ** (power - 1)
    multipliers, coefficients = _smallest_residual(theta, out, x, y, slope, kink, retain, leak)
    residual = theta - (out[:, None] * coefficients) @ (y[:, None] * x)
    slack = np.where(is_limit & (q - 1 <= 300 * rounding / least), 0.0, q - 1)
    return ReferenceCertificate(
        epsilon=float(np.linalg.norm(residual)),
        delta=float((multipliers * slack)[retain].max()),
        tau=float(0.5 * np.sum((_unit(W) - _unit(snapped)) ** 2)),
        multipliers=multipliers,
        coefficients=coefficients,
        unique=_independent(out, x[retain], slope[:, retain], kink[:, retain]),
    )


def _independent(u: Float, x: Float, slope: Float, kink: NDArray[np.bool_]) -> bool:
    """Whether the gradients of all multipliers and kinks are linearly independent, well enough for
    digits to mean something.

    Those of a neuron's kinks must be so by themselves; then what they leave of the samples' smooth
    gradients.
    """

    def is_independent(rows: Float) -> bool:
        if len(rows) > rows.shape[1]:
            return False
        values = np.linalg.svd(rows, compute_uv=False)
        return bool(values[-1] > _LEAST_ANGLE * values[0])

    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    smooth = u[:, None] * np.where(kink, 0.0, slope)
    sizes = np.linalg.norm(smooth, axis=0)
    if not sizes.all():
        return False  # a multiplier that only bounds its kinks
    rest = (smooth / sizes)[:, :, None] * unit
    for j in np.flatnonzero(kink.any(1)):
        if not is_independent(unit[kink[j]]):
            return False
        basis = np.linalg.qr(unit[kink[j]].T)[0]
        rest[j] -= rest[j] @ basis @ basis.T
    return is_independent(rest.transpose(1, 0, 2).reshape(len(x), -1))


def _non_negative(columns: Float, target: Float) -> Float:
    """Non-negative weights with the least residual.

    Both of SciPy's active-set methods may stop short (``nnls`` of 1.17, and ``bvls`` where columns
    are nearly dependent): what one of them gives is taken if it is optimal.

    Raises:
        RuntimeError: neither is.
    """
    rounds = 100 * columns.shape[1]

    def is_optimal(weights: Float) -> bool:
        slope = columns.T @ (target - columns @ weights)
        off = np.where(weights > 0, np.abs(slope), np.maximum(slope, 0.0))
        sizes = np.linalg.norm(columns, axis=0)
        return bool(np.all(off <= 1e-9 * sizes * np.linalg.norm(target)))

    with suppress(RuntimeError):
        weights = nnls(columns, target, maxiter=rounds)[0]
        if is_optimal(weights):
            return weights
    found = lsq_linear(columns, target, (0, np.inf), method="bvls", tol=1e-15, max_iter=rounds).x
    weights = np.where(found > 0, found, 0.0)
    if is_optimal(weights):
        return weights
    raise RuntimeError("neither of SciPy's methods finds the non-negative least squares")


def _smallest_residual(
    theta: Float,
    u: Float,
    x: Float,
    y: Float,
    slope: Float,
    kink: NDArray[np.bool_],
    retain: NDArray[np.bool_],
    leak: float,
) -> tuple[Float, Float]:
    """Multipliers and coefficients that minimise ||theta - sum_i lambda_i y_i h_i||."""
    signed = y[:, None] * x
    owners: list[int] = []
    chosen: list[Float] = []
    columns: list[Float] = []
    weights = np.zeros(0)
    residual = theta
    for _ in range(_MAX_GENERATORS):
        # For each sample the generator that the residual likes best.
        along = u[:, None] * (residual @ signed.T)
        picked = np.where(kink, np.where(along > 0, 1.0, leak), slope)
        gain = np.where(retain, (picked * along).sum(0), 0.0)
        sizes = np.sqrt(((u[:, None] * picked) ** 2).sum(0)) * np.linalg.norm(x, axis=1)
        worth = gain / np.where(sizes > 0, sizes, np.inf)
        new = np.flatnonzero(worth > _LEAST_GAIN * np.linalg.norm(residual))
        if new.size == 0 or np.linalg.norm(residual) < 1e-13 * np.linalg.norm(theta):
            break
        for i in new:
            owners.append(int(i))
            chosen.append(picked[:, i])
            columns.append(((u * picked[:, i])[:, None] * signed[i]).ravel())
        weights = _non_negative(np.stack(columns, axis=1), theta.ravel())
        used = weights > 0
        owners = [owner for owner, keep in zip(owners, used, strict=True) if keep]
        chosen = [vector for vector, keep in zip(chosen, used, strict=True) if keep]
        columns = [column for column, keep in zip(columns, used, strict=True) if keep]
        weights = weights[used]
        residual = theta - (np.stack(columns, axis=1) @ weights).reshape(theta.shape)
    multipliers, coefficients = np.zeros(len(y)), np.zeros(slope.shape)
    for owner, vector, weight in zip(owners, chosen, weights, strict=True):
        multipliers[owner] += weight
        coefficients[:, owner] += weight * vector
    return multipliers, coefficients


def certify_best(
    W: Float,
    u: Float | None,
    x: Float,
    y: Float,
    retain: NDArray[np.bool_],
    kink_tols: list[float] | None,
    tau_budget: float,
    leak: float = 0.0,
    precision: float = _PRECISION,
    power: int = 1,
    is_limit: bool = False,
) -> ReferenceCertificate | None:
    """The least epsilon on a ladder of tolerances with tau within the budget; if there is none,
    the least tau. ``kink_tols`` None ignores kinks.
    """
    ladder: list[float | None] = (
        [*kink_tols] if kink_tols and u is not None and power == 1 else [None]
    )
    rungs = [certify(W, u, x, y, retain, tol, leak, precision, power, is_limit) for tol in ladder]
    found = [rung for rung in rungs if rung is not None]
    within = [rung for rung in found if rung.tau <= tau_budget]
    if within:
        return min(within, key=lambda rung: rung.epsilon)
    return min(found, key=lambda rung: rung.tau) if found else None


def ascend(
    W: Float,
    u: Float | None,
    x: Float,
    y: Float,
    forget: NDArray[np.bool_],
    step_fraction: float,
    coefficients: Float,
    leak: float = 0.0,
    power: int = 1,
) -> Float:
    """W - f s sum_F u_j c_jr y_r x_r (MYV's step on the forget set F for f = 1), with s the least
    margin, or its root of the model's degree.
    """
    out = np.ones(1) if u is None else u
    z = W @ x.T
    activation = z if u is None else np.where(z > 0, z, leak * z) ** power
    scale = (y * (out @ activation)).min() ** (1 / power)
    step = (out[:, None] * coefficients * forget) @ (y[:, None] * x)
    return W - step_fraction * scale * step

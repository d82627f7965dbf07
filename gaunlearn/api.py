"""The public functions of arrays: NumPy arrays in the original d dimensions in, and out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral, Real
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gaunlearn import limit as _limit
from gaunlearn.certifying import (
    Certificate,
    Frontier,
    certify,
    rungs,
    tau_budget_of,
    tolerances,
)
from gaunlearn.checks import check_forget, check_retain, check_samples
from gaunlearn.coordinates import reduce
from gaunlearn.given import UserWeights, read_network
from gaunlearn.ladder import KINK_TOLS, TAU_BUDGET
from gaunlearn.losses import LOSSES
from gaunlearn.training import margins
from gaunlearn.unlearning import METHODS, OF_DEGREE_ONE, Effort, Situation

__all__ = [
    "Certificate",
    "Frontier",
    "Limit",
    "Unlearned",
    "ascend",
    "certify",
    "find_limit",
    "unlearn",
]

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Limit:
    """Where training leads: a Clarke-KKT point of the max-margin problem, as NumPy values.

    Attributes:
        W: its weights, of the given weights' shape, with least margin 1 over the retain set.
        multipliers: lambda (m,), dual variables; 0 outside the retain set.
        status: ``converged`` (by the active-set iteration), ``fallback`` (by the convergent
            method), ``infeasible`` (with the same-sign slopes of the given weights no weights have
            a margin above 1e-7 of the largest that their norm allows) or ``stalled`` (no solution
            to rounding was found). In the last two cases all numbers are NaN.
        iterations: iterations of the active set.
        coefficients: c (n, m), lambda_i times the Clarke derivative of pair (j, i):
            ``W = (u[:, None] * c) @ (y[:, None] * x)``.
        margins: q (m,), the margins of W on all samples.
        epsilon, delta: the KKT residuals that rounding left, as for ``Certificate``; in delta a
            margin that is 1 to rounding is 1.
        pattern_changes: same-sign pairs (y_i u_j > 0) whose sign differs from that in the given
            weights; where there are any, continued training may have gone elsewhere.
    """

    W: Float
    multipliers: Float
    status: str
    iterations: int
    coefficients: Float = field(repr=False)
    margins: Float = field(repr=False)
    epsilon: float
    delta: float
    pattern_changes: int


@dataclass(frozen=True)
class Unlearned:
    """What a method of unlearning makes of weights.

    Attributes:
        W: the unlearned weights, in the form of the given ones.
        gradients: what they cost, in gradients of single samples; a margin alone counts half, a
            linear system of the size of the sample nothing.
    """

    W: UserWeights = field(repr=False)
    gradients: float


@partial(jax.jit, static_argnames=("model", "loss", "method"))
def _apply(
    model, loss, method, weights, u, x, y, order, retain, found, kink_tols, tau_budget, effort
):
    q = jnp.where((order > 0) | retain, margins(model, weights, u, x, y), jnp.inf)
    situation = Situation(
        weights=weights,
        scale=jnp.min(q) ** (1 / model.homogeneity),
        certificate=found,
        u=u,
        x=x,
        y=y,
        order=order,
        retain=retain,
        retrained=weights,
        retraining_steps=jnp.asarray(0),
        kink_tols=kink_tols,
        tau_budget=tau_budget,
    )
    return METHODS[method](model, LOSSES[loss], situation, effort)


_solve_limit = partial(jax.jit, static_argnames="model")(_limit.find_limit)


def ascend(
    W: ArrayLike,
    u: ArrayLike | None,
    x: ArrayLike,
    y: ArrayLike,
    forget: ArrayLike,
    step_fraction: float = 1.0,
    *,
    kink_tol: float | Sequence[float] | None = KINK_TOLS,
    tau_budget: float = TAU_BUDGET,
    leak: float = 0.0,
    power: int = 1,
) -> UserWeights:
    """One gradient-ascent step on the forget set, of the size in MYV's theorem for fraction 1.

    ``W_hat = W - step_fraction * s * sum_F lambda_r y_r h_r`` with the multipliers lambda and
    Clarke gradients h of ``certify(W, u, x, y)`` on all samples; s takes the normalised step to the
    scale of W: the least margin of W, or its root of the model's degree of homogeneity.

    Args:
        W, u: trained weights and output weights, as for ``certify``.
        x: all training samples (m, d), the forgotten ones among them.
        y: labels (m,), +1 or -1.
        forget: an index, indices, or a boolean mask (m,).
        step_fraction: 0 changes nothing, 1 is the theorem's step.
        kink_tol: as for ``certify``.
        tau_budget, leak, power: as for ``certify``.

    Returns:
        The unlearned weights, in the form and at the scale of W.

    Raises:
        ValueError: for input that has no meaning, among it a model that does not separate the
            samples: it has no multipliers.

    >>> import numpy as np
    >>> ascend([2.0, -2.0], None, [[1.0, 0.0], [0.0, 1.0]], [1, -1], forget=1)
    array([2., 0.])
    """
    if not (isinstance(step_fraction, Real) and np.isfinite(step_fraction)):
        raise ValueError(f"step_fraction must be a finite number, not {step_fraction!r}")
    effort = Effort(np.asarray(float(step_fraction)), np.asarray(1), np.asarray(0.0))
    how = _Judging(kink_tol, tau_budget, leak, power)
    return _unlearned_by("ascent", W, u, x, y, forget, effort, "logistic", how).W


def unlearn(
    W: ArrayLike,
    u: ArrayLike | None,
    x: ArrayLike,
    y: ArrayLike,
    forget: ArrayLike,
    method: str,
    *,
    step_fraction: float = 1.0,
    steps: int = 100,
    learning_rate: float = 1.0,
    loss: str = "logistic",
    kink_tol: float | Sequence[float] | None = KINK_TOLS,
    tau_budget: float = TAU_BUDGET,
    leak: float = 0.0,
    power: int = 1,
) -> Unlearned:
    """Forget some samples by one of the methods that gradient ascent is compared with.

    Args:
        W, u, x, y, forget: as for ``ascend``.
        method: ``identity`` (no unlearning), ``ascent`` (the theorem's step, as ``ascend``),
            ``estimated_ascent`` (its size from the loss alone, 1[z > 0] for the derivative),
            ``repeated_ascent`` (in ``steps`` parts), ``sequential_ascent`` (one sample after the
            other, in the order of ``forget``, certified anew in between), ``gradient_difference``
            (descent on the retain set's loss minus step_fraction times the forget set's),
            ``fine_tuning`` (descent on the retain set), ``random_labels`` (descent with wrong
            labels on the forget set),
            ``newton`` (certified removal), ``corrected_ascent`` (the theorem's step with the
            retained multipliers solved for anew) or ``limit_polishing`` (ascent, then the limit
            of training on the retain set). The last three need a model that is homogeneous of
            degree 1.
        step_fraction: the method's dial, 1 is the method as it is meant. It multiplies the step,
            or the learning rate of methods that descend, so that 0 changes nothing; with 0,
            gradient_difference descends on the retain set and limit_polishing starts from W.
        steps: of the methods that take several.
        learning_rate: of each step of descent, divided by the loss as in ``normalized_gd``.
        loss: ``logistic`` or ``exponential``: what W was trained with.
        kink_tol, tau_budget, leak, power: as for ``certify``.

    Returns:
        The unlearned weights, at the scale of W (limits at its norm), and what they cost.

    Raises:
        ValueError: for input that has no meaning, among it a model that does not separate the
            samples.

    >>> found = unlearn([2.0, -2.0], None, [[1.0, 0.0], [0.0, 1.0]], [1, -1], 1, "corrected_ascent")
    >>> found.W.round(12) + 0.0, found.gradients
    (array([2., 0.]), 2.0)
    """
    for name, value, allowed in (
        ("method", method, sorted(set(METHODS) - {"retraining"})),
        ("loss", loss, sorted(LOSSES)),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    if not (isinstance(steps, Integral) and steps >= 1):
        raise ValueError(f"steps must be a whole number, 1 or more, not {steps!r}")
    for name, number in (("step_fraction", step_fraction), ("learning_rate", learning_rate)):
        if not (isinstance(number, Real) and np.isfinite(number) and number >= 0):
            raise ValueError(f"{name} must be a finite number, 0 or more, not {number!r}")
    effort = Effort(np.asarray(float(step_fraction)), np.asarray(steps), np.asarray(learning_rate))
    how = _Judging(kink_tol, tau_budget, leak, power)
    return _unlearned_by(method, W, u, x, y, forget, effort, loss, how)


class _Judging(NamedTuple):
    """How the trained model is certified: arguments of ``certify``."""

    kink_tol: float | Sequence[float] | None
    tau_budget: float
    leak: float
    power: int


def _unlearned_by(
    method: str,
    W: ArrayLike,
    u: ArrayLike | None,
    x: ArrayLike,
    y: ArrayLike,
    forget: ArrayLike,
    effort: Effort,
    loss: str,
    how: _Judging,
) -> Unlearned:
    x_, y_ = check_samples(x, y)
    network = read_network(W, u, x_.shape[1], how.leak, how.power)
    model = network.model
    if method in OF_DEGREE_ONE and model.homogeneity > 1:
        raise ValueError(
            f"method {method} needs a model that is homogeneous of degree 1; this one's degree is"
            f" {model.homogeneity}"
        )
    order = check_forget(forget, len(y_))
    tols, budget = tolerances(how.kink_tol), tau_budget_of(how.tau_budget)
    small = reduce(network, x_, y_)
    problem = small.u, small.x, small.y
    unit = small.weights * network.to_unit()
    everything, retain, order = map(small.widen, (order >= 0, order == 0, order))
    with jax.enable_x64(True):
        _, original = rungs(model, unit, *problem, everything, tols, budget)
        if not original.separated:
            raise ValueError(
                "W does not separate the samples: it has no multipliers to unlearn with"
            )
        arguments = small.weights, *problem, order, retain, original, tols, budget, effort
        found = jax.device_get(_apply(model, loss, method, *arguments))
    # What is not changed stays as it was given, to the bit.
    change = small.lift(found.weights - small.weights)
    return Unlearned(jax.tree.map(np.add, network.weights, change), float(found.gradients))


def find_limit(
    W: ArrayLike,
    u: ArrayLike | None,
    x: ArrayLike,
    y: ArrayLike,
    *,
    retain: ArrayLike | None = None,
    leak: float = 0.0,
) -> Limit:
    """The point that training, continued from W on the retain set, converges to in direction.

    Solved for, not descended to: the Clarke-KKT point of the max-margin problem that keeps the
    signs of same-sign pre-activations (y_i u_j > 0) of W, or those that its own solution asks for.
    W should be trained far enough for these signs to have settled. For the linear model it is the
    hard-margin support vector machine, whatever W. Derivation: docs/mathematics.md.

    Args:
        W: trained or unlearned weights (n, d), or (d,) of the linear model, at any scale.
        u: output weights (n,), or None for the linear model.
        x: samples (m, d).
        y: labels (m,), +1 or -1.
        retain: indices or a boolean mask (m,) of the samples to train on; None is all.
        leak: slope of the activation below 0, in [0, 1); 0 is ReLU.

    Raises:
        ValueError: for input that has no meaning; it says which and what is allowed.

    >>> limit = find_limit([1.0, 1.0], None, [[2.0, 0.0], [0.0, 4.0]], [1, -1])
    >>> limit.W, limit.multipliers, limit.status
    (array([ 0.5 , -0.25]), array([0.25  , 0.0625]), 'converged')
    """
    x_, y_ = check_samples(x, y)
    network = read_network(W, u, x_.shape[1], leak)
    model = network.model
    if not model.has_limit:
        raise ValueError("W is a list of layers: limits are solved for in two-layer networks only")
    mask = check_retain(retain, len(y_))
    small = reduce(network.scaled(network.to_unit()), x_, y_)
    mask = small.widen(mask)
    with jax.enable_x64(True):
        found = jax.device_get(_solve_limit(model, small.weights, small.u, small.x, small.y, mask))
    n, m = len(network.first), len(y_)
    return Limit(
        W=small.lift(found.weights),
        multipliers=found.multipliers[:m],
        status=_limit.STATUSES[int(found.status)],
        iterations=int(found.iterations),
        coefficients=found.coefficients[:n, :m],
        margins=found.margins[:m],
        epsilon=float(found.epsilon),
        delta=float(found.delta),
        pattern_changes=int(found.pattern_changes),
    )

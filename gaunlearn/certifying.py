"""``certify`` and its ``frontier``: NumPy arrays in the original d dimensions in and out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gaunlearn import ladder as _ladder
from gaunlearn.checks import check_retain, check_samples
from gaunlearn.coordinates import reduce
from gaunlearn.frontier import bounded_triples, path_to, point_on, position_within
from gaunlearn.given import GivenNetwork, UserWeights, read_network, read_weights
from gaunlearn.ladder import IGNORED_KINKS, KINK_TOLS, TAU_BUDGET
from gaunlearn.limit import find_limit

__all__ = [
    "Certificate",
    "Frontier",
    "certify",
    "rungs",
    "tau_budget_of",
    "tolerances",
]

Float = NDArray[np.float64]

# Budgets at which a frontier is looked at unless others are asked for.
DELTAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, float("inf"))
TAUS = (1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


class _Judged(NamedTuple):
    """What a certificate is about: checked arguments of ``certify``, and its answer.

    ``found`` (l, 3): epsilon, delta and tau at each tolerance.
    """

    network: GivenNetwork
    x: Float
    y: Float
    retain: NDArray[np.bool_]
    kink_tols: Float
    tau_budget: float
    found: Float


@dataclass(frozen=True)
class Certificate:
    """An (epsilon, delta, tau) triple with what it takes to check it, as NumPy values.

    All of it refers to W~: the given weights with nearly-zero pre-activations projected to zero,
    normalised so that the least margin over the retain set is 1.

    Attributes:
        epsilon: stationarity residual ||W~ - sum_i lambda_i y_i h_i||, h_i a Clarke gradient.
        delta: max_i lambda_i (q_i - 1) over the retain set.
        tau: 1 - cos(W, W~).
        multipliers: lambda (m,), dual variables; 0 outside the retain set.
        kink_pairs: how many retained (neuron, sample) pairs sit at a kink of W~.
        separated: whether W~ classifies the retain set; if not, numbers are NaN.
        coefficients: c (n, m), lambda_i times the Clarke derivative of pair (j, i), so that
            ``(u[:, None] * c) @ (y[:, None] * x)`` is sum_i lambda_i y_i h_i; of deep networks
            (h, n, m), hidden layers first.
        kink_tol: the tolerance that was used.
        gap: relative duality gap of the least-squares problem for the multipliers.
        weights: W~, in the form of the given weights.
        margins: q (m,), the margins of W~ on all samples.
        ladder: the certificates at every tolerance tried, best or not; empty in their own.
    """

    epsilon: float
    delta: float
    tau: float
    multipliers: Float
    kink_pairs: int
    separated: bool
    coefficients: Float = field(repr=False)
    kink_tol: float
    gap: float
    weights: UserWeights = field(repr=False)
    margins: Float = field(repr=False)
    ladder: tuple["Certificate", ...] = field(default=(), repr=False)
    _judged: "_Judged | None" = field(default=None, repr=False, compare=False)

    def frontier(
        self,
        *,
        deltas: Sequence[float] = DELTAS,
        taus: Sequence[float] = TAUS,
        towards: Mapping[str, ArrayLike] | None = None,
    ) -> "Frontier":
        """Which triples (epsilon, delta, tau) the weights W satisfy, as far as is found.

        W~ moves along paths: ``snapped``, the ladder of kink tolerances; ``limit``, from W to the
        limit that training on the retain set would reach from it (``find_limit``; there is none for
        squared ReLU and deep networks); and one to each model in ``towards``. At every point the
        least epsilon is solved for under lambda_i (q_i - 1) <= delta (``gaunlearn/frontier.py`` has
        the details). The result is the same whichever rung of a ladder it is asked of.

        Args:
            deltas: budgets for delta, each positive; inf is none.
            taus: budgets for tau, each 0 to 2: a path has a point as far from W as each allows, and
                its end.
            towards: name -> weights of W's shape, such as a retrained model's. The path goes to
                its certificate's W~ (same tolerances and tau budget as for W). A model that does
                not separate the retain set has none, and its path adds nothing.

        Raises:
            ValueError: for input that has no meaning; it says which and what is allowed.
        """
        judged = self._judged
        if judged is None:
            raise ValueError("this certificate was not made by certify: it has no frontier")
        budgets = _budgets("deltas", deltas, np.inf), _budgets("taus", taus, 2.0)
        return _frontier_of(judged, *budgets, dict(towards or {}))


@dataclass(frozen=True)
class Frontier:
    """Triples that weights W satisfy, none of which another one found beats in all three numbers.

    Attributes:
        epsilon, delta, tau: (p,), by growing tau, then delta: some W~ with cos(W, W~) >= 1 - tau is
            an (epsilon, delta)-approximate KKT point of the retain set's max-margin problem.
        path: what W~ lies on: ``snapped``, ``limit``, or a name given in ``towards``.
        position: where: the kink tolerance on ``snapped``; else 0 (W on the kinks of the path's
            end) to 1 (that end), in angle.
    """

    epsilon: Float
    delta: Float
    tau: Float
    path: tuple[str, ...]
    position: Float

    def least_epsilon(self, delta: float = np.inf, tau: float = np.inf) -> float:
        """The least epsilon of the triples within two budgets; NaN if there is none."""
        within = (self.delta <= delta) & (self.tau <= tau)
        return float(self.epsilon[within].min()) if within.any() else float("nan")


@partial(jax.jit, static_argnames="model")
def rungs(model, weights, u, x, y, retain, kink_tols, tau_budget):
    """The certificate at each tolerance, and the best of them."""
    each = _ladder.ladder(model, weights, u, x, y, retain, kink_tols)
    return each, _ladder.choose(each, tau_budget)


def tolerances(kink_tol: float | Sequence[float] | None) -> Float:
    """A user's ladder as an array; None, kinks ignored, is the negative tolerance."""
    if kink_tol is None:
        return np.array(IGNORED_KINKS)
    try:
        tols = np.atleast_1d(np.asarray(kink_tol, float))
        fits = tols.ndim == 1 and tols.size > 0 and np.all((tols >= 0) & (tols < 1))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"kink_tol must be one or more numbers in [0, 1), not {kink_tol!r}")
    return tols


def tau_budget_of(tau_budget: float) -> float:
    """A user's budget for tau, checked."""
    if not (isinstance(tau_budget, Real) and tau_budget >= 0):
        raise ValueError(f"tau_budget must be a number, at least 0, not {tau_budget!r}")
    return float(tau_budget)


def certify(
    W: ArrayLike,
    u: ArrayLike | None,
    x: ArrayLike,
    y: ArrayLike,
    *,
    retain: ArrayLike | None = None,
    kink_tol: float | Sequence[float] | None = KINK_TOLS,
    tau_budget: float = TAU_BUDGET,
    leak: float = 0.0,
    power: int = 1,
) -> Certificate:
    """How nearly W is a KKT point of the max-margin problem on the retain set (MYV).

    Args:
        W: weights (n, d) of the two-layer ReLU network sum_j u_j relu(<w_j, x>); (d,) of the
            linear model; or a list [W_1, ..., W_H, v] of the layers of a deep bias-free ReLU
            network v . relu(W_H ... relu(W_1 x)), all of it trained: W_1 (n, d), the others (n, n),
            v (n,). Two to eight of them.
        u: output weights (n,), which are not trained; None for the linear model and for a list of
            layers.
        x: samples (m, d).
        y: labels (m,), +1 or -1.
        retain: indices or a boolean mask (m,) of the samples to certify on; None is all.
        kink_tol: a tolerance or a ladder of them: a pre-activation within
            ``kink_tol * (||W||_F / sqrt(n)) * ||x_i||`` of zero is projected to zero, where the
            derivative of ReLU is free in [0, 1]; n counts neurons with u_j != 0.
            None ignores kinks (derivative 1[z > 0]).
        tau_budget: of the ladder, the least epsilon with tau within this budget is returned (of
            several that differ by rounding, the first); if none is within it, the least tau.
        leak: slope of the activation below 0, in [0, 1); 0 is ReLU.
        power: the two-layer network's activation is ReLU to this power, 1 or 2.

    Returns:
        The best certificate; its ``ladder`` holds the one at every tolerance. A model that does
        not separate the retain set has ``separated = False`` and NaN in place of numbers.

    Raises:
        ValueError: for input that has no meaning; it says which and what is allowed.

    >>> import numpy as np
    >>> certify([2.0, -2.0], None, [[1.0, 0.0], [0.0, 1.0]], [1, -1]).epsilon
    0.0
    """
    x_, y_ = check_samples(x, y)
    network = read_network(W, u, x_.shape[1], leak, power)
    mask = check_retain(retain, len(y_))
    tols = tolerances(kink_tol)
    budget = tau_budget_of(tau_budget)
    small = reduce(network.scaled(network.to_unit()), x_, y_)
    wide = small.widen(mask)
    with jax.enable_x64(True):
        each, best = jax.device_get(
            rungs(network.model, small.weights, small.u, small.x, small.y, wide, tols, budget)
        )
    found = np.stack([each.epsilon, each.delta, each.tau], axis=1)
    judged = _Judged(network, x_, y_, mask, tols, budget, found)
    n, m = len(network.first), len(y_)

    def public(c, ladder=()):
        return Certificate(
            epsilon=float(c.epsilon),
            delta=float(c.delta),
            tau=float(c.tau),
            multipliers=c.multipliers[:m],
            kink_pairs=int(c.kink_pairs),
            separated=bool(c.separated),
            coefficients=c.coefficients[..., :n, :m],
            kink_tol=float(c.kink_tol),
            gap=float(c.gap),
            weights=small.lift(c.weights),
            margins=c.margins[:m],
            ladder=ladder,
            _judged=judged,
        )

    ladder = tuple(
        public(jax.tree.map(lambda leaf, i=i: leaf[i], each)) for i in range(len(each.epsilon))
    )
    return public(best, ladder)


@partial(jax.jit, static_argnames="model")
def _triples(model, weights, others, u, x, y, retain, kink_tols, tau_budget, deltas, taus):
    """Positions (k, t + 1) on the paths, and triples (p, b) of all points: those of the ladder
    first, then those of each path.
    """
    problem = u, x, y, retain
    ladder, _ = rungs(model, weights, *problem, kink_tols, tau_budget)
    ends = [find_limit(model, weights, *problem).weights]
    ends += [rungs(model, other, *problem, kink_tols, tau_budget)[1].weights for other in others]
    paths = [path_to(model, weights, u, x, retain, end) for end in ends]
    positions = [jnp.append(jax.vmap(partial(position_within, path))(taus), 1.0) for path in paths]
    points = [
        jax.vmap(partial(point_on, path))(where)
        for path, where in zip(paths, positions, strict=True)
    ]
    at_rounding = jnp.minimum(kink_tols[0], 0.0)
    all_points = jnp.concatenate([ladder.weights, *points])
    bounded = bounded_triples(model, weights, *problem, all_points, at_rounding, deltas)
    return jnp.stack(positions), bounded


def _budgets(name: str, given: Sequence[float], largest: float) -> Float:
    try:
        array = np.atleast_1d(np.asarray(given, float))
        fits = array.ndim == 1 and array.size > 0 and np.all((array > 0) & (array <= largest))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must be one or more numbers above 0, at most {largest:g}, not {given!r}"
        )
    return array


def _frontier_of(
    judged: _Judged, deltas: Float, taus: Float, towards: dict[str, ArrayLike]
) -> Frontier:
    network = judged.network
    reserved = sorted({"snapped", "limit"} & set(towards))
    if reserved:
        raise ValueError(f"towards: {reserved[0]!r} is the name of a path that there always is")
    others = []
    for name, given in towards.items():
        where = f"towards[{name!r}]"
        first, upper = read_weights(network.model, given, judged.x.shape[1], where)
        if first.shape != network.first.shape:
            raise ValueError(
                f"{where} must have the shape of W, {network.first.shape}, not {first.shape}"
            )
        other = network._replace(first=first, upper=upper)
        others.append(other.scaled(other.to_unit()))
    small = reduce(network.scaled(network.to_unit()), judged.x, judged.y, others)
    with jax.enable_x64(True):
        positions, bounded = jax.device_get(
            _triples(
                network.model,
                small.weights,
                list(small.others),
                small.u,
                small.x,
                small.y,
                small.widen(judged.retain),
                judged.kink_tols,
                judged.tau_budget,
                deltas,
                taus,
            )
        )
    # The ladder's own numbers are taken as certify gave them: another program rounds otherwise.
    free, bounded = judged.found, np.stack(bounded, axis=-1)
    rung_count = len(free)
    bounded[:rung_count, :, 2] = free[:, None, 2]
    names = ["snapped"] * rung_count
    names += [name for name in ("limit", *towards) for _ in range(positions.shape[1])]
    places = np.concatenate([np.maximum(judged.kink_tols[:rung_count], 0.0), positions.ravel()])
    path, position = (
        np.concatenate([each[:rung_count], np.repeat(each, len(deltas))])
        for each in (np.asarray(names), places)
    )
    triples = np.concatenate([free, bounded.reshape(-1, 3)])
    kept = _not_beaten(triples)
    kept = kept[np.lexsort((triples[kept, 1], triples[kept, 2]))]
    epsilon, delta, tau = triples[kept].T.copy()
    return Frontier(epsilon, delta, tau, tuple(path[kept].tolist()), position[kept])


def _not_beaten(triples: Float) -> NDArray[np.intp]:
    """Places of the triples (p, 3) that no other one beats or, being equal, comes before."""
    real = np.flatnonzero(np.isfinite(triples).all(1))
    order = real[np.lexsort(triples[real].T[::-1])]
    kept: list[int] = []
    for place in order:  # what beats a triple comes before it in this order
        if not (triples[kept] <= triples[place]).all(1).any():
            kept.append(int(place))
    return np.asarray(kept, dtype=np.intp)

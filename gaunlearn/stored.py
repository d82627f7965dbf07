"""The networks of a stored trial: read, and unlearned once more by the trial's own method."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gaunlearn.api import unlearn
from gaunlearn.given import UserWeights
from gaunlearn.models import LINEAR, SQUARED_RELU
from gaunlearn.sweep.parts import RunError
from gaunlearn.sweep.plan import STARTS
from gaunlearn.sweep.store import Run, Weights

__all__ = ["Networks", "networks"]

Float = NDArray[np.float64]

# A limit is at its kinks but for rounding.
_AT_KINKS = 1e-9


class Networks(NamedTuple):
    """The networks of one trial, in coordinates in which ``certify`` takes them.

    Attributes:
        trained: W of the trained network, (n, r); of a deep one, its layers.
        unlearned: after the trial's method; NaN if the trained network separates nothing.
        retrained: retrained without the forgotten samples.
        u: output weights (n,); None for the linear model (then each W is (r,)) and for deep
            networks.
        x, y: all training samples (m, r) and labels (m,).
        retain: indices of the samples that are not forgotten.
        leak: slope of the activation below 0.
        power: the activation is ReLU to this power.
    """

    trained: UserWeights
    unlearned: UserWeights
    retrained: UserWeights
    u: Float | None
    x: Float
    y: Float
    retain: NDArray[np.int64]
    leak: float
    power: int


def networks(run: Run, trial_id: str) -> Networks:
    """The networks of one trial of a run whose specification has ``[store] weights = true``.

    With ``n`` the result, ``certify(n.unlearned, n.u, n.x, n.y, retain=n.retain, leak=n.leak,
    power=n.power)`` is the trial's certificate, for the tolerances and the budget that its row
    names.

    Raises:
        ValueError: the run has no such trial, or keeps no weights.
    """
    frame = run.to_pandas().set_index("trial_id")
    if trial_id not in frame.index:
        raise RunError(f"{run.path}: has no trial {trial_id!r}")
    row: dict[Any, Any] = frame.loc[trial_id].to_dict()
    stored = run.weights(row["training_id"])
    forgotten = tuple(json.loads(row["forgotten"]))
    first = STARTS[row["retrain_init"]][0]
    try:
        trained = next(w for w in stored if w.forget is None)
        retrained = next(w for w in stored if w.forgotten == forgotten and w.start == first)
    except StopIteration:
        raise RunError(f"{run.path}: has weights of only some of trial {trial_id}") from None
    kind = row["model_kind"]
    leak = 0.0 if np.isnan(row["leak"]) else float(row["leak"])
    power = SQUARED_RELU.power if kind == SQUARED_RELU.name else 1
    u = None if kind == LINEAR.name or trained.upper else trained.u

    def shaped(network: Weights) -> UserWeights:
        if network.upper:
            return (network.W, *network.upper)
        return network.W[0] if kind == LINEAR.name else network.W

    if not row["separated_train"]:
        unlearned = jax.tree.map(lambda a: np.full_like(a, np.nan), shaped(trained))
    elif row["method"] == "retraining":
        unlearned = shaped(retrained)
    else:
        unlearned = _unlearned(row, shaped(trained), u, trained, forgotten, leak, power)
    return Networks(
        shaped(trained),
        unlearned,
        shaped(retrained),
        u,
        trained.x,
        trained.y,
        np.setdiff1d(np.arange(len(trained.y)), forgotten),
        leak,
        power,
    )


def _unlearned(
    row: Mapping[Any, Any],
    W: UserWeights,
    u: Float | None,
    trained: Weights,
    forgotten: Sequence[int],
    leak: float,
    power: int,
) -> UserWeights:
    """The trial's method once more."""
    tols: Any = json.loads(row["kink_tols"]) if row["kinks"] == "handled" else None
    if row["train_end"] == "limit" and tols is not None and row["method"] != "sequential_ascent":
        tols = _AT_KINKS
    steps, rate = row["unlearn_steps"], row["learning_rate"]
    return unlearn(
        W,
        u,
        trained.x,
        trained.y,
        list(forgotten),
        row["method"],
        step_fraction=float(row["step_fraction"]),
        steps=1 if pd.isna(steps) else int(steps),
        learning_rate=float(row["step_size"] if np.isnan(rate) else rate),
        loss=row["loss"],
        kink_tol=tols,
        tau_budget=float(row["tau_budget"]),
        leak=leak,
        power=power,
    ).W

"""The answer to a run's question in two sentences, computed from its trials."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gaunlearn.report.style import settings_of, told

__all__ = ["answer_of"]


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "no number"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.5g}"


def _of_border(manifest: Mapping[str, Any], border: pd.DataFrame | None) -> str:
    about = manifest["border"]
    first, second = about["axes"]
    inside = f"{about['points_inside']} of the {about['points']} points looked at"
    text = (
        f"“{about['predicate']}” holds at {inside}, of {about['points_of_full_grid']} in "
        f"({first}, {second})."
    )
    line = None if border is None else border[border["curve"] == "border"]
    if line is None or line.empty:
        return f"{text} No border runs between them."
    low, high = line[[first, second]].min(), line[[first, second]].max()
    return (
        f"{text} Its border runs over {first} from {_number(low[first])} to "
        f"{_number(high[first])} and {second} from {_number(low[second])} to "
        f"{_number(high[second])}, with a {100 * about['confidence']:.0f} % band from seeds."
    )


def _of_methods(frame: pd.DataFrame) -> str:
    full = frame["step_fraction"] == 1
    meant = frame[full] if full.any() else frame
    by_method = meant[meant["method"] != "retraining"].groupby("method")
    epsilon, tau, cost = (
        {str(name): float(value) for name, value in by_method[column].median().items()}
        for column in ("epsilon", "tau_retrain", "unlearn_gradients")
    )
    one_step = {name: value for name, value in epsilon.items() if name != "limit_polishing"}
    best = min(one_step, key=lambda name: np.nan_to_num(one_step[name], nan=np.inf))
    nearest = min(tau, key=lambda name: np.nan_to_num(tau[name], nan=np.inf))
    text = (
        f"Of {len(epsilon)} methods {best.replace('_', ' ')} leaves the least ε (median "
        f"{_number(epsilon[best])}, for {_number(cost[best])} gradients of single samples)"
    )
    if "identity" in epsilon and best != "identity":
        text += f", against {_number(epsilon['identity'])} for doing nothing"
    return (
        f"{text}. Nearest to the retrained model is {nearest.replace('_', ' ')}, at "
        f"1 \N{MINUS SIGN} cos = {_number(tau[nearest])}."
    )


class _Setting(NamedTuple):
    """One combination of what is swept: medians at the step fraction with the least epsilon."""

    name: str
    step: float
    epsilon: float
    retrained: float
    tau: float
    floor: float


def _of_steps(frame: pd.DataFrame, swept: Sequence[str]) -> str:
    """Where epsilon is smallest, in each setting of the other parameters."""
    groups = list(frame.groupby(list(swept), sort=False)) if swept else [((), frame)]
    found = []
    for values, group in groups:
        by_step = group.groupby("step_fraction")["epsilon"].median().dropna().sort_values()
        if len(by_step):
            step = float(by_step.index.to_numpy(float)[0])
            at_best = group[group["step_fraction"] == step]
            numbers = at_best[["epsilon_retrain", "tau_retrain", "tau_retrain_floor"]].median()
            found.append(
                _Setting(told(swept, values), step, float(by_step.iloc[0]), *numbers.tolist())
            )
    steps = [setting.step for setting in found]
    low, high = (pick(found, key=lambda s: s.epsilon) for pick in (min, max))
    if len(found) > 1:
        usual = max(steps, key=steps.count)
        return (
            f"ε is smallest at step fraction {_number(usual)} in {steps.count(usual)} of "
            f"{len(found)} settings of {', '.join(swept)}: its medians go from "
            f"{_number(low.epsilon)} ({low.name}) to {_number(high.epsilon)} ({high.name}). "
            f"Those of retrained models are {_number(low.retrained)} and "
            f"{_number(high.retrained)}."
        )
    return (
        f"ε is smallest at step fraction {_number(low.step)}: median {_number(low.epsilon)}, "
        f"against {_number(low.retrained)} of a retrained model. There the unlearned and the "
        f"retrained model differ by 1 \N{MINUS SIGN} cos = {_number(low.tau)}, two retrainings by "
        f"{_number(low.floor)}."
    )


def _of_axis(frame: pd.DataFrame, axis: str) -> str:
    by_value = frame.groupby(axis)[["epsilon", "tau_retrain"]].median().dropna(how="all")
    if by_value.empty:
        return "No trial has a certificate."
    first, last = by_value.index[0], by_value.index[-1]
    epsilon, tau = by_value["epsilon"], by_value["tau_retrain"]
    return (
        f"Between {axis} = {_number(first)} and {_number(last)} the median ε goes from "
        f"{_number(epsilon.iloc[0])} to {_number(epsilon.iloc[-1])}. The distance to the retrained "
        f"model, 1 \N{MINUS SIGN} cos, goes from {_number(tau.iloc[0])} to {_number(tau.iloc[-1])}."
    )


def answer_of(
    frame: pd.DataFrame,
    manifest: Mapping[str, Any],
    border: pd.DataFrame | None,
    axis: str | None,
) -> str:
    """Two sentences.

    Args:
        border: of the run (``Run.border``).
        axis: the numeric parameter that the run is mainly along, if any.
    """
    if "border" in manifest:
        return _of_border(manifest, border)
    if frame["epsilon"].isna().all():
        return "No trial has a certificate: no model separates its samples. See the failures below."
    if frame["method"].nunique() > 2:
        return _of_methods(frame)
    if frame["step_fraction"].nunique() > 2 or axis is None:
        return _of_steps(frame, settings_of(frame, manifest))
    unlearned = frame[(frame["step_fraction"] != 0) & (frame["method"] != "identity")]
    return _of_axis(unlearned if len(unlearned) else frame, axis)

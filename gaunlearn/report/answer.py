"""The answer to a run's question in two sentences, computed from its trials."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["answer_of"]


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "no number"
    return f"{value:.3g}"


def _of_border(manifest: Mapping[str, Any], border: pd.DataFrame | None) -> str:
    about = manifest["border"]
    first, second = about["axes"]
    inside = f"{about['points_inside']} of the {about['points']} points looked at"
    text = f"“{about['predicate']}” holds at {inside}, out of {about['points_of_full_grid']}."
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
    meant = frame[(frame["step_fraction"] == 1) | ~(frame["step_fraction"] == 1).any()]
    meant = meant[meant["method"] != "retraining"]
    median = meant.groupby("method")[["epsilon", "tau_retrain", "unlearn_gradients"]].median()
    by_epsilon = median.drop(index="limit_polishing", errors="ignore")["epsilon"].sort_values()
    best, nearest = by_epsilon.index[0], median["tau_retrain"].idxmin()
    text = (
        f"Of {len(median)} methods {best.replace('_', ' ')} leaves the least ε (median "
        f"{_number(by_epsilon.iloc[0])}, for {_number(median['unlearn_gradients'][best])} "
        "gradients of single samples)"
    )
    if "identity" in median.index and best != "identity":
        text += f", against {_number(median['epsilon']['identity'])} for doing nothing"
    return (
        f"{text}. Nearest to the retrained model is {nearest.replace('_', ' ')}, at 1 − cos = "
        f"{_number(median['tau_retrain'][nearest])}."
    )


def _of_steps(frame: pd.DataFrame) -> str:
    by_step = frame.groupby("step_fraction")["epsilon"].median()
    best = by_step.idxmin()
    at_best = frame[frame["step_fraction"] == best].median(numeric_only=True)
    text = (
        f"ε is smallest at step fraction {_number(best)}: median {_number(at_best['epsilon'])}, "
        f"against {_number(at_best['epsilon_retrain'])} of a retrained model"
    )
    if 0.0 in by_step.index:
        text += f" and {_number(by_step[0.0])} of one that was left as it is"
    return (
        f"{text}. There the unlearned and the retrained model differ by 1 − cos = "
        f"{_number(at_best['tau_retrain'])}, two retrainings by "
        f"{_number(at_best['tau_retrain_floor'])}."
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
        f"model, 1 − cos, goes from {_number(tau.iloc[0])} to {_number(tau.iloc[-1])}."
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
        return _of_steps(frame)
    unlearned = frame[(frame["step_fraction"] != 0) & (frame["method"] != "identity")]
    return _of_axis(unlearned if len(unlearned) else frame, axis)

"""The answer to a run's question in two sentences, computed from its trials."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gaunlearn.report.axis import crossing, is_below
from gaunlearn.report.medians import median_of, quartiles
from gaunlearn.report.parts import DIALS, Line, as_meant, fits_of, grouped, lines_along, settings_of
from gaunlearn.report.style import LEAST_SHOWN, QUALITY, tells_quality, told, value_of
from gaunlearn.schema import ROUNDING

__all__ = ["answer_of"]


# Settings that a sentence names one by one.
_MOST_TOLD = 3
# Of the correlation of the share that is inside with an axis: less is no direction.
_LEAST_TREND = 0.2
# Relative difference of medians that are as good as each other.
_TIED = 1e-3


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "no number"
    if 0 < abs(value) < ROUNDING["float64"]:
        return f"< {ROUNDING['float64']:g}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.5g}"


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _side(points: pd.DataFrame, axes: Sequence[str]) -> str:
    """Towards which ends of the axes it holds, as far as there is one."""
    towards = []
    for axis in axes:
        if points["share"].nunique() > 1:
            trend = points[axis].rank().corr(points["share"])
            if abs(trend) >= _LEAST_TREND:
                towards.append(f"{'larger' if trend > 0 else 'smaller'} {axis}")
    return f", towards {_joined(towards)}" if towards else ""


def _quality(frame: pd.DataFrame, points: pd.DataFrame, axes: Sequence[str]) -> str:
    """How well is unlearned on both sides of a border that is about something else."""
    inside = pd.MultiIndex.from_frame(points.loc[points["margin"] >= 0, list(axes)].astype(float))
    here = pd.MultiIndex.from_frame(frame[list(axes)].astype(float)).isin(inside)
    sides = [median_of(frame[QUALITY][side]) for side in (here, ~here)]
    return (
        f" The least ε with δ ≤ 0.1 and τ ≤ 0.01 has a median of {_number(sides[0])} inside and "
        f"{_number(sides[1])} outside."
    )


def _of_border(
    frame: pd.DataFrame,
    manifest: Mapping[str, Any],
    border: pd.DataFrame | None,
    points: pd.DataFrame | None,
) -> str:
    about, column = manifest["border"], value_of(manifest)
    first, second = about["axes"]
    if frame[column].isna().all():
        return f"No trial has a value of {column}: there is nothing to be found."
    inside = f"{about['points_inside']} of the {about['points']} points looked at"
    text = (
        f"“{about['predicate']}” holds at {inside}, of {about['points_of_full_grid']} in "
        f"({first}, {second})"
    )
    text += "." if points is None else f"{_side(points, (first, second))}."
    without = int((~frame["separated"]).sum())
    if without:
        text = f"{text[:-1]}; {without} of {len(frame)} trials have no certificate."
    if points is not None and not tells_quality(manifest):
        text += _quality(frame, points, (first, second))
    line = None if border is None else border[border["curve"] == "border"]
    if line is None or line.empty:
        return f"{text} No border runs between them."
    sure = about["confidence"]  # 0 of one seed
    band = f", with a {100 * sure:.0f} % band from seeds" if sure > 0 else ""
    low, high = line[[first, second]].min(), line[[first, second]].max()
    return (
        f"{text} Its border runs over {first} from {_number(low[first])} to "
        f"{_number(high[first])} and {second} from {_number(low[second])} to "
        f"{_number(high[second])}{band}."
    )


def _by_method(frame: pd.DataFrame, column: str) -> dict[str, float]:
    """Of a method with several dials, the median at the one with the least."""
    dials = [dial for dial in DIALS if dial in frame and frame[dial].notna().any()]
    return {
        str(name): min(
            (median_of(group[column]) for _, group in grouped(mine, dials)),
            key=lambda value: np.nan_to_num(value, nan=np.inf),
        )
        for name, mine in frame.groupby("method")
    }


def _range(values: Sequence[float]) -> str:
    """One number, or the least and the greatest of some."""
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return "no number"
    ends = dict.fromkeys((_number(min(known)), _number(max(known))))
    return " to ".join(ends) + (" or no number" if len(known) < len(values) else "")


def _best(numbers: Mapping[str, float]) -> tuple[str, float]:
    """Whose number is least, and that number; several that differ by ``_TIED`` at most."""
    least = min(value for value in numbers.values() if np.isfinite(value))
    names = [
        name.replace("_", " ") for name, value in numbers.items() if value <= least * (1 + _TIED)
    ]
    return " or ".join(names), least


def _winners(settings: Sequence[Mapping[str, float]]) -> str:
    """Which method has the least number in how many settings, and its medians there."""
    by_winner: dict[str, list[float]] = {}
    decided = [numbers for numbers in settings if any(map(np.isfinite, numbers.values()))]
    for numbers in decided:
        names, least = _best(numbers)
        by_winner.setdefault(names, []).append(least)
    order = sorted(by_winner, key=lambda name: -len(by_winner[name]))
    parts = []
    for name in order[:_MOST_TOLD]:
        won = by_winner[name]
        where = f", in {len(won)} of {len(settings)} settings" if len(settings) > 1 else ""
        parts.append(f"{name} (median {_range(won)}{where})")
    if len(decided) < len(settings):
        parts.append(f"none in {len(settings) - len(decided)}, where no method has a number")
    return _joined(parts)


def _of_methods(frame: pd.DataFrame, manifest: Mapping[str, Any]) -> str:
    meant = as_meant(frame)
    # A limit is a KKT point by definition, and retraining is what the others are compared with.
    competing = meant[~meant["method"].isin(("retraining", "limit_polishing"))]
    meant = meant if competing.empty else competing
    groups = [group for _, group in grouped(meant, settings_of(meant, manifest, apart_from=DIALS))]
    epsilon, tau, cost = (
        [_by_method(group, column) for group in groups]
        for column in ("epsilon", "tau_retrain", "unlearn_gradients")
    )
    text = f"Of {meant['method'].nunique()} methods the least ε is that of {_winners(epsilon)}"
    if len(groups) == 1 and any(map(np.isfinite, epsilon[0].values())):
        names, _ = _best(epsilon[0])
        first = names.split(" or ")[0].replace(" ", "_")
        text += f", for {_number(cost[0][first])} gradients of single samples"
    nothing = [numbers["identity"] for numbers in epsilon if "identity" in numbers]
    if nothing:
        text += f", against {_range(nothing)} for doing nothing"
    floors = [median_of(group["tau_retrain_floor"]) for group in groups]
    return (
        f"{text}. Nearest to the retrained model, in 1 \N{MINUS SIGN} cos, is {_winners(tau)}; "
        f"two retrainings differ by {_range(floors)}."
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
    found = []
    groups = grouped(frame, swept)
    for values, group in groups:
        by_step = quartiles(group, "step_fraction", "epsilon")["median"].dropna().sort_values()
        if len(by_step):
            step = float(by_step.index.to_numpy(float)[0])
            at_best = group[group["step_fraction"] == step]
            compared = ("epsilon_retrain", "tau_retrain", "tau_retrain_floor")
            numbers = [median_of(at_best[name]) for name in compared]
            found.append(_Setting(told(swept, values), step, float(by_step.iloc[0]), *numbers))
    if not found:
        return "In no setting do half of the trials have a certificate. See the failures below."
    failed = len(groups) - len(found)
    missing = f" In {failed} of {len(groups)} settings most trials have none." if failed else ""
    steps = [setting.step for setting in found]
    low, high = (pick(found, key=lambda s: s.epsilon) for pick in (min, max))
    if len(found) > 1:
        usual = max(steps, key=steps.count)
        return (
            f"ε is smallest at step fraction {_number(usual)} in {steps.count(usual)} of "
            f"{len(found)} settings of {', '.join(swept)}: its medians go from "
            f"{_number(low.epsilon)} ({low.name}) to {_number(high.epsilon)} ({high.name}). "
            f"Those of retrained models are {_number(low.retrained)} and "
            f"{_number(high.retrained)}.{missing}"
        )
    where = f"Of {low.name} " if low.name else ""
    return (
        f"{where}ε is smallest at step fraction {_number(low.step)}: median "
        f"{_number(low.epsilon)}, against {_number(low.retrained)} of a retrained model. There "
        f"the unlearned and the retrained model differ by 1 \N{MINUS SIGN} cos = "
        f"{_number(low.tau)}, two retrainings by {_number(low.floor)}.{missing}"
    )


def _every(lines: Sequence[Line], axis: str, column: str) -> str:
    """From where to where each line goes, those together that agree."""
    by_text: dict[str, list[str]] = {}
    for line in lines:
        median = quartiles(line.trials, axis, column)["median"]
        text = f"{_number(median.iloc[0])} to {_number(median.iloc[-1])}"
        by_text.setdefault(text, []).append(line.label)
    if len(lines) == 1:
        return next(iter(by_text))
    return _joined([f"{text} ({', '.join(labels)})" for text, labels in by_text.items()])


def _against_nothing(lines: Sequence[Line], axis: str) -> str:
    """Where unlearning is better than doing nothing, and from where on it no longer is."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in lines:
        if line.untouched.empty:
            continue
        for column, name in (("epsilon", "ε"), ("tau_retrain", "1 \N{MINUS SIGN} cos")):
            mine, nothing = (
                quartiles(trials, axis, column)["median"]
                for trials in (line.trials, line.untouched)
            )
            better, at = is_below(mine, nothing), crossing(mine, nothing)
            if better.empty:
                continue
            if better.all():
                verdict = "everywhere better"
            elif not better.any():
                verdict = "nowhere better"
            elif at is not None:
                verdict = f"no longer better from {_number(at)} on"
            else:
                verdict = "better only in places"
            found.setdefault(verdict, {}).setdefault(name, []).append(line.label)
    if not found:
        return ""

    parts = []
    for verdict, names in found.items():
        measures = [
            name if len(labels) == len(lines) else f"{name} ({', '.join(labels)})"
            for name, labels in names.items()
        ]
        parts.append(f"{verdict} in {_joined(measures)}")
    return f" Against doing nothing it is {_joined(parts)}."


def _of_axis(frame: pd.DataFrame, manifest: Mapping[str, Any], axis: str) -> str:
    """From where to where each setting goes, and where unlearning is better than nothing."""
    lines = lines_along(frame, manifest, axis)
    told_of = lines[:_MOST_TOLD]
    first, last = frame[axis].min(), frame[axis].max()
    medians = [quartiles(line.trials, axis, "epsilon")["median"] for line in told_of]
    if all((median < LEAST_SHOWN).all() for median in medians):
        quality = f"ε is 0 to rounding, the median δ goes from {_every(told_of, axis, 'delta')}"
    else:
        quality = f"the median ε goes from {_every(told_of, axis, 'epsilon')}"
    text = (
        f"Between {axis} = {_number(first)} and {_number(last)} {quality}, the distance to the "
        f"retrained model, 1 \N{MINUS SIGN} cos, from {_every(told_of, axis, 'tau_retrain')}."
    )
    if len(lines) > len(told_of):
        more = len(lines) - len(told_of)
        return f"{text[:-1]}; {more} more settings are in the figure."
    return text + _against_nothing(lines, axis)


def answer_of(
    frame: pd.DataFrame,
    manifest: Mapping[str, Any],
    border: pd.DataFrame | None,
    points: pd.DataFrame | None,
) -> str:
    """Two sentences.

    Args:
        border, points: of the run (``Run.border``, ``Run.points``).
    """
    fits = fits_of(frame, manifest)
    if fits.border:
        return _of_border(frame, manifest, border, points)
    if frame["epsilon"].isna().all():
        return "No trial has a certificate: no model separates its samples. See the failures below."
    if fits.axis is not None and not fits.steps:
        return _of_axis(frame, manifest, fits.axis)
    if fits.methods and frame["step_fraction"].nunique() <= 2:
        return _of_methods(frame, manifest)
    return _of_steps(frame, settings_of(frame, manifest))

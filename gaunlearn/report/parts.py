"""What of a run is shown: along which axes, and which of its trials.

Figures, page and answer all ask here, so that they speak of the same trials.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gaunlearn.report.style import told

__all__ = ["DIALS", "Fits", "Line", "as_meant", "fits_of", "grouped", "lines_along", "settings_of"]

# What a method's cost depends on.
DIALS = ("method", "unlearn_steps", "learning_rate")
# Fewer values make no curve, and no plane.
_LEAST_ALONG_AXIS = 4
_LEAST_IN_PLANE = 3
# Step fraction 0 of these does something.
_NEVER_NOTHING = ("gradient_difference", "limit_polishing")


class Fits(NamedTuple):
    """What there is to be shown of a run.

    Attributes:
        border: whether it looks for one.
        plane: two numeric axes, the one with more values first; None if it has not two.
        axis: the numeric axis with the most values; None if none has enough, or it has a border.
        steps: whether it is to be shown against the step fraction.
        methods: whether methods are to be shown against each other.
    """

    border: bool
    plane: tuple[str, str] | None
    axis: str | None
    steps: bool
    methods: bool


def fits_of(frame: pd.DataFrame, manifest: Mapping[str, Any]) -> Fits:
    """What a run's swept parameters ask for."""
    several = frame["method"].nunique() > 1
    counts = {
        name: frame[name].nunique()
        for name in manifest["swept"]
        if name in frame
        and pd.api.types.is_numeric_dtype(frame[name])
        # Of several methods these are dials of some.
        and not (several and name in DIALS)
    }
    by_count = sorted(counts, key=lambda name: counts[name], reverse=True)
    wide = [name for name in by_count if counts[name] >= _LEAST_IN_PLANE]
    fractions = frame["step_fraction"].nunique()
    if "border" in manifest:
        first, second = manifest["border"]["axes"]
        return Fits(True, (first, second), None, fractions > 2, False)
    plane = (wide[0], wide[1]) if len(wide) > 1 else None
    axis = next((name for name in by_count if counts[name] >= _LEAST_ALONG_AXIS), None)
    methods = several and axis is None and plane is None
    alone = fractions == 2 and not (plane or axis or methods)
    return Fits(False, plane, axis, fractions > 2 or alone, methods)


def settings_of(
    frame: pd.DataFrame, manifest: Mapping[str, Any], *, apart_from: Sequence[str] = ()
) -> list[str]:
    """The swept columns that tell a run's settings apart; of those that advance together only the
    first, and none that ``apart_from`` determines, which the caller shows in another way.
    """
    known = [name for name in apart_from if name in frame]
    found: list[str] = []
    for name in manifest["swept"]:
        if name not in frame or name in known:
            continue
        values = frame.groupby(known, dropna=False)[name] if known else frame[name]
        if np.max(values.nunique(dropna=False)) > 1:
            known.append(name)
            found.append(name)
    return found


def grouped(
    frame: pd.DataFrame, names: Sequence[str]
) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Each combination of some columns' values, in the order in which they occur, with its trials;
    of no columns, all trials.
    """
    if not names:
        return [((), frame)]
    return [
        # Unlike NaN, None is equal to itself.
        (tuple(None if value != value else value for value in values), group)
        for values, group in frame.groupby(list(names), sort=False, dropna=False)
    ]


def as_meant(frame: pd.DataFrame) -> pd.DataFrame:
    """Trials at step fraction 1, the methods as they are meant (or at the largest fraction there
    is); all of methods that do nothing.
    """
    fractions = frame["step_fraction"]
    full = 1.0 if (fractions == 1.0).any() else fractions.max()
    return frame[(fractions == full) | (frame["method"] == "identity")]


class Line(NamedTuple):
    """One setting of a run along an axis.

    Attributes:
        label: which.
        trials: of a method as it is meant.
        untouched: of the same settings with nothing done to the trained models; may be empty.
        family: which settings these are, apart from the method: lines of one family are compared
            with the same untouched models.
    """

    label: str
    trials: pd.DataFrame
    untouched: pd.DataFrame
    family: tuple[Any, ...]


def lines_along(frame: pd.DataFrame, manifest: Mapping[str, Any], axis: str) -> list[Line]:
    """A line for each combination of the swept parameters other than an axis."""
    others = settings_of(frame, manifest, apart_from=[axis])
    families = [name for name in others if name not in DIALS]
    nothing = (frame["step_fraction"] == 0) & ~frame["method"].isin(_NEVER_NOTHING)
    untouched = frame[nothing | (frame["method"] == "identity")]
    # It does not depend on the method: one of them is enough, or medians count trials repeatedly.
    once = ["training_id", "retrain_init", "forgotten", "kink_tols"]
    untouched = untouched.drop_duplicates(once)
    by_family = dict(grouped(untouched, families))
    meant = as_meant(frame)
    moved = meant[(meant["method"] != "identity") & (meant["step_fraction"] > 0)]
    if moved.empty:
        moved = meant
    if moved["method"].nunique() == 1 and len(others) > 1:
        others = [name for name in others if name != "method"]
    found = []
    for values, group in grouped(moved, others):
        family = tuple(v for v, name in zip(values, others, strict=True) if name in families)
        beside = by_family.get(family, untouched.iloc[:0])
        found.append(Line(told(others, values) or "unlearned", group, beside, family))
    return found

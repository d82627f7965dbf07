"""Medians and quartiles over trials, those without a number among them.

A trial without a number (its model separates nothing, its training diverged) is not left out: it
counts as worse than all that have one. So a median exists where more than half of the trials have a
number, and a setting that mostly fails does not look good for the few trials in which it did not.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["is_share", "median_of", "quartiles"]

# Beyond all numbers of a data set, and finite: interpolation with infinity would give NaN.
_WORST = 1e300
_NO_NUMBER = 1e200
_QUARTILES = {"low": 0.25, "median": 0.5, "high": 0.75}


def is_share(values: pd.Series) -> bool:
    """Whether a column is of yes and no, of which the share of yes is shown."""
    if values.dtype == object:  # with nulls among them
        return bool(values.dropna().map(lambda v: isinstance(v, bool)).all())
    return pd.api.types.is_bool_dtype(values)


def _numbers(values: pd.Series) -> pd.Series:
    """Numbers, the worst in place of none: of accuracies the least, of all else the greatest."""
    worst = -_WORST if str(values.name).startswith("accuracy") else _WORST
    return values.astype(float).fillna(worst).clip(-_WORST, _WORST)


def quartiles(frame: pd.DataFrame, by: str | Sequence[str], column: str) -> pd.DataFrame:
    """``low``, ``median`` and ``high`` quartile of a column and the ``count`` of trials, for each
    value of ``by`` (or combination of values), which index them. NaN where a quartile is no number.
    Of a column of yes and no (``is_share``) all three are the share of yes.
    """
    keys = [by] if isinstance(by, str) else list(by)
    known = frame.dropna(subset=keys)
    values = known[column]
    if is_share(values):
        groups = values.fillna(value=False).astype(float).groupby([known[key] for key in keys])
        found = {name: groups.mean() for name in _QUARTILES}
    else:
        groups = _numbers(values).groupby([known[key] for key in keys])
        found = {name: groups.quantile(q) for name, q in _QUARTILES.items()}
    table = pd.DataFrame({**found, "count": groups.size()})
    return table.where(table.abs() < _NO_NUMBER)


def median_of(values: pd.Series) -> float:
    """The median of some trials' numbers; NaN if half of them or more have none."""
    middle = float(_numbers(values).median()) if len(values) else np.nan
    return middle if abs(middle) < _NO_NUMBER else np.nan

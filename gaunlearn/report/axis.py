"""A run along one numeric axis of its specification: how unlearning does as it grows."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from gaunlearn.report.style import COLOURS, is_log, settings_of, symbol_of, title_of, told

__all__ = ["axis_of", "draw_axis", "draw_column"]

# Fewer values make no curve, and more lines cannot be told apart.
_LEAST_VALUES = 4
_MOST_LINES = 8
_LEAST = 1e-10
_NOTHING = "doing nothing"
_ROWS = (
    ("epsilon", "ε on the retain set"),
    ("tau_retrain", "τ to the retrained model"),
)


def axis_of(frame: pd.DataFrame, manifest: Mapping[str, Any]) -> str | None:
    """The swept number with the most values; None if none has enough for a curve."""
    counts = {
        name: frame[name].nunique()
        for name in manifest["swept"]
        if name in frame and pd.api.types.is_numeric_dtype(frame[name])
    }
    best = max(counts, key=lambda name: counts[name], default=None)
    return best if best is not None and counts[best] >= _LEAST_VALUES else None


def _lines(frame: pd.DataFrame, others: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """What is drawn: each combination of the other axes at step fraction 1 (or the largest), and
    what is left untouched, the baseline, first.
    """
    fractions = np.sort(frame["step_fraction"].unique())
    full = 1.0 if 1.0 in fractions else fractions[-1]
    untouched = frame[(frame["step_fraction"] == 0) | (frame["method"] == "identity")]
    untouched = untouched[~untouched["method"].isin(("gradient_difference", "limit_polishing"))]
    moved = frame[(frame["step_fraction"] == full) & (frame["method"] != "identity")]
    # It does not depend on the method: one of them is enough, or medians count trials repeatedly.
    once = untouched.drop_duplicates(["training_id", "retrain_init", "forgotten", "kink_tols"])
    found = [(_NOTHING, once)] if len(once) else []
    groups = list(moved.groupby(others, sort=False, dropna=False)) if others else [((), moved)]
    for values, group in groups:
        found.append((told(others, values) or "ascent", group))
    return found


def _quartiles(frame: pd.DataFrame, axis: str, column: str) -> pd.DataFrame:
    """Quartiles at each value; a trial without a number is worse than all that have one."""
    values = frame[column].fillna(np.inf).clip(lower=_LEAST)
    # "lower" and "higher" never mix a number with infinity.
    by_value = values.groupby(frame[axis])
    found = {
        q: by_value.quantile(q, interpolation=how)
        for q, how in ((0.25, "lower"), (0.5, "lower"), (0.75, "higher"))
    }
    return pd.DataFrame(found).replace(np.inf, np.nan)


def draw_axis(frame: pd.DataFrame, manifest: Mapping[str, Any], axis: str) -> Figure:
    """Epsilon, the distance to the retrained model and the share of trials with a certificate,
    along one axis; where a line rises above that of doing nothing for good, it says so.
    """
    others = settings_of(frame, manifest, apart_from=[axis])
    every = _lines(frame, others)
    lines = every[: _MOST_LINES + 1]
    figure = Figure(figsize=(7.2, 8.2))
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(1.2, 1.2, 0.7))
    for place, (label, group) in enumerate(lines):
        nothing = label == _NOTHING
        colour = "#555555" if nothing else COLOURS[(place - 1) % len(COLOURS)]
        style = {"color": colour, "linestyle": "--" if nothing else "-", "linewidth": 1.7}
        for ax, (column, _) in zip(panels[:2], _ROWS, strict=True):
            q = _quartiles(group, axis, column)
            ax.fill_between(q.index, q[0.25], q[0.75], color=colour, alpha=0.15, linewidth=0)
            ax.plot(q.index, q[0.5], marker=".", label=label, **style)
            if not nothing and lines[0][0] == _NOTHING:
                _mark_worse(ax, q[0.5], _quartiles(lines[0][1], axis, column)[0.5], colour)
        share = group.groupby(axis)["separated"].mean()
        panels[2].plot(share.index, share, marker=".", **style)
    floor = frame.groupby(axis)["tau_retrain_floor"].median()
    panels[1].plot(floor.index, floor, color="#999999", linestyle=":", label="two retrainings")
    for ax, (_, label) in zip(panels[:2], _ROWS, strict=True):
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_ylabel(label)
    panels[2].set_ylabel("share with\na certificate")
    panels[2].set_ylim(-0.05, 1.05)
    if is_log(frame[axis]):
        panels[2].set_xscale("log")
    panels[2].set_xlabel(symbol_of(axis))
    handles, labels = panels[1].get_legend_handles_labels()
    panels[0].legend(
        handles,
        labels,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=min(3, len(handles)),
        borderaxespad=0.1,
    )
    wrapped = textwrap.wrap(title_of(manifest), 76)
    figure.suptitle("\n".join(wrapped), x=0.02, ha="left", fontsize=11)
    note = (
        f"{len(frame)} trials; medians and quartiles over seeds and points, lines end where half "
    )
    note += "have no certificate;\n▲ from here on the median is above that of doing nothing"
    if len(every) > len(lines):
        note += f"; {len(every) - len(lines)} more settings are not drawn"
    if (frame["epsilon"] < _LEAST).any():
        note += f"; below {_LEAST:g} is drawn at {_LEAST:g}"
    figure.text(0.02, 0.008, note, fontsize=7.5, color="#666666")
    figure.subplots_adjust(left=0.13, right=0.96, bottom=0.1, top=0.87, hspace=0.12)
    return figure


def _mark_worse(ax: Axes, line: pd.Series, nothing: pd.Series, colour: str) -> None:
    """A mark where a line crosses that of doing nothing, from below and for good."""
    shared = line.index.intersection(nothing.index)
    above = ~(line[shared] < nothing[shared]).to_numpy()
    if above.all() or not above[-1]:  # of nothing, all is true
        return
    first = len(above) - int(np.argmin(above[::-1]))
    value = line[shared].iloc[first]
    height = value if np.isfinite(value) else nothing[shared].iloc[first]
    ax.plot(shared[first], height, marker="^", color=colour, markersize=9, zorder=5)
    ax.annotate(
        f"{shared[first]:g}",
        (shared[first], height),
        xytext=(6, 6),
        textcoords="offset points",
        fontsize=8,
        color=colour,
    )


def draw_column(
    frame: pd.DataFrame, manifest: Mapping[str, Any], x: str, value: str, facet: str | None = None
) -> Figure:
    """Median and quartiles of one column along another, a line for each value of a third."""
    groups = [("", frame)]
    if facet is not None:
        every = frame.groupby(facet, sort=True, dropna=False)
        groups = [(told([facet], [name]), group) for name, group in every]
    shown = groups[: len(COLOURS)]
    figure = Figure(figsize=(7.2, 4.8))
    ax = figure.subplots()
    for colour, (label, group) in zip(COLOURS, shown, strict=False):
        by_x = group.groupby(x)[value]
        low, mid, high = (by_x.quantile(q) for q in (0.25, 0.5, 0.75))
        ax.fill_between(low.index, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(mid.index, mid, color=colour, marker=".", linewidth=1.7, label=label)
    if is_log(frame[value]):
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(NullFormatter())
    if is_log(frame[x]):
        ax.set_xscale("log")
    ax.set_xlabel(symbol_of(x))
    ax.set_ylabel(symbol_of(value))
    if facet is not None:
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1)
    wrapped = textwrap.wrap(title_of(manifest), 76)
    figure.suptitle("\n".join(wrapped), x=0.02, ha="left", fontsize=11)
    note = f"{len(frame)} trials; medians and quartiles of those that have a number"
    if len(groups) > len(shown):
        note += f"; {len(groups) - len(shown)} more values of {facet} are not drawn"
    figure.text(0.02, 0.015, note, fontsize=7.5, color="#666666")
    figure.subplots_adjust(left=0.12, right=0.97, bottom=0.14, top=0.82)
    return figure

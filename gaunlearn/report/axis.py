"""A run along one numeric axis of its specification: how unlearning does as it grows."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gaunlearn.report.medians import is_share, quartiles
from gaunlearn.report.parts import Line, grouped, lines_along
from gaunlearn.report.style import (
    COLOURS,
    LEAST_SHOWN,
    footnote,
    is_log,
    label_decades,
    symbol_of,
    title_of,
    told,
)

__all__ = ["crossing", "draw_axis", "draw_column", "is_below"]

# More lines cannot be told apart.
_MOST_LINES = 8
_GREY = "#555555"
_NOTHING, _TRAINED, _BOUND = "--", (0, (3, 1, 1, 1)), (0, (1, 1))
# A panel each: column, label, that of the trained model, bound stated beforehand.
_ROWS = (
    ("epsilon", "ε on the retain set", "epsilon_train", "bound_epsilon"),
    ("delta", "δ, complementarity", "delta_train", "bound_delta"),
    ("tau_retrain", "τ to the retrained model", None, None),
)


def is_below(line: pd.Series, nothing: pd.Series) -> pd.Series:
    """Where a line is below that of doing nothing, at values of the axis, which indexes both, at
    which at least one of them has a number; no number is above all.
    """
    shared = line.index.intersection(nothing.index)
    known = line[shared].notna() | nothing[shared].notna()
    mine, theirs = (each[shared][known].fillna(np.inf) for each in (line, nothing))
    return mine < theirs


def crossing(line: pd.Series, nothing: pd.Series) -> Any | None:
    """The value of the axis from which on a line is no longer below that of doing nothing
    (``is_below``); None if it nowhere is below it, or still is at the end.
    """
    below = is_below(line, nothing)
    if not below.any() or below.iloc[-1]:
        return None
    return below.index[len(below) - int(np.argmax(below.to_numpy()[::-1]))]


def _plain(ax: Axes, frame: pd.DataFrame, axis: str, column: str, colour: str, style: Any) -> bool:
    """Medians alone; nothing if all of them are rounding, or no numbers."""
    median = quartiles(frame, axis, column)["median"]
    if not (median > LEAST_SHOWN).any():
        return False
    shown = median.clip(lower=LEAST_SHOWN)
    ax.plot(shown.index, shown, color=colour, linestyle=style, linewidth=1.1)
    return True


def _legend(ax: Axes, lines: Sequence[Line], kinds: Mapping[str, Any]) -> int:
    """Colours by setting, styles by what a line is of; returns how many rows it takes."""
    handles = [
        Line2D([], [], color=COLOURS[k % len(COLOURS)], marker=".") for k in range(len(lines))
    ]
    labels = [line.label for line in lines]
    for label, style in kinds.items():
        handles.append(Line2D([], [], color=_GREY, linestyle=style, linewidth=1.2))
        labels.append(label)
    columns = 3 if max(map(len, labels)) < 24 else 2
    ax.legend(
        handles, labels, loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, borderaxespad=0.1
    )
    return -(-len(handles) // columns)


def draw_axis(frame: pd.DataFrame, manifest: Mapping[str, Any], axis: str) -> Figure:
    """Epsilon, delta, the distance to the retrained model and the share of trials with a
    certificate, along one axis; where a line rises above that of doing nothing for good, a mark.
    """
    every = lines_along(frame, manifest, axis)
    lines = every[:_MOST_LINES]
    several_families = len({line.family for line in lines}) > 1
    figure = Figure(figsize=(7.2, 10.2))
    panels = figure.subplots(4, 1, sharex=True, height_ratios=(1.25, 1, 1.1, 0.6))
    kinds: dict[str, Any] = {}
    floors = False
    for place, line in enumerate(lines):
        colour = COLOURS[place % len(COLOURS)]
        # What does not depend on the method is drawn once for all methods.
        first = line.family not in [other.family for other in lines[:place]]
        beside = colour if several_families else _GREY
        # Thinner lines on thicker ones: where they agree, both are seen.
        width = 3.0 - 1.4 * place / (len(lines) - 1) if len(lines) > 1 else 1.7
        for ax, (column, _, trained, bound) in zip(panels[:3], _ROWS, strict=True):
            q = quartiles(line.trials, axis, column)
            low, mid, high = (q[name].clip(lower=LEAST_SHOWN) for name in ("low", "median", "high"))
            ax.fill_between(q.index, low, high, color=colour, alpha=0.15, linewidth=0)
            ax.plot(q.index, mid, marker=".", color=colour, linewidth=width)
            if len(line.untouched):
                if first and _plain(ax, line.untouched, axis, column, beside, _NOTHING):
                    kinds["doing nothing"] = _NOTHING
                if column != "delta":
                    nothing = quartiles(line.untouched, axis, column)["median"]
                    _mark_worse(ax, q["median"], nothing, colour)
            if first and trained and _plain(ax, line.trials, axis, trained, beside, _TRAINED):
                kinds["trained model, on its own samples"] = _TRAINED
            if bound and _plain(ax, line.trials, axis, bound, beside, _BOUND):
                kinds["bound stated beforehand"] = _BOUND
        if first and _plain(panels[2], line.trials, axis, "tau_retrain_floor", beside, _BOUND):
            floors = True
        share = quartiles(line.trials, axis, "separated")["median"]
        panels[3].plot(share.index, share, marker=".", color=colour, linewidth=1.7)
    if floors:
        handle = Line2D([], [], color=_GREY, linestyle=_BOUND, linewidth=1.1)
        panels[2].legend([handle], ["between two retrainings"], loc="best")
    for ax, (_, label, *_) in zip(panels[:3], _ROWS, strict=True):
        ax.set_yscale("log")
        label_decades(ax.yaxis)
        ax.set_ylabel(label)
    panels[3].set_ylabel("share with\na certificate")
    panels[3].set_ylim(-0.05, 1.05)
    if is_log(frame[axis]):
        panels[3].set_xscale("log")
    panels[3].set_xlabel(symbol_of(axis))
    rows = _legend(panels[0], lines, kinds)
    wrapped = textwrap.wrap(title_of(manifest), 76)
    figure.suptitle("\n".join(wrapped), x=0.02, ha="left", fontsize=11)
    note = (
        f"{len(frame)} trials; medians and quartiles over seeds and points, lines end where half "
        "have no number; ▲ from here on the median is above that of doing nothing"
    )
    if len(every) > len(lines):
        note += f"; {len(every) - len(lines)} more settings are not drawn"
    if (frame["epsilon"] < LEAST_SHOWN).any():
        note += f"; below {LEAST_SHOWN:g} is drawn at {LEAST_SHOWN:g}"
    footnote(figure, note)
    top = 0.945 - 0.018 * (rows + len(wrapped) - 1)
    figure.subplots_adjust(left=0.13, right=0.96, bottom=0.085, top=top, hspace=0.12)
    return figure


def _mark_worse(ax: Axes, line: pd.Series, nothing: pd.Series, colour: str) -> None:
    """A mark where a line crosses that of doing nothing, from below and for good."""
    first = crossing(line, nothing)
    if first is None:
        return
    height = max(line[first] if np.isfinite(line[first]) else nothing[first], LEAST_SHOWN)
    ax.plot(first, height, marker="^", color=colour, markersize=9, zorder=5)
    ax.annotate(
        f"{first:g}",
        (first, height),
        xytext=(6, 6),
        textcoords="offset points",
        fontsize=8,
        color=colour,
    )


def draw_column(
    frame: pd.DataFrame,
    manifest: Mapping[str, Any],
    x: str,
    value: str,
    facet: str | None = None,
    about: str = "",
) -> Figure:
    """Median and quartiles of one column along another, a line for each value of a third; of a
    column of yes and no the share of yes.

    Args:
        about: which trials these are; for the small print.
    """
    groups = sorted(grouped(frame, [facet] if facet else []), key=lambda group: str(group[0]))
    if facet is not None and pd.api.types.is_numeric_dtype(frame[facet]):
        groups.sort(key=lambda group: np.inf if group[0][0] is None else group[0][0])
    shown = groups[: len(COLOURS)]
    figure = Figure(figsize=(7.2, 4.8))
    ax = figure.subplots()
    share = is_share(frame[value])
    log = not share and is_log(frame[value], LEAST_SHOWN)
    for colour, (values, group) in zip(COLOURS, shown, strict=False):
        q = quartiles(group, x, value)
        low, mid, high = (
            q[name].clip(lower=LEAST_SHOWN) if log else q[name]
            for name in ("low", "median", "high")
        )
        label = told([facet], values) if facet else ""
        ax.fill_between(low.index, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(mid.index, mid, color=colour, marker=".", linewidth=1.7, label=label)
        bound = f"bound_{value}"
        if bound in group and group[bound].notna().any():
            line = quartiles(group, x, bound)["median"]
            ax.plot(line.index, line, color=colour, linestyle=_BOUND, linewidth=1.1)
    if log:
        ax.set_yscale("log")
        label_decades(ax.yaxis)
    if is_log(frame[x]):
        ax.set_xscale("log")
    ax.set_xlabel(symbol_of(x))
    ax.set_ylabel(f"share with {symbol_of(value)}" if share else symbol_of(value))
    if facet is not None:
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1)
    wrapped = textwrap.wrap(title_of(manifest), 76)
    figure.suptitle("\n".join(wrapped), x=0.02, ha="left", fontsize=11)
    note = f"{len(frame)} trials{about}; "
    note += "shares" if share else "medians and quartiles, no number being the worst"
    if f"bound_{value}" in frame and frame[f"bound_{value}"].notna().any():
        note += "; dotted: the bound stated beforehand"
    if len(groups) > len(shown):
        note += f"; {len(groups) - len(shown)} more values of {facet} are not drawn"
    footnote(figure, note)
    figure.subplots_adjust(left=0.12, right=0.97, bottom=0.14, top=0.82)
    return figure

"""Figures of a stored run, in one style: PNG for the screen, SVG for print."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gaunlearn.checks import did_you_mean
from gaunlearn.report.axis import draw_axis, draw_column
from gaunlearn.report.medians import is_share, median_of, quartiles
from gaunlearn.report.methods import draw_methods
from gaunlearn.report.parts import as_meant, fits_of, grouped, settings_of
from gaunlearn.report.plane import draw_plane
from gaunlearn.report.style import (
    COLOURS,
    QUALITY,
    footnote,
    label_decades,
    tells_quality,
    title_of,
    told,
    value_of,
)
from gaunlearn.schema import ROUNDING
from gaunlearn.sweep.store import Run, RunError

__all__ = ["View", "draw"]

_STYLES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_DOTTED = (0, (1, 1))
_REFERENCE = "#555555"
_MOST_LINES = 12
# What is drawn without being asked for; what a user has asked for stays.
_KINDS = ("png", "svg")
_FIGURES = ("step_fraction", "methods", "plane", "quality", "axis")
# Axes end so far below their top.
_LEAST_SHOWN = 1e-8
_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "gaunlearn",
}


class View(NamedTuple):
    """A figure that is asked for by name.

    Attributes:
        x: the column along the figure's first axis.
        y: along its second, for a heat map; None for lines.
        value: the column that is shown; None is epsilon, or what the run looks for.
        facet: the column whose values get a panel of a heat map, or a line, each.
    """

    x: str
    y: str | None = None
    value: str | None = None
    facet: str | None = None


def _check(frame: pd.DataFrame, view: View, value: str) -> None:
    """Refuse columns that cannot be drawn.

    Raises:
        RunError: one line that names the option and what is allowed.
    """
    for option, name in (("x", view.x), ("y", view.y), ("value", value), ("facet", view.facet)):
        if name is None:
            continue
        if name not in frame:
            hint = did_you_mean(name, frame.columns)
            raise RunError(f"--{option} {name}: there is no such column; {hint}see docs/columns.md")
        shown = option == "value" and is_share(frame[name])
        if option != "facet" and not (shown or pd.api.types.is_numeric_dtype(frame[name])):
            raise RunError(f"--{option} {name}: holds no numbers")
        if option != "facet" and frame[name].isna().all():
            raise RunError(f"--{option} {name}: has no value in this run")
    if view.y == view.x:
        raise RunError(f"--y {view.y}: is what --x is")


def _meant(
    frame: pd.DataFrame, manifest: Mapping[str, Any], columns: Sequence[str | None]
) -> tuple[pd.DataFrame, str]:
    """The trials of a view that names some columns, and in words which they are: methods as they
    are meant, unless the view is about their dial, and not what does nothing, unless it is about
    methods.
    """
    words = []
    if "step_fraction" not in columns and frame["step_fraction"].nunique() > 1:
        frame = as_meant(frame)
        full = frame.loc[frame["method"] != "identity", "step_fraction"].max()
        words.append(f"at step fraction {full:g}")
    is_nothing = frame["method"] == "identity"
    if "method" not in columns and is_nothing.any() and not is_nothing.all():
        frame = frame[~is_nothing]
        words.append("without identity")
    known = [name for name in columns if name is not None]
    pooled = settings_of(frame, manifest, apart_from=known)
    if pooled:
        words.append(f"of all {', '.join(pooled)} together")
    return frame, "".join(f", {word}" for word in words)


def _drawn(frame: pd.DataFrame, run: Run, view: View | None) -> dict[str, Figure]:
    manifest = run.manifest
    if view is not None:
        value = view.value or value_of(manifest)
        _check(frame, view, value)
        shown, about = _meant(frame, manifest, [view.x, view.y, value, view.facet])
        if view.y is None:
            name = f"{value}_along_{view.x}"
            return {name: draw_column(shown, manifest, view.x, value, view.facet, about)}
        facets = [view.facet] if view.facet else []
        plane = draw_plane(
            shown, manifest, run.border(), view.x, view.y, value, facets, about=about
        )
        return {f"{value}_over_{view.x}_{view.y}": plane}
    drawn, fits, points = {}, fits_of(frame, manifest), run.points()
    if fits.steps:
        drawn["step_fraction"] = _against_step_fraction(frame, run)
    if fits.methods:
        drawn["methods"] = draw_methods(frame, manifest)
    if fits.plane is not None and points is not None:
        certain = quartiles(frame, list(fits.plane), "assumptions_hold")["median"]
        drawn["plane"] = draw_plane(
            points,
            manifest,
            run.border(),
            *fits.plane,
            "share",
            trials=len(frame),
            certain=certain,
        )
        if not tells_quality(manifest):
            drawn["quality"] = draw_plane(frame, manifest, run.border(), *fits.plane, QUALITY)
    elif fits.plane is not None:
        meant = as_meant(frame)
        others = settings_of(meant, manifest, apart_from=fits.plane)
        certain = quartiles(meant, list(fits.plane), "assumptions_hold")["median"]
        drawn["plane"] = draw_plane(
            meant, manifest, None, *fits.plane, value_of(manifest), others, certain=certain
        )
    if fits.axis is not None:
        drawn["axis"] = draw_axis(frame, manifest, fits.axis)
    return drawn


def draw(run: Run, view: View | None = None) -> list[str]:
    """Draw what a run has swept into its ``report/``: epsilon, delta and tau against the step
    fraction, the methods' quality against their cost, a heat map over two numeric axes, with the
    border if the run looks for one, and lines along the numeric axis with the most values.

    Args:
        view: draw this instead.

    Returns:
        The files' names; none if there is nothing of that, or no trials yet.

    Raises:
        RunError: the view names a column that cannot be drawn.
    """
    if not run.parts():
        return []
    frame = run.to_pandas()
    with matplotlib.rc_context(_STYLE):
        folder, files = run.place / "report", []
        drawn = _drawn(frame, run, view)
        if view is None:  # an earlier specification may have had more
            outdated = {f"{name}.{kind}" for name in set(_FIGURES) - set(drawn) for kind in _KINDS}
            for file in outdated & set(folder.names()):
                folder.delete(file)
        for name, figure in drawn.items():
            folder.make()
            png, svg = io.BytesIO(), io.BytesIO()
            figure.savefig(png, format="png", dpi=160)
            figure.savefig(svg, format="svg", metadata={"Date": None})
            for kind, content in zip(_KINDS, (png, svg), strict=True):
                folder.write(f"{name}.{kind}", content.getvalue())
                files.append(f"{folder.name}/{name}.{kind}")
    return files


def _line(ax: Axes, frame: pd.DataFrame, column: str, colour: str, style: Any) -> bool:
    """Median over seeds and forgotten points, with a band from the lower to the upper quartile;
    whether there is one, and not a point alone.
    """
    q = quartiles(frame, "step_fraction", column)
    ax.fill_between(q.index, q["low"], q["high"], color=colour, alpha=0.18, linewidth=0)
    ax.plot(q.index, q["median"], color=colour, linestyle=style, linewidth=1.7)
    return bool(q["median"].notna().sum() > 1)


def _reference(ax: Axes, value: float, colour: str) -> None:
    if np.isfinite(value) and value > 0:
        ax.axhline(value, color=colour, linestyle="--", linewidth=1.1, zorder=1.5)


def _legend(ax: Axes, entries: list[tuple[str, str, Any]]) -> None:
    """A line above the axes: (label, colour, line style) each."""
    handles = [Line2D([], [], color=colour, linestyle=style) for _, colour, style in entries]
    ax.legend(
        handles,
        [label for label, _, _ in entries],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0.1,
        ncols=min(3, len(entries)),
        columnspacing=1.2,
        handlelength=2.2,
    )


def _against_step_fraction(frame: pd.DataFrame, run: Run) -> Figure:
    swept = settings_of(frame, run.manifest)
    groups = [(told(swept, v) or "unlearned", group) for v, group in grouped(frame, swept)]
    shown = groups[:_MOST_LINES]
    figure = Figure(figsize=(6.6, 8.6))
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(1.35, 1, 1.1))
    several = len(shown) > 1
    entries: list[tuple[str, str, Any]] = []
    has_tau = has_bound = False
    for place, (label, group) in enumerate(shown):
        colour = COLOURS[place % len(COLOURS)]
        style = _STYLES[place // len(COLOURS) % len(_STYLES)]
        entries.append((label, colour, style))
        mark = colour if several else _REFERENCE
        for ax, column in zip(panels, ("epsilon", "delta", "tau_retrain"), strict=True):
            _line(ax, group, column, colour, style)
        if median_of(group["tau"]) > ROUNDING["float64"]:
            has_tau = True
            _line(panels[2], group, "tau", colour, _DOTTED)
        for ax, column in zip(panels[:2], ("bound_epsilon", "bound_delta"), strict=True):
            has_bound |= _line(ax, group, column, mark, _DOTTED)
        for ax, column in zip(
            panels, ("epsilon_retrain", "delta_retrain", "tau_retrain_floor"), strict=True
        ):
            _reference(ax, median_of(group[column]), mark)
    # Colours are named once, above; what a kind of line means, where it first occurs.
    entries.append(("retrained model", _REFERENCE, "--"))
    if has_bound:
        entries.append(("bound stated beforehand", _REFERENCE, _DOTTED))
    _legend(panels[0], entries)
    plain = _REFERENCE if several else COLOURS[0]
    _legend(
        panels[2],
        [
            ("to the retrained model", plain, "-"),
            *([("of the certificate", plain, _DOTTED)] if has_tau else []),
            ("between two retrainings", _REFERENCE, "--"),
        ],
    )

    panels[0].set_ylabel("ε, stationarity residual")
    panels[1].set_ylabel("δ, complementarity")
    panels[2].set_ylabel("τ = 1 \N{MINUS SIGN} cos")
    panels[2].set_xlabel("step fraction f of the gradient-ascent step")
    clipped = False
    for ax in panels:
        ax.set_yscale("log")
        label_decades(ax.yaxis)
        # Decades of rounding would flatten what is to be seen.
        low, high = ax.get_ylim()
        if low < high * _LEAST_SHOWN:
            ax.set_ylim(bottom=high * _LEAST_SHOWN)
            clipped = True
        ax.axvline(1.0, color="#bbbbbb", linewidth=0.9, zorder=1)
        ax.margins(x=0)
    if panels[0].get_xlim()[0] < 1 < panels[0].get_xlim()[1]:
        panels[0].annotate(
            "the theorem's step",
            (1, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -11),
            textcoords="offset points",
            fontsize=8,
            color="#777777",
        )
    wrapped = textwrap.wrap(title_of(run.manifest), 72)
    figure.suptitle("\n".join(wrapped), x=0.02, ha="left", fontsize=11)
    trials = (
        f"{len(frame)} trials; medians and quartiles over seeds and points, no number the worst"
    )
    if len(groups) > len(shown):
        trials += f"; {len(groups) - len(shown)} more settings are not drawn"
    if clipped:
        trials += "; what leaves an axis below is smaller than it shows"
    without = int((~frame["separated"]).sum())
    if without:
        trials += f"; {without} without a certificate"
    footnote(figure, trials)
    rows = -(-len(entries) // 3)
    top = 0.93 - 0.02 * (len(wrapped) + rows - 1)
    figure.subplots_adjust(left=0.125, right=0.96, bottom=0.098, top=top, hspace=0.2)
    return figure

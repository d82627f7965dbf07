"""Figures of a stored run, in one style: PNG for the screen, SVG for print."""

import io
import textwrap
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from gaunlearn.report.axis import axis_of, draw_axis
from gaunlearn.report.methods import draw_methods
from gaunlearn.report.style import COLOURS, title_of, told
from gaunlearn.sweep.store import Run

__all__ = ["draw"]

_STYLES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_DOTTED = (0, (1, 1))
_REFERENCE = "#555555"
_MOST_LINES = 12
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


def draw(run: Run) -> list[str]:
    """Draw what a run has swept into its ``report/``: epsilon, delta and tau against the step
    fraction, the methods' quality against their cost, and both along the numeric axis with the most
    values.

    Returns:
        The files' names; none if there is nothing of that, or no trials yet.
    """
    if not run.parts():
        return []
    frame = run.to_pandas()
    drawn = {}
    with matplotlib.rc_context(_STYLE):
        if frame["step_fraction"].nunique() > 1:
            drawn["step_fraction"] = _against_step_fraction(frame, run)
        if frame["method"].nunique() > 1:
            drawn["methods"] = draw_methods(frame, run.manifest)
        axis = axis_of(frame, run.manifest)
        if axis is not None:
            drawn["axis"] = draw_axis(frame, run.manifest, axis)
        folder, files = run.place / "report", []
        for name, figure in drawn.items():
            folder.make()
            png, svg = io.BytesIO(), io.BytesIO()
            figure.savefig(png, format="png", dpi=160)
            figure.savefig(svg, format="svg", metadata={"Date": None})
            for kind, content in (("png", png), ("svg", svg)):
                folder.write(f"{name}.{kind}", content.getvalue())
                files.append(f"{folder.name}/{name}.{kind}")
    return files


def _groups(frame: pd.DataFrame, swept: list[str]) -> list[tuple[str, pd.DataFrame]]:
    if not swept:
        return [("unlearned", frame)]
    return [
        (told(swept, values), group)
        for values, group in frame.groupby(swept, sort=False, dropna=False)
    ]


def _line(ax: Axes, frame: pd.DataFrame, column: str, colour: str, style: Any) -> None:
    """Median over seeds and forgotten points, with a band from the lower to the upper quartile."""
    by_step = frame.groupby("step_fraction")[column]
    low, mid, high = (by_step.quantile(q) for q in (0.25, 0.5, 0.75))
    ax.fill_between(low.index, low, high, color=colour, alpha=0.18, linewidth=0)
    ax.plot(mid.index, mid, color=colour, linestyle=style, linewidth=1.7)


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
    swept = [name for name in run.manifest["swept"] if name in frame]
    groups = _groups(frame, swept)
    shown = groups[:_MOST_LINES]
    figure = Figure(figsize=(6.6, 8.6))
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(1.35, 1, 1.1))
    several = len(shown) > 1
    entries: list[tuple[str, str, Any]] = []
    has_tau = False
    for place, (label, group) in enumerate(shown):
        colour = COLOURS[place % len(COLOURS)]
        style = _STYLES[place // len(COLOURS) % len(_STYLES)]
        entries.append((label, colour, style))
        for ax, column in zip(panels, ("epsilon", "delta", "tau_retrain"), strict=True):
            _line(ax, group, column, colour, style)
        if group["tau"].median() > 1e-12:
            has_tau = True
            _line(panels[2], group, "tau", colour, _DOTTED)
        mark = colour if several else _REFERENCE
        for ax, column in zip(
            panels, ("epsilon_retrain", "delta_retrain", "tau_retrain_floor"), strict=True
        ):
            _reference(ax, group[column].median(), mark)
    # Colours are named once, above; what a kind of line means, where it first occurs.
    _legend(panels[0], [*entries, ("retrained model", _REFERENCE, "--")])
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
        ax.yaxis.set_minor_formatter(NullFormatter())
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
    trials = f"{len(frame)} trials; medians and quartiles over seeds and points"
    if len(groups) > len(shown):
        trials += f"; {len(groups) - len(shown)} more settings are not drawn"
    if clipped:
        trials += "; what leaves an axis below is smaller than it shows"
    without = int((~frame["separated"]).sum())
    if without:
        trials += f"; {without} without a certificate"
    figure.text(0.02, 0.008, trials, fontsize=7.5, color="#666666")
    rows = -(-(len(entries) + 1) // 3)
    top = 0.93 - 0.02 * (len(wrapped) + rows - 1)
    figure.subplots_adjust(left=0.125, right=0.96, bottom=0.085, top=top, hspace=0.2)
    return figure

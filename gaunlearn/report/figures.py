"""Figures of a stored run, in one style: PNG for the screen, SVG for print."""

import io
import textwrap
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from gaunlearn.report.axis import axis_of, draw_axis
from gaunlearn.report.methods import draw_methods
from gaunlearn.report.style import COLOURS, title_of
from gaunlearn.sweep.store import Run

__all__ = ["draw"]

_STYLES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
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
    found = []
    for values, group in frame.groupby(swept, sort=False, dropna=False):
        label = ", ".join(f"{name} {value}" for name, value in zip(swept, values, strict=True))
        found.append((label.replace("_", " "), group))
    return found


def _line(ax: Axes, frame: pd.DataFrame, column: str, label: str, colour: str, style) -> None:
    """Median over seeds and forgotten points, with a band from the lower to the upper quartile."""
    by_step = frame.groupby("step_fraction")[column]
    low, mid, high = (by_step.quantile(q) for q in (0.25, 0.5, 0.75))
    ax.fill_between(low.index, low, high, color=colour, alpha=0.18, linewidth=0)
    ax.plot(mid.index, mid, color=colour, linestyle=style, linewidth=1.7, label=label)


def _reference(ax: Axes, value: float, label: str, colour: str = _REFERENCE, style="--") -> None:
    if np.isfinite(value) and value > 0:
        ax.axhline(value, color=colour, linestyle=style, linewidth=1.1, label=label, zorder=1.5)


def _against_step_fraction(frame: pd.DataFrame, run: Run) -> Figure:
    swept = [name for name in run.manifest["swept"] if name in frame]
    groups = _groups(frame, swept)
    shown = groups[:_MOST_LINES]
    figure = Figure(figsize=(6.6, 8.6))
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(1.35, 1, 1.1))
    several = len(shown) > 1
    for place, (label, group) in enumerate(shown):
        colour = COLOURS[place % len(COLOURS)]
        style = _STYLES[place // len(COLOURS) % len(_STYLES)]
        _line(panels[0], group, "epsilon", label, colour, style)
        _line(panels[1], group, "delta", label, colour, style)
        tau = "to the retrained model" if not several else f"to the retrained model, {label}"
        _line(panels[2], group, "tau_retrain", tau, colour, style)
        if group["tau"].median() > 1e-12:
            tau = "of the certificate" if not several else f"of the certificate, {label}"
            _line(panels[2], group, "tau", tau, colour, (0, (1, 1)))
        mark = colour if several else _REFERENCE
        whose = "retrained model" if not several else f"retrained model, {label}"
        _reference(panels[0], group["epsilon_retrain"].median(), whose, mark)
        _reference(panels[1], group["delta_retrain"].median(), whose, mark)
    _reference(
        panels[2], frame["tau_retrain_floor"].median(), "two retrainings, different initial weights"
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
        handles, labels = ax.get_legend_handles_labels()
        # Delta has epsilon's lines: one legend serves both.
        if handles and ax is not panels[1]:
            ax.legend(
                handles,
                labels,
                loc="lower right",
                bbox_to_anchor=(1, 1),
                borderaxespad=0.1,
                ncols=min(2, len(handles)),
                columnspacing=1.2,
                handlelength=2.2,
            )
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
    figure.subplots_adjust(
        left=0.125, right=0.96, bottom=0.085, top=0.9 - 0.02 * (len(wrapped) - 1), hspace=0.36
    )
    return figure

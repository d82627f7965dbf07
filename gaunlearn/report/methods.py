"""The methods of a run against each other: quality against cost."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaunlearn.report.medians import median_of, quartiles
from gaunlearn.report.parts import DIALS, as_meant, grouped, settings_of
from gaunlearn.report.style import COLOURS, LEAST_SHOWN, footnote, label_decades, title_of, told

__all__ = ["draw_methods"]

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p")
_MOST_COLUMNS = 6
_ROWS = (
    ("epsilon", "ε on the retain set"),
    ("delta", "δ, complementarity"),
    ("tau_retrain", "τ to the retrained model"),
)


def _draw(ax: Axes, frame: pd.DataFrame, column: str, names: list[str]) -> None:
    """Medians with their quartiles; a line joins the costs of one method."""
    for place, name in enumerate(names):
        mine = frame[frame["method"] == name]
        # A method with several costs is a line of points.
        dials = [dial for dial in DIALS if dial in mine and mine[dial].notna().any()]
        cost = quartiles(mine, dials, "unlearn_gradients")["median"]
        found = quartiles(mine, dials, column).loc[cost.sort_values().index]
        cost = cost.sort_values()
        low, mid, high = (
            found[q].clip(lower=LEAST_SHOWN).to_numpy() for q in ("low", "median", "high")
        )
        ax.errorbar(
            cost.to_numpy(),
            mid,
            yerr=(mid - low, np.where(np.isnan(high), 0.0, high - mid)),
            color=COLOURS[place % len(COLOURS)],
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=6,
            linewidth=1.0,
            elinewidth=0.9,
            capsize=2,
            label=name.replace("_", " "),
            clip_on=False,
        )


def draw_methods(frame: pd.DataFrame, manifest: Mapping[str, Any]) -> Figure:
    """Epsilon, delta and the distance to the retrained model against the gradients that a method
    takes; a column for each combination of the other swept parameters.
    """
    frame = as_meant(frame)
    others = settings_of(frame, manifest, apart_from=DIALS)
    groups = grouped(frame, others)
    shown = groups[:_MOST_COLUMNS]
    names = list(frame.groupby("method")["unlearn_gradients"].median().sort_values().index)
    figure = Figure(figsize=((3.4 if len(shown) < 4 else 2.5) * len(shown) + 3.6, 8.2))
    panels = figure.subplots(len(_ROWS), len(shown), sharex=True, sharey="row", squeeze=False)
    for column, (values, group) in enumerate(shown):
        for row, (name, _) in enumerate(_ROWS):
            ax = panels[row][column]
            _draw(ax, group, name, names)
            ax.set_yscale("log")
            ax.set_xscale("symlog", linthresh=1)
            label_decades(ax.yaxis)
            if name == "tau_retrain":
                floor = median_of(group["tau_retrain_floor"])
                if floor > 0:
                    ax.axhline(floor, color="#555555", linestyle="--", linewidth=1.0)
                    ax.annotate(
                        "two retrainings",
                        (1, floor),
                        xycoords=("axes fraction", "data"),
                        xytext=(-2, 3),
                        textcoords="offset points",
                        ha="right",
                        fontsize=7.5,
                        color="#555555",
                    )
        panels[0][column].set_title(told(others, values), fontsize=9, loc="left")
        panels[-1][column].set_xlabel("cost: gradients of single samples")
    for row, (_, label) in enumerate(_ROWS):
        panels[row][0].set_ylabel(label)
    left = 0.9 / figure.get_figwidth()
    right = 1 - 2.1 / figure.get_figwidth()
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(right + 0.01, 0.87))
    wrapped = textwrap.wrap(title_of(manifest), 24 * len(shown) + 30)
    figure.suptitle("\n".join(wrapped), x=0.02, ha="left", fontsize=11)
    note = (
        f"{len(frame)} trials; medians and quartiles, no number being the worst; smaller is better"
    )
    if (frame["epsilon"] < LEAST_SHOWN).any():
        note += f"; below {LEAST_SHOWN:g} is drawn at {LEAST_SHOWN:g}"
    if len(groups) > len(shown):
        note += f"; {len(groups) - len(shown)} more settings are not drawn"
    without = int((~frame["separated"]).sum())
    if without:
        note += f"; {without} without a certificate"
    footnote(figure, note)
    figure.subplots_adjust(left=left, right=right, bottom=0.08, top=0.9, hspace=0.12, wspace=0.1)
    return figure

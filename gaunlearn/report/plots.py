"""The report's interactive figures: hover shows values, a click shows the trials behind a point.
What a figure draws it also gives as a table, for those who use no mouse, or print.

Bokeh draws them, on a transparent ground in colours that are read on light and dark.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    HoverTool,
    LinearColorMapper,
    LogColorMapper,
    TapTool,
)
from bokeh.models.annotations import ColorBar
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from gaunlearn.report.medians import quartiles
from gaunlearn.report.parts import grouped
from gaunlearn.report.style import COLOURS, LEAST_SHOWN, cell_edges, is_log, symbol_of, told

__all__ = ["Plot", "lines_plot", "plane_plot"]

_INK = "#7f858b"
_BORDER = "#D55E00"
_MOST_LINES = 12
_DASHES = ("solid", "dashed")
_SHOW = """
const chosen = cb_data.source.selected.indices;
if (chosen.length) showTrials(JSON.parse(cb_data.source.data.trials[chosen[0]]));
"""


class Plot(NamedTuple):
    """A figure, and what it draws.

    Attributes:
        figure: Bokeh's.
        values: a row for each point, as text.
        trials: of each point, what the page's ``showTrials`` takes.
        note: what the figure leaves out; may be empty.
    """

    figure: Any
    values: pd.DataFrame
    trials: list[str]
    note: str


def _plot(**options: Any) -> Any:
    plot = figure(
        height=380,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        toolbar_location="above",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=None,
        **options,
    )
    plot.toolbar.active_scroll = None
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = _INK
        axis.axis_label_text_color = axis.major_label_text_color = _INK
        axis.axis_label_text_font_style = "normal"
    for grid in (*plot.xgrid, *plot.ygrid):
        grid.grid_line_color, grid.grid_line_alpha = _INK, 0.25
    return plot


def _on_click(plot: Any, renderers: Sequence[Any]) -> None:
    """A click on a point shows its trials in the table."""
    plot.add_tools(TapTool(renderers=list(renderers), callback=CustomJS(code=_SHOW)))


def _trials(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """What ``showTrials`` takes: the parameters of each point, as JSON."""
    table = pd.DataFrame(rows, columns=list(names))
    return [row.to_json() for _, row in table.iterrows()]


def _shown(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else "no number"


def lines_plot(
    frame: pd.DataFrame,
    x: str,
    value: str,
    groups: Sequence[str],
    setting: Mapping[str, Any] | None = None,
) -> Plot:
    """Medians and quartiles of a column along another, a line for each combination of ``groups``;
    a median that is no number is left out. With it, dotted, the bound stated beforehand, where the
    column has one.

    Args:
        setting: column -> value that all trials of ``frame`` share.
    """
    setting = setting or {}
    found = grouped(frame, groups)
    # Doing nothing costs nothing, and is shown all the same.
    of_cost = x == "unlearn_gradients"
    log_x = is_log(frame[x], float(of_cost))
    log_y = is_log(frame[value], LEAST_SHOWN)
    least = LEAST_SHOWN if log_y else -np.inf
    least_x = 1.0 if of_cost and log_x else -np.inf
    plot = _plot(
        x_axis_type="log" if log_x else "linear",
        y_axis_type="log" if log_y else "linear",
        x_axis_label=symbol_of(x),
        y_axis_label=symbol_of(value),
    )
    renderers, tables, trials = [], [], []
    bound = f"bound_{value}"
    has_bound = False
    for place, (values, group) in enumerate(found[:_MOST_LINES]):
        table = quartiles(group, x, value)
        table = table[table["median"].notna()]
        # A band ends where its quartile is no number.
        shown = table[["low", "median", "high"]].clip(lower=least)
        label = told(groups, values) or symbol_of(value)
        words = pd.DataFrame(
            {
                "line": label,
                x: [f"{at:.6g}" for at in table.index],
                "median": table["median"].map(_shown),
                "lower quartile": table["low"].map(_shown),
                "upper quartile": table["high"].map(_shown),
                "trials": table["count"].astype(int).astype(str),
            }
        )
        behind = _trials(
            [x, *groups, *setting], [[at, *values, *setting.values()] for at in table.index]
        )
        tables.append(words)
        trials += behind
        source = ColumnDataSource(
            {
                "x": np.maximum(table.index.to_numpy(float), least_x),
                "at": words[x],
                "y": shown["median"],
                "low": shown["low"],
                "high": shown["high"],
                "median": words["median"],
                "quartiles": [
                    f"{low} to {high}"
                    for low, high in zip(
                        words["lower quartile"], words["upper quartile"], strict=True
                    )
                ],
                "count": words["trials"],
                "line": words["line"],
                "trials": behind,
            }
        )
        colour = COLOURS[place % len(COLOURS)]
        dash = _DASHES[place // len(COLOURS) % 2]
        name = {"legend_label": label} if groups else {}
        plot.varea("x", "low", "high", source=source, fill_color=colour, fill_alpha=0.18)
        plot.line("x", "y", source=source, color=colour, line_width=2, line_dash=dash, **name)
        points = plot.scatter("x", "y", source=source, color=colour, size=8)
        renderers.append(points)
        if bound in group and group[bound].notna().any():
            line = quartiles(group, x, bound)["median"].dropna()
            plot.line(
                np.maximum(line.index.to_numpy(float), least_x),
                line.clip(lower=least).to_numpy(),
                color=colour,
                line_width=1.5,
                line_dash="dotted",
            )
            has_bound = True
    _on_click(plot, renderers)
    tips = [("", "@line"), (x, "@at"), (f"median {value}", "@median")]
    plot.add_tools(
        HoverTool(
            renderers=renderers,
            tooltips=[*tips, ("quartiles", "@quartiles"), ("trials", "@count")],
        )
    )
    if groups:
        legend = plot.legend[0]
        legend.background_fill_alpha = 0
        legend.border_line_color = None
        legend.label_text_color = _INK
        legend.click_policy = "hide"
        labels = [told(groups, values) for values, _ in found[:_MOST_LINES]]
        legend.orientation = "horizontal"
        legend.ncols = 3 if max(map(len, labels)) < 18 else 2 if max(map(len, labels)) < 30 else 1
        plot.height += 24 * -(-len(labels) // legend.ncols)
        plot.add_layout(legend, "below")
    notes = ["dotted: the bound stated beforehand"] if has_bound else []
    if (frame[x] < least_x).any():
        notes.append("a cost of 0 is drawn at 1")
    if len(found) > _MOST_LINES:
        notes.append(f"the first {_MOST_LINES} of {len(found)} settings are drawn")
    words = pd.concat(tables, ignore_index=True)
    return Plot(plot, words if groups else words.drop(columns="line"), trials, "; ".join(notes))


def plane_plot(
    table: pd.DataFrame,
    x: str,
    y: str,
    value: str,
    border: pd.DataFrame | None,
    manifest: Mapping[str, Any],
    setting: Mapping[str, Any] | None = None,
) -> Plot:
    """One number at each pair of values of two columns, with the border if there is one.

    Args:
        table: a row for each pair.
        setting: column -> value that all trials of it share.
    """
    logs = is_log(table[x]), is_log(table[y])
    plot = _plot(
        x_axis_type="log" if logs[0] else "linear",
        y_axis_type="log" if logs[1] else "linear",
        x_axis_label=symbol_of(x),
        y_axis_label=symbol_of(y),
    )
    numbers = table[value].to_numpy(float)
    known = numbers[np.isfinite(numbers)]
    log = value != "share" and is_log(known, LEAST_SHOWN)
    low = (
        max(known.min(), LEAST_SHOWN) if log and known.size else (known.min() if known.size else 0)
    )
    high = known.max() if known.size else 1
    if value == "share":
        low, high = 0, 1
    mapper: Any = (LogColorMapper if log else LinearColorMapper)(
        palette=Viridis256, low=low, high=max(high, low * 1.000001 + 1e-300), nan_color="#b5b5b5"
    )
    ends = {}
    for name, is_log_axis, sides in (
        (x, logs[0], ("left", "right")),
        (y, logs[1], ("bottom", "top")),
    ):
        values = np.sort(table[name].unique())
        edges = cell_edges(values, is_log_axis)
        for side, edge in zip(sides, (edges[:-1], edges[1:]), strict=True):
            ends[side] = table[name].map(dict(zip(values, edge, strict=True))).to_numpy(float)
    setting = setting or {}
    behind = _trials(
        [x, y, *setting], [[*pair, *setting.values()] for pair in table[[x, y]].to_numpy().tolist()]
    )
    words = pd.DataFrame(
        {
            x: [f"{v:.6g}" for v in table[x]],
            y: [f"{v:.6g}" for v in table[y]],
            value: [_shown(v) for v in numbers],
        }
    )
    labels = {"seeds": "seeds", "separated": "share with a certificate"}
    extra = {name: label for name, label in labels.items() if name in table}
    for name, label in extra.items():
        words[label] = [_shown(v) for v in table[name]]
    source = ColumnDataSource(
        {
            **ends,
            "x": table[x],
            "y": table[y],
            "value": np.maximum(numbers, LEAST_SHOWN) if log else numbers,
            "shown": words[value],
            "trials": behind,
            **{name: words[label] for name, label in extra.items()},
        }
    )
    cells = plot.quad(
        left="left",
        right="right",
        bottom="bottom",
        top="top",
        source=source,
        fill_color={"field": "value", "transform": mapper},
        line_color=None,
    )
    if "separated" in table and (table["separated"] < 1).any():
        none = table[table["separated"] < 1]
        plot.scatter(
            none[x].to_numpy(float),
            none[y].to_numpy(float),
            marker="x",
            color="#8c8c8c",
            size=(3 + 6 * (1 - none["separated"])).to_numpy(float),
            legend_label="trials without a certificate; larger: more",
        )
    _on_click(plot, [cells])
    tips = [(x, "@x"), (y, "@y"), (value, "@shown")]
    tips += [(label, f"@{name}") for name, label in extra.items()]
    plot.add_tools(HoverTool(renderers=[cells], tooltips=tips))
    bar = ColorBar(
        color_mapper=mapper,
        title=symbol_of(value),
        background_fill_alpha=0,
        title_text_color=_INK,
        major_label_text_color=_INK,
        width=12,
    )
    plot.add_layout(bar, "right")
    if border is not None and {x, y} <= set(border.columns):
        for curve, dash, width in (
            ("border", "solid", 3),
            ("low", "dotted", 2),
            ("high", "dotted", 2),
        ):
            for _, line in border[border["curve"] == curve].groupby("piece"):
                along = line.sort_values("place")
                plot.line(along[x], along[y], color="white", line_width=width + 2)
                plot.line(
                    along[x],
                    along[y],
                    color=_BORDER,
                    line_width=width,
                    line_dash=dash,
                    legend_label=manifest["border"]["predicate"]
                    if curve == "border"
                    else "its band from seeds",
                )
    if plot.legend:
        legend = plot.legend[0]
        legend.label_text_color = _INK
        legend.background_fill_alpha = 0
        legend.border_line_color = None
        legend.orientation = "horizontal"
        legend.ncols = 1
        plot.height += 24 * len(legend.items)
        plot.add_layout(legend, "below")
    note = "grey: no number" if np.isnan(numbers).any() else ""
    return Plot(plot, words, behind, note)

"""The report's interactive figures: hover shows values, a click shows the trials behind a point.

Bokeh draws them, on a transparent ground in colours that are read on light and dark.
"""

from collections.abc import Mapping, Sequence
from typing import Any

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
from numpy.typing import NDArray

from gaunlearn.report.style import COLOURS, is_log, symbol_of, told

__all__ = ["lines_plot", "plane_plot"]

_INK = "#7f858b"
_BORDER = "#D55E00"
_LEAST = 1e-10
_MOST_LINES = 12
_DASHES = ("solid", "dashed")
_SHOW = """
const chosen = cb_data.source.selected.indices;
if (chosen.length) showTrials(JSON.parse(cb_data.source.data.trials[chosen[0]]));
"""


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


def lines_plot(frame: pd.DataFrame, x: str, value: str, groups: Sequence[str]) -> Any:
    """Medians and quartiles of a column along another, a line for each combination of ``groups``;
    a point without a number is left out.
    """
    found = list(frame.groupby(list(groups), sort=False, dropna=False)) if groups else [((), frame)]
    log_y = is_log(frame[value].clip(lower=_LEAST))
    plot = _plot(
        x_axis_type="log" if is_log(frame[x]) else "linear",
        y_axis_type="log" if log_y else "linear",
        x_axis_label=symbol_of(x),
        y_axis_label=symbol_of(value),
    )
    renderers = []
    for place, (values, group) in enumerate(found[:_MOST_LINES]):
        by_x = group.groupby(x)[value]
        table = pd.DataFrame(
            {
                "median": by_x.median(),
                "low": by_x.quantile(0.25),
                "high": by_x.quantile(0.75),
                "count": by_x.count(),
            }
        ).dropna()
        shown = table[["median", "low", "high"]].clip(lower=_LEAST) if log_y else table
        label = told(groups, values) or symbol_of(value)
        source = ColumnDataSource(
            {
                "x": table.index.to_numpy(float),
                "y": shown["median"],
                "low": shown["low"],
                "high": shown["high"],
                "median": [f"{v:.6g}" for v in table["median"]],
                "quartiles": [
                    f"{a:.6g} to {b:.6g}" for a, b in zip(table["low"], table["high"], strict=True)
                ],
                "count": table["count"],
                "line": [label] * len(table),
                "trials": _trials([x, *groups], [[at, *values] for at in table.index]),
            }
        )
        colour = COLOURS[place % len(COLOURS)]
        dash = _DASHES[place // len(COLOURS) % 2]
        name = {"legend_label": label} if groups else {}
        plot.varea("x", "low", "high", source=source, fill_color=colour, fill_alpha=0.18)
        plot.line("x", "y", source=source, color=colour, line_width=2, line_dash=dash, **name)
        points = plot.scatter("x", "y", source=source, color=colour, size=8)
        renderers.append(points)
    _on_click(plot, renderers)
    tips = [("", "@line"), (x, "@x"), (f"median {value}", "@median")]
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
        legend.orientation = "vertical" if len(found) > 4 else "horizontal"
        plot.add_layout(legend, "right" if len(found) > 4 else "above")
    return plot


def _half_way(values: NDArray[Any], log: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both ends of the cell around each of some ascending values."""
    place = np.log(values) if log else np.asarray(values, float)
    step = np.diff(place)
    before = np.concatenate([step[:1], step]) if len(step) else np.ones(1)
    after = np.concatenate([step, step[-1:]]) if len(step) else np.ones(1)
    low, high = place - before / 2, place + after / 2
    return (np.exp(low), np.exp(high)) if log else (low, high)


def plane_plot(
    table: pd.DataFrame,
    x: str,
    y: str,
    value: str,
    border: pd.DataFrame | None,
    manifest: Mapping[str, Any],
) -> Any:
    """One number at each pair of values of two columns, with the border if there is one.

    Args:
        table: a row for each pair.
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
    log = value != "share" and is_log(np.maximum(known, _LEAST))
    low = max(known.min(), _LEAST) if log and known.size else (known.min() if known.size else 0)
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
        for side, edge in zip(sides, _half_way(values, is_log_axis), strict=True):
            ends[side] = table[name].map(dict(zip(values, edge, strict=True))).to_numpy(float)
    source = ColumnDataSource(
        {
            **ends,
            "x": table[x],
            "y": table[y],
            "value": np.maximum(numbers, _LEAST) if log else numbers,
            "shown": [f"{v:.6g}" if np.isfinite(v) else "no certificate" for v in numbers],
            "trials": _trials([x, y], table[[x, y]].to_numpy().tolist()),
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
    _on_click(plot, [cells])
    plot.add_tools(HoverTool(renderers=[cells], tooltips=[(x, "@x"), (y, "@y"), (value, "@shown")]))
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
            plot.legend[0].label_text_color = "#333333"
            plot.legend[0].background_fill_alpha = 0.8
    return plot

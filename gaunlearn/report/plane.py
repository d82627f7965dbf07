"""A run over two numeric axes: a heat map of one column, with the border where the run has one."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy.interpolate import NearestNDInterpolator

from gaunlearn.report.style import is_log, symbol_of, title_of, told

__all__ = ["draw_plane", "medians_over", "plane_of"]

_LEAST_VALUES = 3
_MOST_PANELS = 6
_MOST_COLUMNS = 3
# Decades of rounding would flatten what is to be seen.
_LEAST_SHOWN = 1e-10
_COLOURS = "viridis"
_BORDER, _HOLLOW = "#D55E00", "#dddddd"


def plane_of(frame: pd.DataFrame, manifest: Mapping[str, Any]) -> tuple[str, str] | None:
    """The two axes that a run is a plane over, the one with more values first; None if it has not
    two numeric axes.
    """
    if "border" in manifest:
        first, second = manifest["border"]["axes"]
        return first, second
    counts = {
        name: frame[name].nunique()
        for name in manifest["swept"]
        if name in frame and pd.api.types.is_numeric_dtype(frame[name])
    }
    wide = sorted(
        (name for name in counts if counts[name] >= _LEAST_VALUES), key=lambda name: counts[name]
    )
    return (wide[-1], wide[-2]) if len(wide) >= 2 else None


def _edges(values: NDArray[Any], log: bool) -> NDArray[np.float64]:
    """Borders of cells around ascending values, half-way between them on the axis' scale."""
    place = np.log(values) if log else np.asarray(values, float)
    middle = 0.5 * (place[1:] + place[:-1])
    if len(place) == 1:
        outer = np.array([place[0] - 0.5, place[0] + 0.5])
    else:
        outer = np.array([2 * place[0] - middle[0], 2 * place[-1] - middle[-1]])
    edges = np.concatenate([outer[:1], middle, outer[1:]])
    return np.exp(edges) if log else edges


def medians_over(frame: pd.DataFrame, x: str, y: str, value: str) -> pd.Series:
    """The median of a column at each pair of values of two others, which index it; NaN where the
    median trial has no number: one without is worse than all that have one.
    """
    numbers = frame[value].astype(float).fillna(np.inf).groupby([frame[x], frame[y]])
    return numbers.quantile(0.5, interpolation="lower").replace(np.inf, np.nan)


class _Cells:
    """Medians of a column over the grid of two axes' values.

    Attributes:
        x, y: values of the axes, ascending.
        median: (len(x), len(y)); where nobody has looked, that of the nearest point; NaN where the
            median trial has no number.
        seen: where somebody has looked.
    """

    def __init__(self, frame: pd.DataFrame, x: str, y: str, value: str) -> None:
        self.x, self.y = (np.sort(frame[name].dropna().unique()) for name in (x, y))
        medians = medians_over(frame, x, y, value)
        i, j = (
            np.searchsorted(v, medians.index.get_level_values(n))
            for v, n in ((self.x, x), (self.y, y))
        )
        self.seen = np.zeros((len(self.x), len(self.y)), bool)
        self.seen[i, j] = True
        self.median = np.full(self.seen.shape, np.nan)
        self.median[i, j] = medians
        if not self.seen.all():
            every = np.moveaxis(np.indices(self.seen.shape), 0, -1)
            near = NearestNDInterpolator(np.argwhere(self.seen), self.median[self.seen])
            self.median = near(every)


def _norm(values: NDArray[Any]) -> Normalize:
    shown = values[np.isfinite(values)]
    if not shown.size:
        return Normalize(0, 1)
    positive = shown[shown > 0]
    if positive.size and shown.min() >= 0 and is_log(np.maximum(positive, _LEAST_SHOWN)):
        low, high = max(positive.min(), _LEAST_SHOWN), max(positive.max(), 10 * _LEAST_SHOWN)
        return LogNorm(low, high)
    return Normalize(shown.min(), shown.max() if shown.max() > shown.min() else shown.min() + 1)


def _draw_border(ax: Axes, border: pd.DataFrame, x: str, y: str) -> None:
    for curve, style, width in (("border", "-", 2.2), ("low", ":", 1.2), ("high", ":", 1.2)):
        for _, line in border[border["curve"] == curve].groupby("piece"):
            along = line.sort_values("place")
            ax.plot(along[x], along[y], color="white", linestyle="-", linewidth=width + 1.6)
            ax.plot(along[x], along[y], color=_BORDER, linestyle=style, linewidth=width)


def draw_plane(
    frame: pd.DataFrame,
    manifest: Mapping[str, Any],
    border: pd.DataFrame | None,
    x: str,
    y: str,
    value: str,
    facet: str | None = None,
    trials: int | None = None,
) -> Figure:
    """Medians of a column at each pair of values of two others, a panel for each value of a third.

    Args:
        border: of the run (``Run.border``); drawn where it is one in x and y.
        x, y: numeric columns.
        value: the numeric column that is shown.
        facet: a column, each of whose values gets a panel; None is one panel for all.
        trials: how many there are, if rows of ``frame`` are something else.
    """
    groups = [("", frame)]
    if facet is not None:
        every = frame.groupby(facet, sort=True, dropna=False)
        groups = [(told([facet], [name]), group) for name, group in every]
    shown = groups[:_MOST_PANELS]
    cells = [_Cells(group, x, y, value) for _, group in shown]
    every_value = np.concatenate([each.median.ravel() for each in cells])
    norm = Normalize(0, 1) if value == "share" else _norm(every_value)
    columns = min(_MOST_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.6 + 4.2 * columns, 1.9 + 3.7 * rows))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    logs = is_log(frame[x]), is_log(frame[y])
    hollow = partly = False
    for ax, each, (label, _) in zip(panels.flat, cells, shown, strict=False):
        edges = [_edges(v, log) for v, log in zip((each.x, each.y), logs, strict=True)]
        clipped = np.clip(each.median, norm.vmin, norm.vmax)
        ax.pcolormesh(*edges, clipped.T, norm=norm, cmap=_COLOURS, linewidth=0, rasterized=True)
        ax.set_facecolor(_HOLLOW)
        hollow |= bool(np.isnan(each.median).any())
        if not each.seen.all():
            partly = True
            i, j = np.nonzero(each.seen)
            ax.plot(each.x[i], each.y[j], ".", color="white", markersize=2.2, markeredgewidth=0)
        for log, name in zip(logs, ("x", "y"), strict=True):
            if log:
                ax.set(**{f"{name}scale": "log"})
        ax.set_title(label, fontsize=9, loc="left")
        ax.grid(visible=False)
        if border is not None and {x, y} <= set(border.columns):
            _draw_border(ax, border, x, y)
    for ax in panels.flat[len(shown) :]:
        ax.set_visible(False)
    for ax in panels[-1]:
        ax.set_xlabel(symbol_of(x))
    for ax in panels[:, 0]:
        ax.set_ylabel(symbol_of(y))
    height, width = figure.get_figheight(), figure.get_figwidth()
    wrapped = textwrap.wrap(title_of(manifest), int(11.5 * width))
    above = 0.75 + 0.18 * len(wrapped)  # inches
    figure.subplots_adjust(
        left=0.75 / width, right=1 - 1.5 / width, bottom=0.95 / height, top=1 - above / height
    )
    bar = figure.add_axes(
        (1 - 1.25 / width, 0.95 / height, 0.18 / width, 1 - (above + 0.95) / height)
    )
    what = symbol_of(value) if value == "share" else f"{symbol_of(value)}, median"
    figure.colorbar(ScalarMappable(norm, _COLOURS), cax=bar, label=what)
    _legend(figure, manifest, border is not None, hollow)
    figure.suptitle(
        "\n".join(wrapped), x=0.02, y=1 - 0.12 / height, va="top", ha="left", fontsize=11
    )
    note = f"{len(frame) if trials is None else trials} trials"
    if partly:
        note += "; dots were looked at, what lies between them has the nearest one's colour"
    if len(groups) > len(shown):
        note += f"; {len(groups) - len(shown)} more values of {facet} are not drawn"
    if (frame[value].astype(float) < _LEAST_SHOWN).any() and isinstance(norm, LogNorm):
        note += f"; below {_LEAST_SHOWN:g} is drawn as {_LEAST_SHOWN:g}"
    figure.text(0.02, 0.1 / height, note, fontsize=7.5, color="#666666")
    return figure


def _legend(figure: Figure, manifest: Mapping[str, Any], has_border: bool, hollow: bool) -> None:
    handles: list[Any] = []
    if has_border and "border" in manifest:
        about = manifest["border"]
        handles.append(Line2D([], [], color=_BORDER, linewidth=2.2, label=about["predicate"]))
        sure = f"{100 * about['confidence']:.0f} % band of seeds"
        handles.append(Line2D([], [], color=_BORDER, linestyle=":", linewidth=1.2, label=sure))
    if hollow:
        handles.append(Patch(facecolor=_HOLLOW, label="no certificate"))
    if handles:
        right = 1 - 1.5 / figure.get_figwidth()
        lines = len(textwrap.wrap(title_of(manifest), int(11.5 * figure.get_figwidth())))
        top = 1 - (0.45 + 0.18 * lines) / figure.get_figheight()
        figure.legend(
            handles=handles,
            loc="lower right",
            bbox_to_anchor=(right, top),
            ncols=3,
            borderaxespad=0,
        )

"""A run over two numeric axes: a heat map of one column, with the border where the run has one."""

import textwrap
from collections.abc import Mapping, Sequence
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

from gaunlearn.report.medians import is_share, quartiles
from gaunlearn.report.parts import grouped
from gaunlearn.report.style import (
    LEAST_SHOWN,
    cell_edges,
    footnote,
    is_log,
    symbol_of,
    title_of,
    told,
)
from gaunlearn.schema import GUARANTEED_EPSILON

__all__ = ["draw_plane"]

_MOST_PANELS = 6
_MOST_COLUMNS = 3
_COLOURS = "viridis"
_BORDER, _HOLLOW, _MARK, _SURE = "#D55E00", "#dddddd", "#8c8c8c", "#CC79A7"


class _Cells:
    """Medians of a column over the grid of two axes' values.

    Attributes:
        x, y: values of the axes, ascending.
        median: (len(x), len(y)); where nobody has looked, that of the nearest point; NaN where it
            is no number (``medians``).
        seen: where somebody has looked.
        uncertified: (k, 2), points at which trials have no certificate.
        failed: (k,), which share of them.
    """

    def __init__(self, frame: pd.DataFrame, x: str, y: str, value: str) -> None:
        self.x, self.y = (np.sort(frame[name].unique()) for name in (x, y))
        medians = quartiles(frame, [x, y], value)["median"]
        certified = pd.Series(dtype=float)
        if "separated" in frame:  # not in the points of a border that an earlier version found
            certified = frame["separated"].astype(float).groupby([frame[x], frame[y]]).mean()
        certified = certified[certified < 1]
        self.uncertified = np.array([*certified.index], float).reshape(-1, 2)
        self.failed = 1 - certified.to_numpy()
        i, j = (
            np.searchsorted(v, medians.index.get_level_values(n))
            for v, n in ((self.x, x), (self.y, y))
        )
        self.seen = np.zeros((len(self.x), len(self.y)), bool)
        self.seen[i, j] = True
        self.median = np.full(self.seen.shape, np.nan)
        self.median[i, j] = medians
        self.median = self.filled(self.median)

    def filled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of the grid; where nobody has looked, those of the nearest point."""
        if self.seen.all():
            return values
        every = np.moveaxis(np.indices(self.seen.shape), 0, -1)
        # Half a second to import, for phase diagrams only.
        from scipy.interpolate import NearestNDInterpolator

        return NearestNDInterpolator(np.argwhere(self.seen), values[self.seen])(every)

    def over(self, by_place: pd.Series) -> NDArray[np.float64]:
        """Numbers indexed by both axes' values, on the grid; 0 where there is none."""
        found = np.zeros(self.seen.shape)
        for level, values in enumerate((self.x, self.y)):  # another panel may have others
            by_place = by_place[by_place.index.get_level_values(level).isin(values)]
        i, j = (
            np.searchsorted(values, by_place.index.get_level_values(level))
            for level, values in enumerate((self.x, self.y))
        )
        found[i, j] = by_place.fillna(0.0)
        return self.filled(found)


def _norm(values: NDArray[Any]) -> Normalize:
    shown = values[np.isfinite(values)]
    if not shown.size:
        return Normalize(0, 1)
    if is_log(shown, LEAST_SHOWN):
        return LogNorm(max(shown.min(), LEAST_SHOWN), shown.max())
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
    facets: Sequence[str] = (),
    trials: int | None = None,
    about: str = "",
    certain: pd.Series | None = None,
) -> Figure:
    """Medians of a column at each pair of values of two others, a panel for each combination of
    some more.

    Args:
        border: of the run (``Run.border``); drawn where it is one in x and y.
        x, y: numeric columns.
        value: the column that is shown; of one of yes and no the share of yes.
        facets: columns, each combination of whose values gets a panel; of none, one for all.
        trials: how many there are, if rows of ``frame`` are something else.
        about: which trials these are; for the small print.
        certain: the share of trials of which theory says beforehand that unlearning succeeds
            (``assumptions_hold``), indexed by x and y; a line where it is a half.
    """
    seen = frame.dropna(subset=[x, y])
    groups = [(told(facets, values), group) for values, group in grouped(seen, facets)]
    shown = groups[:_MOST_PANELS]
    cells = [_Cells(group, x, y, value) for _, group in shown]
    share = value == "share" or is_share(frame[value])
    border = border if border is not None and {x, y} <= set(border.columns) else None
    every_value = np.concatenate([each.median.ravel() for each in cells])
    norm = Normalize(0, 1) if share else _norm(every_value)
    columns = min(_MOST_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.6 + 4.2 * columns, 1.9 + 3.7 * rows))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    logs = is_log(frame[x]), is_log(frame[y])
    hollow = partly = uncertified = proven = False
    for ax, each, (label, _) in zip(panels.flat, cells, shown, strict=False):
        edges = [cell_edges(v, log) for v, log in zip((each.x, each.y), logs, strict=True)]
        clipped = np.clip(each.median, norm.vmin, norm.vmax)
        ax.pcolormesh(*edges, clipped.T, norm=norm, cmap=_COLOURS, linewidth=0, rasterized=True)
        ax.set_facecolor(_HOLLOW)
        hollow |= bool(np.isnan(each.median).any())
        if not each.seen.all():
            partly = True
            i, j = np.nonzero(each.seen)
            ax.plot(each.x[i], each.y[j], ".", color="white", markersize=2.2, markeredgewidth=0)
        if certain is not None:
            share_certain = each.over(certain)
            if min(share_certain.shape) > 1 and share_certain.min() < 0.5 <= share_certain.max():
                ax.contour(each.x, each.y, share_certain.T, [0.5], colors=_SURE, linewidths=1.6)
                proven = True
        if len(each.uncertified):
            uncertified = True
            ax.scatter(*each.uncertified.T, s=30 * each.failed, marker="x", c=_MARK, linewidths=1)
        for log, name in zip(logs, ("x", "y"), strict=True):
            if log:
                ax.set(**{f"{name}scale": "log"})
        ax.set_title(label, fontsize=9, loc="left")
        ax.grid(visible=False)
        if border is not None:
            _draw_border(ax, border, x, y)
    for ax in panels.flat[len(shown) :]:
        ax.set_visible(False)
    for ax in panels[-1]:
        ax.set_xlabel(symbol_of(x))
    for ax in panels[:, 0]:
        ax.set_ylabel(symbol_of(y))
    height, width = figure.get_figheight(), figure.get_figwidth()
    wrapped = textwrap.wrap(title_of(manifest), int(11.5 * width))
    above = 0.9 + 0.18 * len(wrapped)  # inches
    figure.subplots_adjust(
        left=0.75 / width, right=1 - 1.5 / width, bottom=0.95 / height, top=1 - above / height
    )
    bar = figure.add_axes(
        (1 - 1.25 / width, 0.95 / height, 0.18 / width, 1 - (above + 0.95) / height)
    )
    what = symbol_of(value) if value == "share" else f"{symbol_of(value)}, median"
    if share and value != "share":
        what = f"share with {symbol_of(value)}"
    figure.colorbar(ScalarMappable(norm, _COLOURS), cax=bar, label=what)
    _legend(figure, manifest, border is not None, hollow, uncertified, proven)
    figure.suptitle(
        "\n".join(wrapped), x=0.02, y=1 - 0.12 / height, va="top", ha="left", fontsize=11
    )
    note = f"{len(frame) if trials is None else trials} trials{about}"
    if partly:
        note += "; dots were looked at, what lies between them has the nearest one's colour"
    if len(groups) > len(shown):
        note += f"; {len(groups) - len(shown)} more settings of {', '.join(facets)} are not drawn"
    if isinstance(norm, LogNorm) and (frame[value].astype(float) < LEAST_SHOWN).any():
        note += f"; below {LEAST_SHOWN:g} is drawn as {LEAST_SHOWN:g}"
    footnote(figure, note)
    return figure


def _legend(
    figure: Figure,
    manifest: Mapping[str, Any],
    has_border: bool,
    hollow: bool,
    uncertified: bool,
    proven: bool,
) -> None:
    handles: list[Any] = []
    if has_border:
        about = manifest["border"]
        handles.append(Line2D([], [], color=_BORDER, linewidth=2.2, label=about["predicate"]))
        if about["confidence"] > 0:  # one seed has no band
            sure = f"{100 * about['confidence']:.0f} % band of seeds, at each point"
            handles.append(Line2D([], [], color=_BORDER, linestyle=":", linewidth=1.2, label=sure))
    if proven:
        sure = f"ε ≤ {GUARANTEED_EPSILON:g} certain beforehand"
        handles.append(Line2D([], [], color=_SURE, linewidth=1.6, label=sure))
    if hollow:
        handles.append(Patch(facecolor=_HOLLOW, label="no number"))
    if uncertified:
        mark = Line2D([], [], color=_MARK, marker="x", markersize=4, linestyle="none")
        mark.set_label("trials without a certificate; larger: more")
        handles.append(mark)
    if handles:
        right = 1 - 1.5 / figure.get_figwidth()
        lines = len(textwrap.wrap(title_of(manifest), int(11.5 * figure.get_figwidth())))
        top = 1 - (0.62 + 0.18 * lines) / figure.get_figheight()
        figure.legend(
            handles=handles,
            loc="lower right",
            bbox_to_anchor=(right, top),
            ncols=2 if figure.get_figwidth() < 8 else 4,
            borderaxespad=0,
        )

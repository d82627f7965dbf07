"""The border of a region in a grid of points: where to look next, and the border as curves.

What is known of a point is its margin: positive inside the region, negative outside, NaN where
nobody has looked. Points are places (i, j) in a grid; what its axes mean, and what is measured, is
not known here.

The grid's points are looked at in nested cells. A cell on whose edges or inside margins have
different signs is cut by a border, and is split at its middle; so is, if that is wanted, a cell in
which repetitions (seeds) disagree. So points are spent along the border, level by level, and in the
end nearly all points next to it have been looked at: a border of length about N in an N x N grid
takes about 7 N points of N^2. What lies between the points that it starts with, and is smaller than
their distance, may be missed.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import contourpy
import numpy as np
from numpy.typing import NDArray

__all__ = ["Spread", "coarse_points", "curves", "points_to_add", "spread_of"]

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

# The interval for a median that is asked for; few repetitions may not give it.
_CONFIDENCE = 0.9


class Spread(NamedTuple):
    """A median over repetitions, with an interval for it that assumes nothing of their law.

    Attributes:
        low, median, high: (I, J); NaN where nobody has looked.
        split: (I, J), whether repetitions disagree about the sign.
        confidence: the least probability, over points, that the interval holds the median: 0.9 or
            more, or that of all repetitions' range where these are too few.
    """

    low: Float
    median: Float
    high: Float
    split: Mask
    confidence: float


def spread_of(margins: Float) -> Spread:
    """Of margins (I, J, S) of S repetitions, NaN where there are none.

    The r-th smallest and largest of k numbers hold their law's median between them with
    probability 1 - 2 P(B < r), B binomial (k, 1/2): the largest r is taken that keeps it at 0.9.
    """
    # Half a second to import, for borders only.
    from scipy.stats import binom

    count = (~np.isnan(margins)).sum(2)
    ordered = np.sort(margins, axis=2)  # NaN last
    rank = np.maximum(binom.ppf((1 - _CONFIDENCE) / 2, count, 0.5), 1).astype(int)
    # ppf gives the least r with P(B <= r) >= 0.05, so P(B < r) < 0.05.
    confidence = 1 - 2 * binom.cdf(rank - 1, count, 0.5)

    def at(place: NDArray[np.int64]) -> Float:
        inside = np.clip(place, 0, max(margins.shape[2] - 1, 0))
        found = np.take_along_axis(ordered, inside[:, :, None], axis=2)[:, :, 0]
        return np.where(count > 0, found, np.nan)

    middle = 0.5 * (at((count - 1) // 2) + at(count // 2))
    looked_at = count > 0
    positive = (margins >= 0).sum(2)
    return Spread(
        low=at(rank - 1),
        median=middle,
        high=at(count - rank),
        split=looked_at & (positive > 0) & (positive < count),
        confidence=float(confidence[looked_at].min()) if looked_at.any() else np.nan,
    )


def _lines(size: int, per_axis: int) -> list[int]:
    return np.unique(np.linspace(0, size - 1, min(per_axis, size)).round().astype(int)).tolist()


def coarse_points(available: Mask, per_axis: int) -> Mask:
    """The points to begin with: ``per_axis`` lines along each axis, both ends among them.

    Args:
        available: points that exist (I, J).
    """
    lines = [_lines(size, per_axis) for size in available.shape]
    found = np.zeros_like(available)
    found[np.ix_(*lines)] = True
    return found & available


class _Cell(NamedTuple):
    """Points from (i, j) to (k, l), its corners."""

    i: int
    j: int
    k: int
    l: int  # noqa: E741 - i to k, j to l

    @property
    def area(self) -> int:
        return (self.k - self.i) * (self.l - self.j)

    def cuts(self) -> tuple[list[int], list[int]]:
        """The lines that its parts lie between."""
        rows, columns = (sorted({a, (a + b) // 2, b}) for a, b in (self[::2], self[1::2]))
        return rows, columns

    def parts(self) -> Iterator["_Cell"]:
        rows, columns = self.cuts()
        for i, k in pairwise(rows):
            for j, l in pairwise(columns):  # noqa: E741
                yield _Cell(i, j, k, l)


def _leaves(cell: _Cell, known: Mask) -> Iterator[_Cell]:
    """The cells that are not split yet, and can be."""
    if cell.k - cell.i <= 1 and cell.l - cell.j <= 1:
        return
    if known[np.ix_(*cell.cuts())].all():
        for part in cell.parts():
            yield from _leaves(part, known)
    else:
        yield cell


def points_to_add(
    spread: Spread,
    available: Mask,
    cost: Float,
    budget: float,
    per_axis: int,
    look_at_doubtful: bool = True,
) -> Mask:
    """The points to look at next (I, J); none if no cell needs it, or the budget is spent.

    Cells that a border cuts come first, large ones before small ones, and of equal ones those with
    a corner nearest to it; cells in which repetitions disagree only if there are none of these.

    Args:
        spread: of all that has been looked at, ``coarse_points`` among it.
        available: points that exist.
        cost: of each point (I, J).
        budget: what the new ones may cost together.
        per_axis: as for ``coarse_points``.
        look_at_doubtful: whether cells are split because repetitions disagree.
    """
    seen = ~np.isnan(spread.median)
    known = seen | ~available
    inside = seen & (spread.median >= 0)
    rows, columns = (_lines(size, per_axis) for size in available.shape)
    cut: list[tuple[float, float, _Cell]] = []
    doubtful: list[tuple[float, float, _Cell]] = []
    for i, k in pairwise(rows):
        for j, l in pairwise(columns):  # noqa: E741
            for cell in _leaves(_Cell(i, j, k, l), known):
                box = np.s_[cell.i : cell.k + 1, cell.j : cell.l + 1]
                here = seen[box]
                if not here.any():
                    continue
                nearest = float(np.abs(spread.median[box][here]).min())
                entry = -cell.area, nearest, cell
                if inside[box].any() and (here & ~inside[box]).any():
                    cut.append(entry)
                elif spread.split[box].any():
                    doubtful.append(entry)
    added = np.zeros_like(available)
    for _, _, cell in sorted(cut or (doubtful if look_at_doubtful else [])):
        new = np.zeros_like(available)
        new[np.ix_(*cell.cuts())] = True
        new &= ~known & ~added
        price = float(cost[new].sum())
        if price <= budget:
            budget -= price
            added |= new
    return added


def curves(field: Float) -> list[Float]:
    """The lines on which a field (I, J) is 0, each (k, 2) in units of places, piecewise linear.

    Between the points at which the field is known (not NaN) it is interpolated linearly on
    triangles; beyond them it has no value, and no line.
    """
    known = ~np.isnan(field)
    whole = field
    if not known.all():
        places = np.argwhere(known)
        # Three points that are not on a line make a triangle.
        if len(places) < 3 or np.linalg.matrix_rank(places - places[0]) < 2:
            return []
        from scipy.interpolate import LinearNDInterpolator

        every = np.moveaxis(np.indices(field.shape), 0, -1)
        whole = np.where(known, field, LinearNDInterpolator(places, field[known])(every))
    generator = contourpy.contour_generator(z=np.ma.masked_invalid(whole.T))
    lines = [np.asarray(line, float) for line in generator.lines(0.0)]
    return [line for line in lines if len(line) > 1]

"""The rounds of a sweep that looks for a border, and the border as a table.

The values of the two axes are a full grid; only those of its points are run that
``gaunlearn.border`` asks for, round by round, and every trial is one of the full grid's, with its
name and its numbers. What a round asks for depends on the trials of the rounds before it alone, so
that a run that was interrupted goes on where it was: its rounds are found stored.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gaunlearn.border import coarse_points, curves, points_to_add, spread_of
from gaunlearn.sweep.plan import trials_of
from gaunlearn.sweep.predicate import Border, margins_of
from gaunlearn.sweep.spec import Sweep

if TYPE_CHECKING:  # it takes half a second to import, which a run's first rows need not wait for
    import pandas as pd

__all__ = ["border_of", "first_trials", "rounds"]

Float = NDArray[np.float64]

# A later round has as many trials as the first, or so many points if that is more: a device is to
# be kept busy.
_POINTS_OF_A_ROUND = 16


def _costs(sweep: Sweep, border: Border) -> Float:
    """Trials of each point (I, J); 0 where filters leave none."""
    found = np.zeros(border.shape)
    places = border.places(sweep.kept, sweep.grid)
    cells = itertools.chain.from_iterable(sweep.trainings())
    np.add.at(found, places, [trials_of(cell, sweep.directory) for cell in cells])
    return found


def first_trials(sweep: Sweep, border: Border) -> int:
    """How many trials a search begins with.

    Raises:
        SpecError: it has no points to begin with, or its budget does not allow them.
    """
    costs = _costs(sweep, border)
    points = coarse_points(costs > 0, border.coarse)
    trials = int(costs[points].sum())
    if not points.any():
        sweep.grid.fail("sweep.filter", "leaves none of the points that a border begins with")
    if border.budget is not None and trials > border.budget:
        sweep.grid.fail(
            f"border.budget = {border.budget}",
            f"the {points.sum()} points to begin with take {trials} trials: give more, or fewer "
            f"lines (border.coarse = {border.coarse})",
        )
    return trials


def rounds(
    sweep: Sweep,
    border: Border,
    rows: Callable[[], "pd.DataFrame"],
    agreed: Callable[[NDArray[np.bool_]], NDArray[np.bool_]] = lambda points: points,
) -> Iterator[Sweep]:
    """The parts of a sweep to be run one after the other; each is asked for when all trials of
    those before it are stored.

    Args:
        rows: the trials that are stored.
        agreed: the choice of a round's points that is followed in place of one's own.
    """
    costs = _costs(sweep, border)
    available = costs > 0
    left = np.inf if border.budget is None else float(border.budget)
    new = coarse_points(available, border.coarse)
    chosen = np.zeros_like(new)
    # Later rounds are no larger than the first: they run in the programs compiled for it.
    most = max(float(costs[new].sum()), _POINTS_OF_A_ROUND * float(costs.max()))
    while new.any():
        yield sweep.at(new)
        chosen |= new
        left -= float(costs[new].sum())
        margins = margins_of(border, rows())
        margins[~chosen] = np.nan  # a later round of an interrupted run is not to be known yet
        new = agreed(
            points_to_add(
                spread_of(margins),
                available,
                costs,
                min(left, most),
                border.coarse,
                look_at_doubtful=border.budget is not None,
            )
        )


def _values_at(values: Sequence[float], places: Float) -> Float:
    """An axis' value at places between its points: along its logarithm where that is the more
    even scale.
    """
    array, every = np.asarray(values), np.arange(len(values))
    if array[0] > 0:
        even, log = np.diff(array), np.diff(np.log(array))
        if np.ptp(log) / log.mean() < np.ptp(even) / even.mean():
            return np.exp(np.interp(places, every, np.log(array)))
    return np.interp(places, every, array)


def border_of(
    border: Border, frame: "pd.DataFrame"
) -> "tuple[pd.DataFrame, pd.DataFrame, dict[str, float]]":
    """The border as a table, the points that it rests on, and what is to be known about it.

    The border has a row for each corner of a curve: ``curve`` is "border" where the median over
    seeds changes sides, and "low" and "high" where the lower and the upper end of an interval for
    that median do; ``piece`` numbers the connected lines of a curve, ``place`` the corners along
    one; the other two columns are the axes. Of the points: ``seeds``, the ``share`` of them that
    is inside, the ``margin`` (``predicate.margins_of``) with its interval, ``low`` to ``high``, and
    the share of trials that have a certificate (``separated``).
    """
    import pandas as pd

    margins = margins_of(border, frame)
    spread = spread_of(margins)
    rows = []
    for name, field in (("border", spread.median), ("low", spread.low), ("high", spread.high)):
        for piece, line in enumerate(curves(field)):
            a, b = (_values_at(v, line[:, axis]) for axis, v in enumerate(border.values))
            rows += [(name, piece, place, *at) for place, at in enumerate(zip(a, b, strict=True))]
    table = pd.DataFrame(rows, columns=["curve", "piece", "place", *border.columns])
    i, j = np.nonzero(~np.isnan(spread.median))
    here = margins[i, j]
    seeds = (~np.isnan(here)).sum(1)
    axes = [np.asarray(v)[at] for v, at in zip(border.values, (i, j), strict=True)]
    keys = [frame[name].astype(float) for name in border.columns]
    separated = frame["separated"].groupby(keys).mean()
    points = pd.DataFrame(
        {
            **dict(zip(border.columns, axes, strict=True)),
            "seeds": seeds,
            "share": (here >= 0).sum(1) / seeds,
            "margin": spread.median[i, j],
            "low": spread.low[i, j],
            "high": spread.high[i, j],
            "separated": separated.reindex(pd.MultiIndex.from_arrays(axes)).to_numpy(),
        }
    )
    facts = {
        "points": len(points),
        "points_of_full_grid": int(np.prod(border.shape)),
        "points_inside": int((points["margin"] >= 0).sum()),
        "confidence": round(spread.confidence, 4),
    }
    return table, points, facts

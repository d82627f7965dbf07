"""What a sweep with [border] looks for: its predicate and two axes, and margins from its trials.

Which points of the two axes are run is ``adaptive``'s business.
"""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gaunlearn.checks import did_you_mean
from gaunlearn.schema import RESULTS
from gaunlearn.sweep.axes import is_number
from gaunlearn.sweep.grid import INNER, STEP, Grid, Name
from gaunlearn.sweep.sections import column_name

if TYPE_CHECKING:  # it takes half a second to import, which a run's first rows need not wait for
    import pandas as pd

__all__ = ["Border", "margins_of", "read_border"]

_COARSE = 5
# In a margin, a factor of more than this counts as this: a residual of rounding is not nearer to
# its level for being 1e-15, and would draw an interpolated border to the other side.
_LARGEST = math.log(10.0)
_TIE = 1e-9
_LEVEL = re.compile(r"(\w+)\s*(<=|>=|<|>)\s*(\S+)")
_BEATS = re.compile(r"(\w+) beats (\w+)(?: in (\w+))?")
_OF_ANY_SIGN = {column.name for column in RESULTS if column.range.startswith("real")}
_YES_OR_NO = {column.name for column in RESULTS if column.type == "bool"}
_SMALLER_IS_BETTER = ("epsilon", "delta", "tau", "disagreement")


class _Level(NamedTuple):
    """A predicate "column sign bound", the bound being a number or another column."""

    column: str
    sign: str
    bound: float | str


class _Beats(NamedTuple):
    """A predicate "method beats other in column"."""

    method: str
    other: str
    column: str


# What a column that stands alone is compared with. Two retrainings differ by so much: only against
# that does a distance to the retrained model mean something.
_ALONE = {"tau_retrain": _Level("tau_retrain", "<=", "tau_retrain_floor")}


def _read(predicate: str) -> _Level | _Beats | None:
    """What a predicate says; None if it is none."""
    text = predicate.strip()
    if text in _YES_OR_NO:
        return _Level(text, ">=", 0.5)
    if text in _ALONE:
        return _ALONE[text]
    if beats := _BEATS.fullmatch(text):
        return _Beats(beats[1], beats[2], beats[3] or "epsilon")
    if level := _LEVEL.fullmatch(text):
        try:
            return _Level(level[1], level[2], float(level[3]))
        except ValueError:
            return _Level(*level.groups())
    return None


class Border(NamedTuple):
    """What a sweep looks for.

    Attributes:
        predicate: as it was written.
        axes: numbers of the two axes of ``Grid.axes``.
        names: their parameters.
        values: of each axis' points.
        budget: trials that may be run; None is as many as it takes.
        coarse: lines of points along each axis to begin with.
    """

    predicate: str
    axes: tuple[int, int]
    names: tuple[Name, Name]
    values: tuple[tuple[float, ...], tuple[float, ...]]
    budget: int | None
    coarse: int

    @property
    def column(self) -> str:
        """The column that the predicate is about."""
        read = _read(self.predicate)
        assert read is not None
        return read.column

    @property
    def columns(self) -> tuple[str, str]:
        """The axes' columns."""
        return column_name(*self.names[0]), column_name(*self.names[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Points of the full grid."""
        return len(self.values[0]), len(self.values[1])

    def places(self, numbers: NDArray[np.int64], grid: Grid) -> tuple[NDArray[Any], NDArray[Any]]:
        """Where on the two axes combinations are."""
        sizes = [len(axis.points) for axis in grid.axes]
        every = np.unravel_index(numbers, sizes)
        return every[self.axes[0]], every[self.axes[1]]


def _check_predicate(grid: Grid, predicate: Any) -> str:
    key = f"border.predicate = {predicate!r}"
    allowed = (
        'must be a level, such as "epsilon <= 0.1", "tau_retrain <= tau_retrain_floor" (or'
        ' "tau_retrain" alone) or "separated", or a comparison of two methods, such as'
        ' "ascent beats identity" or "ascent beats identity in tau_retrain"'
    )
    numbers = {c.name for c in RESULTS if c.type not in ("string", "bool")}
    if not isinstance(predicate, str):
        grid.fail(key, allowed)
    predicate = predicate.strip()
    if predicate in _YES_OR_NO:
        return predicate
    read = _read(predicate)
    if isinstance(read, _Level):
        for name in (read.column, read.bound):
            if isinstance(name, str) and name not in numbers:
                grid.fail(key, f"there is no column {name!r}; {did_you_mean(name, numbers)}")
        if read.column == read.bound:
            grid.fail(key, "compares a column with itself")
        if not isinstance(read.bound, str):
            if not math.isfinite(read.bound):
                grid.fail(key, allowed)
            if read.bound < 0 and read.column not in _OF_ANY_SIGN:
                grid.fail(key, f"{read.column} is nowhere below 0")
        return predicate
    if read is None and predicate in numbers:
        grid.fail(key, f'needs a level, such as "{predicate} <= 0.1"')
    if read is None:
        grid.fail(key, allowed)
    better = {name for name in numbers if name.startswith(_SMALLER_IS_BETTER)}
    if read.column not in better:
        hint = did_you_mean(read.column, better)
        grid.fail(key, f"{hint}{read.column!r} is no column of which less is better")
    if read.method == read.other:
        grid.fail(key, "compares a method with itself")
    for method in read.method, read.other:
        if method not in grid.kinds["unlearn"]:
            grid.fail(key, f"unlearn.method has no {method!r}")
    return predicate


def _axis_number(grid: Grid, name: Any) -> int:
    for number, axis in enumerate(grid.axes):
        for each in axis.names:
            if name in (".".join(each), each[1]):
                if each in INNER:
                    grid.fail(
                        "border.axes", f"{name} repeats or continues a trial: it is no axis here"
                    )
                if len(axis.names) > 1:
                    grid.fail("border.axes", f"{name} advances together with others")
                return number
    swept = [".".join(each) for axis in grid.axes for each in axis.names if each not in INNER]
    grid.fail("border.axes", f"{name!r} is no axis; there are {', '.join(swept) or 'none'}")


def read_border(grid: Grid, content: Mapping[str, Any]) -> Border | None:
    """The [border] section of a file, checked; None if it has none.

    Raises:
        SpecError: one line that says what is allowed.
    """
    if "border" not in content:
        return None
    table = content["border"]
    predicate = _check_predicate(grid, table.get("predicate"))
    swept = [axis.names[0] for axis in grid.axes if axis.names[0] not in INNER]
    given = table.get("axes", [".".join(n) for n in swept if n != ("unlearn", "method")])
    if not isinstance(given, list) or len(given) != 2:
        grid.fail(f"border.axes = {given!r}", "must name two axes")
    numbers = [_axis_number(grid, name) for name in given]
    if numbers[0] == numbers[1]:
        grid.fail(f"border.axes = {given!r}", "names one axis twice")
    values = []
    for number in numbers:
        axis = grid.axes[number]
        points = [point[0] for point in axis.points]
        key = ".".join(axis.names[0])
        if len(points) < 3 or not all(is_number(point) for point in points):
            grid.fail(key, "an axis of a border needs three or more numbers")
        if sorted(points) != points:
            grid.fail(key, "an axis of a border must have its values in ascending order")
        values.append(tuple(map(float, points)))
    _check_rest(grid, set(numbers), predicate)
    budget, coarse = table.get("budget"), table.get("coarse", _COARSE)
    if budget is not None and (type(budget) is not int or budget < 1):
        grid.fail(f"border.budget = {budget!r}", "must be a number of trials, 1 or more")
    if type(coarse) is not int or not 2 <= coarse <= 1000:
        grid.fail(f"border.coarse = {coarse!r}", "must be a number of lines, 2 to 1000")
    first, second = (grid.axes[number].names[0] for number in numbers)
    return Border(
        predicate, (numbers[0], numbers[1]), (first, second), (values[0], values[1]), budget, coarse
    )


def _check_rest(grid: Grid, axes: set[int], predicate: str) -> None:
    """Nothing else may vary: the trials of a point are to be repetitions of one experiment."""
    beats = isinstance(_read(predicate), _Beats)
    for number, axis in enumerate(grid.axes):
        names = [name for name in axis.names if name not in INNER]
        if number in axes or not names:
            continue
        if not (beats and names == [("unlearn", "method")]):
            grid.fail(
                ".".join(names[0]),
                "a sweep with [border] varies its two axes, seeds and forgotten samples only"
                + (", and unlearn.method" if beats else ""),
            )
    fractions = grid.free.get(STEP, ())
    if len(fractions) > 1:
        grid.fail("unlearn.step_fraction", "must have one value in a sweep with [border]")


def _ratio(better: NDArray[Any], worse: NDArray[Any]) -> NDArray[np.float64]:
    """log(worse / better) between -log 10 and log 10: NaN is worse than all numbers."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log(np.maximum(worse, 0.0)) - np.log(np.maximum(better, 0.0))
    found = np.where(np.isnan(better), -_LARGEST, np.where(np.isnan(worse), _LARGEST, found))
    found = np.where(np.isnan(found), 0.0, found)  # 0 against 0
    return np.clip(found, -_LARGEST, _LARGEST)


def margins_of(border: Border, frame: "pd.DataFrame") -> NDArray[np.float64]:
    """How far inside the region each point is for each seed, (I, J, S); NaN where there is no
    trial.

    Of a level on a positive column the log of the ratio to it, within a factor of 10 (of others the
    difference); of one method that is to beat another the log of the ratio of their columns on the
    same training and forgotten samples. A trial without a number is outside. Of a seed's trials the
    median.
    """
    import pandas as pd

    read = _read(border.predicate)
    first, second = border.columns
    if isinstance(read, _Level):
        values = frame[read.column].to_numpy(float)
        bound = np.full(len(frame), read.bound)
        if isinstance(read.bound, str):
            bound = frame[read.bound].to_numpy(float)
        small = read.sign in ("<=", "<")
        signed = {read.column, read.bound} & _OF_ANY_SIGN
        if not signed and (isinstance(read.bound, str) or read.bound > 0):
            margin = _ratio(values, bound) if small else _ratio(bound, values)
        else:
            margin = (1.0 if small else -1.0) * (bound - values)
        margin = np.where(np.isnan(values) | np.isnan(bound), -_LARGEST, margin)
        # What is at the level itself is on the side that the sign says, not on the border.
        margin = np.where(margin == 0, _TIE if "=" in read.sign else -_TIE, margin)
        table = frame[[first, second, "seed"]].assign(margin=margin)
    else:
        assert isinstance(read, _Beats)
        same = [first, second, "seed", "training_id", "retrain_init", "forgotten"]
        sides = [
            frame[frame["method"] == method].set_index(same)[read.column]
            for method in (read.method, read.other)
        ]
        both = pd.concat(sides, axis=1, keys=["a", "b"]).reset_index()
        margin = _ratio(both["a"].to_numpy(float), both["b"].to_numpy(float))
        margin = np.where(margin == 0, -_TIE, margin)  # who is as good beats nobody
        table = both[[first, second, "seed"]].assign(margin=margin)
    seeds = {seed: place for place, seed in enumerate(sorted(table["seed"].unique()))}
    found = np.full((*border.shape, len(seeds)), np.nan)
    by_point = table.groupby([first, second, "seed"])["margin"].median().reset_index()
    places = [{value: place for place, value in enumerate(values)} for values in border.values]
    found[
        by_point[first].astype(float).map(places[0]).to_numpy(int),
        by_point[second].astype(float).map(places[1]).to_numpy(int),
        by_point["seed"].map(seeds).to_numpy(int),
    ] = by_point["margin"]
    return found

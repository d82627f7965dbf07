"""The axes of a sweep: what a parameter's value in a specification may stand for.

    m = 10                                          one value
    m = [10, 20]                                    an axis
    d = { start = 100, stop = 1e6, count = 5, scale = "log" }     an axis, ends included
    d = { low = 100, high = 1e6, scale = "log" }    an interval, filled by [sweep] design
    n = "4 * m"                                     derived from other parameters, also in lists

Values only, no sections: which parameters there are is ``sections``' business.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeGuard

import numpy as np

from gaunlearn.checks import did_you_mean
from gaunlearn.sweep.expressions import Expression, parse

__all__ = [
    "MOST_POINTS",
    "Axis",
    "Design",
    "Interval",
    "fill",
    "is_hashable",
    "is_number",
    "read_value",
]

# Of a range or a design.
MOST_POINTS = 2**24

_RANGE_KEYS = ("start", "stop", "count", "scale")
_INTERVAL_KEYS = ("low", "high", "scale")
_SCALES = ("linear", "log")
ALLOWED = (
    "allowed are a value, a list of values, { start, stop, count, scale }, "
    '{ low, high, scale } with a [sweep] design, or text such as "4 * m"'
)


class Axis(NamedTuple):
    """Parameters that advance together: one for a list, several if zipped or of a design.

    Attributes:
        names: (section, key) of each parameter.
        points: their values at each position of the axis.
    """

    names: tuple[tuple[str, str], ...]
    points: tuple[tuple[Any, ...], ...]


class Interval(NamedTuple):
    """Where a design may put a parameter's values; both ends are included for whole numbers."""

    low: float
    high: float
    log: bool
    whole: bool


@dataclass(frozen=True)
class Design:
    """``count`` points that fill all intervals at once; more points keep the first ones."""

    kind: Literal["random", "sobol"]
    count: int
    seed: int


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a finite number (booleans are not)."""
    return type(value) in (int, float) and abs(value) < float("inf")


def is_hashable(value: Any) -> bool:
    """Whether a value is made of numbers, text and tuples alone, as all valid ones are."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _check_keys(value: Mapping[str, Any], allowed: Sequence[str], needed: Sequence[str]) -> None:
    for key in value:
        if key not in allowed:
            raise ValueError(f"unknown key {key!r}; {did_you_mean(key, allowed)}{ALLOWED}")
    for key in needed:
        if not is_number(value.get(key)):
            raise ValueError(f"{key} must be a number; {ALLOWED}")
    scale = value.get("scale", "linear")
    if scale not in _SCALES:
        hint = did_you_mean(scale, _SCALES)
        raise ValueError(f"scale = {scale!r}: {hint}must be one of {', '.join(_SCALES)}")


def _check_width(width: float, names: str) -> None:
    if not math.isfinite(width):
        raise ValueError(f"{names} are too far apart")


def _range(value: Mapping[str, Any], whole: bool) -> list[int | float]:
    _check_keys(value, _RANGE_KEYS, ("start", "stop"))
    start, stop, count = value["start"], value["stop"], value.get("count")
    if type(count) is not int or not 2 <= count <= MOST_POINTS:
        raise ValueError(f"count must be a whole number from 2 to {MOST_POINTS}, not {count!r}")
    if start == stop:
        raise ValueError("start and stop must differ")
    if value.get("scale") == "log":
        if min(start, stop) <= 0:
            raise ValueError('start and stop must be positive for scale = "log"')
        _check_width(stop / start, "start and stop")
        found = [start * (stop / start) ** (i / (count - 1)) for i in range(count - 1)] + [stop]
    else:
        _check_width(float(stop) - float(start), "start and stop")
        found = [start + (stop - start) * i / (count - 1) for i in range(count - 1)] + [stop]
    if whole:
        # Close steps may round to one value; it is one point then.
        return list(dict.fromkeys(round(v) for v in found))
    return [float(v) for v in found]


def _interval(value: Mapping[str, Any], whole: bool) -> Interval:
    _check_keys(value, _INTERVAL_KEYS, ("low", "high"))
    low, high, log = value["low"], value["high"], value.get("scale") == "log"
    if not low < high:
        raise ValueError("low must be smaller than high")
    if log and low <= 0:
        raise ValueError('low must be positive for scale = "log"')
    _check_width(high / low if log else float(high) - float(low), "low and high")
    if whole and (low % 1 or high % 1):
        raise ValueError("low and high must be whole numbers")
    return Interval(float(low), float(high), log, whole)


def read_value(
    value: Any, *, whole: bool, number: bool, listed: bool
) -> list[Any] | Interval | Expression:
    """What a value in a specification stands for: values of an axis (one if it is none), an
    interval, or an expression.

    Args:
        whole: the parameter is an integer.
        number: the parameter is a number, so that text is an expression.
        listed: a single value of the parameter is itself a list.

    Raises:
        ValueError: with what is allowed.
    """
    if isinstance(value, dict):
        if not number:
            raise ValueError("is not a number: it has no range or interval")
        return _interval(value, whole) if {"low", "high"} & set(value) else _range(value, whole)
    if number and isinstance(value, str):
        return parse(value)
    if isinstance(value, list) and not (listed and not (value and isinstance(value[0], list))):
        if not value:
            raise ValueError("an axis needs at least one value, not []")
        if any(isinstance(v, dict) for v in value):
            raise ValueError("a list is of values; a range or interval stands alone, not in it")
        return [parse(v) if number and isinstance(v, str) else v for v in value]
    return [value]


def fill(intervals: Sequence[Interval], design: Design) -> list[tuple[int | float, ...]]:
    """The points of a design: one tuple of values, one for each interval, for each point.

    Sobol's sequence is shifted by a random vector modulo 1 (Cranley and Patterson 1976), which
    keeps its uniformity and leaves out its special first point.
    """
    rng = np.random.default_rng(design.seed)
    if design.kind == "random":
        units = rng.random((design.count, len(intervals)))
    else:
        # Half a second to import, for a design that few specifications have.
        from scipy.stats import qmc

        engine = qmc.Sobol(len(intervals), scramble=False)
        rounds = max(0, math.ceil(math.log2(design.count)))
        shift = rng.random(len(intervals))
        units = (engine.random_base2(rounds)[: design.count] + shift) % 1.0
    return [
        tuple(_place(interval, float(unit)) for interval, unit in zip(intervals, row, strict=True))
        for row in units
    ]


def _place(interval: Interval, unit: float) -> int | float:
    low, high, log, whole = interval
    if whole and not log:
        return min(int(high), int(low) + int(unit * (int(high) - int(low) + 1)))
    value = low * (high / low) ** unit if log else low + (high - low) * unit
    return round(value) if whole else value

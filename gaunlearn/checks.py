"""Eager validation of a user's arrays: one line that says what is wrong and what is allowed.

All raise ValueError. Nothing inside a compiled program raises: a single trial that fails is a row
that says so.
"""

import difflib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "as_numbers",
    "check_forget",
    "check_retain",
    "check_samples",
    "did_you_mean",
]


def did_you_mean(given: Any, allowed: Iterable[Any]) -> str:
    """A hint to stand before what is allowed, or nothing where nothing is near."""
    words = [word for word in allowed if isinstance(word, str)]
    close = difflib.get_close_matches(given, words, n=1) if isinstance(given, str) else []
    return f"did you mean {close[0]!r}? " if close else ""


def as_numbers(value: ArrayLike, name: str) -> NDArray[np.float64]:
    """A float64 array of any shape.

    Raises:
        ValueError: it is ragged, or holds something else than real numbers.
    """
    try:
        raw: NDArray[Any] = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be a rectangular array of numbers") from None
    if raw.dtype.kind not in "buif":
        raise ValueError(f"{name} must hold real numbers, not {raw.dtype}")
    return raw.astype(np.float64) + 0.0  # -0.0 and 0.0 are one number


def check_samples(
    x: ArrayLike, y: ArrayLike, *, where: str = "", training: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x (m, d) and y (m,) as float64.

    Args:
        where: put before the message, such as a file's name.
        training: also refuse an all-zero sample and one that occurs with both labels.

    Raises:
        ValueError: wrong shapes; labels other than +1 and -1; NaN or infinite features.
    """
    x, y = as_numbers(x, f"{where}x"), as_numbers(y, f"{where}y")
    if x.ndim != 2 or x.shape[1] < 1 or (training and x.shape[0] < 1):
        raise ValueError(f"{where}x must have shape (m, d), m and d at least 1, not {x.shape}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{where}y must have shape ({x.shape[0]},) to match x, not {y.shape}")
    bad = np.flatnonzero(~np.isin(y, (-1.0, 1.0)))
    if bad.size:
        raise ValueError(f"{where}y[{bad[0]}] is {y[bad[0]]:g}: labels must be +1 or -1")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        raise ValueError(f"{where}x[{bad[0]}] is NaN or infinite: features must be finite")
    if not training:
        return x, y
    bad = np.flatnonzero(~x.any(axis=1))
    if bad.size:
        raise ValueError(f"{where}x[{bad[0]}] is all zero: no homogeneous model separates it")
    _, group = np.unique(x, axis=0, return_inverse=True)
    group = group.reshape(-1)
    low, high = np.full(len(y), np.inf), np.full(len(y), -np.inf)
    np.minimum.at(low, group, y)
    np.maximum.at(high, group, y)
    bad = np.flatnonzero(low[group] != high[group])
    if bad.size:
        twin = next(i for i in bad if group[i] == group[bad[0]] and y[i] != y[bad[0]])
        raise ValueError(f"{where}x[{bad[0]}] and x[{twin}] are the same sample with both labels")
    return x, y


def _as_mask(chosen: ArrayLike, m: int, name: str) -> NDArray[np.bool_]:
    """A boolean mask of length m from a mask or from indices (negative ones are refused)."""
    array = np.atleast_1d(np.asarray(chosen))
    if array.dtype == bool:
        if array.shape != (m,):
            raise ValueError(f"{name} is a mask of shape {array.shape}, it must be ({m},)")
        return array
    if array.size == 0:
        return np.zeros(m, bool)
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise ValueError(f"{name} must be sample indices or a boolean mask, not {chosen!r}")
    bad = array[(array < 0) | (array >= m)]
    if bad.size:
        raise ValueError(f"{name} names sample {bad[0]}; there are samples 0 to {m - 1}")
    mask = np.zeros(m, bool)
    mask[array] = True
    return mask


def check_retain(retain: ArrayLike | None, m: int) -> NDArray[np.bool_]:
    """The retain set as a mask; None keeps all.

    Raises:
        ValueError: an index that is not there, a mask of another length, an empty set.
    """
    mask = np.ones(m, bool) if retain is None else _as_mask(retain, m, "retain")
    if not mask.any():
        raise ValueError("retain is empty: at least one sample must be retained")
    return mask


def check_forget(forget: ArrayLike, m: int) -> NDArray[np.int64]:
    """The forget set: its samples numbered from 1 in the order in which they are named (those of a
    mask by index), and 0 for all others.

    Raises:
        ValueError: an index that is not there, an empty set, or one that leaves nothing to retain.
    """
    mask = _as_mask(forget, m, "forget")
    if not mask.any():
        raise ValueError("forget is empty: name at least one sample")
    if mask.all():
        raise ValueError(f"forget names all {m} samples: at least one must be retained")
    named = np.atleast_1d(np.asarray(forget))
    places = np.flatnonzero(mask) if named.dtype == bool else list(dict.fromkeys(named.tolist()))
    order = np.zeros(m, np.int64)
    order[places] = np.arange(1, len(places) + 1)
    return order

"""The median of very many numbers, in little memory, of parts counted apart."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["counts_of", "median_of"]

# Bins of a decade: a median is right to half a bin, 0.6 %.
_PER_DECADE = 200
# The bin of 0, below that of the least positive double.
_ZERO = -400 * _PER_DECADE


def counts_of(values: NDArray[np.float64]) -> Counter[int]:
    """How many numbers are in each bin of a logarithmic scale; NaN are left out.

    Counts of parts add up to those of the whole.

    Args:
        values: 0 or more.
    """
    known = values[np.isfinite(values)]
    bins = np.full(known.shape, _ZERO)
    positive = known > 0
    bins[positive] = np.floor(np.log10(known[positive]) * _PER_DECADE)
    places, counts = np.unique(bins, return_counts=True)
    return Counter(dict(zip(places.tolist(), counts.tolist(), strict=True)))


def median_of(counts: Mapping[int, int]) -> float:
    """The (lower) median of what was counted, to 0.6 %; NaN of nothing.

    >>> round(median_of(counts_of(np.array([0.0, 0.1, 0.1, 7.0, np.nan]))), 2)
    0.1
    """
    places = sorted(counts)
    if not places:
        return float("nan")
    upto = np.cumsum([counts[place] for place in places])
    place = places[int(np.searchsorted(upto, upto[-1] / 2))]
    return 0.0 if place == _ZERO else float(10 ** ((place + 0.5) / _PER_DECADE))

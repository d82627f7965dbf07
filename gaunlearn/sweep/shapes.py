"""Which array shapes a sweep is compiled for, and what its stages cost.

Problems of different m, n and d can share a program if its arrays have room for the largest of
them (``types.Problem``). Room costs arithmetic, a program costs compilation: shapes are merged as
long as that saves time by the estimates below.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

__all__ = [
    "COMPILATION_S",
    "Size",
    "choose_shapes",
    "lane_bytes",
    "problem_bytes",
    "step_seconds",
    "weight_bytes",
]

# Compiling the stages of one shape, and one training step, on two cores of an x86-64 server in
# float64 (docs/measurements.md). Estimates: they decide about shapes and are shown by `plan`, and
# no result depends on them.
COMPILATION_S = 30.0
_STEP_S, _PRODUCT_S, _ELEMENT_S = 1.2e-7, 2.5e-11, 3.9e-9

# However much there is to compute, no more shapes than this: a process holds few programs.
_MOST_SHAPES = 12
# More sizes than this are first rounded up to a geometric grid, as fine as gives so few.
_MANY = 64
_GRIDS = (1.15, 1.3, 1.6, 2.0, 4.0, 16.0, 1e9)


class Size(NamedTuple):
    """The shape of a problem's arrays, or the room for it.

    Attributes:
        samples: m.
        neurons: n.
        span: coordinates of the training samples' span.
        beyond: coordinates outside the span, of test samples and initial weights.
    """

    samples: int
    neurons: int
    span: int
    beyond: int


def weight_bytes(room: Size, upper: int) -> int:
    """Memory of one model with so many columns for layers above the first."""
    return 8 * room.neurons * (room.span + 3 + upper)


def lane_bytes(room: Size, upper: int) -> int:
    """Memory that the models and certificates of one training or retraining are kept in."""
    return 5 * weight_bytes(room, upper) + 8 * 5 * room.neurons * room.samples


def problem_bytes(room: Size, n_test: int, upper: int) -> int:
    """Memory of one problem, its initial weights and what fresh samples need."""
    width = room.span + 3 + upper
    per_neuron = 3 * width + 3 * n_test
    return 8 * (room.neurons * per_neuron + (room.samples + n_test) * width)


def step_seconds(samples: np.ndarray | int, neurons: np.ndarray | int) -> np.ndarray | float:
    """Estimated time of one training step of one trial."""
    return _STEP_S + neurons * samples * (_PRODUCT_S * samples + _ELEMENT_S)


def _rounded(value: int, grid: float, largest: int) -> int:
    """The next number of a geometric grid, but no more than the largest that is needed."""
    grown = min(value, 1)
    while grown < value:
        grown = max(grown + 1, int(grown * grid))
    return min(grown, largest)


def choose_shapes(demand: Mapping[Size, float]) -> dict[Size, Size]:
    """For each size the shape that it is computed in.

    Starts from a shape for each size and merges, best pair first, while a merged program saves
    more compilation than its room costs, or there are too many.

    Args:
        demand: for each size, the training steps (or their equivalent) that it needs.
    """
    shape_of = {size: size for size in demand}
    largest = np.asarray(list(demand)).max(axis=0).tolist()
    for grid in _GRIDS:
        if len(set(shape_of.values())) <= _MANY:
            break
        shape_of = {
            size: Size(*(_rounded(v, grid, top) for v, top in zip(size, largest, strict=True)))
            for size in demand
        }
    steps: dict[Size, float] = {}
    for size, shape in shape_of.items():
        steps[shape] = steps.get(shape, 0.0) + demand[size]
    shapes = np.asarray(sorted(steps), dtype=np.int64)
    amounts = np.asarray([steps[Size(*map(int, row))] for row in shapes])
    members = [[place] for place in range(len(shapes))]
    first = [Size(*map(int, row)) for row in shapes]
    while len(shapes) > 1:
        joint = np.maximum(shapes[:, None], shapes[None])
        alone = amounts * step_seconds(shapes[:, 0], shapes[:, 1])
        together = (amounts[:, None] + amounts) * step_seconds(joint[..., 0], joint[..., 1])
        extra = together - alone[:, None] - alone
        np.fill_diagonal(extra, np.inf)
        a, b = sorted(map(int, np.unravel_index(np.argmin(extra), extra.shape)))
        if extra[a, b] > COMPILATION_S and len(shapes) <= _MOST_SHAPES:
            break
        shapes[a], amounts[a] = joint[a, b], amounts[a] + amounts[b]
        members[a] += members.pop(b)
        shapes, amounts = np.delete(shapes, b, 0), np.delete(amounts, b)
    merged = {
        first[place]: Size(*map(int, row))
        for row, places in zip(shapes, members, strict=True)
        for place in places
    }
    return {size: merged[shape] for size, shape in shape_of.items()}

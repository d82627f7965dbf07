"""The trials of a gaunlearn sweep as explicit arrays in d dimensions, for peers.

A sweep keeps its problems in reduced coordinates. Here they are put into the first of d dimensions
and turned by a random reflection, so that peers have ordinary dense arrays of the same samples and
initial weights, and their numbers can be held against the rows of the sweep.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gaunlearn.sweep.plan import Family
from gaunlearn.sweep.problems import build_problems, size_of
from gaunlearn.sweep.spec import Sweep

from .trials import Array

__all__ = ["Explicit", "explicit"]


class Explicit(NamedTuple):
    """One entry a family.

    Attributes:
        x: (t, m, d).
        y: (t, m).
        u: (n,).
        weights: initial weights of training, retraining, and another retraining (t, 3, n, d).
    """

    x: Array
    y: Array
    u: Array
    weights: Array


def _lifted(coordinates: Array, normal: NDArray[np.float64]) -> Array:
    """Rows (..., w) as rows of len(normal) dimensions, reflected in the plane of a unit normal."""
    width = coordinates.shape[-1]
    wide = (coordinates @ normal[:width])[..., None] * (-2 * normal)
    wide[..., :width] += coordinates
    return wide


def explicit(sweep: Sweep, families: Sequence[Family]) -> Explicit:
    """Problems of families that have the same sizes."""
    wanted = [(family.data, family.model, family.seed) for family in families]
    first = families[0]
    room = size_of(first.data, first.model, sweep.directory)
    problems = build_problems(wanted, room, sweep.directory)
    rng = np.random.default_rng(0)
    x, weights = [], []
    for place in range(len(families)):
        normal = rng.standard_normal(first.data.d)
        normal /= np.linalg.norm(normal)
        x.append(_lifted(problems.x[place], normal))
        weights.append(_lifted(problems.initial_weights[place], normal))
    # PyTorch wants arrays that it may write to.
    y, u = np.array(problems.y), np.array(problems.u[0])
    return Explicit(np.stack(x), y, u, np.stack(weights))

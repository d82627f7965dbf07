"""Records that more than one module passes on, and the letters used for shapes.

Shape letters, everywhere in the package: ``m`` samples, ``d`` features, ``r`` coordinates after
reduction, ``n`` neurons (1 for the linear model), ``t`` test samples, ``k`` initialisations.
Matrices over (neuron, sample) pairs are ``(n, m)``, so that row j belongs to neuron j.
"""

from typing import NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float

AnyArray = Array | np.ndarray

__all__ = ["AnyArray", "Coordinates", "Dataset", "Problem"]


class Dataset(NamedTuple):
    """Samples, as NumPy or JAX arrays, in d features or in coordinates.

    Attributes:
        x: training features.
        y: training labels, +1 or -1.
        x_test: fresh features, possibly none (t = 0).
        y_test: their labels.
    """

    x: Float[AnyArray, "m d"]
    y: Float[AnyArray, " m"]
    x_test: Float[AnyArray, "t d"]
    y_test: Float[AnyArray, " t"]


class Coordinates(NamedTuple):
    """A data set rotated so that all samples lie in the first p coordinates.

    Attributes:
        data: the samples, of p coordinates each.
        span: r; training samples are zero from the r-th coordinate on.
    """

    data: Dataset
    span: int


class Problem(NamedTuple):
    """A data set and its initial weights in reduced coordinates (see ``data.reduction``).

    Attributes:
        x: samples; the last k columns are zero.
        y: labels, +1 or -1.
        x_test: fresh samples in the same coordinates; the last k columns are zero.
        y_test: their labels.
        initial_weights: one ``(n, r + k)`` matrix for each of k initialisations. Column r + a
            holds what lies outside the samples' span, which training never changes.
        test_offset: what the part of W(0) outside the span adds to each test pre-activation.
    """

    x: Float[Array, "m r+k"]
    y: Float[Array, " m"]
    x_test: Float[Array, "t r+k"]
    y_test: Float[Array, " t"]
    initial_weights: Float[Array, "k n r+k"]
    test_offset: Float[Array, "k n t"]

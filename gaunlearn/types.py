"""Records that more than one module passes on, and the letters used for shapes.

Shape letters, everywhere in the package: ``m`` samples, ``d`` features, ``r`` coordinates after
reduction, ``n`` neurons (1 for the linear model), ``t`` test samples, ``k`` initialisations.
Matrices over (neuron, sample) pairs are ``(n, m)``, so that row j belongs to neuron j.
"""

from typing import NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Bool, Float

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
    """A data set rotated so that p coordinates hold all of its training samples, and of its fresh
    samples what these or initial weights have an inner product with.

    Attributes:
        data: the samples, of p coordinates each.
        span: r; training samples are zero from the r-th coordinate on.
        present: which training samples exist; the others are zero.
        exists: which coordinates exist; samples and initial weights are zero in the others.
        led_by_weights: whether the coordinates from the r-th on are those of a triangular factor of
            initial weights that are still to be drawn, rather than the samples' own.
    """

    data: Dataset
    span: int
    present: Bool[AnyArray, " m"]
    exists: Bool[AnyArray, " p"]
    led_by_weights: Bool[AnyArray, ""]


class Problem(NamedTuple):
    """A data set and its initial weights in reduced coordinates (see ``data.reduction``), as NumPy
    arrays where it is made, as JAX arrays where it is used.

    Problems of different sizes share an array shape: samples that are not ``present`` are zero,
    neurons that do not exist have u_j = 0 and weights 0, and coordinates that are not needed are
    zero. None of them changes any result.

    Attributes:
        x: samples; the last k columns are zero.
        y: labels, +1 or -1.
        present: which samples exist.
        u: output weights.
        x_test: fresh samples in the same coordinates; the last k columns are zero.
        y_test: their labels.
        initial_weights: one ``(n, r + k)`` matrix for each of k initialisations. Column r + a
            holds what lies outside the samples' span, which training never changes. Deep networks
            have further columns for the layers above the first (see ``models``).
        test_offset: what the part of W(0) outside the span adds to each test pre-activation.
        outside_shares: the product of its a-th matrix with what weights have outside the span, all
            entries summed up, is how many times the a-th initialisation's is among it.
    """

    x: Float[Array, "m r+k"]
    y: Float[Array, " m"]
    present: Bool[Array, " m"]
    u: Float[Array, " n"]
    x_test: Float[Array, "t r+k"]
    y_test: Float[Array, " t"]
    initial_weights: Float[Array, "k n r+k"]
    test_offset: Float[Array, "k n t"]
    outside_shares: Float[Array, "k n k"]

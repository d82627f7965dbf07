"""Exact removal of the dimension d: coordinates in the span of the samples (DESIGN 3.3).

With an orthonormal Q (d, r) whose columns span the samples and the mixture mean, x = C Q^T.
Training moves W within that span only, so margins, gradients and the trajectory of W Q are those
of the d-dimensional problem. What lies outside, W(0) - W(0) Q Q^T, stays constant. It counts in
norms, cosines and epsilon, and fresh samples see it.

It needs k further coordinates for k initialisations: within the orthogonal complement, neuron j
has its own orthonormal frame of the k remainders, in which the a-th is row a of a triangular
factor. The samples are zero in these coordinates, so all norms and inner products between
weights come out right and no formula elsewhere has to know.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gaunlearn.types import AnyArray, Dataset, Problem

__all__ = ["reduce_problem", "span_basis"]


def span_basis(x: Float[AnyArray, "m d"], mean: Float[AnyArray, " d"]) -> Float[Array, "d r"]:
    """Orthonormal columns whose span holds the samples and the mean; r = min(d, m + 1)."""
    return jnp.linalg.qr(jnp.concatenate([jnp.asarray(x), jnp.asarray(mean)[None]]).T)[0]


def reduce_problem(data: Dataset, weights: Float[Array, "k n d"]) -> Problem:
    """Rotate a data set and k initial weight matrices into reduced coordinates.

    When r = d nothing is left outside and the k extra coordinates are zero (to rounding).
    """
    k, n, _ = weights.shape
    basis = span_basis(data.x, data.mean)
    inside = weights @ basis
    remainder = weights - inside @ basis.T
    # For each neuron, Q R of its k remainders (d, k): column a of R holds remainder a. A frame
    # of d dimensions has min(d, k) vectors.
    triangular = jnp.linalg.qr(remainder.transpose(1, 2, 0), mode="r")
    outside = (
        jnp.zeros((k, n, k)).at[:, :, : triangular.shape[1]].set(triangular.transpose(2, 0, 1))
    )

    def pad(coordinates):
        return jnp.pad(coordinates, ((0, 0), (0, k)))

    return Problem(
        x=pad(data.x @ basis),
        y=jnp.asarray(data.y),
        x_test=pad(data.x_test @ basis),
        y_test=jnp.asarray(data.y_test),
        initial_weights=jnp.concatenate([inside, outside], axis=2),
        test_offset=jax.vmap(lambda rest: rest @ data.x_test.T)(remainder),
    )

"""Trials as explicit arrays in d dimensions, and what all peers of networks have in common."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

__all__ = ["Array", "NetworkPeer", "Samples", "Triples", "multipliers"]

Array = NDArray[np.float64]


class Samples(NamedTuple):
    """What each of t networks is trained on.

    Attributes:
        x: samples (t, m, d).
        y: labels (t, m), +1 or -1.
        forget: the sample that is left out, (t,); -1 is none.
    """

    x: Array
    y: Array
    forget: NDArray[np.int64]

    @property
    def keep(self) -> NDArray[np.bool_]:
        """The samples that are not left out, (t, m)."""
        return np.arange(self.y.shape[1]) != self.forget[:, None]


class Triples(NamedTuple):
    """What came out, (t, f) for t trained networks and f step fractions.

    Attributes:
        epsilon, delta: of the unlearned network, normalised to least retained margin 1, on the
            retain set, with 1[z > 0] for ReLU's derivative.
        tau: 1 - cos between the unlearned and the retrained network.
        epsilon_train: (t,), of the trained network on all samples.
    """

    epsilon: Array
    delta: Array
    tau: Array
    epsilon_train: Array


class NetworkPeer(Protocol):
    """A module that trains and judges networks sum_j u_j relu(<w_j, x>)."""

    def train(
        self, samples: Samples, start: Array, u: Array, steps: int, step_size: float
    ) -> Array:
        """Loss-normalised descent (on log L, the logistic loss summed) from ``start`` (t, n, d)."""
        ...

    def judge(
        self, samples: Samples, w: Array, v: Array, u: Array, fractions: tuple[float, ...]
    ) -> Triples:
        """Ascend from trained networks w (t, n, d), compare with retrained v."""
        ...


def multipliers(gram: Array, correlations: Array) -> Array:
    """lambda >= 0 with the least ||theta - sum_i lambda_i y_i h_i||.

    Args:
        gram: (k, k), <y_i h_i, y_j h_j>; positive definite.
        correlations: (k,), <theta, y_i h_i>.
    """
    factor = np.linalg.cholesky(gram)
    return nnls(factor.T, solve_triangular(factor, correlations, lower=True))[0]

"""A user's weights and samples as compiled programs take them: in coordinates of the samples' span,
with room for more, so that problems of many sizes share a program.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gaunlearn.given import GivenNetwork, UserWeights
from gaunlearn.models import upper_columns

__all__ = ["Reduced", "reduce"]

Float = NDArray[np.float64]

# Room below _FINE is a power of two, the least one _LEAST, and a multiple of _FINE above.
_LEAST, _FINE = 8, 64


class Reduced(NamedTuple):
    """Weights (n, d) and samples (m, d) in an orthonormal basis of the samples' span.

    The rest of each neuron is one more coordinate, in which all samples are zero, and what other
    weights have beside it one for each of them. Behind these stand the columns of the layers above
    the first, if there are any.

    Attributes:
        weights: (N, R); rows from n on are zero, and so are the neurons' output weights.
        u: (N,).
        x: (M, R); samples from m on are zero and belong to no set of samples.
        y: (M,); they have a label all the same.
        network: whose coordinates these are.
        basis: (d, r), r = min(m, d).
        direction: (n, d), unit vectors along what each neuron has outside the span.
        rest: the column that is along it.
        others: other weights, each (N, R).
    """

    weights: Float
    u: Float
    x: Float
    y: Float
    network: GivenNetwork
    basis: Float
    direction: Float
    rest: int
    others: tuple[Float, ...] = ()

    def widen(self, of_samples: NDArray[Any]) -> NDArray[Any]:
        """Values of the m samples, (m,), and zeros for those that are not there, (M,)."""
        return _room(of_samples, self.y.shape)

    def lift(self, weights: Float) -> UserWeights:
        """Weights (N, R) in the original coordinates and in the network's form."""
        n, r = len(self.direction), self.basis.shape[1]
        own = weights[:n]
        first = own[:, :r] @ self.basis.T + own[:, self.rest, None] * self.direction
        upper = self.network.upper
        if self.network.model.is_deep:
            behind = own[:, -upper_columns(self.network.model, len(weights)) :]
            layers = self.network.model.hidden - 1
            blocks = behind[:, :-1].reshape(n, layers, len(weights))[:, :, :n].reshape(n, -1)
            upper = np.concatenate([blocks, behind[:, -1:]], axis=1)
        return self.network._replace(first=first, upper=upper).weights


def _size(count: int) -> int:
    if count > _FINE:
        return -(-count // _FINE) * _FINE
    return max(_LEAST, 1 << (count - 1).bit_length())


def _room(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    wide = np.zeros(shape, array.dtype)
    wide[tuple(map(slice, array.shape))] = array
    return wide


def _upper_with_room(network: GivenNetwork, neurons: int) -> Float:
    """The columns of the layers above the first, with rows and columns for more neurons."""
    if not network.model.is_deep:
        return np.zeros((neurons, 0))
    n, layers = len(network.first), network.model.hidden - 1
    blocks = network.upper[:, :-1].reshape(n, layers, n)
    wide = _room(blocks, (neurons, layers, neurons)).reshape(neurons, -1)
    return np.concatenate([wide, _room(network.upper[:, -1:], (neurons, 1))], axis=1)


def reduce(
    network: GivenNetwork, x: Float, y: Float, others: Sequence[GivenNetwork] = ()
) -> Reduced:
    """The coordinates of a network and samples x (m, d), labels y (m,).

    Inner products, hence pre-activations, norms and certificates, are the same in them.

    Args:
        others: further networks of the same shapes, in the same coordinates.
    """
    n, (m, d) = len(network.first), x.shape
    basis = np.linalg.qr(x.T)[0]
    # There is no room for neurons beside the linear model's one.
    neurons = 1 if network.model.is_linear else _size(n)
    samples, inner = _size(m), _size(min(m, d))
    own_columns = inner + 1 + len(others)
    directions: list[Float] = []
    each = []
    for given in (network, *others):
        inside = given.first @ basis
        outside = given.first - inside @ basis.T
        wide = _room(inside, (neurons, own_columns))
        for place, known in enumerate(directions):
            along = (outside * known).sum(1)
            wide[:n, inner + place] = along
            outside = outside - along[:, None] * known
        lengths = np.linalg.norm(outside, axis=1)
        wide[:n, inner + len(directions)] = lengths
        directions.append(outside / np.where(lengths > 0, lengths, 1.0)[:, None])
        each.append(np.concatenate([wide, _upper_with_room(given, neurons)], axis=1))
    return Reduced(
        weights=each[0],
        u=_room(network.u, (neurons,)),
        x=_room(x @ basis, (samples, each[0].shape[1])),
        y=np.concatenate([y, np.ones(samples - m)]),
        network=network,
        basis=basis,
        direction=directions[0],
        rest=inner,
        others=tuple(each[1:]),
    )

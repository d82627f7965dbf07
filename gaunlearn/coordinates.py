"""A user's weights and samples as compiled programs take them: in coordinates of the samples' span,
with room for more, so that problems of many sizes share a program.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Reduced", "reduce"]

Float = NDArray[np.float64]

# Room below _FINE is a power of two, the least one _LEAST, and a multiple of _FINE above.
_LEAST, _FINE = 8, 64


class Reduced(NamedTuple):
    """Weights (n, d) and samples (m, d) in an orthonormal basis of the samples' span.

    The rest of each neuron is one more coordinate, in which all samples are zero, and what other
    weights have beside it one for each of them.

    Attributes:
        weights: (N, R); rows from n on are zero, and so are the neurons' output weights.
        u: (N,).
        x: (M, R); samples from m on are zero and belong to no set of samples.
        y: (M,); they have a label all the same.
        basis: (d, r), r = min(m, d).
        direction: (n, d), unit vectors along what each neuron has outside the span.
        others: other weights, each (N, R).
    """

    weights: Float
    u: Float
    x: Float
    y: Float
    basis: Float
    direction: Float
    others: tuple[Float, ...] = ()

    def widen(self, of_samples: NDArray[Any]) -> NDArray[Any]:
        """Values of the m samples, (m,), and zeros for those that are not there, (M,)."""
        return _room(of_samples, self.y.shape)

    def lift(self, weights: Float) -> Float:
        """Weights (N, R) in the original coordinates, (n, d)."""
        own = weights[: len(self.direction)]
        rest = own[:, -1 - len(self.others), None]
        return own[:, : self.basis.shape[1]] @ self.basis.T + rest * self.direction


def _size(count: int) -> int:
    if count > _FINE:
        return -(-count // _FINE) * _FINE
    return max(_LEAST, 1 << (count - 1).bit_length())


def _room(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    wide = np.zeros(shape, array.dtype)
    wide[tuple(map(slice, array.shape))] = array
    return wide


def reduce(
    w: Float, u: Float, x: Float, y: Float, *, linear: bool, others: Sequence[Float] = ()
) -> Reduced:
    """The coordinates of weights w (n, d) and samples x (m, d).

    Inner products, hence pre-activations, norms and certificates, are the same in them.

    Args:
        u: output weights (n,).
        linear: of the linear model: there is no room for neurons beside its one.
        others: further weights (n, d), in the same coordinates.
    """
    n, (m, d) = len(w), x.shape
    basis = np.linalg.qr(x.T)[0]
    neurons, samples, inner = 1 if linear else _size(n), _size(m), _size(min(m, d))
    directions: list[Float] = []
    each = []
    for given in (w, *others):
        inside = given @ basis
        outside = given - inside @ basis.T
        wide = _room(inside, (neurons, inner + 1 + len(others)))
        for place, known in enumerate(directions):
            along = (outside * known).sum(1)
            wide[:n, inner + place] = along
            outside = outside - along[:, None] * known
        lengths = np.linalg.norm(outside, axis=1)
        wide[:n, inner + len(directions)] = lengths
        directions.append(outside / np.where(lengths > 0, lengths, 1.0)[:, None])
        each.append(wide)
    return Reduced(
        weights=each[0],
        u=_room(u, (neurons,)),
        x=_room(x @ basis, (samples, inner + 1 + len(others))),
        y=np.concatenate([y, np.ones(samples - m)]),
        basis=basis,
        direction=directions[0],
        others=tuple(each[1:]),
    )

"""A user's network: the forms in which weights may be given, and the model that they mean.

Nothing here computes: it is read, checked, and handed back in the form in which it came.
"""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gaunlearn.checks import as_numbers
from gaunlearn.models import LINEAR, SQUARED_RELU, Model, deep_relu, leaky_relu

__all__ = ["GivenNetwork", "UserWeights", "read_network", "read_weights"]

Float = NDArray[np.float64]
# Weights in the form in which they were given: (d,) of the linear model, (n, d) of a two-layer
# network, a tuple of arrays of a deep one.
UserWeights = Any

_MOST_LAYERS = 8


class GivenNetwork(NamedTuple):
    """A network in the original d dimensions.

    Attributes:
        model: its architecture.
        first: first-layer weights (n, d).
        u: fixed output weights (n,); ones where the output weights are trained.
        upper: trained layers above the first, side by side as in ``models``; without columns where
            there are none.
    """

    model: Model
    first: Float
    u: Float
    upper: Float

    @property
    def weights(self) -> UserWeights:
        """In the form in which they were given."""
        if self.model.is_linear:
            return self.first[0]
        if not self.model.is_deep:
            return self.first
        n = len(self.first)
        hidden = (self.upper[:, a * n : (a + 1) * n] for a in range(self.model.hidden - 1))
        return (self.first, *hidden, self.upper[:, -1])

    def scaled(self, factor: float) -> "GivenNetwork":
        """With all weights multiplied by a number."""
        return self._replace(first=self.first * factor, upper=self.upper * factor)

    def to_unit(self) -> float:
        """The factor that makes the largest weight 1: certificates do not depend on the scale, and
        there squares neither overflow nor vanish.
        """
        largest = max(np.abs(self.first).max(), np.abs(self.upper).max(initial=0.0))
        return 1.0 / (largest or 1.0)


def _is_deep(weights: Any) -> bool:
    return isinstance(weights, Sequence) and len(weights) > 0 and np.ndim(weights[0]) == 2


def _finite(name: str, value: ArrayLike) -> Float:
    array = as_numbers(value, name)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has NaN or infinite entries")
    return array


def _read_layers(weights: Sequence[ArrayLike], d: int, name: str) -> tuple[Float, Float]:
    """The first layer (n, d), and the others side by side."""
    first, *hidden, out = (_finite(f"{name}[{a}]", layer) for a, layer in enumerate(weights))
    n, last = len(first), len(weights) - 1
    if first.shape != (n, d) or n < 1:
        raise ValueError(f"{name}[0] must have shape (n, {d}) to match x, not {first.shape}")
    for place, layer in enumerate(hidden, start=1):
        if layer.shape != (n, n):
            raise ValueError(
                f"{name}[{place}] must have shape ({n}, {n}), not {layer.shape}: all hidden layers"
                " of a deep network have as many neurons as the first"
            )
    if out.shape != (n,):
        raise ValueError(
            f"{name}[{last}], the output weights, must have shape ({n},), not {out.shape}"
        )
    return first, np.concatenate([*hidden, out[:, None]], axis=1)


def _model_of(weights: ArrayLike, u: ArrayLike | None, leak: float, power: int) -> Model:
    if not (isinstance(leak, Real) and 0 <= leak < 1):
        raise ValueError(f"leak must be a number in [0, 1), not {leak!r}")
    if not (isinstance(power, Integral) and power in (1, 2)):
        raise ValueError(f"power must be 1 or 2, not {power!r}")
    if _is_deep(weights):
        if u is not None:
            raise ValueError("u must be None where W is a list of layers: the last is the output's")
        depth = len(weights)
        if not 2 <= depth <= _MOST_LAYERS:
            raise ValueError(f"W must have 2 to {_MOST_LAYERS} layers, not {depth}")
        for key, value, plain in (("leak", leak, 0), ("power", power, 1)):
            if value != plain:
                raise ValueError(f"{key} must be {plain} for a deep network, not {value:g}")
        return deep_relu(depth)
    if u is None:
        for key, value, plain in (("leak", leak, 0), ("power", power, 1)):
            if value != plain:
                raise ValueError(
                    f"{key} is {value:g}, but u is None: the linear model has no activation"
                )
        return LINEAR
    if power == 2:
        if leak:
            raise ValueError(f"leak must be 0 where power is 2, not {leak:g}")
        return SQUARED_RELU
    return leaky_relu(float(leak))


def read_weights(model: Model, weights: ArrayLike, d: int, name: str = "W") -> tuple[Float, Float]:
    """First-layer weights (n, d) and the layers above, of a model that is known.

    Args:
        name: what a message calls them.

    Raises:
        ValueError: wrong shapes, NaN or infinite entries.
    """
    if model.is_deep:
        layers = model.hidden + 1
        if not (_is_deep(weights) and len(weights) == layers):  # type: ignore[arg-type]
            raise ValueError(f"{name} must be a list of the {layers} layers' weights")
        return _read_layers(weights, d, name)  # type: ignore[arg-type]
    array = as_numbers(weights, name)
    if model.is_linear:
        if array.shape != (d,):
            raise ValueError(f"{name} must have shape ({d},) when u is None, not {array.shape}")
        array = array[None, :]
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] != d:
        raise ValueError(f"{name} must have shape (n, {d}) to match x, not {array.shape}")
    return _finite(name, array), np.zeros((len(array), 0))


def read_network(
    weights: ArrayLike, u: ArrayLike | None, d: int, leak: float = 0.0, power: int = 1
) -> GivenNetwork:
    """What W, u, leak and power say (``certify`` has their meaning).

    Raises:
        ValueError: wrong shapes, NaN or infinite entries, a model that there is not.
    """
    model = _model_of(weights, u, leak, power)
    first, upper = read_weights(model, weights, d)
    out = np.ones(len(first)) if u is None else _finite("u", u)
    if out.shape != first.shape[:1]:
        raise ValueError(f"u must have shape ({len(first)},) to match W, not {out.shape}")
    return GivenNetwork(model, first, out, upper)

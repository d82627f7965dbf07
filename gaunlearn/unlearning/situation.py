"""What a method of unlearning is given, what it gives back, and the sum of gradients all build on.

Nothing here knows a method.
"""

from typing import NamedTuple

from jax import Array
from jaxtyping import Bool, Float, Int

from gaunlearn.certificate import Certificate
from gaunlearn.models import Model, parameter_gradient
from gaunlearn.types import AnyArray

__all__ = ["Effort", "Situation", "Unlearned", "gradient_sum"]


class Effort(NamedTuple):
    """How much a method does; a method may ignore what does not concern it.

    Attributes:
        step_fraction: f, the method's dial: 1 is the method as it is meant; what 0 is, each says.
        steps: of methods that take several.
        step_size: of each step of descent, relative to the loss as in ``normalized_gd``.
    """

    step_fraction: Float[AnyArray, ""]
    steps: Int[AnyArray, ""]
    step_size: Float[AnyArray, ""]


class Situation(NamedTuple):
    """A trained model and what it is to forget.

    Attributes:
        weights: the trained model's, as training left them.
        scale: they are so many times the weights that have least margin 1 on all samples.
        certificate: of the trained model on all samples, normalised.
        u: output weights.
        x, y: samples; absent ones are zero.
        order: forgotten samples are numbered from 1, in the order in which they are to be
            forgotten; 0 for all others.
        retain: the rest of the training set.
        retrained: the model retrained without the forget set.
        retraining_steps: what that took.
        kink_tols, tau_budget: how certificates are computed (see ``ladder.certify``).
    """

    weights: Float[Array, "n r"]
    scale: Float[Array, ""]
    certificate: Certificate
    u: Float[Array, " n"]
    x: Float[Array, "m r"]
    y: Float[Array, " m"]
    order: Int[Array, " m"]
    retain: Bool[Array, " m"]
    retrained: Float[Array, "n r"]
    retraining_steps: Int[Array, ""]
    kink_tols: Float[Array, " l"]
    tau_budget: Float[Array, ""]

    @property
    def forget(self) -> Bool[Array, " m"]:
        """The forget set."""
        return self.order > 0

    @property
    def present(self) -> Bool[Array, " m"]:
        """All samples that exist."""
        return self.forget | self.retain


class Unlearned(NamedTuple):
    """What a method makes of a trained model.

    Attributes:
        weights: at the scale of ``Situation.weights``.
        gradients: gradients of single samples that it takes, and products of the Hessian of one
            with a vector; a margin alone is half a gradient. Linear systems of the size of the
            sample are not counted.
    """

    weights: Float[Array, "n r"]
    gradients: Float[Array, ""]


def gradient_sum(
    model: Model,
    situation: Situation,
    weights: Float[Array, "n r"],
    factors: Float[Array, " m"],
) -> Float[Array, "n r"]:
    """sum_i factor_i y_i grad N(x_i; W), kinks ignored (``models.parameter_gradient``)."""
    s = situation
    return parameter_gradient(model, weights, s.u, s.x, factors * s.y)

"""How models generalise, agree, and betray what they were trained on."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from gaunlearn.sums import row_sums, total

__all__ = ["accuracy", "disagreement", "membership"]


def _share(events: Bool[Array, " t"]) -> Float[Array, ""]:
    """Mean in the default precision; ``mean`` of booleans would be float32 even in float64."""
    return total(events.astype(float)) / len(events)


def accuracy(logit: Float[Array, " t"], y: Float[Array, " t"]) -> Float[Array, ""]:
    """Share of fresh samples whose logit has the label's sign; a logit of 0 is an error."""
    return _share(y * logit > 0)


def disagreement(a: Float[Array, " t"], b: Float[Array, " t"]) -> Float[Array, ""]:
    """Share of fresh samples to which two models give different signs."""
    return _share(jnp.sign(a) != jnp.sign(b))


def membership(
    margins: Float[Array, " m"], fresh_margins: Float[Array, " t"]
) -> Float[Array, " m"]:
    """How far each sample's margin stands out: P(fresh margin < margin) + P(equal) / 2.

    0.5 cannot be told from a fresh sample, 1 is remembered, 0 is conspicuously avoided. The mean
    over trials is the area under the ROC curve of the attack that thresholds the margin
    (Mann and Whitney's U over its maximum).
    """
    own = margins[:, None]
    # Compared with all: a sort takes longer to compile, and, of few samples, to run.
    below = (fresh_margins < own).astype(own.dtype) + (fresh_margins <= own)
    return row_sums(below) / (2 * len(fresh_margins))

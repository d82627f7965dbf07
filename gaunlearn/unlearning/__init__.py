"""Methods of unlearning: pure functions of a trained model and what it is to forget, one registry.

A method is ``(model, loss, situation, effort) -> Unlearned``; the first two are static. All go
through the same trial and are judged by the same columns.
"""

from collections.abc import Callable

from gaunlearn.losses import Loss
from gaunlearn.models import Model
from gaunlearn.unlearning.ascent import (
    ascent,
    ascent_direction,
    estimated_ascent,
    estimated_multipliers,
    identity,
    repeated_ascent,
    sequential_ascent,
)
from gaunlearn.unlearning.descent import fine_tuning, gradient_difference, random_labels
from gaunlearn.unlearning.references import limit_polishing, retraining
from gaunlearn.unlearning.situation import Effort, Situation, Unlearned
from gaunlearn.unlearning.solves import corrected_ascent, newton

__all__ = [
    "METHODS",
    "OF_DEGREE_ONE",
    "Effort",
    "Method",
    "Situation",
    "Unlearned",
    "ascent_direction",
    "estimated_multipliers",
]

Method = Callable[[Model, Loss, Situation, Effort], Unlearned]

METHODS: dict[str, Method] = {
    "identity": identity,
    "ascent": ascent,
    "estimated_ascent": estimated_ascent,
    "repeated_ascent": repeated_ascent,
    "sequential_ascent": sequential_ascent,
    "gradient_difference": gradient_difference,
    "fine_tuning": fine_tuning,
    "random_labels": random_labels,
    "newton": newton,
    "corrected_ascent": corrected_ascent,
    "limit_polishing": limit_polishing,
    "retraining": retraining,
}
# Those whose formulas hold for models that are homogeneous of degree 1 alone.
OF_DEGREE_ONE = ("newton", "corrected_ascent", "limit_polishing")

"""Lanes of a block's stages: which networks its trials need, and which comparisons, each once; and
what of a specification is traced in them.
"""

from typing import Any, NamedTuple

import numpy as np

from gaunlearn.ladder import IGNORED_KINKS
from gaunlearn.sweep.sections import Evaluation, Training
from gaunlearn.sweep.stages import ForgetLane
from gaunlearn.trial import Settings
from gaunlearn.unlearning import Effort

__all__ = ["Lane", "Layout", "Trial", "lane_effort", "lane_settings"]


class Lane(NamedTuple):
    """One training or retraining: its start, and the place of the forget set that it lacks."""

    family: int
    start: int
    forget: int


class Trial(NamedTuple):
    """Numbers of a trial's family, its branch, what it forgets and its comparison; and its step."""

    family: int
    branch: int
    number: int
    compared: int
    step_fraction: float


class Layout(NamedTuple):
    """Lanes of the stages after training, each once, by their numbers.

    Attributes:
        certified: (model's lane, way of evaluating) -> its number.
        compared: (forget set with the numbers of what it needs, family, way of evaluating) -> its
            number.
        trials: all of them.
    """

    certified: dict[tuple[Lane, Evaluation], int]
    compared: dict[tuple[ForgetLane, int, Evaluation], int]
    trials: list[Trial]

    def certificate(self, lane: Lane, evaluate: Evaluation) -> int:
        """The number of a model's certificate."""
        return self.certified.setdefault((lane, evaluate), len(self.certified))

    def comparison(self, lane: ForgetLane, family: int, evaluate: Evaluation) -> int:
        """The number of a forget set."""
        return self.compared.setdefault((lane, family, evaluate), len(self.compared))


def lane_settings(train: Training, evaluate: Evaluation | None) -> Settings:
    """The traced part of a lane, as NumPy numbers."""
    kinks: tuple[float, ...] = IGNORED_KINKS
    if evaluate is not None and evaluate.kinks == "handled":
        kinks = evaluate.kink_tol
    return Settings(
        step_size=np.asarray(train.step_size),
        max_steps=np.asarray(train.max_steps),
        target_log_loss=np.asarray(
            -np.inf if train.target_log_loss is None else train.target_log_loss
        ),
        target_epsilon=np.asarray(train.target_epsilon or 0.0),
        kink_tols=np.asarray(kinks),
        tau_budget=np.asarray(0.0 if evaluate is None else evaluate.tau_budget),
    )


def lane_effort(train: Training, method: Any, step_fraction: float) -> Effort:
    """How far a method of unlearning goes, as NumPy numbers; the rate is training's by default."""
    rate = getattr(method, "learning_rate", None)
    return Effort(
        step_fraction=np.asarray(step_fraction, np.float64),
        steps=np.asarray(getattr(method, "steps", 1)),
        step_size=np.asarray(train.step_size if rate is None else rate, np.float64),
    )

"""Lanes of a block's stages: which networks its trials need, and which comparisons, each once."""

from typing import NamedTuple

from gaunlearn.sweep.sections import Evaluation
from gaunlearn.sweep.stages import ForgetLane

__all__ = ["Lane", "Layout", "Trial"]


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

"""Which samples a trial forgets, and in which order: one function, on NumPy arrays.

Random choices are keyed by the data's content, the seed and the draw: the same whatever the size,
so that larger sets of one draw contain the smaller ones.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaunlearn.sweep.identity import key_words, section_digest
from gaunlearn.sweep.sections import ForgetClass, ForgetDraw, ForgetIndex
from gaunlearn.types import Problem

__all__ = ["forget_order", "needs_training"]

# Scores that agree to so many digits are equal: which of two equal samples comes first must not
# depend on rounding.
_DIGITS = 9


def needs_training(rule: Any) -> bool:
    """Whether a rule asks the trained model."""
    return getattr(rule, "rule", None) in ("hardest", "easiest")


def _correlations(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean |cos| of each sample to the others."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = np.abs(unit @ unit.T)
    return (cosines.sum(1) - 1) / (len(x) - 1)


def forget_order(
    rule: Any,
    number: int,
    problem: Problem,
    data: Any,
    seed: int,
    directory: Path,
    ease: NDArray[np.floating[Any]] | None = None,
) -> NDArray[np.int64]:
    """Forgotten samples numbered from 1, in order; 0 for all others (and absent ones).

    Args:
        rule: a [forget] section.
        number: of the sample, if the rule is "index"; of the draw, if it draws.
        problem: NumPy arrays; present samples come first.
        data: its [data] section.
        ease: for rules that ask the trained model: what it ranks samples by, hardest first.
    """
    m = int(np.sum(problem.present))
    order = np.zeros(len(problem.present), np.int64)
    if isinstance(rule, ForgetIndex):
        order[number] = 1
        return order
    if isinstance(rule, ForgetDraw | ForgetClass):
        words = key_words(f"forget {number}", section_digest(data, directory), seed)
        ranked = np.random.Generator(np.random.Philox(key=words)).permutation(m)
        if isinstance(rule, ForgetClass):
            ranked = ranked[np.asarray(problem.y)[ranked] == rule.label]
    else:
        if needs_training(rule):
            assert ease is not None
            scores = np.asarray(ease, np.float64)[:m]
        else:
            scores = _correlations(np.asarray(problem.x, np.float64)[:m])
        scale = np.max(np.abs(scores[np.isfinite(scores)]), initial=0.0)
        scores = np.round(scores / float(scale or 1.0), _DIGITS)
        if rule.rule in ("easiest", "most_correlated"):
            scores = -scores
        ranked = np.argsort(scores, kind="stable")
    chosen = ranked[: rule.size]
    order[chosen] = np.arange(1, len(chosen) + 1)
    return order

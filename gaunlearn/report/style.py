"""What all figures share: colours, names and symbols, scales, and a run's question as a title."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation
from numpy.typing import ArrayLike, NDArray

from gaunlearn.schema import name_of_budget

__all__ = [
    "COLOURS",
    "LEAST_SHOWN",
    "QUALITY",
    "cell_edges",
    "footnote",
    "is_log",
    "label_decades",
    "symbol_of",
    "tells_quality",
    "title_of",
    "told",
    "value_of",
]

# Okabe and Ito's colours, told apart by readers with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# MYV's definition at budgets of (., 0.1, 0.01): the least epsilon within.
QUALITY = name_of_budget(1, 2)
# Less is rounding, and its decades would flatten what is to be seen.
LEAST_SHOWN = 1e-10
# Numbers that differ by more than this factor are shown on a log scale.
_LOG_RATIO = 30
_SYMBOLS = {
    "m": "training samples m",
    "d": "dimension d",
    "n": "neurons n",
    "epsilon": "ε on the retain set",
    "delta": "δ, complementarity",
    "tau": "τ of the certificate",
    "tau_retrain": "τ to the retrained model",
    "alpha": "\N{GREEK SMALL LETTER ALPHA}, cluster distance",
    "step_fraction": "step fraction f",
    "max_steps": "training steps T",
    "accuracy_unlearned": "test accuracy of the unlearned model",
    "forget_size": "forgotten samples k",
    "epsilon_train": "ε of the trained model",
    "delta_train": "δ of the trained model",
    "share": "share of seeds for which it holds",
    "correlation": "correlation \N{GREEK SMALL LETTER RHO} of samples",
    "separated": "a certificate",
    QUALITY: "least ε with δ ≤ 0.1, τ ≤ 0.01",
    "psi": "ψ, deviation of norms from 1",
    "phi": "φ, largest correlation of samples",
}


def symbol_of(column: str) -> str:
    """What an axis is called: symbol and name, where the column has a symbol."""
    return _SYMBOLS.get(column, column.replace("_", " "))


def is_log(values: ArrayLike, floor: float = 0.0) -> bool:
    """Whether numbers ask for a log scale: all positive, over more than a factor of 30.

    Args:
        floor: numbers from 0 up to this are drawn as this.
    """
    array = np.asarray(values, float)
    array = array[np.isfinite(array)]
    if not array.size or array.min() < 0:
        return False
    least = max(array.min(), floor)
    return bool(least > 0 and array.max() > _LOG_RATIO * least)


def title_of(manifest: Mapping[str, Any]) -> str:
    """A run's question; its name, if it asks none."""
    question = manifest["question"].split("?")[0]
    return f"{question}?" if "?" in manifest["question"] else manifest["name"]


def told(names: Sequence[str], values: Sequence[Any]) -> str:
    """Which combination of swept parameters a line or panel is of; what kinds and methods are, is
    clear from their names.
    """
    plain = ("method", "data_kind", "model_kind")
    each = (str(v) if n in plain else f"{n} {v}" for n, v in zip(names, values, strict=True))
    return ", ".join(each).replace("_", " ")


def value_of(manifest: Mapping[str, Any]) -> str:
    """The column that a run is about: the one of its border; epsilon otherwise."""
    return manifest.get("border", {}).get("column", "epsilon")


def tells_quality(manifest: Mapping[str, Any]) -> bool:
    """Whether a run's border is about how well is unlearned, or compares methods; otherwise its
    plane is worth a look at that too.
    """
    predicate = manifest["border"]["predicate"]
    return " beats " in predicate or value_of(manifest).startswith(("epsilon", "tau", "delta"))


def cell_edges(values: NDArray[Any], log: bool) -> NDArray[np.float64]:
    """Borders of cells around ascending values, half-way between them on the axis' scale; the outer
    ones as near as the nearest of the others.
    """
    place = np.log(values) if log else np.asarray(values, float)
    half = 0.5 * np.diff(place)
    outer = half.min() if len(half) else 0.5
    edges = np.concatenate([[place[0] - outer], place[:-1] + half, [place[-1] + outer]])
    return np.exp(edges) if log else edges


def footnote(figure: Figure, text: str) -> None:
    """What a figure rests on and leaves out, in small print in its lower left corner."""
    lines = textwrap.wrap(text, int(18 * figure.get_figwidth()))
    figure.text(
        0.02,
        0.06 / figure.get_figheight(),
        "\n".join(lines),
        fontsize=7.5,
        color="#666666",
        va="bottom",
    )


def label_decades(axis: Axis) -> None:
    """Numbers at a log axis' decades, and between them where there is hardly more than one."""
    axis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(1.5, 0.5)))

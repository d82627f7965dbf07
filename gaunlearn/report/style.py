"""What all figures share: colours, names and symbols, scales, and a run's question as a title."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

__all__ = ["COLOURS", "is_log", "settings_of", "symbol_of", "title_of", "told", "value_of"]

# Okabe and Ito's colours, told apart by readers with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
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
    "psi": "ψ, deviation of norms from 1",
    "phi": "φ, largest correlation of samples",
}


def symbol_of(column: str) -> str:
    """What an axis is called: symbol and name, where the column has a symbol."""
    return _SYMBOLS.get(column, column.replace("_", " "))


def is_log(values: ArrayLike) -> bool:
    """Whether numbers ask for a log scale: all positive, over more than a factor of 30."""
    array = np.asarray(values, float)
    array = array[np.isfinite(array)]
    return bool(array.size and array.min() > 0 and array.max() > _LOG_RATIO * array.min())


def title_of(manifest: Mapping[str, Any]) -> str:
    """A run's question; its name, if it asks none."""
    question = manifest["question"].split("?")[0]
    return f"{question}?" if "?" in manifest["question"] else manifest["name"]


def settings_of(
    frame: pd.DataFrame, manifest: Mapping[str, Any], *, apart_from: Sequence[str] = ()
) -> list[str]:
    """The swept columns that tell a run's settings apart; of those that advance together only the
    first, and none that ``apart_from`` determines, which the caller shows in another way.
    """
    known = [name for name in apart_from if name in frame]
    found: list[str] = []
    for name in manifest["swept"]:
        if name not in frame or name in known:
            continue
        values = frame.groupby(known, dropna=False)[name] if known else frame[name]
        if np.max(values.nunique(dropna=False)) > 1:
            known.append(name)
            found.append(name)
    return found


def told(names: Sequence[str], values: Sequence[Any]) -> str:
    """Which combination of swept parameters a line or panel is of; what kinds and methods are, is
    clear from their names.
    """
    plain = ("method", "data_kind", "model_kind")
    each = (str(v) if n in plain else f"{n} {v}" for n, v in zip(names, values, strict=True))
    return ", ".join(each).replace("_", " ")


def value_of(manifest: Mapping[str, Any]) -> str:
    """The column that a run is about: the one of its border's level; epsilon otherwise."""
    first = manifest.get("border", {}).get("predicate", "").split()[:2]
    return first[0] if len(first) == 2 and first[1] != "beats" else "epsilon"

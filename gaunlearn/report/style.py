"""What all figures share: colours, and how a run's question becomes a title."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["COLOURS", "title_of", "told"]

# Okabe and Ito's colours, told apart by readers with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


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

"""What all figures share: colours, and how a run's question becomes a title."""

from collections.abc import Mapping
from typing import Any

__all__ = ["COLOURS", "title_of"]

# Okabe and Ito's colours, told apart by readers with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def title_of(manifest: Mapping[str, Any]) -> str:
    """A run's question; its name, if it asks none."""
    question = manifest["question"].split("?")[0]
    return f"{question}?" if "?" in manifest["question"] else manifest["name"]

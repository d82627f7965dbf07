"""What is written beside a run's trials: the border that it has found, and its verification."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from gaunlearn.sweep.place import Place
from gaunlearn.sweep.store import BORDER_FILES, VERIFICATION_FILE, to_bytes

__all__ = ["write_border", "write_verification"]


def write_border(
    run: Place, border: pd.DataFrame, points: pd.DataFrame, about: Mapping[str, Any]
) -> None:
    """Write the border of a sweep and its points, with what they are of in the files' metadata.

    Raises:
        StorageError: they cannot be written.
    """
    for name, table in zip(BORDER_FILES, (border, points), strict=True):
        written = pa.Table.from_pandas(table, preserve_index=False)
        run.write(name, to_bytes(written.replace_schema_metadata({"border": json.dumps(about)})))


def write_verification(run: Place, found: Mapping[str, Any]) -> None:
    """Write what a verification found.

    Raises:
        StorageError: it cannot be written.
    """
    run.write(VERIFICATION_FILE, (json.dumps(found, indent=2) + "\n").encode())

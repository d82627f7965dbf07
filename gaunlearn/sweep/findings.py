"""What is written beside a run's trials: the border that it has found, and its verification."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gaunlearn.schema import BORDER, PARAMETERS, POINTS
from gaunlearn.sweep.parts import to_bytes
from gaunlearn.sweep.place import Place
from gaunlearn.sweep.store import BORDER_FILES, VERIFICATION_FILE

if TYPE_CHECKING:  # it takes half a second to import, which a run's first rows need not wait for
    import pandas as pd

__all__ = ["write_border", "write_verification"]

_MEANINGS = {column.name: column.meaning for column in (*PARAMETERS, *BORDER, *POINTS)}


def write_border(
    run: Place, border: "pd.DataFrame", points: "pd.DataFrame", about: Mapping[str, Any]
) -> None:
    """Write the border of a sweep and its points, with what they are of in the files' metadata, and
    what a column means in that of its field.

    Raises:
        StorageError: they cannot be written.
    """
    for name, table in zip(BORDER_FILES, (border, points), strict=True):
        written = pa.Table.from_pandas(table, preserve_index=False)
        fields = [
            field.with_metadata({"meaning": _MEANINGS[field.name]})
            if field.name in _MEANINGS
            else field
            for field in written.schema
        ]
        schema = pa.schema(fields, {"border": json.dumps(about)})
        run.write(name, to_bytes(written.cast(schema)))


def write_verification(run: Place, found: Mapping[str, Any]) -> None:
    """Write what a verification found.

    Raises:
        StorageError: it cannot be written.
    """
    run.write(VERIFICATION_FILE, (json.dumps(found, indent=2) + "\n").encode())

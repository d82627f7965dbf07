"""A run's directory: Parquet parts, the specification, the manifest.

    RUN_DIR/trials/<block key>.parquet   one part a block, written whole or not at all
    RUN_DIR/spec.toml                    the specification as it was read
    RUN_DIR/run.json                     the manifest: parts in plan order, and provenance
    RUN_DIR/report/                      figures

Reads and writes no pickles. A part is written beside its place and renamed into it, so that a
reader never sees half a file.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gaunlearn.schema import COLUMNS, SCHEMA_VERSION, Column

__all__ = [
    "Run",
    "RunError",
    "finished_parts",
    "load",
    "parts_directory",
    "write_manifest",
    "write_part",
]

_ARROW = {
    "string": pa.string(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}
_PYTHON = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}


class RunError(ValueError):
    """A directory that is not, or not quite, a run; the message is one line for its user."""


@dataclass(frozen=True)
class Run:
    """A finished or unfinished run on disk.

    Attributes:
        path: its directory.
        manifest: the content of run.json.
    """

    path: Path
    manifest: Mapping[str, Any]

    def to_arrow(self) -> pa.Table:
        """All trials, in plan order."""
        return pa.concat_tables(
            [
                pq.read_table(parts_directory(self.path) / f"{part}.parquet")
                for part in self.manifest["parts"]
            ],
            promote_options="default",
        )

    def to_pandas(self) -> pd.DataFrame:
        """All trials, in plan order; ``df.attrs["columns"]`` has each column's meaning."""
        table = self.to_arrow()
        frame = table.to_pandas()
        frame.attrs["columns"] = {
            field.name: (field.metadata or {}).get(b"meaning", b"").decode()
            for field in table.schema
        }
        return frame


def parts_directory(run: Path) -> Path:
    """Where a run's Parquet parts are."""
    return run / "trials"


def _write_atomically(path: Path, content: bytes) -> None:
    """Write beside ``path``, flush to disk, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _result_field(column: Column) -> pa.Field:
    about = {"meaning": column.meaning, "range": column.range, "missing": column.missing}
    return pa.field(column.name, _ARROW[column.type], metadata=about)


def _array(values: np.ndarray, column: Column) -> pa.Array:
    """Floats as they are; in other types NaN, where there is no value, becomes null."""
    if column.type in ("int64", "int32") and values.dtype.kind == "f":
        missing = np.isnan(values)
        filled = np.where(missing, 0, values).astype(np.int64)
        return pa.array(filled, _ARROW[column.type], mask=missing)
    return pa.array(values, _ARROW[column.type])


def _table(rows: Mapping[str, np.ndarray], parameters: Mapping[str, Any]) -> pa.Table:
    """One cell's trials: identity, parameters, results."""
    count = len(rows["trial_id"])
    fields, arrays = [], []
    known = {column.name for column in COLUMNS}
    stray = sorted(set(rows) - known)
    if stray:
        raise RuntimeError(f"columns {stray} are not in the schema")
    for column in COLUMNS:
        if column.name not in rows:
            if not column.needs_test:
                raise RuntimeError(f"column {column.name} has no values")
            continue
        fields.append(_result_field(column))
        arrays.append(_array(rows[column.name], column))
        if column.name == "step_fraction":
            for name, value in parameters.items():
                kind = _PYTHON[type(value)]
                fields.append(pa.field(name, kind, metadata={"meaning": "parameter of the trial"}))
                arrays.append(pa.array([value] * count, kind))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def write_part(
    run: Path,
    key: str,
    cells: Iterable[tuple[Mapping[str, np.ndarray], Mapping[str, Any]]],
    provenance: Mapping[str, Any],
) -> None:
    """Write one block.

    Args:
        run: the run's directory.
        key: the block's key.
        cells: for each cell its columns and its parameters (column name -> scalar).
        provenance: goes into the Parquet key-value metadata as JSON.
    """
    table = pa.concat_tables([_table(rows, parameters) for rows, parameters in cells])
    about = {"schema_version": str(SCHEMA_VERSION), "provenance": json.dumps(provenance)}
    table = table.replace_schema_metadata(about)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    _write_atomically(parts_directory(run) / f"{key}.parquet", sink.getvalue().to_pybytes())


def finished_parts(run: Path) -> set[str]:
    """Keys of the parts that are there and readable."""
    found = set()
    for path in parts_directory(run).glob("*.parquet"):
        try:
            pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError):
            continue
        found.add(path.stem)
    return found


def write_manifest(run: Path, manifest: Mapping[str, Any], spec_text: str) -> None:
    """Write spec.toml and run.json."""
    _write_atomically(run / "spec.toml", spec_text.encode())
    _write_atomically(run / "run.json", (json.dumps(manifest, indent=2) + "\n").encode())


def load(path: str | Path) -> Run:
    """Open a run's directory.

    Raises:
        RunError: it is not a run, its manifest cannot be read, or a part is missing.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / "run.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path}: not a run: it has no run.json") from None
    except (json.JSONDecodeError, OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}/run.json: cannot be read: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("parts"), list):
        raise RunError(f"{path}/run.json: has no list of parts")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise RunError(
            f"{path}/run.json: schema_version is {manifest.get('schema_version')!r}, "
            f"this version reads {SCHEMA_VERSION}"
        )
    missing = sorted(set(manifest["parts"]) - finished_parts(path))
    if missing:
        raise RunError(f"{path}/trials/{missing[0]}.parquet: missing or unreadable; run again")
    if not manifest["parts"]:
        raise RunError(f"{path}: no trials have finished")
    return Run(path, manifest)

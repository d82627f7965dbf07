"""Parts: the Parquet files that hold a run's trials, one a block, each with what it completes.

A part says in its metadata which stages it completes (``Claim``), how it was computed, and of which
schema it is. It is written whole or not at all, and never changed.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool

from gaunlearn.schema import COLUMNS, SCHEMA_VERSION, Column
from gaunlearn.sweep.place import Place, side_by_side

__all__ = [
    "ROW_GROUP",
    "Claim",
    "Completed",
    "RunError",
    "arrow_schema",
    "damage",
    "inspect_parts",
    "merge_parts",
    "names_and_claims",
    "parquet_files",
    "part_claims",
    "part_header",
    "read_claims",
    "read_part",
    "select_rows",
    "to_bytes",
    "write_part",
]

_ARROW = {
    "string": pa.string(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}


# Rows of a row group: large enough to scan fast, small enough to skip.
ROW_GROUP = 65_536


class RunError(ValueError):
    """A directory that is not, or not quite, a run; the message is one line for its user."""


class Claim(NamedTuple):
    """What a part completes of one branch: every trial of some products.

    Attributes:
        content: ``identity.content_digest`` of the branch.
        seed: of its family.
        pairs: products of forgotten samples (or numbers of draws) and step fractions.
    """

    content: str
    seed: int
    pairs: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]

    @property
    def trials(self) -> int:
        """How many rows it stands for."""
        return sum(len(forget) * len(steps) for forget, steps in self.pairs)


class Completed(NamedTuple):
    """What a part completes, as the manifest counts it: branches of trainings, samples (or draws)
    that they forget, trials.
    """

    branches: int
    forgotten: int
    trials: int

    @classmethod
    def of(cls, claims: Sequence[Claim]) -> "Completed":
        """What these claims come to."""
        return cls(
            len(claims),
            sum(len(forget) for claim in claims for forget, _ in claim.pairs),
            sum(claim.trials for claim in claims),
        )


def parquet_files(folder: Place) -> list[str]:
    """Names of the Parquet files in a folder."""
    return [name for name in folder.names() if name.endswith(".parquet")]


def _field(column: Column) -> pa.Field:
    about = {"meaning": column.meaning, "range": column.range, "missing": column.missing}
    return pa.field(column.name, _ARROW[column.type], metadata=about)


def arrow_schema() -> pa.Schema:
    """The schema of every part."""
    return pa.schema([_field(column) for column in COLUMNS])


def _bits(flags: Bool[np.ndarray, " rows"]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def _text_array(values: Sequence[str | None]) -> pa.Array:
    exists = np.asarray([each is not None for each in values], bool)
    encoded = [(each or "").encode() for each in values]
    ends = np.cumsum([0, *map(len, encoded)])
    if ends[-1] > np.iinfo(np.int32).max:
        raise RuntimeError("a block has more than 2 GB of text in one column")
    content = pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(encoded))
    return pa.Array.from_buffers(pa.string(), len(encoded), [_bits(exists), *content])


def _array(values: Any, column: Column) -> pa.Array:
    """Where there is no value, None or NaN, becomes null.

    Put together from buffers: ``pa.array`` imports pandas, half a second of Python that a run's
    first rows would wait for.
    """
    if column.type == "string":
        return _text_array(values.tolist() if isinstance(values, np.ndarray) else values)
    given = np.asarray(values)
    if given.dtype == object:
        exists = np.asarray([each is not None and each == each for each in values], bool)
        given = np.asarray(
            [each if there else 0 for each, there in zip(values, exists, strict=True)]
        )
    else:
        exists = ~np.isnan(given)
    wide = {"b": "bool", "i": "int64", "f": "float64"}[given.dtype.kind]
    filled = np.where(exists, given, 0).astype(wide)
    content = _bits(filled) if wide == "bool" else pa.py_buffer(filled)
    found = pa.Array.from_buffers(_ARROW[wide], len(filled), [_bits(exists), content])
    return found.cast(_ARROW[column.type])  # an error where that loses anything


def to_bytes(table: pa.Table) -> bytes:
    """A table as the content of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True
    )
    return sink.getvalue().to_pybytes()


def write_part(
    run: Place,
    key: str,
    columns: Mapping[str, Any],
    parameters: Sequence[Mapping[str, Any]],
    owner: np.ndarray,
    claims: Sequence[Claim],
    provenance: Mapping[str, Any],
) -> None:
    """Write one block.

    Args:
        run: the run's directory.
        key: the block's key.
        columns: column name -> values, one a trial; results that do not exist may be missing.
        parameters: column name -> value of each branch; those it does not have may be missing.
        owner: for each trial the number of its branch in ``parameters``.
        claims: what the part completes.
        provenance: goes into the Parquet key-value metadata as JSON.

    Raises:
        StorageError: it cannot be written.
    """
    known = {column.name for column in COLUMNS}
    stray = sorted((set(columns) | {name for each in parameters for name in each}) - known)
    if stray:
        raise RuntimeError(f"columns {stray} are not in the schema")
    count, arrays = len(owner), []
    rows = pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(owner.astype(np.int64))])
    for column in COLUMNS:
        if column.name in columns:
            arrays.append(_array(columns[column.name], column))
        elif any(column.name in each for each in parameters):
            values = _array([each.get(column.name) for each in parameters], column)
            arrays.append(values.take(rows))
        else:
            arrays.append(pa.nulls(count, _ARROW[column.type]))
    about = {
        "schema_version": str(SCHEMA_VERSION),
        "claims": json.dumps(claims),
        "provenance": json.dumps(provenance),
    }
    table = pa.Table.from_arrays(arrays, schema=arrow_schema().with_metadata(about))
    (run / "trials").write(f"{key}.parquet", to_bytes(table))


def damage(parts: Place, name: str, body: bool) -> str | None:
    """What is wrong with a part: it cannot be read, is of another schema, or has not as many rows
    as it claims. No writer of ours leaves one like that.

    Args:
        body: read all of it, and so compare checksums, not only its description.

    Raises:
        StorageError: where it lies cannot be reached.
    """
    return _inspect(parts, name, body)[0]


def _inspect(parts: Place, name: str, body: bool) -> tuple[str | None, list[Claim]]:
    """What is wrong with a part, and if nothing is, what it completes."""
    try:
        if body:
            return _read_through(pa.BufferReader(parts.read(name)), body)
        return parts.using(name, lambda source: _read_through(source, body))
    except (pa.ArrowException, OSError) as error:
        return f"cannot be read: {error}", []
    except (KeyError, TypeError, ValueError) as error:
        return f"its claims cannot be read: {error!r}", []


def _read_through(source: Any, body: bool) -> tuple[str | None, list[Claim]]:
    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        about = file.metadata.metadata or {}
        if b"schema_version" not in about:
            return "has no schema_version: another program has written it", []
        version = about[b"schema_version"].decode()
        if version != str(SCHEMA_VERSION):
            return f"schema_version is {version}, this version reads {SCHEMA_VERSION}", []
        if not file.schema_arrow.equals(arrow_schema(), check_metadata=False):
            stray = set(file.schema_arrow.names) ^ {column.name for column in COLUMNS}
            return f"its columns are not this version's ({', '.join(sorted(stray)) or 'types'})", []
        claims = _claims(about)
        claimed = sum(claim.trials for claim in claims)
        if file.metadata.num_rows != claimed:
            return f"has {file.metadata.num_rows} rows and claims {claimed}", []
        for group in range(file.num_row_groups if body else 0):
            file.read_row_group(group)
    return None, claims


@lru_cache(maxsize=4096)
def _only_one(pairs: Any) -> Any:
    """The same object for equal products: millions of claims have few that differ."""
    return pairs


def _claims(about: Mapping[bytes, bytes]) -> list[Claim]:
    return [
        Claim(sys.intern(content), seed, _only_one(tuple((tuple(f), tuple(s)) for f, s in pairs)))
        for content, seed, pairs in json.loads(about[b"claims"])
    ]


def read_part(parts: Place, name: str) -> pa.Table:
    """A part's trials.

    Raises:
        RunError: it is damaged.
        StorageError: where it lies cannot be reached.
    """
    wrong = damage(parts, name, body=False)
    if wrong is None:
        try:
            return parts.using(name, partial(pq.read_table, page_checksum_verification=True))
        except (pa.ArrowException, OSError) as error:
            wrong = f"cannot be read: {error}"
    raise RunError(f"{parts.name}/{name}: {wrong}; the same gaunlearn run again replaces it")


def read_claims(run: Place, folder: str, bodies: bool = False) -> dict[str, list[Claim]]:
    """For each part of a folder (its key) what it completes, without those that are damaged."""
    return inspect_parts(run, folder, bodies)[0]


def inspect_parts(
    run: Place, folder: str, bodies: bool = False
) -> tuple[dict[str, list[Claim]], list[str]]:
    """For each part of a folder (its key) what it completes, and the keys of damaged ones.

    Args:
        bodies: read all of each to see whether it is damaged.
    """
    parts = run / folder
    names = parquet_files(parts)
    inspected = side_by_side(lambda name: _inspect(parts, name, bodies), names)
    keys = [name.removesuffix(".parquet") for name in names]
    whole = {k: claims for k, (wrong, claims) in zip(keys, inspected, strict=True) if wrong is None}
    return whole, [key for key in keys if key not in whole]


def names_and_claims(run: Place, name: str) -> tuple[list[str], list[Claim]]:
    """The names of a part's trials, as far as it can be read, and what it claims."""
    try:
        table = (run / "trials").using(name, partial(pq.read_table, columns=["trial_id"]))
        return table["trial_id"].to_pylist(), _claims(table.schema.metadata or {})
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return [], []


def select_rows(
    run: Place, folder: str, key: str, trial_ids: Iterable[str], claims: Sequence[Claim]
) -> bytes:
    """The content of a part that holds some rows of another, and claims no more than those."""
    table = read_part(run / folder, f"{key}.parquet")
    wanted = pc.is_in(table["trial_id"], value_set=pa.array(list(trial_ids), pa.string()))
    return _claiming(table.filter(wanted), claims)


def merge_parts(run: Place, keys: Sequence[str], claims: Sequence[Claim]) -> bytes:
    """The content of a part that holds the rows of several, which have one provenance."""
    tables = side_by_side(lambda key: read_part(run / "trials", f"{key}.parquet"), keys)
    return _claiming(pa.concat_tables(tables), claims)


def _claiming(table: pa.Table, claims: Sequence[Claim]) -> bytes:
    about = dict(table.schema.metadata) | {b"claims": json.dumps(claims).encode()}
    return to_bytes(table.replace_schema_metadata(about))


def part_claims(run: Place, key: str) -> list[Claim]:
    """What a part completes.

    Raises:
        RunError: it cannot be read.
    """
    return _claims(_header(run, key).metadata or {})


def part_header(run: Place, key: str) -> tuple[bytes, int]:
    """A part's provenance, as it is stored, and how many rows it has.

    Raises:
        RunError: it cannot be read.
    """
    header = _header(run, key)
    return (header.metadata or {}).get(b"provenance", b"{}"), header.num_rows


def _header(run: Place, key: str) -> pq.FileMetaData:
    try:
        return (run / "trials").using(f"{key}.parquet", pq.read_metadata)
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{run.name}/trials/{key}.parquet: cannot be read: {error}") from None

"""Make few large parts of the many small ones that a run leaves.

A block is small so that an interruption loses little; a reader wants few files. Only parts of one
provenance are merged: a part says of all its trials how they were computed.
"""

from collections.abc import Iterator, Mapping

from gaunlearn.sweep.identity import digest
from gaunlearn.sweep.parts import (
    ROW_GROUP,
    Completed,
    merge_parts,
    part_claims,
    part_header,
)
from gaunlearn.sweep.place import Place, StorageError, side_by_side

__all__ = ["compact"]


def _groups(headers: Mapping[str, tuple[bytes, int]]) -> Iterator[list[str]]:
    """Keys of parts to be merged: of one provenance, no more than a row group of trials."""
    open_groups: dict[bytes, tuple[list[str], int]] = {}
    for key, (provenance, rows) in headers.items():
        keys, together = open_groups.get(provenance, ([], 0))
        if together + rows > ROW_GROUP:
            yield keys
            keys, together = [], 0
        open_groups[provenance] = [*keys, key], together + rows
    yield from (keys for keys, _ in open_groups.values())


def compact(run: Place, parts: Mapping[str, Completed]) -> dict[str, Completed]:
    """Merge small parts; nobody else may write to the run meanwhile.

    Everything goes by way of unused/: a crash in between hides trials there, from where the next
    run takes them back, and shows none twice. Where there is no space for a merged part, its small
    ones stay.

    Args:
        parts: the keys in trials/ and what each completes.

    Returns:
        The parts that are there afterwards.
    """
    trials, unused, left = run / "trials", run / "unused", dict(parts)
    # Two of these at least would have to fit into one row group.
    small = sorted(key for key, completed in parts.items() if completed.trials <= ROW_GROUP // 2)
    found = side_by_side(lambda key: part_header(run, key), small)
    headers = dict(zip(small, found, strict=True))
    for keys in _groups(headers):
        if len(keys) < 2:
            continue
        of_each = side_by_side(lambda key: part_claims(run, key), keys)
        claims = [claim for claims in of_each for claim in claims]
        merged = digest([list(claim) for claim in claims])
        try:
            unused.write(f"{merged}.parquet", merge_parts(run, keys, claims))
        except StorageError:
            return left
        for key in keys:
            trials.move(f"{key}.parquet", unused)
            del left[key]
        unused.move(f"{merged}.parquet", trials)
        for key in keys:
            unused.delete(f"{key}.parquet")
        left[merged] = Completed.of(claims)
    return left

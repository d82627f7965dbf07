"""The networks of a run that keeps them: written, and looked up by name."""

from collections.abc import Iterable
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gaunlearn.sweep.parts import parquet_files, to_bytes
from gaunlearn.sweep.place import Place
from gaunlearn.sweep.store import WEIGHTS_SCHEMA, NetworkName, Weights

__all__ = ["stored_networks", "write_weights"]

_NETWORK = ("training_id", "forget", "start")


def write_weights(run: Place, key: str, networks: Iterable[Weights]) -> None:
    """Write networks, none of which is stored yet, into a file of their own.

    Args:
        key: of these networks, the name of the file.

    Raises:
        StorageError: it cannot be written.
    """
    rows = [
        {
            "training_id": network.training_id,
            "forget": network.forget,
            "forgotten": network.forgotten,
            "start": network.start,
            "n": len(network.W),
            "m": len(network.y),
            "weights": network.W.ravel(),
            "upper": np.concatenate([a.ravel() for a in network.upper]) if network.upper else None,
            "u": network.u,
            "x": network.x.ravel(),
            "y": network.y,
        }
        for network in networks
    ]
    table = pa.Table.from_pylist(rows, schema=WEIGHTS_SCHEMA)
    (run / "weights").write(f"{key}.parquet", to_bytes(table))


def stored_networks(run: Place, set_damaged_aside: bool) -> set[NetworkName]:
    """(training_id, forget, start) of every network that is stored.

    Args:
        set_damaged_aside: move files that cannot be read to unused/, so that they are replaced.
    """
    found: set[NetworkName] = set()
    folder = run / "weights"
    for name in parquet_files(folder):
        try:
            table = folder.using(name, partial(pq.read_table, page_checksum_verification=True))
            found.update(zip(*(table[each].to_pylist() for each in _NETWORK), strict=True))
        except (pa.ArrowException, OSError, KeyError):
            if set_damaged_aside:
                folder.move(name, run / "unused")
    return found

"""A run's directory: Parquet parts, the specification, the manifest.

    RUN_DIR/trials/<key>.parquet    one part a block, written whole or not at all
    RUN_DIR/weights/<key>.parquet   networks, if the specification asks for them
    RUN_DIR/unused/<key>.parquet    parts that a changed specification no longer wants, and files
                                    that were damaged
    RUN_DIR/spec.toml               the specification as it was read
    RUN_DIR/run.json                the manifest: what is complete, and provenance
    RUN_DIR/border.parquet          the border, of a sweep that looks for one, and
    RUN_DIR/points.parquet          the points of its two axes that it has looked at
    RUN_DIR/verification.json       what the last verification found
    RUN_DIR/report/                 figures and the report

The parts are the truth (``parts``): each says in its metadata which stages it completes, and the
manifest is a summary of them. What holds at every moment, so that a run may be killed at any:

- A file appears whole or not at all (``place``), and no file is changed once it is there.
- No trial is in two parts of trials/. Whoever splits or merges parts (``resume``, ``compact``)
  therefore moves old ones to unused/ before new ones appear in trials/; from unused/ the next run
  takes back what it misses, so that a crash in between hides trials and loses none.
- Networks are written before the trials that belong to them. Workers of a cluster that share a
  training, or repeat what a lost one began, may each write it: readers take one of each.

Reads and writes no pickles.
"""

import base64
import html
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gaunlearn.schema import SCHEMA_VERSION
from gaunlearn.sweep.host import host_memory
from gaunlearn.sweep.parts import RunError, parquet_files, part_header, read_part
from gaunlearn.sweep.place import Place, StorageError, side_by_side

if TYPE_CHECKING:  # it takes half a second to import, which a run's first rows need not wait for
    import pandas as pd

__all__ = [
    "BORDER_FILES",
    "VERIFICATION_FILE",
    "WEIGHTS_SCHEMA",
    "NetworkName",
    "Run",
    "RunError",
    "TooLargeError",
    "Weights",
    "load",
    "write_manifest",
]

WEIGHTS_SCHEMA = pa.schema(
    [
        pa.field("training_id", pa.string(), metadata={"meaning": "of the trials it belongs to"}),
        pa.field(
            "forget",
            pa.string(),
            metadata={"meaning": "what it was retrained without, as JSON; null: trained on all"},
        ),
        pa.field("forgotten", pa.list_(pa.int32()), metadata={"meaning": "indices of that"}),
        pa.field("start", pa.int32(), metadata={"meaning": "number of the initialisation"}),
        pa.field("n", pa.int32(), metadata={"meaning": "neurons"}),
        pa.field("m", pa.int32(), metadata={"meaning": "samples"}),
        pa.field("weights", pa.list_(pa.float64()), metadata={"meaning": "W, row by row"}),
        pa.field(
            "upper",
            pa.list_(pa.float64()),
            metadata={
                "meaning": "trained layers above W, row by row, n x n each, output weights last"
            },
        ),
        pa.field("u", pa.list_(pa.float64()), metadata={"meaning": "output weights"}),
        pa.field("x", pa.list_(pa.float64()), metadata={"meaning": "samples, row by row"}),
        pa.field("y", pa.list_(pa.float64()), metadata={"meaning": "labels"}),
    ]
)
# Which network a row of weights/ is: training_id, forget, start.
NetworkName = tuple[str, str | None, int]

# Of a trial as a row of a table, with what sorting and pandas add.
_BYTES_OF_A_TRIAL = 3000

BORDER_FILES = ("border.parquet", "points.parquet")
VERIFICATION_FILE = "verification.json"


class TooLargeError(RunError):
    """A run whose trials do not fit into this machine's memory."""


class Weights(NamedTuple):
    """One trained or retrained network, in coordinates in which ``certify`` takes it.

    Attributes:
        upper: the layers above the first, where they are trained: (n, n) each, the output weights
            (n,) last.
    """

    training_id: str
    forget: str | None
    forgotten: tuple[int, ...]
    start: int
    W: np.ndarray
    upper: tuple[np.ndarray, ...]
    u: np.ndarray
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Run:
    """A finished or unfinished run on disk.

    Attributes:
        path: its directory; what it was opened by if it is not local.
        manifest: the content of run.json.
    """

    path: Path | str | Place
    manifest: Mapping[str, Any]

    @property
    def place(self) -> Place:
        """Its directory."""
        return Place.of(self.path)

    def parts(self) -> list[str]:
        """Names of the files that hold its trials."""
        return parquet_files(self.place / "trials")

    def trials(self) -> int:
        """How many trials were stored when the manifest was written."""
        return sum(part.get("trials", 0) for part in self.manifest.get("parts", {}).values())

    def provenances(self) -> list[dict[str, Any]]:
        """How its parts were computed: each way once.

        Raises:
            RunError: a part does not say.
        """
        keys = [name.removesuffix(".parquet") for name in self.parts()]
        headers = side_by_side(lambda key: part_header(self.place, key), keys)
        each = {about: key for (about, _), key in zip(headers, keys, strict=True)}
        return [_provenance(about, f"{self.path}/trials/{key}") for about, key in each.items()]

    def latest_provenance(self) -> dict[str, Any]:
        """How its parts were computed that were begun last; nothing if there are none."""
        by_time = sorted(self.provenances(), key=lambda about: str(about.get("started", "")))
        return by_time[-1] if by_time else {}

    def to_arrow(self) -> pa.Table:
        """All trials, sorted by swept parameters, seed, what is forgotten and step fraction.

        Raises:
            RunError: a part cannot be read, no trial has finished, or (a TooLargeError) they do
                not fit into memory.
        """
        parts = self.place / "trials"
        needed = _BYTES_OF_A_TRIAL * self.trials()
        if needed > host_memory():
            raise TooLargeError(
                f"{self.path}: {self.trials()} trials take about {needed / 2**30:.0f} GiB of "
                "memory: read some of their columns from the Parquet files with DuckDB or Polars "
                "(docs/how-to.md)"
            )
        tables = side_by_side(lambda name: read_part(parts, name), self.parts())
        if not tables:
            raise RunError(f"{self.path}: no trials have finished")
        inner = ("seed", "forget_index", "forget_draw", "step_fraction")
        order = [*self.manifest.get("swept", ()), *inner]
        table = pa.concat_tables(tables)
        known = [name for name in order if name in table.column_names]
        # Equal keys (duplicates in no column) are told apart by name, so that order is the run's.
        return table.sort_by([(name, "ascending") for name in (*known, "trial_id")])

    def to_pandas(self) -> "pd.DataFrame":
        """As ``to_arrow``; ``df.attrs["columns"]`` has each column's meaning."""
        table = self.to_arrow()
        frame = table.to_pandas()
        frame.attrs["columns"] = {
            field.name: (field.metadata or {}).get(b"meaning", b"").decode()
            for field in table.schema
        }
        return frame

    def border(self) -> "pd.DataFrame | None":
        """The border that the sweep has found, a row for each corner of a curve; None if it looks
        for none, or is not there yet. ``manifest["border"]`` says of what.

        ``curve`` is "border" where the median over seeds changes sides, and "low" and "high" where
        the ends of its interval do; ``piece`` and ``place`` order the corners; the other two
        columns are the axes.

        Raises:
            RunError: the file cannot be read.
        """
        return self._of_border(BORDER_FILES[0])

    def points(self) -> "pd.DataFrame | None":
        """The points of the two axes that a sweep with a border has looked at: how many ``seeds``,
        the ``share`` of them for which the predicate holds, and the median ``margin`` with an
        interval for it, ``low`` to ``high``, and the share of trials with a certificate,
        ``separated``; None and errors as of ``border``.
        """
        return self._of_border(BORDER_FILES[1])

    def _of_border(self, name: str) -> "pd.DataFrame | None":
        # The files of an earlier specification that looked for one stay where they are.
        if "border" not in self.manifest or name not in self.place.names():
            return None
        try:
            return self.place.using(name, pq.read_table).to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise RunError(f"{self.path}/{name}: cannot be read: {error}") from None

    def verification(self) -> dict[str, Any] | None:
        """What the last verification found; None if there was none, or it cannot be read."""
        with suppress(FileNotFoundError, StorageError, ValueError):
            found = json.loads(self.place.read(VERIFICATION_FILE))
            if isinstance(found, dict):
                return found
        return None

    def _repr_html_(self) -> str:
        """For notebooks: what it asks, how much of it is there, and its first figure."""
        about = self.manifest
        title, where, swept = (
            html.escape(str(text))
            for text in (
                about.get("question") or about.get("name", ""),
                self.path,
                ", ".join(about.get("swept", ())) or "nothing",
            )
        )
        lines = [
            f"<b>{title}</b>",
            f"{self.trials()} of {about.get('trials', 0)} trials in <code>{where}</code>",
            f"swept: {swept}",
        ]
        report = self.place / "report"
        pictures = [name for name in report.names() if name.endswith(".png")]
        if pictures:
            content = base64.b64encode(report.read(pictures[0])).decode()
            name = html.escape(pictures[0])
            lines.append(
                f'<img alt="{name}" style="max-width: 40em" src="data:image/png;base64,{content}">'
            )
        return "<br>".join(lines)

    def weights(self, training_id: str) -> list[Weights]:
        """The trained network of a training and those retrained from it.

        Raises:
            RunError: the run keeps no weights, or has no such training.
        """
        parts = self.place / "weights"
        found: dict[NetworkName, Weights] = {}
        for name in parquet_files(parts):
            try:
                table = parts.using(
                    name,
                    partial(
                        pq.read_table,
                        filters=[("training_id", "=", training_id)],
                        schema=WEIGHTS_SCHEMA,
                    ),
                )
            except (pa.ArrowException, OSError) as error:
                raise RunError(f"{parts.name}/{name}: cannot be read: {error}") from None
            for row in table.to_pylist():
                found.setdefault((training_id, row["forget"], row["start"]), _network(row))
        if not found:
            raise RunError(
                f"{self.path}: has no weights of training {training_id}; set [store] weights = true"
                " in its specification and run it again"
            )
        return list(found.values())


def _upper(numbers: np.ndarray, n: int) -> tuple[np.ndarray, ...]:
    if not numbers.size:
        return ()
    return (*numbers[:-n].reshape(-1, n, n), numbers[-n:])


def _network(row: Mapping[str, Any]) -> Weights:
    return Weights(
        row["training_id"],
        row["forget"],
        tuple(row["forgotten"]),
        row["start"],
        np.asarray(row["weights"]).reshape(row["n"], -1),
        _upper(np.asarray(row["upper"] or []), row["n"]),
        np.asarray(row["u"]),
        np.asarray(row["x"]).reshape(row["m"], -1),
        np.asarray(row["y"]),
    )


def _provenance(about: bytes, part: str) -> dict[str, Any]:
    try:
        found = json.loads(about)
    except ValueError as error:
        raise RunError(f"{part}.parquet: its provenance cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise RunError(f"{part}.parquet: its provenance is no table")
    return found


def write_manifest(run: Place, manifest: Mapping[str, Any], spec_text: str) -> None:
    """Write spec.toml and run.json.

    Raises:
        StorageError: they cannot be written.
    """
    run.write("spec.toml", spec_text.encode())
    run.write("run.json", (json.dumps(manifest, indent=2) + "\n").encode())


def load(path: str | Path | Place, *, missing_parts: bool = False) -> Run:
    """Open a run's directory, or its URI.

    Args:
        missing_parts: whether parts may be missing.

    Raises:
        RunError: it is not a run, its manifest cannot be read, or a part is missing.
    """
    try:
        place = Place.of(path)
        manifest = json.loads(place.read("run.json"))
    except FileNotFoundError:
        raise RunError(f"{path}: not a run: it has no run.json") from None
    except StorageError as error:
        raise RunError(str(error)) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}/run.json: cannot be read: {error}") from None
    if not isinstance(manifest, dict):
        raise RunError(f"{path}/run.json: is no table")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise RunError(
            f"{path}/run.json: schema_version is {manifest.get('schema_version')!r}, "
            f"this version reads {SCHEMA_VERSION}"
        )
    if not isinstance(manifest.get("parts"), dict):
        raise RunError(f"{path}/run.json: has no table of parts")
    there = {name.removesuffix(".parquet") for name in (place / "trials").names()}
    missing = sorted(set(manifest["parts"]) - there)
    if missing and not missing_parts:
        raise RunError(f"{path}/trials/{missing[0]}.parquet: missing; run again")
    return Run(path if place.local is None else place.local, manifest)

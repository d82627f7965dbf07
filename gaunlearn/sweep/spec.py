"""A sweep's TOML file, read and checked as a whole before anything runs.

All errors are SpecError, one line with file, key, value and what is allowed.
"""

import itertools
import tomllib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
from numpy.typing import NDArray

from gaunlearn.sweep.grid import INNER, Cell, Grid, Name
from gaunlearn.sweep.identity import forget_files, join_digests, section_digest
from gaunlearn.sweep.predicate import Border, read_border
from gaunlearn.sweep.reader import read_grid
from gaunlearn.sweep.samples import bundled_samples, read_samples
from gaunlearn.sweep.sections import (
    SECTIONS,
    BundledData,
    DigitsData,
    FileData,
    ForgetIndex,
    Section,
    SpecError,
)

__all__ = ["Sweep", "load_spec", "question_of"]


# Each is looked at before anything runs: so many take an hour.
_MOST_COMBINATIONS = 10**8
# Objects about which something is remembered meanwhile.
_MOST_REMEMBERED = 65_536
_SECTIONS = len(SECTIONS)


@dataclass(frozen=True)
class Sweep:
    """A whole specification.

    Attributes:
        name: of the run's directory under results/.
        question: the first comment of the file.
        text: the file as it was read, with overrides in place.
        directory: what relative paths in it refer to.
        swept: the parameters that vary, without seed, forgotten sample and step fraction.
        keep_weights: whether networks are stored too.
        grid: its combinations.
        kept: numbers of the combinations that filters keep, those that share a training next to
            each other.
        first_of_training: where in ``kept`` another training begins.
        alike: for each of ``kept`` a number: combinations with one number cost the same.
        border: what it looks for, if not all of it is to be run.
    """

    name: str
    question: str
    text: str
    directory: Path
    swept: tuple[Name, ...]
    keep_weights: bool
    grid: Grid = field(repr=False)
    kept: NDArray[np.int64] = field(repr=False)
    first_of_training: NDArray[np.int64] = field(repr=False)
    alike: NDArray[np.int32] = field(repr=False)
    border: Border | None = None

    def at(self, points: NDArray[np.bool_]) -> "Sweep":
        """The part of a sweep with a border that is at some points (I, J) of its two axes."""
        assert self.border is not None
        group = np.zeros(len(self.kept), np.int64)
        group[self.first_of_training[1:]] = 1
        here = points[self.border.places(self.kept, self.grid)]
        return replace(
            self,
            kept=self.kept[here],
            first_of_training=np.flatnonzero(np.diff(np.cumsum(group)[here], prepend=-1)),
            alike=self.alike[here],
        )

    def _groups(self) -> Iterator[slice]:
        ends = [*self.first_of_training[1:].tolist(), len(self.kept)]
        return itertools.starmap(slice, zip(self.first_of_training.tolist(), ends, strict=True))

    def _cells(self, group: slice) -> list[Cell]:
        cells = [self.grid.cell(index) for index in self.kept[group].tolist()]
        return [cell for cell in cells if cell is not None]

    def trainings(self) -> Iterator[list[Cell]]:
        """Cells that share a training configuration, one such group after the other."""
        return map(self._cells, self._groups())

    def costs(self) -> Iterator[tuple[list[Cell], int]]:
        """The same for one of all groups that cost the same, and how many these are."""
        counts: dict[bytes, int] = {}
        examples: dict[bytes, slice] = {}
        for group in self._groups():
            key = self.alike[group].tobytes()
            examples.setdefault(key, group)
            counts[key] = counts.get(key, 0) + 1
        for key, group in examples.items():
            yield self._cells(group), counts[key]


def _question(text: str) -> str:
    """The comment that a specification opens with, as one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.lstrip("#").strip() for line in lines).strip()


def question_of(path: Path) -> str:
    """The question that a specification answers, without reading the rest of it."""
    return _question(path.read_text(encoding="utf-8-sig", errors="replace"))


def _read_data(grid: Grid, data: FileData | BundledData, directory: Path) -> int:
    """How many training samples there are; real data are read once to see."""
    if isinstance(data, FileData):
        try:
            m = len(read_samples(data, directory).y)
        except ValueError as error:
            grid.fail(f"data.path = {data.path!r}", str(error))
        if m < 2:
            grid.fail(f"data.path = {data.path!r}", "has one sample; 2 or more are needed")
        return m
    if isinstance(data, DigitsData):
        first, second = data.classes
        if first == second or not {first, second} <= set(range(10)):
            grid.fail(f"data.classes = {list(data.classes)}", "must be two different digits")
    try:
        bundled_samples(data, 0)
    except ValueError as error:
        grid.fail("data.m", str(error))
    return data.m


def _by_object(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function, which remembers what it gave for an object: combinations share their
    sections, and to compare these takes longer.
    """
    known: dict[int, tuple[Any, Any]] = {}

    def remembered(given: Any) -> Any:
        entry = known.get(id(given))
        if entry is None:
            if len(known) >= _MOST_REMEMBERED:
                known.clear()
            # Holding the object keeps its identity its own.
            entry = known[id(given)] = given, function(given)
        return entry[1]

    return remembered


def _survey(
    grid: Grid, directory: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Check every combination; ``Sweep.kept``, ``first_of_training`` and ``alike``.

    Of each combination only its number, what it costs like and a digest of its training are held.
    """
    if grid.size > _MOST_COMBINATIONS:
        grid.fail(
            "sweep",
            f"its axes have {grid.size} combinations; at most {_MOST_COMBINATIONS} are allowed, "
            "seeds, forgotten samples and step fractions apart",
        )
    kept, alike = array("q"), array("i")
    trainings = bytearray()
    sizes: dict[Section, int] = {}
    numbers: dict[Any, int] = {}

    def number(content: Any) -> int:
        return numbers.setdefault(content, len(numbers))

    name_of = _by_object(lambda section: section_digest(section, directory))
    shape_of = _by_object(lambda section: number(section.shape))
    number_of = _by_object(number)
    for index in range(grid.size):
        cell = grid.cell(index)
        if cell is None:
            continue
        kept.append(index)
        alike.append(number((*map(shape_of, cell[:_SECTIONS]), *map(number_of, cell[_SECTIONS:]))))
        real = isinstance(cell.data, FileData | BundledData)
        if real and cell.data not in sizes:
            sizes[cell.data] = _read_data(grid, cell.data, directory)
        m = sizes[cell.data] if real else cell.data.m
        trainings += bytes.fromhex(join_digests(map(name_of, cell.training())))
        if not isinstance(cell.forget, ForgetIndex):
            if cell.forget.size >= m:
                grid.fail(f"forget.size = {cell.forget.size}", f"must leave one of the {m} samples")
            continue
        bad = [i for i in cell.forget_indices or () if i >= m]
        if bad:
            grid.fail(
                f"forget.index = {bad[0]}", f"there is no such sample; there are 0 to {m - 1}"
            )
    if not kept:
        grid.fail("sweep.filter", "leaves no trial")
    _, first, group = np.unique(
        np.frombuffer(trainings, "V16"), return_index=True, return_inverse=True
    )
    rank = np.empty(len(first), np.int64)  # groups in the order of their first combination
    rank[np.argsort(first)] = np.arange(len(first))
    order = np.argsort(rank[group], kind="stable")
    first_of_training = np.flatnonzero(np.diff(rank[group][order], prepend=-1))
    return np.asarray(kept)[order], first_of_training, np.asarray(alike)[order]


def _override(source: str, text: str, overrides: Sequence[str]) -> str:
    """The text of a specification with values replaced, its comments and order kept."""
    document = tomlkit.parse(text)
    for override in overrides:
        path, equals, value = override.partition("=")
        names = [name.strip() for name in path.split(".")]
        if not equals or len(names) < 2 or not all(names) or "\n" in override:
            raise SpecError(f"--set {override!r}: must be SECTION.KEY=VALUE, such as data.d=2000")
        try:
            parsed: Any = tomllib.loads(f"value = {value}")["value"]
        except ValueError:
            parsed = value.strip()  # a word without its quotes
        table: Any = document
        for name in names[:-1]:
            table = table.setdefault(name, tomlkit.table())
            if not isinstance(table, dict):
                raise SpecError(f"{source}: {name}: must be a table, [{name}], not {table!r}")
        table[names[-1]] = parsed
    return tomlkit.dumps(document)


def _spelt(name: str) -> str:
    """A name with - for what no name of a sweep may have in it."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)


def _check_integers(source: str, content: Any, key: str = "") -> None:
    """Refuse whole numbers that are none of TOML's, which Python reads nevertheless."""
    if isinstance(content, dict):
        for name, value in content.items():
            _check_integers(source, value, f"{key}.{name}" if key else name)
    elif isinstance(content, list):
        for value in content:
            _check_integers(source, value, key)
    elif type(content) is int and not -(2**63) <= content < 2**63:
        text = str(content)
        shown = text if len(text) < 30 else f"{text[:20]}..."
        raise SpecError(f"{source}: {key} = {shown}: whole numbers must be from -2^63 to 2^63 - 1")


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read and check a specification.

    Args:
        overrides: values to replace, each "section.key=value" with the value as in TOML; the
            quotes of a single word may be left out.

    Raises:
        SpecError: one line that names the file, the key, the value and what is allowed.
    """
    path = Path(path)
    forget_files()
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte-order mark
        content = tomllib.loads(text)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # of TOML's grammar, of UTF-8, or of a number of 5000 digits
        raise SpecError(f"{path}: not valid TOML: {error}") from None
    if overrides:
        text = _override(str(path), text, overrides)
        content = tomllib.loads(text)
    source = str(path) if not overrides else f"{path} with --set {' --set '.join(overrides)}"
    _check_integers(source, content)
    grid = read_grid(source, content)
    name = content.get("sweep", {}).get("name", _spelt(path.stem))
    if not isinstance(name, str) or not name or name != _spelt(name):
        grid.fail(f"sweep.name = {name!r}", "must be letters, digits, - and _")
    keep_weights = content.get("store", {}).get("weights", False)
    if not isinstance(keep_weights, bool):
        grid.fail(f"store.weights = {keep_weights!r}", "must be true or false")
    border = read_border(grid, content)
    kept, first, alike = _survey(grid, path.parent)
    return Sweep(
        name=name,
        question=_question(text),
        text=text,
        directory=path.parent,
        swept=tuple(name for axis in grid.axes for name in axis.names if name not in INNER),
        keep_weights=keep_weights,
        grid=grid,
        kept=kept,
        first_of_training=first,
        alike=alike,
        border=border,
    )

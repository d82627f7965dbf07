"""A sweep's TOML file, read into frozen and validated records before anything runs.

Every scalar parameter of [data], [model], [train], [retrain], [evaluate] and [compute] may be given
as a list: it is then an axis, and the sweep is the product of its axes. Each combination is one
``Cell``. All errors are SpecError, one line with file, key, value and what is allowed.
"""

import difflib
import itertools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeGuard

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gaunlearn.certificate import KINK_TOLS, TAU_BUDGET
from gaunlearn.data.real import digits, load_npz
from gaunlearn.losses import LOSSES
from gaunlearn.training import OPTIMIZERS

__all__ = ["Cell", "SpecError", "Sweep", "column_name", "load_spec"]


class SpecError(ValueError):
    """A specification or a call that has no meaning; the message is one line for its user."""


class _Section(BaseModel):
    """Defaults are part of a trial's identity: changing one needs a new schema version."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class MixtureData(_Section):
    """Two Gaussian clusters at +-mu with ||mu|| = d^(-1/4 + alpha)."""

    kind: Literal["gaussian_mixture"]
    m: int = Field(ge=2)
    d: int = Field(ge=1)
    alpha: float = Field(gt=0, lt=0.25)
    n_test: int = Field(default=1000, ge=0)


class IsotropicData(_Section):
    """N(0, I / d) with labels that are independent of it."""

    kind: Literal["isotropic"]
    m: int = Field(ge=2)
    d: int = Field(ge=1)
    n_test: int = Field(default=0, ge=0)


class DigitsData(_Section):
    """scikit-learn's digits, two classes, centred and scaled."""

    kind: Literal["digits"]
    m: int = Field(default=40, ge=2)
    classes: Annotated[tuple[int, int], BeforeValidator(_tuple)] = (3, 8)


class FileData(_Section):
    """A user's .npz with x, y and optionally x_test, y_test; a path relative to the spec's."""

    kind: Literal["file"]
    path: str


class LinearModel(_Section):
    """N = <w, x>."""

    kind: Literal["linear"]
    init_scale: float = Field(default=0.03, gt=0)


class ReluModel(_Section):
    """N = sum_j u_j relu(<w_j, x>), u_j = +-1/sqrt(n)."""

    kind: Literal["two_layer_relu"]
    n: int = Field(ge=1)
    init_scale: float = Field(default=0.03, gt=0)


class LeakyReluModel(_Section):
    """As two_layer_relu, with slope leak below 0."""

    kind: Literal["two_layer_leaky_relu"]
    n: int = Field(ge=1)
    leak: float = Field(gt=0, lt=1)
    init_scale: float = Field(default=0.03, gt=0)


class Training(_Section):
    """Descent for training and retraining; stops at whichever comes first. With end "limit" it
    also stops when signs have settled, and its limit takes its place.
    """

    end: Literal["descent", "limit"] = "descent"
    optimizer: str = "normalized_gd"
    loss: str = "logistic"
    step_size: float = Field(default=1.0, gt=0)
    max_steps: int = Field(ge=1, le=10**12)
    target_log_loss: float | None = None
    target_epsilon: float | None = Field(default=None, gt=0)
    check_every: int = Field(default=100, ge=1, le=10**12)


class Retraining(_Section):
    """Whether the retrained model starts from the trained model's initial weights."""

    init: Literal["fresh", "same"] = "fresh"


class Evaluation(_Section):
    """How certificates treat kinks (see ``certificate``)."""

    kinks: Literal["handled", "ignored"] = "handled"
    kink_tol: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], ...],
        BeforeValidator(_tuple),
        Field(min_length=1),
    ] = KINK_TOLS
    tau_budget: float = Field(default=TAU_BUDGET, ge=0)


class Computing(_Section):
    """How numbers are represented; data and initial weights are the same in either."""

    dtype: Literal["float64", "float32"] = "float64"


_KINDS: dict[str, dict[str, type[_Section]]] = {
    "data": {
        "gaussian_mixture": MixtureData,
        "isotropic": IsotropicData,
        "digits": DigitsData,
        "file": FileData,
    },
    "model": {
        "linear": LinearModel,
        "two_layer_relu": ReluModel,
        "two_layer_leaky_relu": LeakyReluModel,
    },
}
_PLAIN: dict[str, type[_Section]] = {
    "train": Training,
    "retrain": Retraining,
    "evaluate": Evaluation,
    "compute": Computing,
}
_LIST_VALUED = {"classes", "kink_tol"}
_CHOICES = {"optimizer": tuple(OPTIMIZERS), "loss": tuple(LOSSES)}
_TOP_LEVEL = {
    "sweep": {"name", "seeds"},
    "forget": {"index"},
    "unlearn": {"step_fraction"},
}


class Cell(BaseModel):
    """One combination of axis values: everything about a trial but seed, point and step."""

    model_config = ConfigDict(frozen=True)
    data: MixtureData | IsotropicData | DigitsData | FileData
    model: LinearModel | ReluModel | LeakyReluModel
    train: Training
    retrain: Retraining
    evaluate: Evaluation
    compute: Computing


class Sweep(BaseModel):
    """A whole specification.

    Attributes:
        name: of the run's directory under results/.
        question: the first comment of the file.
        text: the file as it was read.
        directory: what relative paths in it refer to.
        seeds, forget_indices, step_fractions: axes of every sweep; ``None`` forgets each point.
        swept: names of the other axes as (section, key).
        cells: the product of the other axes.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    question: str
    text: str
    directory: Path
    seeds: tuple[int, ...]
    forget_indices: tuple[int, ...] | None
    step_fractions: tuple[float, ...]
    swept: tuple[tuple[str, str], ...]
    cells: tuple[Cell, ...]


def column_name(section: str, key: str) -> str:
    """The column of a parameter: its key, after the section where that alone says too little."""
    return f"{section}_{key}" if key in {"kind", "init", "path", "end"} else key


class _Reader:
    """Checks one parsed file; knows the file's name for messages."""

    def __init__(self, source: str, content: dict[str, Any]) -> None:
        self.source = source
        self.content = content

    def fail(self, key: str, message: str) -> NoReturn:
        raise SpecError(f"{self.source}: {key}: {message}")

    def unknown(self, key: str, name: str, allowed: list[str]) -> NoReturn:
        close = difflib.get_close_matches(name, allowed, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        self.fail(key, f"unknown key; {hint}allowed are {', '.join(sorted(allowed))}")

    def table(self, section: str) -> dict[str, Any]:
        value = self.content.get(section, {})
        if not isinstance(value, dict):
            self.fail(section, f"must be a table, [{section}], not {value!r}")
        return value

    def check_sections(self) -> None:
        allowed = [*_TOP_LEVEL, *_KINDS, *_PLAIN]
        for section in self.content:
            if section not in allowed:
                self.unknown(section, section, allowed)
        for section, keys in _TOP_LEVEL.items():
            for key in self.table(section):
                if key not in keys:
                    self.unknown(f"{section}.{key}", key, sorted(keys))

    def section_class(self, section: str) -> type[_Section]:
        if section in _PLAIN:
            return _PLAIN[section]
        kinds = _KINDS[section]
        if section not in self.content:
            self.fail(section, f"missing; give [{section}] with kind = one of {', '.join(kinds)}")
        kind = self.table(section).get("kind")
        if not isinstance(kind, str) or kind not in kinds:
            got = "missing" if kind is None else repr(kind)
            self.fail(f"{section}.kind", f"{got}; allowed are {', '.join(kinds)}")
        return kinds[kind]

    def axes(self, section: str) -> dict[str, list[Any]]:
        """Each key of a section with its list of values."""
        found = {}
        for key, value in self.table(section).items():
            if isinstance(value, list) and key not in _LIST_VALUED:
                if not value:
                    self.fail(f"{section}.{key}", "an axis needs at least one value, not []")
                self.no_repeats(f"{section}.{key}", value)
                found[key] = value
            else:
                found[key] = [value]
        return found

    def no_repeats(self, key: str, values: list[Any] | tuple[Any, ...]) -> None:
        for place, value in enumerate(values):
            if value in values[:place]:
                self.fail(key, f"the value {value!r} is given twice")

    def build(self, cls: type[_Section], section: str, values: dict[str, Any]) -> Any:
        try:
            built = cls(**values)
        except ValidationError as error:
            # An unknown key first: a misspelt one is also reported as missing.
            first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
            name = str(first["loc"][0])
            key = f"{section}.{name}"
            if first["type"] == "extra_forbidden":
                self.unknown(key, name, list(cls.model_fields))
            if first["type"] == "missing" and len(first["loc"]) == 1:
                self.fail(key, f"missing; {cls.__name__} needs it")
            self.fail(f"{key} = {first['input']!r}", first["msg"].replace("Input should", "must"))
        for name, allowed in _CHOICES.items():
            value = getattr(built, name, None)
            if value is not None and value not in allowed:
                self.fail(f"{section}.{name} = {value!r}", f"must be one of {', '.join(allowed)}")
        return built

    def seeds(self) -> tuple[int, ...]:
        value = self.table("sweep").get("seeds", 1)
        if type(value) is int and value >= 1:
            return tuple(range(value))
        if (
            isinstance(value, list)
            and value
            and all(type(v) is int and 0 <= v < 2**63 for v in value)
        ):
            self.no_repeats("sweep.seeds", value)
            return tuple(value)
        self.fail(
            f"sweep.seeds = {value!r}",
            "must be a count (1 or more) or a list of seeds (0 to 2^63 - 1)",
        )

    def forget_indices(self) -> tuple[int, ...] | None:
        value = self.table("forget").get("index", "each")
        if value == "each":
            return None
        values = value if isinstance(value, list) else [value]
        if not values or any(type(v) is not int or v < 0 for v in values):
            self.fail(
                f"forget.index = {value!r}", 'must be "each", a sample index, or a list of them'
            )
        self.no_repeats("forget.index", values)
        return tuple(values)

    def step_fractions(self) -> tuple[float, ...]:
        key, value = "unlearn.step_fraction", self.table("unlearn").get("step_fraction", 1.0)
        allowed = "must be a number, a list of numbers, or { start, stop, count }"
        if isinstance(value, dict):
            for name in value:
                if name not in {"start", "stop", "count"}:
                    self.unknown(f"{key}.{name}", name, ["start", "stop", "count"])
            start, stop, count = (value.get(name) for name in ("start", "stop", "count"))
            if not (_is_number(start) and _is_number(stop) and type(count) is int and count > 1):
                self.fail(f"{key} = {value!r}", f"{allowed}, count being 2 or more")
            values = [start + (stop - start) * i / (count - 1) for i in range(count)]
        else:
            values = value if isinstance(value, list) else [value]
        if not values or any(not _is_number(v) or v < 0 for v in values):
            self.fail(f"{key} = {value!r}", f"{allowed}, none of them negative")
        self.no_repeats(key, values)
        return tuple(float(v) for v in values)

    def cells(self) -> Iterator[Cell]:
        sections = [*_KINDS, *_PLAIN]
        classes = {section: self.section_class(section) for section in sections}
        axes = [
            (section, key, values)
            for section in sections
            for key, values in self.axes(section).items()
        ]
        for combination in itertools.product(*(values for *_, values in axes)):
            chosen: dict[str, dict[str, Any]] = {section: {} for section in sections}
            for (section, key, _), value in zip(axes, combination, strict=True):
                chosen[section][key] = value
            built = {name: self.build(classes[name], name, chosen[name]) for name in sections}
            for key in ("max_steps", "check_every"):
                value = getattr(built["train"], key)
                if built["compute"].dtype == "float32" and value >= 2**31:
                    self.fail(f"train.{key} = {value}", "must be below 2^31 with dtype float32")
            yield Cell(**built)

    def swept(self) -> tuple[tuple[str, str], ...]:
        return tuple(
            (section, key)
            for section in [*_KINDS, *_PLAIN]
            for key, values in self.axes(section).items()
            if len(values) > 1
        )

    def check_forget(self, cell: Cell, directory: Path, indices: tuple[int, ...] | None) -> None:
        """Samples that are to be forgotten must exist, and one must remain."""
        data = cell.data
        if isinstance(data, FileData):
            try:
                m = len(load_npz(directory / data.path).y)
            except ValueError as error:
                self.fail(f"data.path = {data.path!r}", str(error))
            if m < 2:
                self.fail(f"data.path = {data.path!r}", "has one sample; 2 or more are needed")
        else:
            m = data.m
        if isinstance(data, DigitsData):
            if data.classes[0] == data.classes[1] or not set(data.classes) <= set(range(10)):
                self.fail(f"data.classes = {list(data.classes)}", "must be two different digits")
            try:
                digits(0, data.m, data.classes)
            except ValueError as error:
                self.fail("data.m", str(error))
        bad = [index for index in indices or () if index >= m]
        if bad:
            self.fail(
                f"forget.index = {bad[0]}", f"there is no such sample; there are 0 to {m - 1}"
            )


def _is_number(value: Any) -> TypeGuard[int | float]:
    return type(value) in (int, float) and abs(value) < float("inf")


def _question(text: str) -> str:
    """The comment that a specification opens with, as one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.lstrip("#").strip() for line in lines).strip()


def load_spec(path: str | Path) -> Sweep:
    """Read and check a specification.

    Raises:
        SpecError: one line that names the file, the key, the value and what is allowed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not valid TOML: {error}") from None
    reader = _Reader(str(path), content)
    reader.check_sections()
    name = reader.table("sweep").get("name", path.stem)
    if (
        not isinstance(name, str)
        or not name
        or not name.replace("_", "a").replace("-", "a").isalnum()
    ):
        reader.fail(f"sweep.name = {name!r}", "must be letters, digits, - and _")
    cells = tuple(reader.cells())
    indices = reader.forget_indices()
    for cell in {cell.data: cell for cell in cells}.values():
        reader.check_forget(cell, path.parent, indices)
    return Sweep(
        name=name,
        question=_question(text),
        text=text,
        directory=path.parent,
        seeds=reader.seeds(),
        forget_indices=indices,
        step_fractions=reader.step_fractions(),
        swept=reader.swept(),
        cells=cells,
    )

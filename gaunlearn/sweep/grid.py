"""The combinations of a sweep's axes, made one at a time: ``Grid`` numbers them, ``Cell`` is one.

Seeds, forgotten samples and step fractions stay lists within a cell where nothing else depends on
them: a cell is a training configuration with much below it.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any, NamedTuple, NoReturn, get_args

from pydantic import ValidationError

from gaunlearn.checks import did_you_mean
from gaunlearn.sweep.axes import Axis, is_hashable, is_number
from gaunlearn.sweep.expressions import Expression, ExpressionError
from gaunlearn.sweep.sections import (
    CHOICES,
    DEFAULT_KIND,
    HIGHER_DEGREE,
    KIND_KEY,
    SECTIONS,
    WHOLE,
    Computing,
    Evaluation,
    Retraining,
    Section,
    SpecError,
    Training,
)
from gaunlearn.unlearning import OF_DEGREE_ONE

__all__ = ["FORGET", "INNER", "SEED", "STEP", "Cell", "Grid", "Name"]

Name = tuple[str, str]

SEED, FORGET, STEP = ("sweep", "seed"), ("forget", "index"), ("unlearn", "step_fraction")
# What tells trials of one cell apart: no parameters of a section. FORGET is the sample's index, or
# the number of a draw.
INNER = (SEED, FORGET, STEP)


class Cell(NamedTuple):
    """One combination of axis values.

    Attributes:
        data, model, train, retrain, evaluate, compute, forget, unlearn: its sections.
        seeds, step_fractions: every combination is a trial.
        forget_indices: likewise, the forgotten sample or the number of a draw; ``None`` forgets
            each sample in turn.
    """

    data: Any
    model: Any
    train: Training
    retrain: Retraining
    evaluate: Evaluation
    compute: Computing
    forget: Any
    unlearn: Any
    seeds: tuple[int, ...]
    forget_indices: tuple[int, ...] | None
    step_fractions: tuple[float, ...]

    @property
    def judge(self) -> Evaluation | None:
        """How certificates are computed during training: only a descent that ends at an epsilon
        depends on it.
        """
        return self.evaluate if self.train.target_epsilon is not None else None

    def training(self) -> tuple[Section, ...]:
        """The sections that training depends on."""
        judge = self.judge
        each = (self.data, self.model, self.train, self.compute)
        return each if judge is None else (*each, judge)


# Sections that are remembered.
_MOST_REMEMBERED = 65_536


@lru_cache(maxsize=_MOST_REMEMBERED)
def _build(cls: type[Section], names: tuple[str, ...], values: tuple[Any, ...], _: Any) -> Section:
    """A section; the last argument has the values' types, as 1, 1.0 and True are equal keys."""
    return cls(**dict(zip(names, values, strict=True)))


@cache
def _parameters(cls: type[Section]) -> tuple[tuple[str, bool], ...]:
    """Each parameter of a section's kind, and whether it is a whole number."""
    return tuple((key, field.annotation in WHOLE) for key, field in cls.model_fields.items())


def _plain(value: Any, whole: bool) -> Any:
    """A number as a trial's identity knows it: whole ones are integers, and 0 has no sign."""
    if isinstance(value, float):
        return int(value) if whole and value.is_integer() else value + 0.0
    return value


@dataclass(frozen=True)
class Grid:
    """All combinations.

    Attributes:
        source: the file's name, for messages.
        kinds: the kinds of each section that occur.
        constants: parameters with one value.
        axes: the others; the last one varies fastest.
        derived: parameters that follow from others.
        free: seeds, forgotten samples and step fractions that stay lists within a cell.
        filters: combinations in which one of them is false are left out.
        aliases: what names in expressions stand for.
    """

    source: str
    kinds: Mapping[str, tuple[str, ...]]
    constants: Mapping[Name, Any]
    axes: tuple[Axis, ...]
    derived: Mapping[Name, Expression]
    free: Mapping[Name, tuple[Any, ...]]
    filters: tuple[Expression, ...]
    aliases: Mapping[str, Name]

    @property
    def size(self) -> int:
        """Combinations before filters."""
        return math.prod(len(axis.points) for axis in self.axes)

    def fail(self, key: str, message: str) -> NoReturn:
        """Raise a SpecError about a key of this file."""
        raise SpecError(f"{self.source}: {key}: {message}")

    def cell(self, index: int) -> Cell | None:
        """Combination number ``index``, or None if a filter leaves it out.

        Raises:
            SpecError: its values are not allowed.
        """
        places = self._places(index)
        if self._own_axes is not None:
            return self._assembled(places, self._own_axes)
        values = self._with_derived(self._values(places, range(len(self.axes))))
        try:
            if not all(self._keeps(expression, values) for expression in self.filters):
                return None
        except SpecError:
            self._built(values)  # a wrong value says more than what a filter makes of it
            raise
        built = self._built(values)
        self._check_together(built)
        return Cell(**built, **self._inner(values))  # type: ignore[arg-type]

    def _places(self, index: int) -> list[int]:
        """Where on each axis a combination is."""
        places = []
        for axis in reversed(self.axes):
            index, place = divmod(index, len(axis.points))
            places.append(place)
        places.reverse()
        return places

    def _values(self, places: Sequence[int], axes: Iterable[int]) -> dict[Name, Any]:
        """Constants, and the values on some of the axes."""
        values = dict(self.constants)
        for number in axes:
            axis = self.axes[number]
            values.update(zip(axis.names, axis.points[places[number]], strict=True))
        return values

    @cached_property
    def _own_axes(self) -> dict[str, tuple[int, ...]] | None:
        """The axes that each section is on; None if sections depend on each other, or what tells
        trials of one cell apart is on an axis, or there are filters: then a combination has to be
        looked at as a whole.
        """
        names = [name for axis in self.axes for name in axis.names]
        points = (point for axis in self.axes for point in axis.points)
        every = itertools.chain(self.constants.values(), itertools.chain.from_iterable(points))
        if self.filters or self.derived or set(names) & set(INNER):
            return None
        if any(isinstance(value, Expression) for value in every):
            return None
        return {
            section: tuple(
                number
                for number, axis in enumerate(self.axes)
                if any(name[0] == section for name in axis.names)
            )
            for section in SECTIONS
        }

    @cached_property
    def _remembered(self) -> dict[tuple[Any, ...], Section]:
        """Sections by where on their axes they are."""
        return {}

    @cached_property
    def _same_inner(self) -> dict[str, Any]:
        """``_inner`` of all combinations, where it is on no axis."""
        return self._inner(self.constants)

    def _assembled(self, places: Sequence[int], own_axes: Mapping[str, tuple[int, ...]]) -> Cell:
        """A combination from its sections, each of which is built once."""
        known, built = self._remembered, {}
        for section, axes in own_axes.items():
            key = (section, *[places[number] for number in axes])
            found = known.get(key)
            if found is None:
                if len(known) >= _MOST_REMEMBERED:
                    known.clear()
                found = known[key] = self._section(section, self._values(places, axes))
            built[section] = found
        self._check_together(built)
        return Cell(**built, **self._same_inner)  # type: ignore[arg-type]

    def _inner(self, values: Mapping[Name, Any]) -> dict[str, Any]:
        """``Cell.seeds``, ``Cell.forget_indices`` and ``Cell.step_fractions``."""

        def listed(name: Name) -> tuple[Any, ...]:
            return self.free[name] if name in self.free else (values[name],)

        indices, fractions = listed(FORGET), listed(STEP)
        for index in indices:
            if index is not None and (type(index) is not int or index < 0):
                self.fail(
                    f"forget.index = {index!r}", 'must be "each", a sample index, or a list of them'
                )
        for fraction in fractions:
            if not is_number(fraction) or fraction < 0:
                self.fail(f"unlearn.step_fraction = {fraction!r}", "must be a number, 0 or more")
        return {
            "seeds": listed(SEED),
            "forget_indices": None if indices == (None,) else indices,
            "step_fractions": tuple(float(fraction) + 0.0 for fraction in fractions),
        }

    def _built(self, values: Mapping[Name, Any]) -> dict[str, Section]:
        fixed = self._fixed_sections
        return {
            section: fixed[section] if section in fixed else self._section(section, values)
            for section in SECTIONS
        }

    @cached_property
    def _fixed_sections(self) -> dict[str, Section]:
        """The sections that are the same in all combinations."""
        vary = {name[0] for axis in self.axes for name in axis.names}
        vary |= {name[0] for name in self.derived}
        vary |= {name[0] for name, v in self.constants.items() if isinstance(v, Expression)}
        return {
            section: self._section(section, self.constants)
            for section in SECTIONS
            if section not in vary
        }

    def _class(self, section: str, values: Mapping[Name, Any]) -> type[Section]:
        kinds = SECTIONS[section]
        if section not in KIND_KEY:
            return kinds[""]
        return kinds[values.get((section, KIND_KEY[section]), DEFAULT_KIND.get(section))]

    def _field(self, name: Name, values: Mapping[Name, Any]) -> Any:
        """Pydantic's field; None where the section's kind has no such parameter."""
        return self._class(name[0], values).model_fields.get(name[1])

    def _exists(self, name: Name, values: Mapping[Name, Any]) -> bool:
        return name in INNER or self._field(name, values) is not None

    def _value(self, name: Name, values: Mapping[Name, Any], where: str) -> Any:
        """A parameter's value, or its default where none is given.

        Raises:
            SpecError: it has none here, for instance because its section is of another kind.
        """
        value = values.get(name)
        if name not in INNER:
            field = self._field(name, values)
            if field is None:
                value = None
            elif name not in values and not field.is_required():
                value = field.get_default()
        if value is None:
            self.fail(where, f"{'.'.join(name)} has no value in some of the trials")
        return value

    def _with_derived(self, given: Mapping[Name, Any]) -> dict[Name, Any]:
        """The values of a combination, expressions replaced by what they give."""
        expressions = {name: v for name, v in given.items() if isinstance(v, Expression)}
        if not (self.derived or expressions):
            return dict(given)
        expressions |= self.derived
        found = {name: value for name, value in given.items() if name not in expressions}

        def value_of(name: Name, where: str) -> Any:
            if name not in found and name in expressions and self._exists(name, given):
                derive(name)
            return self._value(name, found, where)

        def derive(name: Name) -> None:
            expression, where = expressions[name], ".".join(name)
            try:
                value = expression.value(lambda other: value_of(self.aliases[other], where))
            except ExpressionError as error:
                self.fail(where, str(error))
            where = f"{where} = {expression.text!r}"
            if not is_number(value):
                self.fail(where, f"gives {value!r}, which is no finite number")
            whole = name == FORGET
            if name not in INNER:
                whole = self._field(name, given).annotation in WHOLE
            if whole and value != int(value):
                self.fail(
                    where, f"gives {value!r}; it must be whole: use round(), floor() or ceil()"
                )
            found[name] = int(value) if whole else float(value)

        for name in expressions:
            if name not in found and self._exists(name, given):
                derive(name)
        return found

    def _section(self, section: str, values: Mapping[Name, Any]) -> Section:
        cls = self._class(section, values)
        # Parameters of other kinds of this section, if its kind is an axis, are left out.
        given = {
            key: _plain(values[section, key], whole)
            for key, whole in _parameters(cls)
            if (section, key) in values
        }
        each = tuple(given.values())
        # What cannot be a key is no valid value either, and is to be refused as such.
        build = _build if is_hashable(each) else _build.__wrapped__
        try:
            built = build(cls, tuple(given), each, tuple(map(type, each)))
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:  # parameters that do not go together
                self.fail(section, str(first["ctx"]["error"]))
            name = str(first["loc"][0])
            key = f"{section}.{name}"
            if first["type"] == "missing" and len(first["loc"]) == 1:
                self.fail(key, f"missing; {cls.__name__} needs it")
            words = get_args(cls.model_fields[name].annotation) if name in cls.model_fields else ()
            message = first["msg"].replace("Input should", "must").replace("tuple", "list")
            hint = did_you_mean(first["input"], words)
            self.fail(f"{key} = {first['input']!r}", hint + message)
        for name in CHOICES.keys() & given.keys():
            if given[name] not in CHOICES[name]:
                hint, allowed = did_you_mean(given[name], CHOICES[name]), ", ".join(CHOICES[name])
                self.fail(f"{section}.{name} = {given[name]!r}", f"{hint}must be one of {allowed}")
        return built

    def _check_together(self, built: Mapping[str, Any]) -> None:
        """What no section can check by itself."""
        model, method = built["model"], built["unlearn"].method
        if model.kind in HIGHER_DEGREE:
            higher = f"model.kind {model.kind} is homogeneous of a degree above 1"
            if built["train"].end == "limit":
                self.fail("train.end = 'limit'", f"{higher}: its limit cannot be solved for")
            if method in OF_DEGREE_ONE:
                self.fail(f"unlearn.method = {method!r}", f"{higher}: the method needs degree 1")
        if built["compute"].dtype != "float32":
            return
        for key in ("max_steps", "check_every"):
            value = getattr(built["train"], key)
            if value >= 2**31:
                self.fail(f"train.{key} = {value}", "must be below 2^31 with dtype float32")

    def _keeps(self, expression: Expression, values: Mapping[Name, Any]) -> bool:
        where = f"sweep.filter = {expression.text!r}"
        try:
            kept = expression.value(lambda name: self._value(self.aliases[name], values, where))
        except ExpressionError as error:
            self.fail("sweep.filter", str(error))
        if not isinstance(kept, bool):
            self.fail(where, "must be a comparison")
        return kept

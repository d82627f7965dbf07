"""From a parsed TOML file to a ``Grid``: which parameter is fixed, which is an axis of what form.

Knows the file's name for its messages. What single combinations are worth is ``grid``'s business.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from gaunlearn.checks import did_you_mean
from gaunlearn.sweep.axes import MOST_POINTS, Axis, Design, Interval, fill, is_hashable, read_value
from gaunlearn.sweep.expressions import Expression, ExpressionError, parse
from gaunlearn.sweep.grid import FORGET, SEED, STEP, Grid, Name
from gaunlearn.sweep.sections import (
    DEFAULT_KIND,
    KIND_KEY,
    LIST_VALUED,
    SECTIONS,
    WHOLE,
    SpecError,
)

__all__ = ["read_grid"]

# How seed, forgotten sample and step are called in expressions, besides section.key.
_SHORT = {"seed": SEED, "forget_index": FORGET, "step_fraction": STEP}
_TOP_LEVEL = {
    "sweep": ("name", "seeds", "zip", "design", "filter"),
    "forget": ("index", "draws"),
    "unlearn": ("step_fraction",),
    "store": ("weights",),
    "border": ("predicate", "axes", "budget", "coarse"),
}
_MOST_SEEDS = 10**7
_DRAWN = ("random", "class")
_DESIGN = ("kind", "count", "seed")
_DESIGNS = ("random", "sobol")


def _dotted(name: Name) -> str:
    return ".".join(name)


class _Reader:
    """One file's content."""

    def __init__(self, source: str, content: Mapping[str, Any]) -> None:
        self.source = source
        self.content = content
        self.kinds = {section: self.kinds_of(section) for section in SECTIONS}
        # Key -> pydantic's field, over all kinds of a section that occur.
        self.fields = {
            section: {
                key: field
                for kind in kinds
                for key, field in SECTIONS[section][kind].model_fields.items()
            }
            for section, kinds in self.kinds.items()
        }
        self.known = [(section, key) for section in SECTIONS for key in self.fields[section]]
        self.known += [SEED, FORGET, STEP]
        self.lists: dict[Name, list[Any]] = {}
        self.intervals: dict[Name, Interval] = {}
        self.derived: dict[Name, Expression] = {}

    def fail(self, key: str, message: str) -> NoReturn:
        raise SpecError(f"{self.source}: {key}: {message}")

    def unknown(self, key: str, name: str, allowed: Sequence[str]) -> NoReturn:
        hint = did_you_mean(name, allowed)
        self.fail(key, f"unknown key; {hint}allowed are {', '.join(sorted(set(allowed)))}")

    def table(self, section: str) -> Mapping[str, Any]:
        value = self.content.get(section, {})
        if not isinstance(value, dict):
            self.fail(section, f"must be a table, [{section}], not {value!r}")
        return value

    def kinds_of(self, section: str) -> list[str]:
        """The kinds of a section that occur: several if its kind is an axis."""
        sections = [*_TOP_LEVEL, *SECTIONS]
        for other in self.content:
            if other not in sections:
                self.unknown(other, other, sections)
        if section not in KIND_KEY:
            return [""]
        known, key = SECTIONS[section], KIND_KEY[section]
        if section not in self.content and section not in DEFAULT_KIND:
            self.fail(section, f"missing; give [{section}] with {key} = one of {', '.join(known)}")
        given: Any = self.table(section).get(key, DEFAULT_KIND.get(section))
        kinds: list[Any] = given if isinstance(given, list) and given else [given]
        for kind in kinds:
            if not isinstance(kind, str) or kind not in known:
                got = "missing" if kind is None else repr(kind)
                hint = did_you_mean(kind, known)
                self.fail(f"{section}.{key}", f"{got}; {hint}allowed are {', '.join(known)}")
        return kinds

    def sort_values(self) -> None:
        """Put every parameter's value where it belongs: lists, intervals or derived."""
        for section in [*_TOP_LEVEL, *SECTIONS]:
            allowed = [*_TOP_LEVEL.get(section, ()), *self.fields.get(section, ())]
            for key in self.table(section):
                if key not in allowed:
                    self.unknown(f"{section}.{key}", key, allowed)
        for section, fields in self.fields.items():
            for key, value in self.table(section).items():
                if key in fields:
                    self.sort((section, key), value, fields[key].annotation)
        self.sort(STEP, self.table("unlearn").get("step_fraction", 1.0), float)
        self.sort_forgotten()
        self.lists[SEED] = list(self.numbers("sweep.seeds", self.table("sweep").get("seeds", 1)))

    def sort_forgotten(self) -> None:
        """Which samples, or which draws of sets."""
        table, rules = self.table("forget"), self.kinds["forget"]
        if rules != ["index"]:
            if "index" in rules:
                self.fail("forget.rule", "'index' cannot be swept together with other rules")
            if "index" in table:
                self.fail("forget.index", "goes with rule = 'index' only; other rules have a size")
            if "draws" in table and not set(_DRAWN) & set(rules):
                self.fail("forget.draws", f"goes with the rules {' and '.join(_DRAWN)} only")
            self.lists[FORGET] = list(self.numbers("forget.draws", table.get("draws", 1)))
            return
        if "draws" in table:
            self.fail("forget.draws", f"goes with the rules {' and '.join(_DRAWN)} only")
        index = table.get("index", "each")
        if index == "each":
            self.lists[FORGET] = [None]
        elif isinstance(index, str) and index.isidentifier() and index not in self.names():
            self.fail(
                f"forget.index = {index!r}", 'must be "each", a sample index, or a list of them'
            )
        else:
            self.sort(FORGET, index, int)

    def sort(self, name: Name, value: Any, kind: Any) -> None:
        try:
            found = read_value(
                value,
                whole=kind in WHOLE,
                number=kind in (*WHOLE, float, float | None),
                listed=name[1] in LIST_VALUED,
            )
        except ValueError as error:
            self.fail(f"{_dotted(name)} = {value!r}", str(error))
        if isinstance(found, Expression):
            self.derived[name] = found
        elif isinstance(found, Interval):
            self.intervals[name] = found
        else:
            self.lists[name] = [tuple(v) if isinstance(v, list) else v for v in found]

    def numbers(self, key: str, value: Any) -> Sequence[int]:
        """Numbers that tell repetitions apart: so many, or these."""
        if type(value) is int and 1 <= value <= _MOST_SEEDS:
            return range(value)
        if not (
            isinstance(value, list)
            and value
            and all(type(v) is int and 0 <= v < 2**63 for v in value)
        ):
            self.fail(
                f"{key} = {value!r}",
                f"must be a count (1 to {_MOST_SEEDS}) or a list of {key.partition('.')[2]} "
                "(0 to 2^63 - 1)",
            )
        if len(set(value)) < len(value):
            twice = next(v for place, v in enumerate(value) if v in value[:place])
            self.fail(key, f"the value {twice!r} is given twice")
        return value

    def filters(self) -> list[Expression]:
        value = self.table("sweep").get("filter", [])
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            self.fail(f"sweep.filter = {value!r}", 'must be text such as "d >= 2 * m", or a list')
        try:
            return [parse(text) for text in texts]
        except ExpressionError as error:
            self.fail("sweep.filter", str(error))

    def names(self) -> set[str]:
        """What an expression may call without naming a section."""
        return {key for _, key in self.known} | set(_SHORT)

    def resolve(self, name: str, where: str) -> Name:
        """The parameter that a name in an expression or a zip stands for."""
        if name in _SHORT:
            return _SHORT[name]
        section, _, key = name.rpartition(".")
        found = [full for full in self.known if full[1] == key and section in ("", full[0])]
        if len(found) == 1:
            return found[0]
        if found:
            each = ", ".join(_dotted(full) for full in found)
            self.fail(where, f"{name!r} may be any of {each}: write which")
        names = [_dotted(full) if section else full[1] for full in self.known] + list(_SHORT)
        hint = did_you_mean(name, names)
        rest = f"; {hint.strip()}" if hint else ""
        self.fail(where, f"there is no parameter {name!r} here{rest}")

    def zipped(self) -> list[Axis]:
        value = self.table("sweep").get("zip", [])
        groups = value if isinstance(value, list) else [value]
        if groups and all(isinstance(entry, str) for entry in groups):
            groups = [groups]
        axes: list[Axis] = []
        used: set[Name] = set()
        for group in groups:
            if (
                not isinstance(group, list)
                or len(group) < 2
                or not all(isinstance(entry, str) for entry in group)
            ):
                self.fail(
                    f"sweep.zip = {value!r}",
                    'must be a list of two or more parameters, ["data.m", "model.n"], or of such',
                )
            names = tuple(self.resolve(entry, "sweep.zip") for entry in group)
            for name in names:
                if len(self.lists.get(name, ())) < 2:
                    self.fail("sweep.zip", f"{_dotted(name)} is not an axis: give it a list")
                if name in used:
                    self.fail("sweep.zip", f"{_dotted(name)} is named twice")
                used.add(name)
            columns = [self.lists[name] for name in names]
            if len({len(column) for column in columns}) > 1:
                each = ", ".join(f"{_dotted(n)} {len(self.lists[n])}" for n in names)
                self.fail("sweep.zip", f"these must have as many values: {each}")
            points = list(zip(*columns, strict=True))
            self.check_repeats(names[0], points)
            axes.append(Axis(names, tuple(points)))
        return axes

    def check_repeats(self, name: Name, values: Sequence[Any]) -> None:
        seen: set[Any] = set()
        for value in values:
            known = value if is_hashable(value) else repr(value)
            if known not in seen:
                seen.add(known)
            else:
                shown = list(value) if isinstance(value, tuple) else value
                self.fail(_dotted(name), f"the value {shown!r} is given twice")

    def designed(self) -> list[Axis]:
        value = self.table("sweep").get("design")
        allowed = 'must be { kind = "random" or "sobol", count, seed (0) }'
        if value is None:
            if self.intervals:
                name = _dotted(next(iter(self.intervals)))
                self.fail(name, f"an interval needs a design: [sweep] design {allowed}")
            return []
        if not isinstance(value, dict):
            self.fail(f"sweep.design = {value!r}", allowed)
        for key in value:
            if key not in _DESIGN:
                self.unknown(f"sweep.design.{key}", key, _DESIGN)
        kind, count, seed = value.get("kind"), value.get("count"), value.get("seed", 0)
        if (
            kind not in _DESIGNS
            or type(count) is not int
            or not 1 <= count <= MOST_POINTS
            or type(seed) is not int
            or seed < 0
        ):
            hint = did_you_mean(kind, _DESIGNS)
            self.fail(f"sweep.design = {value!r}", f"{hint}{allowed}, count up to {MOST_POINTS}")
        if not self.intervals:
            self.fail("sweep.design", "fills intervals, { low, high }, and there are none")
        points = fill(list(self.intervals.values()), Design(kind, count, seed))
        return [Axis(tuple(self.intervals), tuple(dict.fromkeys(points)))]

    def aliases(self, filters: Sequence[Expression]) -> dict[str, Name]:
        """What each name in an expression stands for; derived values must not need themselves."""
        found: dict[str, Name] = {}
        needs: dict[Name, set[Name]] = {}
        written = [(name, [value]) for name, value in self.derived.items()]
        written += [
            (name, [v for v in values if isinstance(v, Expression)])
            for name, values in self.lists.items()
        ]
        for name, expressions in written:
            names = {other for expression in expressions for other in expression.names}
            here = {other: self.resolve(other, _dotted(name)) for other in names}
            found |= here
            if names:
                needs[name] = set(here.values())
        for expression in filters:
            found |= {name: self.resolve(name, "sweep.filter") for name in expression.names}
        while needs:
            ready = [name for name in needs if not needs[name] & set(needs)]
            if not ready:
                self.fail(_dotted(next(iter(needs))), "depends on itself")
            for name in ready:
                del needs[name]
        if FORGET in found.values() and self.lists.get(FORGET) == [None]:
            self.fail("forget.index", 'must be listed, not "each", where an expression names it')
        return found

    def grid(self) -> Grid:
        self.sort_values()
        filters = self.filters()
        grouped = self.zipped() + self.designed()
        aliases = self.aliases(filters)
        in_groups = {name for axis in grouped for name in axis.names}
        needed = in_groups | set(aliases.values())
        free = {
            name: tuple(self.lists[name])
            for name in (SEED, FORGET, STEP)
            if name in self.lists
            and name not in needed
            and not any(isinstance(value, Expression) for value in self.lists[name])
        }
        for name in (FORGET, STEP):
            if name in free:
                self.check_repeats(name, free[name])
        axes, constants = grouped, {}
        for name, values in self.lists.items():
            if name in free or name in in_groups:
                continue
            self.check_repeats(name, values)
            if len(values) == 1:
                constants[name] = values[0]
            else:
                axes.append(Axis((name,), tuple((value,) for value in values)))
        axes.sort(key=lambda axis: min(self.known.index(name) for name in axis.names))
        return Grid(
            source=self.source,
            kinds={section: tuple(kinds) for section, kinds in self.kinds.items()},
            constants=constants,
            axes=tuple(axes),
            derived=self.derived,
            free=free,
            filters=tuple(filters),
            aliases=aliases,
        )


def read_grid(source: str, content: Mapping[str, Any]) -> Grid:
    """Check a file's keys and forms.

    Args:
        source: its name, for messages.
        content: what TOML says is in it.

    Raises:
        SpecError: one line that names the file, the key, the value and what is allowed.
    """
    return _Reader(source, content).grid()

"""From a specification to the tree of stages that have to run.

A training serves every forgotten sample, step fraction, way of retraining and way of evaluating:
it and all that hangs below it is a ``Family``. Families whose arrays fit one program are packed
into ``Block``s, which are computed, stored and resumed as a whole. Everything here is lazy: a
sweep of a million trials is never held at once.
"""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gaunlearn.losses import LOSSES
from gaunlearn.models import upper_columns
from gaunlearn.sweep.grid import Cell
from gaunlearn.sweep.identity import content_digest, digest, training_digest
from gaunlearn.sweep.problems import data_size, model_of, size_of
from gaunlearn.sweep.sections import (
    Computing,
    DeepReluModel,
    Evaluation,
    ForgetRanked,
    Retraining,
    SyntheticData,
    Training,
)
from gaunlearn.sweep.shapes import (
    COMPILATION_S,
    Size,
    choose_shapes,
    lane_bytes,
    problem_bytes,
    step_seconds,
    weight_bytes,
)
from gaunlearn.sweep.spec import Sweep
from gaunlearn.trial import FRESH, FRESH_AGAIN, ORIGINAL, Setup

__all__ = [
    "BLOCK_S",
    "STARTS",
    "Block",
    "Branch",
    "Family",
    "Limits",
    "Load",
    "Pairs",
    "Program",
    "Survey",
    "choose_rooms",
    "families_of",
    "families_of_cells",
    "key_of",
    "largest_memory",
    "plan_blocks",
    "setup_of",
    "split_block",
    "survey",
    "trials_of",
]

# Where a retraining starts, and the second one whose distance gives the floor.
STARTS = {"fresh": (FRESH, FRESH_AGAIN), "same": (ORIGINAL, FRESH)}

# What certificates and limits cost, in training steps of the same problem (measured at
# (m, n) = (10, 100) and (50, 400); an estimate like those of ``shapes``).
_TRAINING_EXTRA, _EVALUATION = 800, 1200
# A block is to take about so long, and have at most so many rows: enough that engine and files cost
# little, few enough that an interruption loses little.
BLOCK_S, _BLOCK_ROWS = 8.0, 50_000
# A process can hold few programs (see machine.drop_programs_if_crowded).
_PROGRAMS_AT_A_TIME = 4

# Of a full grid's points, about what the search for a border looks at.
_SHARE_OF_BORDERS = 0.2

_NOWHERE = Size(0, 0, 0, 0)

Pairs = tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]


class Branch(NamedTuple):
    """What is done with a training: one way of choosing what to forget, of unlearning, retraining
    and evaluating.

    Attributes:
        retrain, evaluate, forget, unlearn: its sections.
        pairs: products of what is forgotten (samples, or numbers of draws) and step fractions;
            none of a pair occurs twice.
    """

    retrain: Retraining
    evaluate: Evaluation
    forget: Any
    unlearn: Any
    pairs: Pairs

    @property
    def trials(self) -> int:
        """How many rows it has."""
        return sum(len(forget) * len(steps) for forget, steps in self.pairs)


class Family(NamedTuple):
    """One training and all trials that share it.

    Attributes:
        data, model, train, compute: its sections.
        judge: how certificates are computed during training, if that may end it.
        seed: of data and initial weights.
        branches: differ in [retrain], [evaluate], [forget] or [unlearn].
    """

    data: Any
    model: Any
    train: Training
    compute: Computing
    judge: Evaluation | None
    seed: int
    branches: tuple[Branch, ...]

    @property
    def trials(self) -> int:
        """How many rows it has."""
        return sum(branch.trials for branch in self.branches)

    def retrainings(self) -> set[tuple[Any, int, int]]:
        """(rule, forgotten sample or draw, initialisation) of each retraining."""
        return {
            (branch.forget, index, start)
            for branch in self.branches
            for start in STARTS[branch.retrain.init]
            for forget, _ in branch.pairs
            for index in forget
        }

    def steps(self) -> float:
        """Its cost in training steps of one hidden layer, if none ends early."""
        trainings = 1 + len(self.retrainings())
        unlearning = sum(
            branch.trials * (_EVALUATION + getattr(branch.unlearn, "steps", 0))
            for branch in self.branches
        )
        steps = float(trainings * (self.train.max_steps + _TRAINING_EXTRA) + unlearning)
        if isinstance(self.model, DeepReluModel):
            # Forward and back through every layer; those between are n wide on both sides.
            m = getattr(self.data, "m", self.model.n)
            steps *= 2 + 2 * (self.model.depth - 2) * max(1.0, self.model.n / m)
        return steps

    def contents(self, directory: Path) -> tuple[str, ...]:
        """``identity.content_digest`` of each branch."""
        first = (self.data, self.model, self.train)
        return tuple(
            content_digest(
                (*first, b.retrain, b.evaluate, self.compute, b.forget, b.unlearn), directory
            )
            for b in self.branches
        )


class Program(NamedTuple):
    """What is compiled for training: the same for all families of a block.

    Attributes:
        law: what data are drawn from, arguments of ``distributions.law_of``; None if they are given
            as arrays.
        setup: the static part of its trials.
        rungs: length of the ladder of kink tolerances during training; 0 if it is not judged.
        n_test: fresh samples.
        dtype: of everything.
        room: the arrays' shape.
    """

    law: tuple[str, int] | None
    setup: Setup
    rungs: int
    n_test: int
    dtype: str
    room: Size

    @property
    def kind(self) -> "Program":
        """All of it but its law and its room; a sweep chooses some rooms for each kind."""
        return self._replace(law=None, room=_NOWHERE)

    @property
    def lawless(self) -> "Program":
        """All of it but its law: only drawing depends on that, the other stages are shared."""
        return self._replace(law=None)


class Block(NamedTuple):
    """Some families of one program, and what they are called.

    Attributes:
        key: hash of the content of all the block's trials; the name of its file.
        program: what they are computed with.
        families: what is computed.
        later: about how much of such work its worker has to do after it, in units of this.
        is_preview: whether it is there to be seen soon.
    """

    key: str
    program: Program
    families: tuple[Family, ...]
    later: float = 0.0
    is_preview: bool = False

    @property
    def trials(self) -> int:
        """How many rows it has."""
        return sum(family.trials for family in self.families)


@dataclass
class Survey:
    """What a sweep amounts to.

    Attributes:
        trials, trainings, retrainings: how many of each there are.
        seconds: estimated time on two cores, without compilation.
        shapes: for each kind of program, the shape that each size is computed in.
        ways: for each kind of program, the sizes that are evaluated in each way, named by
            how kinks are treated and the length of the ladder of tolerances.
    """

    trials: int = 0
    trainings: int = 0
    retrainings: int = 0
    seconds: float = 0.0
    shapes: dict[Program, dict[Size, Size]] = field(default_factory=dict)
    ways: dict[Program, dict[tuple[str, int], set[Size]]] = field(default_factory=dict)

    @property
    def evaluation_programs(self) -> int:
        """How many programs evaluate: each way of handling kinks has one a shape."""
        return sum(
            len({self.shapes[program][size] for size in sizes})
            for program, ways in self.ways.items()
            for sizes in ways.values()
        )

    @property
    def programs(self) -> set[Program]:
        """Everything that trains."""
        return {
            program._replace(room=room)
            for program, shapes in self.shapes.items()
            for room in shapes.values()
        }

    @property
    def compilation_seconds(self) -> float:
        """Estimated time of compiling it."""
        training, evaluation = len(self.programs), self.evaluation_programs
        return COMPILATION_S * (0.4 * training + 0.6 * evaluation)


def setup_of(model: Any, train: Training, evaluate: Evaluation | None) -> Setup:
    """The static part of trials."""
    return Setup(
        model=model_of(model),
        loss=LOSSES[train.loss],
        optimizer=train.optimizer,
        check_every=train.check_every,
        to_limit=train.end == "limit",
        to_epsilon=train.target_epsilon is not None,
        kinks=evaluate is None or evaluate.kinks == "handled",
    )


def _program(family: Family, directory: Path) -> tuple[Program, Size]:
    """A family's program with room for it alone."""
    size = size_of(family.data, family.model, directory)
    judge = family.judge
    program = Program(
        law=family.data.law if isinstance(family.data, SyntheticData) else None,
        setup=setup_of(family.model, family.train, judge),
        rungs=0 if judge is None else len(judge.kink_tol),
        n_test=data_size(family.data, directory)[2],
        dtype=family.compute.dtype,
        room=size,
    )
    return program, size


def _pairs_of(cells: Iterable[Cell], m: int) -> Pairs:
    """Forgotten samples and step fractions of cells that differ in nothing else, none twice."""
    steps_of: dict[int, dict[float, None]] = {}
    for cell in cells:
        indices: Iterable[int] = range(m) if cell.forget_indices is None else cell.forget_indices
        if isinstance(cell.forget, ForgetRanked):
            indices = (0,)  # it has no draws
        for index in indices:
            steps_of.setdefault(index, {}).update(dict.fromkeys(cell.step_fractions))
    together: dict[tuple[float, ...], list[int]] = {}
    for index, steps in steps_of.items():
        together.setdefault(tuple(steps), []).append(index)
    return tuple((tuple(indices), steps) for steps, indices in together.items())


def trials_of(cell: Cell, directory: Path) -> int:
    """How many rows one combination has, shared with others or not."""
    pairs = _pairs_of([cell], data_size(cell.data, directory)[0])
    return len(cell.seeds) * sum(len(forget) * len(steps) for forget, steps in pairs)


def _families(cells: list[Cell], directory: Path) -> Iterator[Family]:
    """The families of cells that share a training configuration: one a seed."""
    first = cells[0]
    m = data_size(first.data, directory)[0]
    cells_of: dict[int, list[Cell]] = {}
    for cell in cells:
        for seed in cell.seeds:
            cells_of.setdefault(seed, []).append(cell)
    branches: tuple[Branch, ...] = ()
    before: list[Cell] | None = None
    for seed, members in cells_of.items():
        if members != before:
            branches, before = _branches(members, m), members
        yield Family(
            first.data, first.model, first.train, first.compute, first.judge, seed, branches
        )


def _branches(cells: Iterable[Cell], m: int) -> tuple[Branch, ...]:
    groups: dict[tuple[Retraining, Evaluation, Any, Any], list[Cell]] = {}
    for cell in cells:
        key = cell.retrain, cell.evaluate, cell.forget, cell.unlearn
        groups.setdefault(key, []).append(cell)
    return tuple(Branch(*key, _pairs_of(members, m)) for key, members in groups.items())


def survey(sweep: Sweep) -> Survey:
    """Count what there is to do, and choose the shapes to do it in."""
    found = Survey()
    demand: dict[Program, dict[Size, float]] = {}
    for cells, times in sweep.costs():
        seeds = len({seed for cell in cells for seed in cell.seeds})
        same = len({cell.seeds for cell in cells}) == 1
        for family in _families(cells, sweep.directory):
            count = times * (seeds if same else 1)
            program, size = _program(family, sweep.directory)
            steps = count * family.steps()
            found.trials += count * family.trials
            found.trainings += count
            found.retrainings += count * len(family.retrainings())
            sizes = demand.setdefault(program.kind, {})
            sizes[size] = sizes.get(size, 0.0) + steps
            ways = found.ways.setdefault(program.kind, {})
            for branch in family.branches:
                way = branch.evaluate.kinks, len(branch.evaluate.kink_tol)
                ways.setdefault(way, set()).add(size)
            if same:
                break
    # Programs have to pay for themselves by what is run in them.
    share = _SHARE_OF_BORDERS if sweep.border is not None else 1.0
    if sweep.border is not None and sweep.border.budget is not None:
        share = min(1.0, sweep.border.budget / found.trials)
    demand = {
        program: {size: share * steps for size, steps in sizes.items()}
        for program, sizes in demand.items()
    }
    found.shapes = {program: choose_shapes(sizes) for program, sizes in demand.items()}
    found.seconds = sum(
        steps * float(step_seconds(room.samples, room.neurons))
        for program, sizes in demand.items()
        for size, steps in sizes.items()
        for room in [found.shapes[program][size]]
    )
    return found


def choose_rooms(families: Iterable[Family], directory: Path) -> dict[Program, dict[Size, Size]]:
    """``Survey.shapes`` of families that are given one by one."""
    demand: dict[Program, dict[Size, float]] = {}
    for family in families:
        program, size = _program(family, directory)
        sizes = demand.setdefault(program.kind, {})
        sizes[size] = sizes.get(size, 0.0) + family.steps()
    return {program: choose_shapes(sizes) for program, sizes in demand.items()}


def families_of_cells(cells: Iterable[Cell], directory: Path) -> Iterator[Family]:
    """The families of cells in any order; cells that share a training come together."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(training_digest(cell.training(), directory), []).append(cell)
    for together in groups.values():
        yield from _families(together, directory)


class Load(NamedTuple):
    """What some families amount to; loads of one program add up."""

    steps: float
    rows: int
    lanes: int
    families: int

    @classmethod
    def of(cls, family: Family) -> "Load":
        """That of one family; found once for families that differ in their seed alone."""
        global _last_load
        of = family.branches, family.data, family.model, family.train
        known, load = _last_load
        if not all(map(operator.is_, of, known)):
            load = cls(family.steps(), family.trials, 1 + len(family.retrainings()), 1)
            _last_load = of, load
        return load

    @classmethod
    def total(cls, families: Iterable[Family]) -> "Load":
        """That of several."""
        return functools.reduce(cls.plus, map(cls.of, families), cls(0, 0, 0, 0))

    def plus(self, other: "Load") -> "Load":
        """That of both."""
        return Load(*map(operator.add, self, other))

    def seconds(self, program: Program) -> float:
        """Estimated time on two cores."""
        return self.steps * float(step_seconds(program.room.samples, program.room.neurons))

    def memory(self, program: Program) -> float:
        """Bytes that are kept on the devices while it runs, batches apart."""
        upper = upper_columns(program.setup.model, program.room.neurons)
        kept = self.lanes * lane_bytes(program.room, upper)
        # A trial's weights and its limit's, and the same again beside a path's two ends.
        kept += 4 * self.rows * weight_bytes(program.room, upper)
        # Arrays have room for a power of two of each.
        return 2.0 * (kept + self.families * problem_bytes(program.room, program.n_test, upper))


# The last family's, and what it is of: they come one seed after the other.
_last_load: tuple[tuple[Any, ...], Load] = (None, None, None, None), Load(0, 0, 0, 0)


class Limits(NamedTuple):
    """How large a block may be.

    Attributes:
        speed: of the devices, in units of two cores: a block is to take some seconds.
        memory: bytes on the devices.
        preview: whether a block of a single retraining comes first.
    """

    speed: float = 1.0
    memory: float = 4e9
    preview: bool = False

    def exceeded(self, program: Program, load: Load) -> bool:
        """Whether this is too much for a block."""
        return (
            load.seconds(program) > BLOCK_S * self.speed
            or load.rows > _BLOCK_ROWS
            or load.memory(program) > self.memory
        )


def _parts(family: Family, count: int | None = None) -> list[Family]:
    """A family as two, of which the first has so many retrainings, or half of them; itself if it
    has only one.
    """
    sets = sorted({(str(rule), index) for rule, index, _ in family.retrainings()})
    if len(sets) < 2:
        return [family]
    first = set(sets[: len(sets) // 2 if count is None else count])

    def part(in_first: bool) -> Family:
        branches = [
            branch._replace(
                pairs=tuple(
                    (kept, steps)
                    for forget, steps in branch.pairs
                    if (
                        kept := tuple(
                            index
                            for index in forget
                            if ((str(branch.forget), index) in first) == in_first
                        )
                    )
                )
            )
            for branch in family.branches
        ]
        return family._replace(branches=tuple(branch for branch in branches if branch.pairs))

    return [part(True), part(False)]


def _pieces(program: Program, family: Family, limits: Limits) -> Iterator[Family]:
    """A family that does not fit into memory, as several that each repeat its training."""
    large = Load.of(family).memory(program) > limits.memory
    parts = _parts(family) if large else [family]
    for part in parts:
        yield from _pieces(program, part, limits) if len(parts) > 1 else parts


def key_of(families: Iterable[Family], directory: Path) -> str:
    """``Block.key`` of what a block would compute with the data that are found here."""
    content = [
        [family.seed, family.contents(directory), [branch.pairs for branch in family.branches]]
        for family in families
    ]
    return digest(content)


def _block(program: Program, families: Sequence[Family], directory: Path) -> Block:
    return Block(key_of(families, directory), program, tuple(families))


def split_block(block: Block, directory: Path) -> list[Block]:
    """A block as two smaller ones; as itself if it is a single retraining's."""
    families = block.families
    if len(families) == 1:
        parts: list[Sequence[Family]] = [[half] for half in _parts(families[0])]
    else:
        middle = len(families) // 2
        parts = [families[:middle], families[middle:]]
    later = len(parts) * block.later  # in units of a part
    return [_block(block.program, part, directory)._replace(later=later) for part in parts]


def families_of(sweep: Sweep, shard: tuple[int, int] = (0, 1)) -> Iterator[Family]:
    """The families of a sweep; with shard (i, n) every n-th, from the i-th on."""
    part, count = shard
    every = (family for cells in sweep.trainings() for family in _families(cells, sweep.directory))
    return itertools.islice(every, part, None, count)


def plan_blocks(
    families: Callable[[], Iterable[Family]],
    directory: Path,
    shapes: Mapping[Program, Mapping[Size, Size]],
    limits: Limits,
) -> Iterator[Block]:
    """Pack families into blocks, those of one program one after the other.

    Args:
        families: gives them anew each time it is called: once for every few programs, so that few
            blocks are open, and few programs needed, at a time.
        directory: what relative paths in the specification refer to.
        shapes: those of the sweep's ``survey``.
    """
    programs = [
        program._replace(room=room)
        for program, rooms in shapes.items()
        for room in dict.fromkeys(rooms.values())
    ]
    preview = limits.preview
    for place in range(0, len(programs), _PROGRAMS_AT_A_TIME):
        chosen = set(programs[place : place + _PROGRAMS_AT_A_TIME])
        waiting: dict[Program, list[Family]] = {}
        loads: dict[Program, Load] = {}
        for family in families():
            program, size = _program(family, directory)
            program = program._replace(room=shapes[program.kind][size])
            if program.lawless not in chosen:
                continue
            pieces = list(_pieces(program, family, limits))
            if preview:
                preview = False
                first, *rest = _parts(pieces[0], 1)
                yield _block(program, [first], directory)._replace(is_preview=True)
                pieces[:1] = rest
            for piece in pieces:
                together = waiting.setdefault(program, [])
                alone = Load.of(piece)
                load = loads[program].plus(alone) if together else alone
                if together and limits.exceeded(program, load):
                    yield _block(program, together, directory)
                    together, load = waiting[program], alone
                    together.clear()
                together.append(piece)
                loads[program] = load
        for program, together in waiting.items():
            if together:
                yield _block(program, together, directory)


def largest_memory(sweep: Sweep, found: Survey, limits: Limits) -> float:
    """Bytes that the largest block keeps on its devices, as far as the first block of each
    program tells.
    """
    first: dict[Program, float] = {}
    for block in plan_blocks(lambda: families_of(sweep), sweep.directory, found.shapes, limits):
        if block.program.lawless not in first:
            load = Load.total(block.families)
            first[block.program.lawless] = load.memory(block.program)
        if len(first) == len(found.programs):
            break
    return max(first.values())

"""Run a plan's block: its stages, one after the other, and its rows as columns.

What a lane of a stage does is ``stages``' business, how lanes are run ``lanes``'. Nothing here
reads or writes files but the data that a block names.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gaunlearn.fused import Fused
from gaunlearn.limit import STATUSES
from gaunlearn.models import upper_columns, without_room
from gaunlearn.sweep import stages
from gaunlearn.sweep.forgetting import forget_order, needs_training
from gaunlearn.sweep.host import host_memory
from gaunlearn.sweep.kernels import choose
from gaunlearn.sweep.lanes import (
    Terms,
    on_all_devices,
    pad_to_capacity,
    programs_for,
    run_in_turns,
    run_lanes,
    take,
)
from gaunlearn.sweep.layout import Lane, Layout, Trial, lane_effort, lane_settings
from gaunlearn.sweep.machine import rare_collections
from gaunlearn.sweep.plan import STARTS, Block, Family, Load, Program, setup_of
from gaunlearn.sweep.problems import build_problems, empty_problems, model_of
from gaunlearn.sweep.rehearsal import Rehearsal, rehearsed
from gaunlearn.sweep.sections import Evaluation
from gaunlearn.sweep.shapes import lane_bytes
from gaunlearn.sweep.stages import CertifyLane, ForgetLane, JudgeLane, LimitLane, TrainLane
from gaunlearn.trial import (
    ORIGINAL,
    Certified,
    Destination,
    Setup,
    TrainedModel,
    certificate_of_limit,
    columns_of_certificate,
    columns_of_least,
    columns_of_limit,
    trained_model,
)
from gaunlearn.types import Problem
from gaunlearn.unlearning import Unlearned

__all__ = ["Network", "Results", "run_block"]

# The place of the forget set without samples.
_NOTHING = 0
# What a quickly compiled program loses with a lane, against the time to make it that it saves: with
# a certificate at one tolerance (of data without and with kinks, between which there is a factor of
# seven), a limit, an unlearned model, and a comparison over the test set, in units of what it loses
# with so many training steps (docs/measurements.md, *Compiling*).
_CERTIFICATE, _LIMIT, _UNLEARN, _COMPARISON, _STEPS = 8, 25, 15, 3, 2
# Certificates at one tolerance that the frontier's columns take, at most.
_FRONTIER = 12
# A block is rehearsed if what it keeps takes no more of the free memory: its zeros are memory, too.
_REHEARSED = 0.1


class Results(NamedTuple):
    """What a block's trials came to.

    Attributes:
        columns: column name -> array, one entry a trial, without those of identity and parameters.
        owner: for each trial the number of its family and of its branch in it.
        number, step_fraction: of each trial; the number is that of the forgotten sample, or of the
            draw.
        forgotten: for each trial the samples that it forgets, in order.
        utilisation: share of the training batches' lanes that had steps to take.
        networks: each trained and retrained network; none if they are not kept.
        unlearned: for each trial its unlearned weights; none if they are not kept.
        steps_by: what took the steps of training.
    """

    columns: dict[str, np.ndarray]
    owner: np.ndarray
    number: np.ndarray
    step_fraction: np.ndarray
    forgotten: list[tuple[int, ...]]
    utilisation: float
    networks: "Sequence[Network]" = ()
    unlearned: Sequence[np.ndarray] = ()
    steps_by: str = "XLA"


class Network(NamedTuple):
    """One trained or retrained network, without the room around it.

    Attributes:
        family: its number.
        forget: rule and number of what it was retrained without; None if it is the trained one.
        forgotten: these samples.
        start: number of its initialisation.
        W: its first layer (n, r).
        upper: the layers above, where they are trained: (n, n) each, the output weights last.
    """

    family: int
    forget: tuple[Any, int] | None
    forgotten: tuple[int, ...]
    start: int
    W: np.ndarray
    upper: tuple[np.ndarray, ...]
    u: np.ndarray
    x: np.ndarray
    y: np.ndarray


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _listed(order: np.ndarray) -> tuple[int, ...]:
    """The forgotten samples, first to last."""
    forgotten = np.flatnonzero(order)
    return tuple(forgotten[np.argsort(order[forgotten])].tolist())


@rare_collections()
def run_block(
    block: Block,
    directory: Path,
    batch_pairs: int,
    report: Callable[[str], None] = lambda stage: None,
    keep_weights: bool = False,
    keep_unlearned: bool = False,
    in_batches: bool = False,
) -> Results:
    """Run all trials of a block.

    Args:
        directory: what relative paths in the specification refer to.
        batch_pairs: (neuron, sample) pairs that a batch works on.
        report: called with the name of each stage as it begins.
        keep_weights: also return the trained and retrained networks.
        keep_unlearned: also return each trial's unlearned weights.
        in_batches: see ``Terms``.
    """
    report("data")
    with _precision_of(block.program):
        kernel = _kernel(block)

    def perform(rehearsal: Rehearsal | None) -> Results:
        tell = report if rehearsal is None else lambda stage: None
        with _precision_of(block.program):
            work = _prepare(block, directory, batch_pairs, in_batches, kernel, rehearsal, tell)
            return work.run(keep_weights, keep_unlearned)

    needed = Load.total(block.families).memory(block.program)
    rehearse = needed <= _REHEARSED * host_memory()
    with (
        rehearsed((_needs(block), batch_pairs, in_batches), perform) if rehearse else nullcontext()
    ):
        return perform(None)


@contextmanager
def _precision_of(program: Program) -> Iterator[None]:
    # Without "highest", products of float32 are rounded to 10 bits on some accelerators.
    with jax.enable_x64(program.dtype == "float64"), jax.default_matmul_precision("highest"):
        yield


def _kernel(block: Block) -> Fused | None:
    """What its trainings take their steps with."""
    setup, room = block.program.setup, block.program.room
    steps = sum(
        (1 + len(family.retrainings())) * family.train.max_steps for family in block.families
    )
    return choose(
        setup.model,
        setup.loss,
        setup.optimizer,
        room.neurons,
        room.samples,
        block.program.dtype,
        steps,
        steps * block.later,
    )


def _needs(block: Block) -> Hashable:
    """What tells the programs of blocks apart."""
    return (
        block.program,
        block.is_preview,
        frozenset(
            (_way(family, branch.evaluate), branch.unlearn.method)
            for family in block.families
            for branch in family.branches
        ),
    )


def _way(family: Family, evaluate: Evaluation) -> tuple[Setup, int]:
    """What programs that certify have in common, with the rungs of their ladder."""
    setup = setup_of(family.model, family.train, evaluate)
    return setup, len(lane_settings(family.train, evaluate).kink_tols)


def _prepare(
    block: Block,
    directory: Path,
    batch_pairs: int,
    in_batches: bool,
    kernel: Fused | None,
    rehearsal: Rehearsal | None,
    report: Callable[[str], None],
) -> "_Work":
    """A block with its data, or in a rehearsal with zeros for them."""
    room, model = block.program.room, block.program.setup.model
    # Families that differ in training alone have the same data and initial weights.
    sections = [(family.data, family.model, family.seed) for family in block.families]
    number_of = {key: number for number, key in enumerate(dict.fromkeys(sections))}
    make = build_problems if rehearsal is None else empty_problems
    problems = make(list(number_of), room, directory)
    size = lane_bytes(room, upper_columns(model, room.neurons))
    pairs = room.neurons * room.samples
    terms = Terms(size, pairs, batch_pairs, rehearsal, later=block.later, in_batches=in_batches)
    problem_of = [number_of[key] for key in sections]
    return _Work(block, problem_of, problems, directory, terms, kernel, report)


class _Work:
    """One block: which lanes its stages have, and where their results are."""

    def __init__(
        self,
        block: Block,
        problem_of: Sequence[int],
        problems: Problem,
        directory: Path,
        terms: Terms,
        kernel: Fused | None,
        report: Callable[[str], None],
    ) -> None:
        self.program: Program = block.program
        self.families: Sequence[Family] = block.families
        self.problem_of = problem_of
        self.given, self.directory = problems, directory
        self.kernel, self.report = kernel, report
        # A preview is to be seen soon: it is done by programs that its own work is worth.
        self.terms = terms._replace(later=0.0) if block.is_preview else terms
        # Of stages that go over the test set too.
        room = self.program.room
        pairs = room.neurons * max(room.samples, self.program.n_test)
        self.on_tests = self.terms._replace(pairs=pairs)
        self.problems = self.shared(problems, "problems")
        self.trial_count = sum(family.trials for family in self.families)
        # Every forget set once; the first forgets nothing.
        self.orders: list[np.ndarray] = [np.zeros(self.program.room.samples, np.int64)]
        self.order_of: dict[tuple[int, Any, int], int] = {}

    def cast(self, tree: Any) -> Any:
        """NumPy numbers in the block's precision."""
        whole = np.int64 if self.program.dtype == "float64" else np.int32
        types = {"f": self.program.dtype, "i": whole, "b": bool}
        return jax.tree.map(lambda leaf: leaf.astype(types[leaf.dtype.kind]), tree)

    def shared(self, tree: Any, name: str) -> Any:
        """NumPy numbers that all lanes share, on the devices (in a rehearsal on the host); few
        shapes of them.
        """
        padded = self.cast(pad_to_capacity(tree, (name, self.program)))
        return on_all_devices(padded) if self.terms.rehearsal is None else padded

    def shared_orders(self) -> Any:
        """Forget sets, shared."""
        return self.shared(np.stack(self.orders), "orders")

    def forget(self, family: int, rule: Any, number: int, ease: np.ndarray | None = None) -> int:
        """The place of a forget set in ``orders``."""
        key = family, rule, number
        if key not in self.order_of:
            owner = self.families[family]
            problem = take(self.given, self.problem_of[family])
            self.order_of[key] = len(self.orders)
            self.orders.append(
                forget_order(rule, number, problem, owner.data, owner.seed, self.directory, ease)
            )
        return self.order_of[key]

    def run(self, keep_weights: bool, keep_unlearned: bool) -> Results:
        """All stages."""
        self.report("train")
        place_of, models, utilisation = self.train()
        self.report("evaluate")
        # Branches that are certified in the same way share programs.
        ways: dict[tuple[Setup, int], list[tuple[int, int]]] = {}
        for number, family in enumerate(self.families):
            for place, branch in enumerate(family.branches):
                ways.setdefault(_way(family, branch.evaluate), []).append((number, place))
        parts = [
            self.evaluate(setup, rungs, owners, place_of, models, keep_unlearned)
            for (setup, rungs), owners in ways.items()
        ]
        return Results(
            columns={
                name: np.concatenate([part.columns[name] for part in parts])
                for name in parts[0].columns
            },
            owner=np.concatenate([part.owner for part in parts]),
            number=np.concatenate([part.number for part in parts]),
            step_fraction=np.concatenate([part.step_fraction for part in parts]),
            forgotten=[each for part in parts for each in part.forgotten],
            utilisation=utilisation,
            networks=self.networks(place_of, models) if keep_weights else (),
            unlearned=[weights for part in parts for weights in part.unlearned],
            steps_by="XLA" if self.kernel is None else self.kernel.told,
        )

    def networks(self, place_of: Mapping[Lane, int], models: Any) -> list[Network]:
        """Every trained and retrained network."""
        weights, problems = models.weights, jax.device_get(self.problems)
        forget_of = {place: key[1:] for key, place in self.order_of.items()}
        found = []
        for lane, place in place_of.items():
            problem = take(problems, self.problem_of[lane.family])
            used, rows = problem.u != 0, problem.present
            model = model_of(self.families[lane.family].model)
            first, upper = without_room(model, weights[place], used)
            found.append(
                Network(
                    lane.family,
                    forget_of.get(lane.forget),
                    _listed(self.orders[lane.forget]),
                    lane.start,
                    first,
                    upper,
                    problem.u[used],
                    problem.x[rows, : first.shape[1]],
                    problem.y[rows],
                )
            )
        return found

    def train(self) -> tuple[dict[Lane, int], TrainedModel, float]:
        """Train and retrain: where each lane's model is, the models, and the utilisation.

        Retrainings whose forget set depends on the trained model wait for it; all others are
        trained beside it.
        """
        lanes = [Lane(number, ORIGINAL, _NOTHING) for number in range(len(self.families))]
        waiting = []
        for number, family in enumerate(self.families):
            for rule, index, start in sorted(family.retrainings(), key=str):
                if needs_training(rule):
                    waiting.append((number, rule, index, start))
                else:
                    lanes.append(Lane(number, start, self.forget(number, rule, index)))
        place_of, models, needed, available = self.descend(lanes)
        if waiting:
            later = []
            for number, rule, index, start in waiting:
                ease = np.asarray(models.ease[place_of[lanes[number]]])
                later.append(Lane(number, start, self.forget(number, rule, index, ease)))
            first = len(models.steps)
            places, more, more_needed, more_available = self.descend(later)
            models = jax.tree.map(lambda a, b: np.concatenate([a, b]), models, more)
            place_of |= {lane: first + place for lane, place in places.items()}
            needed, available = needed + more_needed, available + more_available
        return place_of, models, needed / max(1.0, available)

    def descend(self, lanes: Sequence[Lane]) -> tuple[dict[Lane, int], TrainedModel, float, float]:
        """Train on lanes: where each one's model is, the models on the host, and how many rounds
        their batches had to take and took.
        """
        # Those with the most steps first: the batch is full until little is left.
        lanes = sorted(lanes, key=lambda lane: -self.families[lane.family].train.max_steps)
        family, start, forget = map(np.asarray, zip(*lanes, strict=True))
        settings = _stack([lane_settings(f.train, f.judge) for f in self.families])
        common = self.problems, self.shared(settings, "settings"), self.shared_orders()
        problem = np.asarray(self.problem_of)[family]
        setup = self.program.setup
        steps = sum(self.families[each].train.max_steps for each in family) / len(lanes)
        passes = 1 + steps / _STEPS
        if setup.to_epsilon:
            passes += steps / setup.check_every * _CERTIFICATE * settings.kink_tols.shape[1]
        ended, margins, available = run_lanes(
            stages.train,
            setup._replace(fused=self.kernel),
            TrainLane(problem, family, start, forget),
            common,
            self.terms._replace(is_loop=not setup.to_epsilon),
            passes=int(passes),
        )
        lanes_of_limits = LimitLane(problem, forget, ended.weights)
        destinations = self.limits(lanes_of_limits, self.trial_count * _LIMIT, lambda found: found)
        models = trained_model(setup, ended, margins, destinations)
        needed = -(-ended.steps // setup.check_every)
        # Lanes are dealt one by one: the first ones tell of one program each.
        rounds = available[: programs_for(len(lanes), self.terms)].sum()
        place_of = {lane: place for place, lane in enumerate(lanes)}
        return place_of, models, float(needed.sum()), float(rounds)

    def limits(self, lanes: LimitLane, ahead: int, keep: Callable[[Destination], Any]) -> Any:
        """What is kept of the limits of training on. On CPUs a program with the fallback is made
        only where it is asked for, as will be if there are more samples than dimensions.
        """
        room, common = self.program.room, (self.problems, self.shared_orders())
        at_once = jax.default_backend() != "cpu" or room.samples > room.span

        def solve(lanes: LimitLane, with_fallback: bool, ahead: int) -> tuple[Any, Any]:
            static = self.program.setup.model, with_fallback
            how = self.terms, _LIMIT, ahead, lambda found: (found.limit.status, keep(found))
            return run_in_turns(stages.limit, static, lanes, common, *how)

        status, kept = solve(lanes, at_once, ahead)
        stalled = np.flatnonzero((status == STATUSES.index("stalled")) & (not at_once))
        if stalled.size:
            _, again = solve(take(lanes, stalled), True, ahead * stalled.size // len(status))
            for leaf, part in zip(jax.tree.leaves(kept), jax.tree.leaves(again), strict=True):
                leaf[stalled] = part
        return kept

    def certify(
        self, lanes: CertifyLane, beyond: bool, ahead: int, keep: Callable[[Certified], Any]
    ) -> Any:
        """What is kept of certificates, and of the least epsilons within budgets if asked for."""
        rungs = lanes.settings.kink_tols.shape[1]
        passes = _CERTIFICATE * (rungs + (_FRONTIER if beyond else 0))
        return run_in_turns(
            stages.certify,
            self.program.setup.model,
            lanes,
            (self.problems, self.shared_orders(), np.asarray(beyond)),
            self.terms,
            passes=passes,
            ahead=ahead,
            keep=keep,
        )

    def lay_out(self, owners: Sequence[tuple[int, int]], place_of: Mapping[Lane, int]) -> Layout:
        """What the trials of some branches need, each thing once."""
        found = Layout({}, {}, [])
        for number, place in owners:
            branch = self.families[number].branches[place]
            first, again = STARTS[branch.retrain.init]
            trained = Lane(number, ORIGINAL, _NOTHING)
            original = found.certificate(trained, branch.evaluate)
            for indices, fractions in branch.pairs:
                for index in indices:
                    forget = self.forget(number, branch.forget, index)
                    retrained = Lane(number, first, forget)
                    lane = ForgetLane(
                        problem=self.problem_of[number],
                        trained=place_of[trained],
                        original=original,
                        retrained=place_of[retrained],
                        reference=found.certificate(retrained, branch.evaluate),
                        again=place_of[Lane(number, again, forget)],
                        forget=forget,
                    )
                    compared = found.comparison(lane, number, branch.evaluate)
                    found.trials.extend(
                        Trial(number, place, index, compared, fraction) for fraction in fractions
                    )
        return found

    def settings_of(self, wanted: Iterable[tuple[int, Evaluation]]) -> Any:
        """Of families with ways of evaluating, stacked."""
        each = [lane_settings(self.families[number].train, evaluate) for number, evaluate in wanted]
        return self.cast(_stack(each))

    def evaluate(
        self,
        setup: Setup,
        rungs: int,
        owners: Sequence[tuple[int, int]],
        place_of: Mapping[Lane, int],
        models: TrainedModel,
        keep_unlearned: bool,
    ) -> Results:
        """Certify, compare, unlearn and judge for branches that share programs."""
        layout = self.lay_out(owners, place_of)
        certified = [lane for lane, _ in layout.certified]
        places = [place_of[lane] for lane in certified]
        if setup.to_limit and setup.kinks:
            certificates = certificate_of_limit(take(models.limit, places))
        else:
            weights = models.weights[places]
            certificates = self.certify(
                CertifyLane(
                    problem=np.asarray([self.problem_of[lane.family] for lane in certified]),
                    forget=np.asarray([lane.forget for lane in certified]),
                    settings=self.settings_of(
                        (lane.family, evaluate) for lane, evaluate in layout.certified
                    ),
                    weights=weights,
                    ends=np.stack([weights, weights], 1),
                ),
                beyond=False,
                ahead=len(layout.trials) * _CERTIFICATE * (rungs + _FRONTIER),
                keep=lambda found: found.certificate,
            )
        common = (
            self.problems,
            self.shared(models, "models"),
            self.shared(certificates, "certificates"),
            self.shared_orders(),
        )
        sets = ForgetLane(
            *map(np.asarray, zip(*(lane for lane, *_ in layout.compared), strict=True))
        )
        settings = self.settings_of((number, evaluate) for _, number, evaluate in layout.compared)
        compared = run_in_turns(
            stages.compare, setup, (sets, settings), common, self.on_tests, _COMPARISON, ahead=0
        )

        # From here on a lane for each trial.
        trials = layout.trials
        source = np.asarray([trial.compared for trial in trials])
        sets, settings = take((sets, settings), source)
        families = [self.families[trial.family] for trial in trials]
        methods = [f.branches[t.branch].unlearn for f, t in zip(families, trials, strict=True)]
        fractions = np.asarray([trial.step_fraction for trial in trials], np.float64)
        efforts = self.cast(
            _stack(
                [
                    lane_effort(family.train, method, fraction)
                    for family, method, fraction in zip(families, methods, fractions, strict=True)
                ]
            )
        )
        unlearned = self.unlearn(setup, methods, (sets, settings, efforts), common)
        weights = unlearned.weights
        ends, at_limit = self.limits(
            LimitLane(sets.problem, sets.forget, weights),
            0,
            lambda found: (found.limit.weights, columns_of_limit(found)),
        )
        certified_columns, least = self.certify(
            CertifyLane(
                problem=sets.problem,
                forget=sets.forget,
                settings=settings,
                weights=weights,
                ends=np.stack([ends, certificates.weights[sets.reference]], 1),
            ),
            beyond=True,
            ahead=0,
            keep=lambda found: (columns_of_certificate(found.certificate), found.least),
        )
        judged = run_in_turns(
            stages.judge,
            setup,
            JudgeLane(
                sets,
                settings,
                unlearned,
                efforts.step_fraction,
                np.asarray([method.method == "ascent" for method in methods]),
            ),
            common,
            self.on_tests,
            _COMPARISON,
            ahead=0,
        )
        columns = take(compared, source) | judged | certified_columns | at_limit
        columns |= columns_of_least(least)
        kept: Sequence[np.ndarray] = ()
        if keep_unlearned:
            u = jax.device_get(self.problems.u)
            kept = [own[u[number] != 0] for own, number in zip(weights, sets.problem, strict=True)]
        return Results(
            columns=columns,
            owner=np.asarray([(trial.family, trial.branch) for trial in trials]),
            number=np.asarray([trial.number for trial in trials]),
            step_fraction=fractions,
            forgotten=[_listed(self.orders[place]) for place in sets.forget.tolist()],
            utilisation=np.nan,
            unlearned=kept,
        )

    def unlearn(self, setup: Setup, methods: Sequence[Any], lanes: Any, common: Any) -> Unlearned:
        """The models that each lane's method unlearns to; a program for each kind of method."""
        names = [method.method for method in methods]
        _, _, efforts = lanes
        parts, order = [], []
        for name in dict.fromkeys(names):
            chosen = np.flatnonzero([other == name for other in names])
            some = take(lanes, chosen)
            passes = _UNLEARN + int(efforts.steps[chosen].max()) // _STEPS
            static = setup, name
            parts.append(
                run_in_turns(stages.unlearn, static, some, common, self.terms, passes, ahead=0)
            )
            order.append(chosen)
        together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return take(together, np.argsort(np.concatenate(order)))

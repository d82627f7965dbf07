"""Run a plan's block: its stages, one after the other, and its rows as columns.

A stage has lanes (``lanes`` runs them). What lanes share (problems, trained models) is passed once,
and a lane says by number what it needs of it. Nothing here reads or writes files but the data that
a block names.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gaunlearn.certificate import IGNORED_KINKS
from gaunlearn.sweep.lanes import map_lanes, pad_to_capacity, run_in_rounds, run_lanes
from gaunlearn.sweep.plan import STARTS, Block, Family, Program, setup_of
from gaunlearn.sweep.problems import build_problems
from gaunlearn.sweep.sections import Evaluation, Training
from gaunlearn.trial import (
    ORIGINAL,
    Settings,
    Setup,
    certify_stage,
    compare_stage,
    descent_of,
    finish_training,
    unlearn_stage,
)

__all__ = ["Results", "run_block"]

# No sample is forgotten: the lane trains on all.
_NOTHING = -1


class Results(NamedTuple):
    """What a block's trials came to.

    Attributes:
        columns: column name -> array, one entry a trial, without those of identity and parameters.
        owner: for each trial the number of its family and of its branch in it.
        forget_index, step_fraction: of each trial.
        utilisation: share of the training batches' lanes that had steps to take.
        networks: if they are kept, (family, forgotten sample or None, start, W, u, x, y) of each
            trained and retrained network.
    """

    columns: dict[str, np.ndarray]
    owner: np.ndarray
    forget_index: np.ndarray
    step_fraction: np.ndarray
    utilisation: float
    networks: list[tuple[Any, ...]] | None = None


class _Lane(NamedTuple):
    """One training or retraining: where it starts and what it forgets."""

    family: int
    start: int
    forget: int


def _settings(train: Training, evaluate: Evaluation | None) -> Settings:
    """The traced part of a lane, as NumPy numbers."""
    kinks: tuple[float, ...] = IGNORED_KINKS
    if evaluate is not None and evaluate.kinks == "handled":
        kinks = evaluate.kink_tol
    return Settings(
        step_size=np.asarray(train.step_size),
        max_steps=np.asarray(train.max_steps),
        target_log_loss=np.asarray(
            -np.inf if train.target_log_loss is None else train.target_log_loss
        ),
        target_epsilon=np.asarray(train.target_epsilon or 0.0),
        kink_tols=np.asarray(kinks),
        tau_budget=np.asarray(0.0 if evaluate is None else evaluate.tau_budget),
    )


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _at(tree: Any, place: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[place], tree)


class _Trained(NamedTuple):
    """A ``_Lane`` as numbers: of its problem and settings, its start, and what it forgets."""

    problem: Any
    settings: Any
    start: Any
    forget: Any


def _keep(problem: Any, forget: Array) -> Array:
    return problem.present & (jnp.arange(problem.y.shape[0]) != forget)


def _train(setup: Setup, batch: int, lanes: _Trained, count: Array, common: Any) -> Any:
    """Descend on every lane, then solve for the limits."""
    problems, settings = common

    def descent(lane):
        problem = _at(problems, lane.problem)
        keep = _keep(problem, lane.forget)
        return descent_of(setup, _at(settings, lane.settings), problem, lane.start, keep)

    states, places = run_in_rounds(
        lanes,
        count,
        batch,
        begin=lambda lane: descent(lane).begin(),
        one_round=lambda lane, state: descent(lane).one_round(state),
    )

    def finish(pair):
        lane, state = pair
        problem = _at(problems, lane.problem)
        keep = _keep(problem, lane.forget)
        return finish_training(setup, problem, lane.start, keep, descent(lane).result(state))

    models = map_lanes(finish, (lanes, states), count, batch)
    return models, jnp.full(lanes.problem.shape, places)


class _Certified(NamedTuple):
    """A model to be certified on what it was trained on."""

    problem: Any
    model: Any
    forget: Any
    settings: Any


def _certify(setup: Setup, batch: int, lanes: _Certified, count: Array, common: Any) -> Any:
    problems, models = common

    def one(lane):
        problem = _at(problems, lane.problem)
        keep = _keep(problem, lane.forget)
        return certify_stage(setup, lane.settings, problem, _at(models, lane.model), keep)

    return map_lanes(one, lanes, count, batch)


class _Forgotten(NamedTuple):
    """One forgotten sample of a branch: numbers of the models and certificates it needs."""

    problem: Any
    trained: Any
    original: Any
    retrained: Any
    reference: Any
    start: Any
    again: Any
    forget: Any


def _compare(setup: Setup, batch: int, lanes: _Forgotten, count: Array, common: Any) -> Any:
    problems, models, certificates = common

    def one(lane):
        return compare_stage(
            setup,
            _at(problems, lane.problem),
            _at(models, lane.trained),
            _at(certificates, lane.original),
            _at(models, lane.retrained),
            _at(certificates, lane.reference),
            lane.start,
            _at(models, lane.again),
            lane.forget,
        )

    return map_lanes(one, lanes, count, batch)


def _unlearn(setup: Setup, batch: int, lanes: Any, count: Array, common: Any) -> Any:
    problems, models, certificates = common

    def one(lane):
        forgotten, settings, step_fraction = lane
        return unlearn_stage(
            setup,
            settings,
            _at(problems, forgotten.problem),
            _at(models, forgotten.trained),
            _at(certificates, forgotten.original),
            _at(models, forgotten.retrained),
            _at(certificates, forgotten.reference),
            forgotten.start,
            forgotten.forget,
            step_fraction,
        )

    return map_lanes(one, lanes, count, batch)


def run_block(
    block: Block,
    directory: Path,
    batch_pairs: int,
    report: Callable[[str], None] = lambda stage: None,
    keep_weights: bool = False,
) -> Results:
    """Run all trials of a block.

    Args:
        directory: what relative paths in the specification refer to.
        batch_pairs: (neuron, sample) pairs that a device works on at a time.
        report: called with the name of each stage as it begins.
        keep_weights: also return the networks.
    """
    program = block.program
    report("data")
    # Families that differ in training alone have the same data and initial weights.
    sections = [(family.data, family.model, family.seed) for family in block.families]
    number_of = {key: number for number, key in enumerate(dict.fromkeys(sections))}
    problems = build_problems(list(number_of), program.room, directory)
    # Without "highest", products of float32 are rounded to 10 bits on some accelerators.
    with jax.enable_x64(program.dtype == "float64"), jax.default_matmul_precision("highest"):
        problem_of = [number_of[key] for key in sections]
        return _Stages(block, problem_of, problems, batch_pairs, report).run(keep_weights)


class _Stages:
    """The stages of one block."""

    def __init__(
        self,
        block: Block,
        problem_of: Sequence[int],
        problems: Any,
        batch_pairs: int,
        report: Callable[[str], None],
    ) -> None:
        self.program: Program = block.program
        self.families: Sequence[Family] = block.families
        self.problem_of = problem_of
        problems = pad_to_capacity(problems, ("problems", self.program))
        self.problems = jax.tree.map(jnp.asarray, self.cast(problems))
        self.pairs = self.program.room.neurons * self.program.room.samples
        self.batch_pairs = batch_pairs
        self.report = report

    def cast(self, tree: Any) -> Any:
        """NumPy numbers in the block's precision."""
        whole = np.int64 if self.program.dtype == "float64" else np.int32
        types = {"f": self.program.dtype, "i": whole, "b": bool}
        return jax.tree.map(lambda leaf: leaf.astype(types[leaf.dtype.kind]), tree)

    def run(self, keep_weights: bool) -> Results:
        """All stages."""
        self.report("train")
        place_of, models, utilisation = self.train()
        self.report("evaluate")
        # Branches that are certified in the same way share programs.
        ways: dict[tuple[Setup, int], list[tuple[int, int]]] = {}
        for number, family in enumerate(self.families):
            for place, branch in enumerate(family.branches):
                setup = setup_of(family.model, family.train, branch.evaluate)
                rungs = len(_settings(family.train, branch.evaluate).kink_tols)
                ways.setdefault((setup, rungs), []).append((number, place))
        parts = [
            self.evaluate(setup, rungs, owners, place_of, models)
            for (setup, rungs), owners in ways.items()
        ]
        return Results(
            columns={
                name: np.concatenate([part.columns[name] for part in parts])
                for name in parts[0].columns
            },
            owner=np.concatenate([part.owner for part in parts]),
            forget_index=np.concatenate([part.forget_index for part in parts]),
            step_fraction=np.concatenate([part.step_fraction for part in parts]),
            utilisation=utilisation,
            networks=self.networks(place_of, models) if keep_weights else None,
        )

    def networks(self, place_of: Mapping[_Lane, int], models: Any) -> list[tuple[Any, ...]]:
        """Every trained and retrained network, without the room around it."""
        weights, problems = jax.device_get((models.weights, self.problems))
        found = []
        for lane, place in place_of.items():
            problem = _at(problems, self.problem_of[lane.family])
            used, rows = problem.u != 0, problem.present
            found.append(
                (
                    lane.family,
                    None if lane.forget == _NOTHING else lane.forget,
                    lane.start,
                    weights[place][used],
                    problem.u[used],
                    problem.x[rows],
                    problem.y[rows],
                )
            )
        return found

    def train(self) -> tuple[dict[_Lane, int], Any, float]:
        """Train and retrain: where each lane's model is, the models, and the utilisation."""
        lanes = [
            lane
            for number, family in enumerate(self.families)
            for lane in (
                _Lane(number, ORIGINAL, _NOTHING),
                *(_Lane(number, start, index) for index, start in sorted(family.retrainings())),
            )
        ]
        # Those with the most steps first: the batch is full until little is left.
        lanes.sort(key=lambda lane: -self.families[lane.family].train.max_steps)
        family, start, forget = map(np.asarray, zip(*lanes, strict=True))
        settings = _stack([_settings(f.train, f.judge) for f in self.families])
        settings = self.cast(pad_to_capacity(settings, ("settings", self.program)))
        (models, available), places = run_lanes(
            _train,
            self.program.setup,
            _Trained(np.asarray(self.problem_of)[family], family, start, forget),
            (self.problems, settings),
            self.pairs,
            self.batch_pairs,
        )
        steps, available = jax.device_get((models.steps, available))
        needed = -(-steps[places] // self.program.setup.check_every)
        devices = len(jax.local_devices())
        utilisation = needed.sum() / max(1.0, available.mean() * devices)
        return dict(zip(lanes, map(int, places), strict=True)), models, float(utilisation)

    def evaluate(
        self,
        setup: Setup,
        rungs: int,
        owners: Sequence[tuple[int, int]],
        place_of: Mapping[_Lane, int],
        models: Any,
    ) -> Results:
        """Certify, compare and unlearn for branches that share a program."""
        certified: list[tuple[int, int, int]] = []
        certified_settings, certificate_of = [], {}
        for number, place in owners:
            family = self.families[number]
            branch = family.branches[place]
            first, _ = STARTS[branch.retrain.init]
            settings = _settings(family.train, branch.evaluate)
            for lane in (
                _Lane(number, ORIGINAL, _NOTHING),
                *(_Lane(number, first, i) for forget, _ in branch.pairs for i in forget),
            ):
                certificate_of[number, place, lane] = len(certified)
                certified.append((self.problem_of[number], place_of[lane], lane.forget))
                certified_settings.append(settings)
        weight = self.pairs * rungs
        problem, model, left_out = map(np.asarray, zip(*certified, strict=True))
        certificates, places = run_lanes(
            _certify,
            setup,
            _Certified(problem, model, left_out, self.cast(_stack(certified_settings))),
            (self.problems, models),
            weight,
            self.batch_pairs,
        )

        forgotten, settings_of, fractions_of, whose = [], [], [], []
        for number, place in owners:
            family = self.families[number]
            branch = family.branches[place]
            first, again = STARTS[branch.retrain.init]
            trained = _Lane(number, ORIGINAL, _NOTHING)
            for forget, each_fraction in branch.pairs:
                for index in forget:
                    retrained = _Lane(number, first, index)
                    forgotten.append(
                        _Forgotten(
                            problem=self.problem_of[number],
                            trained=place_of[trained],
                            original=places[certificate_of[number, place, trained]],
                            retrained=place_of[retrained],
                            reference=places[certificate_of[number, place, retrained]],
                            start=first,
                            again=place_of[_Lane(number, again, index)],
                            forget=index,
                        )
                    )
                    settings_of.append(_settings(family.train, branch.evaluate))
                    fractions_of.append(each_fraction)
                    whose.append((number, place))
        common = (self.problems, models, certificates)
        lanes = _Forgotten(*map(np.asarray, zip(*forgotten, strict=True)))
        compared, compared_places = run_lanes(
            _compare, setup, lanes, common, self.pairs, self.batch_pairs
        )
        # From here on a lane for each step fraction.
        source = np.repeat(np.arange(len(forgotten)), [len(f) for f in fractions_of])
        fractions = np.concatenate([np.asarray(f, np.float64) for f in fractions_of])
        each, settings = _at((lanes, self.cast(_stack(settings_of))), source)
        unlearned, unlearned_places = run_lanes(
            _unlearn,
            setup,
            (each, settings, self.cast(fractions)),
            common,
            weight,
            self.batch_pairs,
        )
        compared, unlearned = jax.device_get((compared, unlearned))
        columns = {name: column[compared_places][source] for name, column in compared.items()}
        columns |= {name: column[unlearned_places] for name, column in unlearned.items()}
        return Results(
            columns=columns,
            owner=np.asarray(whose)[source],
            forget_index=each.forget,
            step_fraction=fractions,
            utilisation=np.nan,
        )

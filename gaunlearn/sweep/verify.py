"""Recompute trials of a stored run from their own rows, and hold them against what is stored.

First that every part holds the trials that it claims, and none is there twice. Then three ways:
many in one batch, each alone, and epsilon, delta and tau by a reference in NumPy and SciPy
(``reference``) that shares nothing with the engine.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from gaunlearn import reference
from gaunlearn.doctor import versions
from gaunlearn.models import SQUARED_RELU
from gaunlearn.schema import BUDGETS, RESULTS, ROUNDING, name_of_budget
from gaunlearn.sweep import machine
from gaunlearn.sweep.execute import Network, Results, run_block
from gaunlearn.sweep.grid import Cell
from gaunlearn.sweep.identity import forget_files, trial_id
from gaunlearn.sweep.lanes import forget_capacities
from gaunlearn.sweep.parts import (
    Claim,
    RunError,
    damage,
    names_and_claims,
    read_claims,
)
from gaunlearn.sweep.plan import (
    STARTS,
    Block,
    Family,
    Limits,
    choose_rooms,
    families_of_cells,
    plan_blocks,
)
from gaunlearn.sweep.resume import trial_ids_of
from gaunlearn.sweep.rows import cell_of_row, rows_of
from gaunlearn.sweep.sections import DeepReluModel
from gaunlearn.sweep.store import Run
from gaunlearn.trial import ORIGINAL

__all__ = ["MOST_PAIRS", "Difference", "Verdict", "verify_run"]

# Relative agreement that is promised (README, *Reproducibility*), where numbers have digits.
_SAME_PLATFORM, _OTHER_PLATFORM, _FLOAT32 = 1e-9, 1e-6, 1e-3
# The reference solves to about 1e-9; delta is a product of two of its numbers.
_REFERENCE, _REFERENCE_FLOAT32 = 1e-6, 1e-2
_REFERENCE_FLOOR_FLOAT32 = 1e-5
# (neuron, sample) pairs of a network beyond which the reference takes minutes a trial.
MOST_PAIRS = 10_000
_ALONE = 4
# Where multipliers are not unique, rounding decides between them, and between what follows.
_NOT_UNIQUE = 1e-3
_WITH_MULTIPLIERS = (
    "ascent",
    "sequential_ascent",
    "repeated_ascent",
    "corrected_ascent",
    "limit_polishing",
)
_OF_MULTIPLIERS = (
    "delta_train",
    "lambda_forget",
    "epsilon_inherited",
    "delta_inherited",
    "bound_epsilon",
    "bound_delta",
    "phi_guarantee",
    "assumptions_hold",
)
# Under a bound on delta, where samples depend on each other, an epsilon is the root of what a
# duality gap of rounding leaves: below the root of rounding it has no digits.
_UNDER_BOUNDS = tuple(name_of_budget(a, b) for a in BUDGETS[0] for b in BUDGETS[1])
_OF_UNLEARNED = (
    *_UNDER_BOUNDS,
    "separated",
    "epsilon",
    "delta",
    "tau",
    "kink_tol",
    "kink_pairs",
    "kkt_gap",
    "epsilon_limit",
    "delta_limit",
    "tau_limit",
    "limit_status_unlearned",
    "tau_retrain",
    "sign_flips",
    "margin_forget_unlearned",
    "accuracy_unlearned",
    "membership_unlearned",
    "disagreement",
)


class Difference(NamedTuple):
    """One column, one way of recomputing.

    Attributes:
        column, way: which.
        largest: absolute difference.
        relative: largest difference relative to the value, of those above the floor.
        floor: differences below it count for nothing.
        bitwise: whether all values are equal to the last bit.
        broken: names of the trials that differ by more than is promised.
    """

    column: str
    way: str
    largest: float
    relative: float
    floor: float
    bitwise: bool
    broken: tuple[str, ...]


class _Reference(NamedTuple):
    """What the reference says of a trial, and columns that another choice of multipliers, as right
    as the engine's, would change.
    """

    values: dict[str, float]
    unsure: frozenset[str] = frozenset()


class Verdict(NamedTuple):
    """What a verification found.

    Attributes:
        trials: how many were recomputed in a batch, alone, and by the reference.
        stored, planned: how many the run has, and is to have.
        ambiguous: how many of those recomputed have multipliers that are not unique: what follows
            from their choice is compared to 1e-3.
        differences: of every column and way.
        changed: trials whose name no longer follows from their row: data or definitions changed.
        misplaced: trials that are missing, there twice or claimed by no part, and parts that are
            missing or damaged: one line each. With a damaged part nothing is recomputed.
    """

    trials: tuple[int, int, int]
    stored: int
    planned: int
    ambiguous: int
    differences: tuple[Difference, ...]
    changed: tuple[str, ...]
    misplaced: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the contract holds."""
        wrong = self.changed or self.misplaced or any(d.broken for d in self.differences)
        return not wrong


def _check_versions(run: Run, commit: str | None) -> None:
    """Refuse to compare numbers of different code.

    Raises:
        RunError: naming what differs.
    """
    here = {"gaunlearn": version("gaunlearn"), "commit": commit, **versions()}
    for provenance in run.provenances():
        for name, value in here.items():
            if provenance.get(name) != value:
                raise RunError(
                    f"{run.path}: was computed with {name} {provenance.get(name)}, this is {value}"
                    ": differences may be the version's; --any-version compares nevertheless"
                )


def _misplaced(names: Sequence[str], claims: Sequence[Claim]) -> tuple[str, ...]:
    """What is wrong with which trials are there."""
    there = pd.Series(names, dtype="object")
    claimed = pd.Series(list(trial_ids_of(claims)), dtype="object")
    kinds = {
        "is there twice": there[there.duplicated()],
        "is claimed by two parts": claimed[claimed.duplicated()],
        "is claimed by a part, and missing": claimed[~claimed.isin(there)],
        "is there, and claimed by no part": there[~there.isin(claimed)],
    }
    return tuple(f"trial {name}: {what}" for what, found in kinds.items() for name in found)


def _damaged(run: Run) -> tuple[str, ...]:
    """What is wrong with which parts."""
    lines: list[str] = []
    there, listed = run.parts(), run.manifest["parts"]
    for key in sorted(listed):
        if f"{key}.parquet" not in there:
            lines.append(f"part {key}.parquet: missing, and {listed[key]['trials']} trials with it")
    for name in there:
        wrong = damage(run.place / "trials", name, body=True)
        if wrong:
            lines += [f"part {name}: {wrong}", *_misplaced(*names_and_claims(run.place, name))]
    return tuple(lines)


def _sample(frame: pd.DataFrame, count: int | None) -> pd.DataFrame:
    """Rows spread over the whole data set."""
    if count is None or count >= len(frame):
        return frame
    places = np.linspace(0, len(frame) - 1, count).round().astype(int)
    return frame.iloc[np.unique(places)]


def verify_run(
    run: Run,
    *,
    sample: int | None = 24,
    trials: Sequence[str] | None = None,
    commit: str | None = None,
    any_version: bool = False,
    directory: Path | None = None,
) -> Verdict:
    """Recompute some trials and compare.

    Args:
        sample: how many trials, spread over the data set; None is all.
        trials: names of the trials instead.
        commit: of this code, to be the run's own.
        any_version: compare although versions differ.
        directory: where relative paths in the specification start; by default where they did.

    Raises:
        RunError: the run is of another version, or cannot be read.
    """
    forget_files()
    damaged = _damaged(run)
    planned = int(run.manifest.get("trials", 0))
    if damaged:
        parts, there = run.manifest["parts"], run.parts()
        stored_trials = sum(parts[key]["trials"] for key in parts if f"{key}.parquet" in there)
        return Verdict((0, 0, 0), stored_trials, planned, 0, (), (), damaged)
    if not any_version:
        _check_versions(run, commit)
    stored = run.to_pandas()
    claims = [claim for part in read_claims(run.place, "trials").values() for claim in part]
    misplaced = _misplaced(stored["trial_id"].tolist(), claims)
    every = stored.drop_duplicates("trial_id")
    if trials is not None:
        missing = sorted(set(trials) - set(every["trial_id"]))
        if missing:
            raise RunError(f"{run.path}: has no trial {missing[0]!r}")
        every, sample = every[every["trial_id"].isin(trials)], None
    frame = _sample(every, sample).set_index("trial_id")
    rows: dict[str, dict[Any, Any]] = {
        str(name): row for name, row in frame.to_dict("index").items()
    }
    if directory is None:
        directory = Path(run.latest_provenance().get("directory", "."))
    cells: dict[str, Cell] = {}
    for name, row in rows.items():
        try:
            cells[name] = cell_of_row(row)
        except (ValueError, TypeError) as error:
            what = " ".join(str(error).split())
            raise RunError(
                f"{run.path}: trial {name}: its parameters cannot be read: {what}"
            ) from None
    try:
        families = list(families_of_cells(cells.values(), directory))
    except ValueError as error:
        raise RunError(f"{run.path}: a trial cannot be recomputed: {error}") from None
    rooms = choose_rooms(families, directory)
    limits = Limits(speed=machine.speed(), memory=0.4 * machine.free_memory())
    batch: dict[str, dict[str, Any]] = {}
    references: dict[str, _Reference] = {}

    def recompute(some: Sequence[Family], in_batches: bool) -> Iterator[tuple[Block, Results]]:
        pairs = machine.batch_pairs() if in_batches else 1
        for block in plan_blocks(lambda: some, directory, rooms, limits):
            machine.drop_programs_if_crowded()
            yield (
                block,
                run_block(
                    block,
                    directory,
                    pairs,
                    keep_weights=True,
                    keep_unlearned=True,
                    in_batches=in_batches,
                ),
            )

    for block, results in recompute(families, in_batches=True):
        batch |= _named_rows(block, results, directory)
        references |= _by_reference(block, results, rows, directory)
    changed = tuple(sorted(set(rows) - set(batch)))
    # Programs of their own, for one lane after the other.
    forget_capacities()
    alone: dict[str, dict[str, Any]] = {}
    for name in list(rows)[:: max(1, len(rows) // _ALONE)][:_ALONE]:
        own = list(families_of_cells([cells[name]], directory))
        for block, results in recompute(own, in_batches=False):
            alone |= _named_rows(block, results, directory)
    here = jax.local_devices()[0].platform
    same = all(each.get("platform") == here for each in run.provenances())
    promised = _SAME_PLATFORM if same else _OTHER_PLATFORM
    unsure = {name: each.unsure for name, each in references.items()}
    values = {name: each.values for name, each in references.items()}
    differences = [
        *_compare("in a batch", rows, batch, promised, unsure),
        *_compare("alone", rows, alone, promised, unsure),
        *_compare("NumPy", rows, values, _REFERENCE, unsure),
    ]
    return Verdict(
        trials=(len(batch), len(alone), len(references)),
        stored=len(stored),
        ambiguous=sum(map(bool, unsure.values())),
        planned=planned,
        differences=tuple(differences),
        changed=changed,
        misplaced=misplaced,
    )


def _named_rows(block: Block, results: Results, directory: Path) -> dict[str, dict[str, Any]]:
    rows = rows_of(block, results, directory)
    names = rows.columns["trial_id"]
    absent = np.full(len(names), np.nan)
    return {
        name: {
            "training_id": rows.columns["training_id"][place],
            **{c.name: rows.columns.get(c.name, absent)[place] for c in RESULTS},
        }
        for place, name in enumerate(names)
    }


def _by_reference(
    block: Block, results: Results, rows: Mapping[str, Mapping[str, Any]], directory: Path
) -> dict[str, _Reference]:
    """epsilon, delta and tau of the trained, retrained and unlearned networks of a block; the
    reference knows models of one trained layer, and takes no more than ``MOST_PAIRS``.
    """
    networks = {
        (network.family, network.forget, network.start): network for network in results.networks
    }
    contents = [family.contents(directory) for family in block.families]
    found = {}
    each = zip(
        results.owner.tolist(),
        results.number.tolist(),
        results.step_fraction.tolist(),
        results.forgotten,
        results.unlearned,
        strict=True,
    )
    for (number, place), index, fraction, forgotten, unlearned in each:
        family = block.families[number]
        branch = family.branches[place]
        name = trial_id(contents[number][place], family.seed, index, fraction)
        trained = networks[number, None, ORIGINAL]
        too_large = len(trained.W) * len(trained.y) > MOST_PAIRS
        if name in rows and not (isinstance(family.model, DeepReluModel) or too_large):
            first = STARTS[branch.retrain.init][0]
            # SciPy's solver may give up; such a trial has no reference.
            with suppress(RuntimeError):
                found[name] = _reference_of(
                    rows[name],
                    trained,
                    networks[number, (branch.forget, index), first],
                    unlearned,
                    forgotten,
                )
    return found


@np.errstate(all="ignore")  # weights that diverged overflow; they have no certificate
def _reference_of(
    row: Mapping[str, Any],
    trained: Network,
    retrained: Network,
    unlearned: np.ndarray,
    forgotten: Sequence[int],
) -> _Reference:
    """The theorem's step is taken by the reference; what other methods made is certified, and so is
    the step in float32, where two tolerances may be as good but for rounding.

    Where multipliers are not unique (samples that depend on each other), delta is one of several
    that are right, and so is the step: they are left out, and the engine's step is certified.
    """
    W, u, x, y = (np.asarray(a, np.float64) for a in (trained.W, trained.u, trained.x, trained.y))
    leak = row["leak"]
    leak = 0.0 if leak is None or np.isnan(leak) else float(leak)
    power = SQUARED_RELU.power if row["model_kind"] == SQUARED_RELU.name else 1
    precise = leak, float(np.finfo(row["dtype"]).eps), power
    out = None if row["model_kind"] == "linear" else u
    everything = np.ones(len(y), bool)
    retain = ~np.isin(np.arange(len(y)), forgotten)
    tols = json.loads(row["kink_tols"]) if row["kinks"] == "handled" else None
    ladder = tols
    to_limit = row["train_end"] == "limit" and tols is not None
    if to_limit:
        tols = [1e-9]  # the limit is at its kinks
    budget = float(row["tau_budget"])
    values: dict[str, float] = {}
    unsure: set[str] = set()

    def certified(
        weights: np.ndarray,
        keep: np.ndarray,
        tolerances: list[float] | None,
        is_limit: bool = False,
    ) -> reference.ReferenceCertificate | None:
        given = np.asarray(weights, np.float64)
        if not np.isfinite(given).all():
            return None
        return reference.certify_best(
            given, out, x, y, keep, tolerances, budget, *precise, is_limit
        )

    def note(found: reference.ReferenceCertificate | None, epsilon: str, delta: str) -> None:
        values[epsilon] = np.nan if found is None else found.epsilon
        if found is None or found.unique:
            values[delta] = np.nan if found is None else found.delta
        else:
            unsure.add(delta)

    note(certified(retrained.W, retain, tols, to_limit), "epsilon_retrain", "delta_retrain")
    original = certified(W, everything, tols, to_limit)
    note(original, "epsilon_train", "delta_train")
    weights, after = unlearned, None
    if original is not None:
        if not original.unique:
            unsure.update(_OF_MULTIPLIERS)
            if row["method"] in _WITH_MULTIPLIERS:
                unsure.update(_OF_UNLEARNED)
        elif row["method"] == "ascent" and row["dtype"] == "float64":
            fraction = float(row["step_fraction"])
            weights = reference.ascend(
                W, out, x, y, ~retain, fraction, original.coefficients, leak, power
            )
        after = certified(weights, retain, None if ladder is None else [float(row["kink_tol"])])
    note(after, "epsilon", "delta")
    values["tau"] = np.nan if after is None else after.tau
    return _Reference(values, frozenset(unsure))


def _compare(
    way: str,
    stored: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Mapping[str, Any]],
    promised: float,
    unsure: Mapping[str, frozenset[str]],
) -> list[Difference]:
    differences = []
    for column in ("training_id", *(column.name for column in RESULTS)):
        names = [name for name in stored if column in found.get(name, ())]
        if not names:
            continue
        narrow = np.asarray([stored[name]["dtype"] == "float32" for name in names])
        loose = _REFERENCE_FLOAT32 if way == "NumPy" else max(promised, _FLOAT32)
        tolerance = np.where(narrow, loose, promised)
        chosen = np.asarray([column in unsure.get(name, ()) for name in names])
        tolerance = np.where(chosen, np.maximum(tolerance, _NOT_UNIQUE), tolerance)
        floor = np.where(narrow, ROUNDING["float32"], ROUNDING["float64"])
        if way == "NumPy":
            floor = np.where(narrow, _REFERENCE_FLOOR_FLOAT32, promised)
        floor = np.where(chosen, np.maximum(floor, promised), floor)
        old = [stored[name][column] for name in names]
        new = [found[name][column] for name in names]
        if isinstance(new[0], str):
            differs = np.asarray([a != b for a, b in zip(old, new, strict=True)])
            size, relative, broken = differs.astype(float), differs.astype(float), differs
        else:
            a = np.asarray([np.nan if v is None or v is pd.NA else v for v in old], float)
            b = np.asarray(new, float)
            finite = np.isfinite(a) & np.isfinite(b)
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            with np.errstate(invalid="ignore"):
                size = np.where(finite, np.abs(a - b), np.where(same, 0.0, np.inf))
            scale = np.where(finite, np.maximum(np.abs(a), np.abs(b)), 1.0)
            allowed = tolerance * scale + floor
            if column in _UNDER_BOUNDS:
                none = np.sqrt(np.where(narrow, np.finfo(np.float32).eps, np.finfo(float).eps))
                depend = np.asarray([bool(unsure.get(name)) for name in names])
                allowed = np.where(depend & (scale <= none), none, allowed)
            broken = size > allowed
            relative = np.where(size > floor, size / np.where(scale > 0, scale, 1.0), 0.0)
        differences.append(
            Difference(
                column=column,
                way=way,
                largest=float(size.max()),
                relative=float(relative.max()),
                floor=float(floor.max()),
                bitwise=bool((size == 0).all()),
                broken=tuple(name for name, bad in zip(names, broken, strict=True) if bad),
            )
        )
    return differences

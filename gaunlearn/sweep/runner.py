"""Run a whole sweep: plan it, skip what is stored, have the rest computed and stored, keep count.

Who computes is a crew (``worker``): this process alone, or the workers of a cluster (``cluster``).
"""

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gaunlearn.schema import SCHEMA_VERSION
from gaunlearn.sweep.adaptive import border_of, first_trials, rounds
from gaunlearn.sweep.compact import compact
from gaunlearn.sweep.findings import write_border
from gaunlearn.sweep.identity import digest
from gaunlearn.sweep.lock import locked, take_token
from gaunlearn.sweep.parts import (
    Claim,
    Completed,
    RunError,
    parquet_files,
    read_claims,
)
from gaunlearn.sweep.place import Place, StorageError
from gaunlearn.sweep.plan import Block, Family, Load, families_of, plan_blocks, survey
from gaunlearn.sweep.predicate import Border
from gaunlearn.sweep.processes import Processes
from gaunlearn.sweep.provenance import FaultyJaxError
from gaunlearn.sweep.resume import reconcile
from gaunlearn.sweep.sections import SpecError, column_name
from gaunlearn.sweep.spec import Sweep
from gaunlearn.sweep.store import (
    BORDER_FILES,
    VERIFICATION_FILE,
    Run,
    load,
    write_manifest,
)
from gaunlearn.sweep.tally import median_of
from gaunlearn.sweep.weights import stored_networks
from gaunlearn.sweep.worker import Alone, Crew, Job, Receipt, RunFailedError

if TYPE_CHECKING:  # it takes half a second to import, which a run's first rows need not wait for
    import pandas as pd

__all__ = ["FaultyJaxError", "Progress", "RunFailedError", "run_sweep"]

# What the manifest says of how a run went.
_MEASURED = ("training_lanes_busy", "seconds")
# Seconds between two writings of the manifest, at least; that of a hundred thousand parts takes
# long, and is to take a twentieth of the time at most.
_MANIFEST_S, _MANIFEST_SHARE = 5.0, 20.0


class Progress(NamedTuple):
    """Where a run is.

    Attributes:
        done, total: trials.
        stage: the stage that begins, "stored" when a block has been, "running" while a cluster
            works, "already finished".
        median_epsilon: of the trials that have run now, to 0.6 % (``tally``); NaN if there is none.
        seconds_left: an estimate; NaN if there is none yet.
        notice: what the user should know besides, told once.
    """

    done: int
    total: int
    stage: str
    median_epsilon: float = math.nan
    seconds_left: float = math.nan
    notice: str = ""


def _check_ours(out: Place) -> None:
    """Refuse to remove files that no run has written: a run begins with its manifest."""
    names = (out / "trials").names()
    if "run.json" not in out.names() and any(name.endswith(".parquet") for name in names):
        raise SpecError(f"{out.name}: --fresh: is not a run (it has no run.json), but has trials/")


def _clear(out: Place) -> None:
    """Remove a run's files, and nothing else, from its directory."""
    for folder in ("trials", "weights", "unused"):
        for name in (out / folder).names():
            if name.endswith(".parquet"):
                (out / folder).delete(name)
    for name in (out / "report").names():
        if name.endswith((".png", ".svg", ".html")):
            (out / "report").delete(name)
    for name in ("run.json", "spec.toml", *BORDER_FILES, VERIFICATION_FILE):
        out.delete(name)


def _check_version(out: Place) -> None:
    """Refuse a directory that another version wrote to."""
    try:
        load(out)
    except RunError as error:
        if "schema_version" in str(error):
            raise SpecError(f"{error}; give another --out, or --fresh to replace it") from None


# Connects a run to those who will compute it; they are let go at the end.
Recruit = Callable[[Place], AbstractContextManager[Crew]]


def run_sweep(
    sweep: Sweep,
    out: str | Path | Place,
    *,
    fresh: bool = False,
    shard: tuple[int, int] = (0, 1),
    allow_faulty_jax: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
    recruit: Recruit | None = None,
    processes: Processes | None = None,
) -> Run:
    """Run what is not stored yet; each block is stored as soon as it is done.

    Args:
        out: the run's directory or its URI; made if need be.
        fresh: remove what is there and begin anew.
        shard: (i, n) runs the i-th of n parts, from 0 on.
        allow_faulty_jax: go on although a canary failed; the provenance says so.
        progress: called whenever a stage begins and, perhaps from another thread, when a block has
            been stored.
        recruit: finds the crew that computes; this process does otherwise.
        processes: that run this together, each its share on its own devices.

    Raises:
        SpecError: the directory or the crew cannot be used, or another process uses it.
        FaultyJaxError: a canary failed.
        RunFailedError: the disk is full, a single trial does not fit into memory, or there are no
            workers any more.
        KeyboardInterrupt: at the end of the stage during which it was asked for.
    """
    divided = recruit is not None or processes is not None
    if shard[1] > 1:
        if fresh:
            raise SpecError("--fresh with --shard would remove what other shards have stored")
        if divided:
            raise SpecError(
                "--shard: a cluster, or processes that run together, share by themselves"
            )
        if sweep.border is not None:
            raise SpecError(
                "--shard: a sweep with [border] looks at all of its trials: run it whole"
            )
    if sweep.border is not None:
        first_trials(sweep, sweep.border)
    how = _How(sweep, _place_of(out), allow_faulty_jax, progress)
    if processes is None:
        _make(how.place)
        with _held(how, shard, fresh, recruit) as runner:
            runner.run()
    else:
        _run_together(how, fresh, processes)
    return load(how.place)


def _place_of(out: str | Path | Place) -> Place:
    try:
        return Place.of(out)
    except StorageError as error:
        raise SpecError(str(error)) from None


def _make(place: Place) -> None:
    try:
        place.make()
    except StorageError as error:
        raise SpecError(str(error)) from None


class _How(NamedTuple):
    """What is run, where, and who is told."""

    sweep: Sweep
    place: Place
    allow_faulty_jax: bool
    progress: Callable[[Progress], None]

    def job(self) -> Job:
        """For workers."""
        return Job(
            out=self.place.uri,
            text=self.sweep.text,
            directory=self.sweep.directory.resolve(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            keep_weights=self.sweep.keep_weights,
            allow_faulty_jax=self.allow_faulty_jax,
        )


@contextmanager
def _held(
    how: _How,
    shard: tuple[int, int] = (0, 1),
    fresh: bool = False,
    recruit: Recruit | None = None,
    processes: Processes | None = None,
) -> Iterator["_Runner"]:
    """A run, while nobody else has its directory."""
    sweep, place = how.sweep, how.place
    with ExitStack() as stack:
        stack.enter_context(locked(place.local, shard, digest(sweep.text)))
        check = stack.enter_context(_deferred_interrupts())
        crew = None if recruit is None else stack.enter_context(recruit(place))

        def tell(where: Progress) -> None:
            check()
            how.progress(where)

        if shard[1] == 1:
            for folder in (place, *(place / name for name in ("trials", "weights", "unused"))):
                folder.remove_leftovers()
            take_token(place)
        if fresh:
            _check_ours(place)
            if crew is not None:  # if it cannot work, what is there stays
                crew.start(how.job(), lambda text: tell(Progress(0, 0, "starting", notice=text)))
            _clear(place)
        _check_version(place)
        try:
            yield _Runner(how._replace(progress=tell), shard, crew, processes)
        except StorageError as error:
            raise RunFailedError(f"{error}; what was stored before is kept") from None


def _run_together(how: _How, fresh: bool, processes: Processes) -> None:
    """The first process looks after the directory, before all have run their shares and after."""
    share = processes.index, processes.count

    def prepare() -> None:
        _make(how.place)
        if processes.index == 0:
            with _held(how, fresh=fresh):
                pass

    def work() -> None:
        with _held(how, share, processes=processes) as runner:
            runner.run()

    def merge() -> None:
        if processes.index == 0:
            with _held(how) as runner:
                runner.run()

    for turn in (prepare, work, merge):
        processes.take_turn(turn)


@contextmanager
def _deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C set a flag, and raise KeyboardInterrupt where the yielded function is called in
    the main thread: thrown while JAX compiles it may be lost, or end the process with a crash.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield lambda: None  # whose handler it is knows what to do
        return
    asked = threading.Event()

    def check() -> None:
        if asked.is_set() and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield check
        check()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Runner:
    """One run: what is stored, what is left, and who computes it."""

    def __init__(
        self,
        how: _How,
        shard: tuple[int, int],
        crew: Crew | None,
        processes: Processes | None,
    ) -> None:
        sweep, out, self.progress = how.sweep, how.place, how.progress
        self.how, self.sweep, self.out = how, sweep, out
        self.shard, self.processes = shard, processes
        self.plan = survey(sweep)
        alone = shard[1] == 1
        self.networks = stored_networks(out, alone) if sweep.keep_weights else None
        self.finished, kept, changed = reconcile(
            out, families_of(sweep), sweep.directory, self.networks, may_change=alone
        )
        if changed and not alone:
            raise SpecError(
                f"{out.name}: holds trials of another specification, or without networks that this "
                "one keeps; run once without --shard, or with --fresh, or give another --out"
            )
        self.parts = _completed(kept)
        self.total = self.plan.trials
        if not alone:
            self.total = sum(family.trials for family in families_of(sweep, shard))
        if sweep.border is not None and sweep.border.budget is not None:
            # What is stored of it counts, also what an earlier predicate asked for.
            self.total = min(self.total, max(sweep.border.budget, self.finished.trials))
        self.manifest: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "name": sweep.name,
            "question": sweep.question,
            "swept": [column_name(*axis) for axis in sweep.swept],
            "trials": self.plan.trials,
        }
        self.crew: Crew = Alone(out, self.networks or set(), self.tell) if crew is None else crew
        self.running = False
        self.provenance: dict[str, Any] = {}
        self.median = self.seconds_left = math.nan
        # (share of training lanes that were busy) times trials, and trials, that ran now.
        self.busy = self.ran = 0.0
        self.epsilons: Counter[int] = Counter()

    def unfinished(self, part: Sweep) -> Iterator[Family]:
        """What is not stored of a part of the sweep."""
        for family in families_of(part, self.shard):
            left = self.finished.left_of(family, self.sweep.directory)
            if left is not None:
                yield left

    def run(self) -> None:
        """All of it."""
        done = self.finished.trials
        if self.shard[1] > 1:
            done = self.total - sum(left.trials for left in self.unfinished(self.sweep))
        self.done = done
        if self.finished.damaged_parts:
            count = self.finished.damaged_parts
            self.notice(f"{count} damaged files of trials moved to unused/")
        border = self.sweep.border
        if border is not None:
            for part in rounds(self.sweep, border, self.rows_of_all, self.agreed):
                self.complete(part)
            self.total = self.manifest["trials"] = self.done
        elif done < self.total:
            self.complete(self.sweep)
        if self.running:
            self.settle()
        if self.shard[1] == 1:  # otherwise other shards may be writing
            if border is not None:
                self.write_border(border)
            self.parts = compact(self.out, self.parts)
        self.write_manifest()
        if not self.running:
            self.tell("already finished")
        elif border is not None:
            self.tell("stored")  # of fewer trials than there might have been

    def rows_of_all(self) -> "pd.DataFrame":
        """What is stored when everybody's share of a round is."""
        if self.processes is not None:
            self.processes.wait()
        # Until the run is settled, what two workers have stored may be there twice.
        return self.stored().to_pandas().drop_duplicates("trial_id")

    def stored(self) -> Run:
        """What is stored, as far as this process knows."""
        return Run(self.out, {"parts": self.parts_of_manifest()})

    def parts_of_manifest(self) -> dict[str, dict[str, int]]:
        """What each part completes."""
        return {key: completed._asdict() for key, completed in self.parts.items()}

    def agreed(self, points: np.ndarray) -> np.ndarray:
        """A choice that all processes make alike."""
        return points if self.processes is None else self.processes.of_first(points)

    def complete(self, part: Sweep) -> None:
        """Run what is not stored of a part of the sweep."""
        if next(self.unfinished(part), None) is None:
            return
        self.start()
        blocks = plan_blocks(
            lambda: self.unfinished(part),
            self.sweep.directory,
            self.plan.shapes,
            self.crew.limits(self.left_seconds),
        )
        try:
            self.crew.run(self.with_later(blocks), self.commit)
        except RunFailedError:
            self.settle()
            self.write_manifest()
            raise

    def with_later(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Blocks with what comes after them, as if programs and workers had equal shares of it."""
        shares = self.crew.workers * len(self.plan.programs)
        left = self.left_seconds
        for block in blocks:
            seconds = Load.total(block.families).seconds(block.program)
            left = max(0.0, left - seconds)
            yield block._replace(later=left / seconds / shares)

    def start(self) -> None:
        """Make the crew ready, and say what is beginning, before the first block."""
        if self.running:
            return
        # The plan's time of a search is that of its budget.
        whole = self.plan.trials if self.sweep.border is None else self.total
        self.left_seconds = self.plan.seconds * (self.total - self.done) / whole
        self.began = time.perf_counter()
        self.provenance = self.crew.start(self.how.job(), self.notice)
        self.running = True
        self.computed_seconds = 0.0
        self.first_stored: float | None = None
        self.write_manifest()

    def commit(self, receipt: Receipt) -> None:
        """Count a part that has been stored, and say so."""
        self.parts[receipt.key] = receipt.completed
        self.provenance = self.provenance | {"training_steps": receipt.steps_by}
        trials = receipt.completed.trials
        self.done += trials
        self.epsilons += receipt.epsilons
        self.median = median_of(self.epsilons)
        self.busy += receipt.utilisation * trials
        self.ran += trials
        self.left_seconds = max(0.0, self.left_seconds - receipt.seconds)
        now = time.perf_counter()
        # The first block's time, after a preview's, is mostly that of compilation: until there is
        # another one, the plan's own estimate serves.
        if self.first_stored is None:
            self.first_stored = None if receipt.is_preview else now
        else:
            self.computed_seconds += receipt.seconds
        if self.first_stored is not None and self.computed_seconds:
            pace = (now - self.first_stored) / self.computed_seconds
        else:
            pace = 1 / self.crew.speed
        self.seconds_left = pace * self.left_seconds
        if now > self.manifest_due:
            self.write_manifest()
        self.tell("stored")

    def settle(self) -> None:
        """See that no trial is stored twice: a worker that was believed to be lost may have stored
        what another one has computed too.
        """
        self.crew.stop()
        if self.shard[1] > 1:
            self.parts |= _completed(read_claims(self.out, "trials"))  # other shards' too
        elif {f"{key}.parquet" for key in self.parts} != set(parquet_files(self.out / "trials")):
            _, kept, _ = reconcile(
                self.out,
                families_of(self.sweep),
                self.sweep.directory,
                stored_networks(self.out, True) if self.sweep.keep_weights else None,
            )
            self.parts = _completed(kept)

    def write_border(self, border: Border) -> None:
        """Where the border is, and what it rests on."""
        table, points, facts = border_of(border, self.stored().to_pandas())
        about = {
            "predicate": border.predicate,
            "column": border.column,
            "axes": list(border.columns),
            **facts,
        }
        self.manifest["border"] = about
        write_border(self.out, table, points, about)

    def tell(self, stage: str, notice: str = "") -> None:
        """Say how far it is."""
        self.progress(
            Progress(self.done, self.total, stage, self.median, self.seconds_left, notice)
        )

    def notice(self, text: str) -> None:
        """Say something besides, once."""
        self.tell("running" if self.running else "starting", text)

    def write_manifest(self) -> None:
        """Say what is stored, and how the last of it was computed."""
        began = time.perf_counter()
        manifest = self.manifest | {"parts": self.parts_of_manifest()}
        if not self.provenance:
            self.provenance = Run(self.out, {}).latest_provenance()
        manifest["provenance"] = self.provenance
        if not self.ran:  # nothing ran now
            with suppress(RunError):
                before = load(self.out).manifest
                manifest |= {name: before[name] for name in _MEASURED if name in before}
        else:
            manifest["training_lanes_busy"] = round(self.busy / self.ran, 4)
            manifest["seconds"] = round(began - self.began, 3)
        write_manifest(self.out, manifest, self.sweep.text)
        now = time.perf_counter()
        self.manifest_due = now + max(_MANIFEST_S, _MANIFEST_SHARE * (now - began))


def _completed(parts: Mapping[str, list[Claim]]) -> dict[str, Completed]:
    return {key: Completed.of(claims) for key, claims in parts.items()}

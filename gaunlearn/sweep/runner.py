"""Run a whole sweep: plan it, skip what is stored, run the rest and store it.

The main thread computes; others plan the next block and turn the last one's results into files.
"""

import math
import platform
import signal
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gaunlearn.doctor import examine, versions
from gaunlearn.schema import SCHEMA_VERSION
from gaunlearn.sweep import machine
from gaunlearn.sweep.adaptive import border_of, first_trials, rounds
from gaunlearn.sweep.compact import compact
from gaunlearn.sweep.execute import Results, run_block
from gaunlearn.sweep.findings import write_border
from gaunlearn.sweep.identity import digest, forget_name
from gaunlearn.sweep.lanes import forget_capacities
from gaunlearn.sweep.lock import locked
from gaunlearn.sweep.place import Place, StorageError
from gaunlearn.sweep.plan import (
    Block,
    Family,
    Limits,
    Load,
    families_of,
    plan_blocks,
    split_block,
    survey,
)
from gaunlearn.sweep.predicate import Border
from gaunlearn.sweep.resume import claims_of, reconcile
from gaunlearn.sweep.rows import rows_of, training_id
from gaunlearn.sweep.sections import SpecError, column_name
from gaunlearn.sweep.spec import Sweep
from gaunlearn.sweep.store import (
    BORDER_FILES,
    VERIFICATION_FILE,
    Claim,
    NetworkName,
    Run,
    RunError,
    Weights,
    load,
    read_claims,
    write_manifest,
    write_part,
)
from gaunlearn.sweep.weights import stored_networks, write_weights

__all__ = ["FaultyJaxError", "Progress", "RunFailedError", "commit_of_code", "run_sweep"]

# What the manifest says of how a run went.
_MEASURED = ("training_lanes_busy", "seconds")
# Seconds between two writings of the manifest.
_MANIFEST_S = 5.0


class FaultyJaxError(RuntimeError):
    """This JAX computes wrong results here."""


class RunFailedError(RuntimeError):
    """A run that had to stop; the message is one line that says why. What was stored stays."""


class Progress(NamedTuple):
    """Where a run is.

    Attributes:
        done, total: trials.
        stage: the stage that begins, "stored" when a block has been, "already finished".
        median_epsilon: of the trials that this process has run; NaN if there is none.
        seconds_left: an estimate; NaN if there is none yet.
        notice: what the user should know besides, told once.
    """

    done: int
    total: int
    stage: str
    median_epsilon: float = math.nan
    seconds_left: float = math.nan
    notice: str = ""


def commit_of_code() -> str | None:
    """The commit of the checkout that this package was imported from, if it is one; changes that
    are in no commit are told apart by what the package's files hold.
    """
    here = Path(__file__).resolve().parent
    try:
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            check=False,
        )
        if tracked.returncode:
            return None
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    commit = found.stdout.strip()
    if commit.endswith("-dirty"):
        files = sorted(here.parent.rglob("*.py"))
        commit += f"-{digest([file.read_text(encoding='utf-8') for file in files])[:12]}"
    return commit or None


def _provenance(sweep: Sweep, allow_faulty_jax: bool) -> dict[str, Any]:
    findings = examine(in_own_process=False)
    ill = [finding for finding in findings if not finding.well]
    if ill and not allow_faulty_jax:
        first = ill[0]
        raise FaultyJaxError(
            f"jax {jax.__version__} computes wrong results on {first.device} ({first.canary}: "
            f"{first.detail}); install another release, or insist with --allow-faulty-jax"
        )
    devices = jax.local_devices()
    # Where the user's files lie is nobody's business in a data set that reads none of them.
    reads_files = "path" in tomllib.loads(sweep.text).get("data", {})
    return {
        "gaunlearn": version("gaunlearn"),
        "commit": commit_of_code(),
        **versions(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        "devices": len(devices),
        "canaries": "well" if not ill else "; ".join(f"{f.canary}: {f.detail}" for f in ill),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "spec_hash": digest(sweep.text),
        "spec": sweep.text,
        **({"directory": str(sweep.directory.resolve())} if reads_files else {}),
    }


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


def run_sweep(
    sweep: Sweep,
    out: str | Path | Place,
    *,
    fresh: bool = False,
    shard: tuple[int, int] = (0, 1),
    allow_faulty_jax: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Run:
    """Run what is not stored yet; each block is stored as soon as it is done.

    Args:
        out: the run's directory or its URI; made if need be.
        fresh: remove what is there and begin anew.
        shard: (i, n) runs the i-th of n parts, from 0 on.
        allow_faulty_jax: go on although a canary failed; the provenance says so.
        progress: called whenever a stage begins and, from the writing thread, when a block has
            been stored.

    Raises:
        SpecError: the directory cannot be used, or another process uses it.
        FaultyJaxError: a canary failed.
        RunFailedError: the disk is full, or a single trial does not fit into memory.
        KeyboardInterrupt: at the end of the stage during which it was asked for.
    """
    if fresh and shard[1] > 1:
        raise SpecError("--fresh with --shard would remove what other shards have stored")
    if sweep.border is not None:
        if shard[1] > 1:
            raise SpecError(
                "--shard: a sweep with [border] looks at all of its trials: run it whole"
            )
        first_trials(sweep, sweep.border)
    try:
        place = Place.of(out)
        place.make()
    except StorageError as error:
        raise SpecError(str(error)) from None
    with locked(place.local, shard, digest(sweep.text)), _deferred_interrupts() as check:

        def tell(where: Progress) -> None:
            check()
            progress(where)

        if shard[1] == 1:
            for folder in (place, *(place / name for name in ("trials", "weights", "unused"))):
                folder.remove_leftovers()
        if fresh:
            _check_ours(place)
            _clear(place)
        _check_version(place)
        try:
            _Runner(sweep, place, shard, allow_faulty_jax, tell).run()
        except StorageError as error:
            raise RunFailedError(f"{error}; what was stored before is kept") from None
    return load(place)


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


def _ahead(blocks: Iterator[Block]) -> Iterator[Block]:
    """The same blocks, each planned while the one before it is computed."""
    with ThreadPoolExecutor(max_workers=1) as planner:
        coming = planner.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = planner.submit(next, blocks, None)
            yield block


class _Runner:
    """One run, by one process."""

    def __init__(
        self,
        sweep: Sweep,
        out: Place,
        shard: tuple[int, int],
        allow_faulty_jax: bool,
        progress: Callable[[Progress], None],
    ) -> None:
        self.sweep, self.out, self.shard = sweep, out, shard
        self.allow_faulty_jax, self.progress = allow_faulty_jax, progress
        self.plan = survey(sweep)
        alone = shard[1] == 1
        self.networks = stored_networks(out, alone) if sweep.keep_weights else None
        self.finished, self.parts, changed = reconcile(
            out, families_of(sweep), sweep.directory, self.networks, may_change=alone
        )
        if changed and not alone:
            raise SpecError(
                f"{out.name}: holds trials of another specification, or without networks that this "
                "one keeps; run once without --shard, or with --fresh, or give another --out"
            )
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
        self.running = False
        self.provenance: dict[str, Any] = {}
        self.median = self.seconds_left = math.nan
        self.batch_pairs = machine.batch_pairs()
        self.utilisation: list[tuple[float, int]] = []
        self.epsilons: list[np.ndarray] = []

    def left(self, part: Sweep) -> Iterator[Block]:
        """Blocks of what is not stored of a part of the sweep."""
        directory = self.sweep.directory

        def families() -> Iterator[Family]:
            for family in families_of(part, self.shard):
                left = self.finished.left_of(family, directory)
                if left is not None:
                    yield left

        limits = Limits(speed=machine.speed(), memory=0.4 * machine.free_memory())
        return plan_blocks(families, directory, self.plan.shapes, limits)

    def run(self) -> None:
        done = self.finished.trials
        if self.shard[1] > 1:
            done = self.total - sum(
                left.trials
                for family in families_of(self.sweep, self.shard)
                if (left := self.finished.left_of(family, self.sweep.directory))
            )
        self.done = done
        if self.finished.damaged_parts:
            count = self.finished.damaged_parts
            self.tell("starting", f"{count} damaged files of trials moved to unused/")
        border = self.sweep.border
        if border is not None:
            for part in rounds(self.sweep, border, lambda: Run(self.out, {}).to_pandas()):
                self.complete(part)
            self.total = self.manifest["trials"] = self.done
            self.write_border(border)
        elif done < self.total:
            self.complete(self.sweep)
        if self.running:
            self.parts |= read_claims(self.out, "trials")  # other shards' too
        self.compact()
        self.write_manifest()
        if not self.running:
            self.tell("already finished")
        elif border is not None:
            self.tell("stored")  # of fewer trials than there might have been

    def start(self) -> None:
        """Look at the machine, and say what is beginning, before the first block."""
        if self.running:
            return
        self.running = True
        self.provenance = _provenance(self.sweep, self.allow_faulty_jax)
        self.write_manifest()
        self.began = self.manifest_written = time.perf_counter()
        self.computed_seconds = 0.0
        self.first_stored: float | None = None
        # The plan's time of a search is that of its budget.
        whole = self.plan.trials if self.sweep.border is None else self.total
        self.left_seconds = self.plan.seconds * (self.total - self.done) / whole

    def complete(self, part: Sweep) -> None:
        """Run what is not stored of a part of the sweep."""
        # One thread writes what the other has computed; at most one block waits between them.
        with ThreadPoolExecutor(max_workers=1) as writer:
            pending: Future[None] | None = None
            for block in _ahead(self.left(part)):
                self.start()
                machine.drop_programs_if_crowded()
                for piece, results in self.compute(block):
                    if pending is not None:
                        pending.result()
                    pending = writer.submit(self.store, piece, results)
            if pending is not None:
                pending.result()

    def write_border(self, border: Border) -> None:
        """Where the border is, and what it rests on."""
        table, points, facts = border_of(border, Run(self.out, {}).to_pandas())
        about = {
            "predicate": border.predicate,
            "column": border.column,
            "axes": list(border.columns),
            **facts,
        }
        self.manifest["border"] = about
        write_border(self.out, table, points, about)

    def compact(self) -> None:
        """Merge small parts, unless other shards may be writing."""
        if self.shard[1] == 1:
            self.parts = compact(self.out, self.parts)

    def compute(self, block: Block) -> Iterator[tuple[Block, Results]]:
        """Run a block; in smaller batches, then in smaller blocks, if memory is short."""
        pairs = block.program.room.neurons * block.program.room.samples
        try:
            results = run_block(
                block,
                self.sweep.directory,
                self.batch_pairs,
                self.tell,
                keep_weights=self.sweep.keep_weights,
            )
        except Exception as error:
            if not machine.out_of_memory(error):
                raise
            forget_capacities()
        else:
            yield block, results
            return
        if self.batch_pairs > pairs:
            self.batch_pairs //= 2
            yield from self.compute(block)
            return
        parts = split_block(block, self.sweep.directory)
        if len(parts) == 1:
            raise RunFailedError(
                f"a trial with m = {block.program.room.samples} and n = "
                f"{block.program.room.neurons} does not fit into memory; what was stored is kept"
            )
        for part in parts:
            yield from self.compute(part)

    def store(self, block: Block, results: Results) -> None:
        """Write a block's files, and say so. Runs in the writing thread."""
        directory = self.sweep.directory
        rows = rows_of(block, results, directory)
        claims = [claim for family in block.families for claim in claims_of(family, directory)]
        if self.networks is not None:
            self.store_networks(block, results, self.networks)
        write_part(
            self.out, block.key, rows.columns, rows.parameters, rows.owner, claims, self.provenance
        )
        self.parts[block.key] = claims
        self.done += block.trials
        epsilon = rows.columns["epsilon"]
        self.epsilons.append(epsilon[np.isfinite(epsilon)])
        known = np.concatenate(self.epsilons)
        self.median = float(np.median(known)) if known.size else math.nan
        self.utilisation.append((results.utilisation, block.trials))
        seconds = Load.total(block.families).seconds(block.program)
        self.left_seconds = max(0.0, self.left_seconds - seconds)
        now = time.perf_counter()
        # The first block's time is mostly that of compilation: until there is another one, the
        # plan's own estimate serves.
        if self.first_stored is None:
            self.first_stored = now
        else:
            self.computed_seconds += seconds
        pace = (now - self.first_stored) / self.computed_seconds if self.computed_seconds else 1.0
        self.seconds_left = pace * self.left_seconds
        if now - self.manifest_written > _MANIFEST_S:
            self.write_manifest()
            self.manifest_written = now
        self.tell("stored")

    def store_networks(self, block: Block, results: Results, stored: set[NetworkName]) -> None:
        """Write those that are not stored yet: blocks may share trainings."""
        new = {}
        for network in results.networks:
            weights = Weights(
                training_id=training_id(block.families[network.family], self.sweep.directory),
                forget=None if network.forget is None else forget_name(*network.forget),
                forgotten=network.forgotten,
                start=network.start,
                W=network.W,
                upper=network.upper,
                u=network.u,
                x=network.x,
                y=network.y,
            )
            name = weights.training_id, weights.forget, weights.start
            if name not in stored:
                new[name] = weights
        if new:
            write_weights(self.out, digest(list(new)), new.values())
            stored.update(new)

    def tell(self, stage: str, notice: str = "") -> None:
        where = Progress(self.done, self.total, stage, self.median, self.seconds_left, notice)
        self.progress(where)

    def write_manifest(self) -> None:
        """Say what is stored, and how the last of it was computed."""
        manifest = self.manifest | {"parts": {k: _stages(v) for k, v in self.parts.items()}}
        if not self.provenance:
            self.provenance = Run(self.out, {}).latest_provenance()
        manifest["provenance"] = self.provenance
        if not self.utilisation:  # nothing ran now
            with suppress(RunError):
                before = load(self.out).manifest
                manifest |= {name: before[name] for name in _MEASURED if name in before}
        else:
            weight = sum(trials for _, trials in self.utilisation)
            busy = sum(share * trials for share, trials in self.utilisation) / weight
            manifest["training_lanes_busy"] = round(busy, 4)
            manifest["seconds"] = round(time.perf_counter() - self.began, 3)
        write_manifest(self.out, manifest, self.sweep.text)


def _stages(claims: list[Claim]) -> dict[str, int]:
    """What a part completes: branches of trainings, samples that they forget, trials."""
    return {
        "branches": len(claims),
        "forgotten": sum(len(forget) for claim in claims for forget, _ in claim.pairs),
        "trials": sum(claim.trials for claim in claims),
    }

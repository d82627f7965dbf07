"""Run a whole sweep: plan it, skip what is finished, run and store the rest."""

import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gaunlearn.doctor import examine, versions
from gaunlearn.schema import SCHEMA_VERSION
from gaunlearn.sweep.execute import run_block
from gaunlearn.sweep.identity import digest
from gaunlearn.sweep.plan import plan_blocks
from gaunlearn.sweep.spec import Cell, SpecError, Sweep, column_name
from gaunlearn.sweep.store import (
    Run,
    finished_parts,
    load,
    parts_directory,
    write_manifest,
    write_part,
)

__all__ = ["FaultyJaxError", "Progress", "run_sweep"]


class FaultyJaxError(RuntimeError):
    """This JAX computes wrong results here."""


class Progress(NamedTuple):
    """Where a run is: trials done of all, the stage that begins, the last median epsilon."""

    done: int
    total: int
    stage: str
    median_epsilon: float


def _parameters(cell: Cell) -> dict[str, Any]:
    """Scalar parameters of a cell by column name; those that are not set have no column."""
    found = {}
    for section in ("data", "model", "train", "retrain", "evaluate", "compute"):
        for key, value in getattr(cell, section).model_dump().items():
            if value is not None and not isinstance(value, tuple):
                found[column_name(section, key)] = value
    return found


def _commit() -> str | None:
    """The commit of the checkout that this package was imported from, if it is one."""
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
    return found.stdout.strip() or None


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
    return {
        "gaunlearn": version("gaunlearn"),
        "commit": _commit(),
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
    }


def _clear(out: Path) -> None:
    """Remove a run's files, and nothing else, from its directory."""
    own = [out / "run.json", out / "spec.toml", *parts_directory(out).glob("*.parquet")]
    own += [path for path in (out / "report").glob("*") if path.suffix in {".png", ".svg"}]
    for path in own:
        path.unlink(missing_ok=True)


def run_sweep(
    sweep: Sweep,
    out: Path,
    *,
    fresh: bool = False,
    allow_faulty_jax: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Run:
    """Run what is not finished yet; each block is stored as soon as it is done.

    Args:
        out: the run's directory, made if need be.
        fresh: remove what is there and begin anew.
        allow_faulty_jax: go on although a canary failed; the provenance says so.
        progress: called whenever a stage begins and a block ends.

    Raises:
        SpecError: the directory cannot be written, or holds trials of another specification.
        FaultyJaxError: a canary failed.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SpecError(f"{out}: cannot be written: {error.strerror}") from None
    if fresh:
        _clear(out)
    blocks = list(plan_blocks(sweep))
    done = finished_parts(out)
    stray = sorted(done - {block.key for block in blocks})
    if stray:
        raise SpecError(
            f"{out}: holds trials of another specification (trials/{stray[0]}.parquet); "
            "give another --out, or --fresh to replace them"
        )
    total = sum(block.trials for block in blocks)
    finished = sum(block.trials for block in blocks if block.key in done)
    keys = [block.key for block in blocks]
    median = float("nan")
    if all(key in done for key in keys):
        _write_if_missing(out, sweep, keys, total)
        progress(Progress(total, total, "already finished", median))
        return load(out)

    provenance = _provenance(sweep, allow_faulty_jax)
    began = time.perf_counter()
    for block in blocks:
        if block.key in done:
            continue

        def report(stage: str, finished: int = finished, median: float = median) -> None:
            progress(Progress(finished, total, stage, median))

        rows = run_block(block, sweep.directory, report)
        write_part(
            out,
            block.key,
            [(columns, _parameters(cell)) for columns, cell in zip(rows, block.cells, strict=True)],
            provenance,
        )
        done.add(block.key)
        finished += block.trials
        epsilon = np.concatenate([columns["epsilon"] for columns in rows])
        median = float(np.nanmedian(epsilon)) if np.isfinite(epsilon).any() else float("nan")
        manifest = _manifest(sweep, [key for key in keys if key in done], total)
        manifest["provenance"] = provenance
        manifest["seconds"] = round(time.perf_counter() - began, 3)
        write_manifest(out, manifest, sweep.text)
        progress(Progress(finished, total, "stored", median))
    return load(out)


def _manifest(sweep: Sweep, parts: list[str], total: int) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "name": sweep.name,
        "question": sweep.question,
        "swept": [column_name(*axis) for axis in sweep.swept],
        "trials": total,
        "parts": parts,
    }


def _write_if_missing(out: Path, sweep: Sweep, keys: list[str], total: int) -> None:
    """A run that lost its manifest, or was planned differently, but has all its parts."""
    try:
        if load(out).manifest["parts"] == keys:
            return
    except ValueError:
        pass
    write_manifest(out, _manifest(sweep, keys, total), sweep.text)

"""The public functions of sweeps: run one, load what a run has stored."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from gaunlearn.sweep.cluster import recruiter
from gaunlearn.sweep.runner import Progress, run_sweep
from gaunlearn.sweep.spec import load_spec
from gaunlearn.sweep.store import Run, TooLargeError, load

__all__ = ["Run", "load", "run"]


def run(
    spec: str | Path,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    shard: tuple[int, int] = (0, 1),
    fresh: bool = False,
    allow_faulty_jax: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
    cluster: str | None = None,
    gpus_per_task: float | None = None,
    cpus_per_task: float | None = None,
) -> Run:
    """Run a sweep, or what is left of it, and draw its figure.

    Args:
        spec: a TOML specification (README, *Specifications*).
        out: the run's directory, or a URI that pyarrow knows; ``results/<name>`` by default.
            Trials of the specification that are stored in it are kept.
        overrides: values to replace in the specification, such as "data.d=2000".
        shard: (i, n) runs the i-th of n parts, counted from 0.
        fresh: replace what is there.
        allow_faulty_jax: run even if this JAX fails a canary (``gaunlearn doctor``).
        progress: called when a stage begins and when a block of trials has been stored.
        cluster: have it computed by a Ray cluster: HOST:PORT of its head, "auto" (the one that this
            machine is a node of) or "local" (one on this machine, as long as the run lasts).
        gpus_per_task: GPUs of each of its workers, such as 1 or 0.5; None for workers on CPUs.
        cpus_per_task: cores of each of them; by default 2, or 1 beside a GPU.

    Returns:
        The run; ``to_pandas()`` has its trials, ``path`` its directory.

    Raises:
        ValueError: (a SpecError) the specification, the directory or the cluster is wrong: one line
            with file, key, value and what is allowed.
        RuntimeError: (a FaultyJaxError) this JAX computes wrong results; (a RunFailedError) the
            disk is full, a trial does not fit into memory, or the cluster has no workers left.
    """
    sweep = load_spec(spec, overrides)
    done = run_sweep(
        sweep,
        Path("results") / sweep.name if out is None else out,
        fresh=fresh,
        shard=shard,
        allow_faulty_jax=allow_faulty_jax,
        progress=progress,
        recruit=recruiter(cluster, gpus_per_task, cpus_per_task),
    )
    with suppress(TooLargeError):
        # Matplotlib takes a second to import: not before the trials are done.
        from gaunlearn.report.figures import draw

        draw(done)
    return done

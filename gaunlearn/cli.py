"""The command line: parse, call, report on the terminal, exit status.

0: done. 1: something failed and is named. 2: the specification or the call is wrong.
130: interrupted.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gaunlearn",
        description="How well does gradient ascent unlearn? Runs seeded train, ascend, retrain "
        "trials, certifies each and stores them as Parquet.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a sweep, or what is left of it")
    run.add_argument("spec", type=Path, help="a TOML specification, such as sweeps/step_size.toml")
    run.add_argument("--out", type=Path, help="the run's directory (default results/NAME)")
    how = run.add_mutually_exclusive_group()
    how.add_argument(
        "--resume", action="store_true", help="keep what is finished there (the default)"
    )
    how.add_argument("--fresh", action="store_true", help="replace what is there")
    run.add_argument(
        "--allow-faulty-jax", action="store_true", help="run even if JAX fails a canary"
    )
    report = commands.add_parser("report", help="draw a run's figure and print its summary")
    report.add_argument("run_dir", type=Path, help="a run's directory")
    commands.add_parser("doctor", help="check that JAX computes correctly here")
    return parser


class _Reporter:
    """Progress on the terminal: one live line where it is one, otherwise a line a block."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.began = time.perf_counter()
        self.console = Console(stderr=True, highlight=False)
        self.bar = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} trials"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("starting", total=None, note="")

    def __enter__(self) -> "_Reporter":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, progress) -> None:
        known = progress.median_epsilon == progress.median_epsilon
        note = f"median epsilon {progress.median_epsilon:.3g}" if known else ""
        self.bar.update(
            self.task,
            total=progress.total,
            completed=progress.done,
            description=progress.stage,
            note=note,
        )
        if not self.console.is_terminal and progress.stage in ("stored", "already finished"):
            seconds = time.perf_counter() - self.began
            self.console.print(
                f"{progress.done} of {progress.total} trials, {seconds:.0f} s {note}".rstrip(),
                soft_wrap=True,
            )


def _print_run(run, files: Sequence[Path]) -> None:
    from gaunlearn.report.summary import summarise

    print("\n".join(summarise(run)))
    print(f"data: {run.path}/trials")
    for file in files:
        print(f"figure: {file}")


def _run(args: argparse.Namespace) -> int:
    from gaunlearn.report.figures import draw
    from gaunlearn.sweep.runner import run_sweep
    from gaunlearn.sweep.spec import load_spec

    sweep = load_spec(args.spec)
    out = Path("results") / sweep.name if args.out is None else args.out
    with _Reporter() as reporter:
        run = run_sweep(
            sweep,
            out,
            fresh=args.fresh,
            allow_faulty_jax=args.allow_faulty_jax,
            progress=reporter,
        )
    _print_run(run, draw(run))
    return 0


def _report(args: argparse.Namespace) -> int:
    from gaunlearn.report.figures import draw
    from gaunlearn.sweep.store import load

    run = load(args.run_dir)
    _print_run(run, draw(run))
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from gaunlearn.doctor import examine, versions

    print(", ".join(f"{name} {number}" for name, number in versions().items()))
    findings = examine()
    for finding in findings:
        verdict = "well" if finding.well else "ILL"
        print(f"{verdict:4}  {finding.device}: {finding.canary} ({finding.detail})")
    ill = sum(not finding.well for finding in findings)
    if ill:
        print(f"{ill} canaries failed: results of this JAX cannot be trusted; install another")
    return 1 if ill else 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "report": _report,
    "doctor": _doctor,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = _parser().parse_args(arguments)
    try:
        return _COMMANDS[args.command](args)
    except ValueError as error:
        # SpecError and RunError are the user's to mend; any other ValueError is a bug and shows.
        from gaunlearn.sweep.spec import SpecError
        from gaunlearn.sweep.store import RunError

        if not isinstance(error, SpecError | RunError):
            raise
        print(f"gaunlearn: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        from gaunlearn.sweep.runner import FaultyJaxError

        if not isinstance(error, FaultyJaxError):
            raise
        print(f"gaunlearn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "gaunlearn: interrupted; what was stored is kept, run again to go on", file=sys.stderr
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""The command line: parse, call, report on the terminal, exit status.

0: done. 1: something failed and is named. 2: the specification or the call is wrong.
130 and 143: ended by Ctrl-C or SIGTERM.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["main"]


def _count(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 0 or more")


def _shard(text: str) -> tuple[int, int]:
    part, slash, count = text.partition("/")
    if slash and part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count):
        return int(part) - 1, int(count)
    raise argparse.ArgumentTypeError(f"{text!r} must be i/n with 1 <= i <= n, such as 2/8")


def _positive(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} must be a positive number, such as 1 or 0.5")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gaunlearn",
        description="How well does gradient ascent unlearn? Runs seeded train, ascend, retrain "
        "trials, certifies each and stores them as Parquet.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def of_spec(name: str, explanation: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=explanation)
        command.add_argument(
            "spec", type=Path, help="a TOML specification, such as sweeps/step_size.toml"
        )
        command.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="SECTION.KEY=VALUE",
            help="replace a value of the specification; may be given several times",
        )
        return command

    run = of_spec("run", "run a sweep, or what is left of it")
    run.add_argument("--out", help="the run's directory or URI (default results/NAME)")
    run.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="I/N", help="run the I-th of N parts only"
    )
    how = run.add_mutually_exclusive_group()
    how.add_argument(
        "--resume", action="store_true", help="keep what is finished there (the default)"
    )
    how.add_argument("--fresh", action="store_true", help="replace what is there")
    run.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="have workers of a Ray cluster compute it: HOST:PORT of the head, auto (the cluster "
        "that this machine is a node of) or local (one on this machine, as long as the run lasts)",
    )
    run.add_argument(
        "--gpus-per-task",
        type=_positive,
        metavar="N",
        help="GPUs of each worker, such as 1 or 0.5 (without it workers compute on CPUs)",
    )
    run.add_argument(
        "--cpus-per-task", type=_positive, metavar="N", help="CPU cores of each worker (2, or 1)"
    )
    run.add_argument(
        "--allow-faulty-jax", action="store_true", help="run even if JAX fails a canary"
    )
    of_spec("plan", "say what a sweep would run and what it would cost, and run nothing")
    report = commands.add_parser(
        "report", help="draw a run's figures, write its page and print its summary"
    )
    report.add_argument("run_dir", help="a run's directory or URI")
    for option, what in (
        ("x", "draw one figure only: this column along its first axis"),
        ("y", "a second axis: a heat map in place of lines"),
        ("value", "the column that is shown (epsilon, or what the run looks for)"),
        ("facet", "a column: a panel or a line for each of its values"),
    ):
        report.add_argument(f"--{option}", metavar="COLUMN", help=what)
    listing = commands.add_parser("list", help="the shipped sweeps and their questions")
    listing.add_argument(
        "directory", type=Path, nargs="?", help="another directory of specifications"
    )
    verify = commands.add_parser(
        "verify", help="recompute trials of a run from their own rows and compare"
    )
    verify.add_argument("run_dir", help="a run's directory or URI")
    verify.add_argument(
        "--sample", type=_count, default=24, metavar="N", help="how many trials (24); 0 is all"
    )
    verify.add_argument(
        "--trial", action="append", metavar="ID", help="this trial instead; may be given repeatedly"
    )
    verify.add_argument(
        "--directory",
        type=Path,
        help="where the specification's relative paths start, if it has moved since",
    )
    verify.add_argument(
        "--any-version", action="store_true", help="compare although this is another version"
    )
    commands.add_parser("doctor", help="check that JAX computes correctly here")
    return parser


class _Reporter:
    """Progress on the terminal: one live line where it is one, otherwise a line now and then."""

    # Seconds between two lines where the output is a file or a pipe.
    _QUIET_S = 10.0

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.began = time.perf_counter()
        self.console = Console(stderr=True, highlight=False)
        self.bar = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("starting", total=None, count="", note="")
        self.first: int | None = None
        self.last_line = self.began

    def __enter__(self) -> "_Reporter":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, progress) -> None:
        now = time.perf_counter()
        self.first = progress.done if self.first is None else self.first
        notes = []
        if progress.done > self.first:
            notes.append(f"{(progress.done - self.first) / (now - self.began):.3g} trials/s")
        if progress.seconds_left == progress.seconds_left and progress.done < progress.total:
            notes.append(f"{_duration(progress.seconds_left)} left")
        if progress.median_epsilon == progress.median_epsilon:
            notes.append(f"median epsilon {progress.median_epsilon:.3g}")
        self.bar.update(
            self.task,
            total=progress.total,
            completed=progress.done,
            description=progress.stage,
            count=f"{progress.done} of {progress.total} trials",
            note=", ".join(notes),
        )
        if progress.notice:
            self.console.print(progress.notice, soft_wrap=True)
        last = progress.done == progress.total
        due = last or now - self.last_line > self._QUIET_S
        if (
            not self.console.is_terminal
            and progress.stage in ("stored", "already finished")
            and due
        ):
            self.last_line = now
            done = f"{progress.done} of {progress.total} trials, {now - self.began:.0f} s"
            self.console.print(", ".join([done, *notes]), soft_wrap=True)


def _duration(seconds: float) -> str:
    """Rounded, for a reader: 8 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.1f} days"


def _print_run(run, files: Sequence[str]) -> None:
    from gaunlearn.report.summary import summarise

    print("\n".join(summarise(run)))
    print(f"data: {run.path}/trials")
    for file in files:
        print(f"figure: {file}")


def _run(args: argparse.Namespace) -> int:
    from gaunlearn.sweep.cluster import recruiter
    from gaunlearn.sweep.machine import keep_compiled
    from gaunlearn.sweep.processes import asked_for, join
    from gaunlearn.sweep.runner import run_sweep
    from gaunlearn.sweep.sections import SpecError
    from gaunlearn.sweep.spec import load_spec
    from gaunlearn.sweep.store import TooLargeError

    sweep = load_spec(args.spec, args.overrides)
    out = str(Path("results") / sweep.name) if args.out is None else args.out
    recruit = recruiter(args.cluster, args.gpus_per_task, args.cpus_per_task)
    processes = None
    if recruit is not None and asked_for() is not None:
        raise SpecError("--cluster: is started once, not by each of several processes")
    if recruit is None:
        processes = join()
        keep_compiled()
    leads = processes is None or processes.index == 0
    with _Reporter() if leads else nullcontext(lambda progress: None) as reporter:
        run = run_sweep(
            sweep,
            out,
            fresh=args.fresh,
            shard=args.shard,
            allow_faulty_jax=args.allow_faulty_jax,
            progress=reporter,
            recruit=recruit,
            processes=processes,
        )
    if leads:
        # Matplotlib takes a second to import: not before the trials are done.
        from gaunlearn.report.figures import draw

        try:
            _print_run(run, draw(run))
        except TooLargeError as error:
            print(f"data: {run.path}/trials\nno figure: {error}")
    return 0


def _plan(args: argparse.Namespace) -> int:
    from gaunlearn.sweep import machine
    from gaunlearn.sweep.adaptive import first_trials
    from gaunlearn.sweep.plan import Limits, largest_memory, survey
    from gaunlearn.sweep.spec import load_spec

    sweep = load_spec(args.spec, args.overrides)
    found = survey(sweep)
    print(f"{sweep.name}: {sweep.question}" if sweep.question else sweep.name)
    for axis in sweep.grid.axes:
        names = " with ".join(".".join(name) for name in axis.names)
        print(f"  axis {names}: {len(axis.points)} values")
    if sweep.border is not None:
        first = first_trials(sweep, sweep.border)
        budget = sweep.border.budget or found.trials
        print(f"looks for the border of {sweep.border.predicate!r}, beginning with {first} trials")
        print(f"runs at most {min(budget, found.trials)} of the full grid's; that has")
    print(f"{found.trials} trials (evaluations) of {found.trainings} trainings and ", end="")
    print(f"{found.retrainings} retrainings")
    print(
        f"{len(found.programs)} programs to train and {found.evaluation_programs} to evaluate have "
        "to be compiled, for"
    )
    for program in sorted(found.programs, key=str):
        room, setup = program.room, program.setup
        source = program.law[0] if program.law else "data as given"
        print(
            f"  m up to {room.samples}, n up to {room.neurons}: {source}, "
            f"{setup.model.name}, {setup.optimizer}, {program.dtype}"
        )
    limits = Limits(speed=machine.speed(), memory=0.4 * machine.free_memory())
    print(
        f"memory: up to {largest_memory(sweep, found, limits) / 2**20:.3g} MiB for what a block "
        f"keeps, and {machine.batch_memory() / 2**20:.3g} MiB for its batches"
    )
    print(
        f"estimated time on two cores: {_duration(found.seconds)}, and "
        f"{_duration(found.compilation_seconds)} of compilation"
    )
    return 0


def _list(args: argparse.Namespace) -> int:
    from gaunlearn.sweep.spec import question_of

    # Beside the package in a checkout; where the wheel puts its data otherwise.
    beside = Path(__file__).resolve().parent.parent / "sweeps"
    installed = Path(sys.prefix) / "share" / "gaunlearn" / "sweeps"
    directory = args.directory or (beside if beside.is_dir() else installed)
    files = sorted(path for path in directory.glob("*.toml") if path.is_file())
    if not files:
        print(f"gaunlearn: {directory}: holds no specifications (*.toml)", file=sys.stderr)
        return 2
    for file in files:
        question, mark, _ = question_of(file).partition("?")
        print(f"{file}\n    {question}{mark}")
    return 0


def _report(args: argparse.Namespace) -> int:
    from gaunlearn.report.figures import View, draw
    from gaunlearn.sweep.parts import RunError
    from gaunlearn.sweep.store import load

    view = None
    if args.x is not None:
        view = View(args.x, args.y, args.value, args.facet)
    elif args.y or args.value or args.facet:
        raise RunError("--y, --value and --facet say what is drawn along --x: give that too")
    run = load(args.run_dir)
    _print_run(run, draw(run, view))
    if view is None:
        from gaunlearn.report.page import write_page

        page = write_page(run)
        if page is not None:
            print(f"report: {page}")
    return 0


def _difference(found) -> str:
    """One cell of the table of differences."""
    if found is None:
        return f"{'':>14}"
    shown = f"{found.relative:.0e}" if found.relative else f"< {found.floor:.0e} abs."
    shown = "=" if found.bitwise else shown
    return f"{'BROKEN ' * bool(found.broken) + shown:>14}"


def _verify(args: argparse.Namespace) -> int:
    from gaunlearn.sweep.findings import write_verification
    from gaunlearn.sweep.machine import keep_compiled
    from gaunlearn.sweep.place import StorageError
    from gaunlearn.sweep.provenance import commit_of_code
    from gaunlearn.sweep.store import load
    from gaunlearn.sweep.verify import MOST_PAIRS, verify_run

    keep_compiled()
    run = load(args.run_dir, missing_parts=True)
    verdict = verify_run(
        run,
        sample=args.sample or None,
        trials=args.trial,
        commit=commit_of_code(),
        any_version=args.any_version,
        directory=args.directory,
    )
    batch, alone, reference = verdict.trials
    print(f"{batch} trials in batches, {alone} of them alone, {reference} by NumPy and SciPy")
    if reference < batch:
        print(
            "the reference in NumPy and SciPy takes no deep networks, and none of more than "
            f"{MOST_PAIRS} (neuron, sample) pairs"
        )
    if verdict.ambiguous:
        print(
            f"{verdict.ambiguous} of them have multipliers that are not unique (samples depend on "
            "each other): they are compared to 1e-3"
        )
    if verdict.stored < verdict.planned:
        print(f"unfinished: {verdict.stored} of {verdict.planned} trials are stored")
    ways = ("in a batch", "alone", "NumPy")
    found = {(d.column, d.way): d for d in verdict.differences}
    print(
        "largest difference from what is stored, relative to the value, or absolute where it is "
        "too small to count; = is equal bit by bit"
    )
    print(f"{'column':26}" + "".join(f"{way:>14}" for way in ways))
    for column in dict.fromkeys(d.column for d in verdict.differences):
        print(f"{column:26}" + "".join(_difference(found.get((column, way))) for way in ways))
    for line in verdict.misplaced:
        print(line)
    for name in verdict.changed:
        print(f"trial {name}: its row gives another trial: its data or definitions have changed")
    broken = sorted({name for found in verdict.differences for name in found.broken})
    for name in broken:
        columns = [d.column for d in verdict.differences if name in d.broken]
        print(f"trial {name}: differs in {', '.join(dict.fromkeys(columns))}")
    print("the contract holds" if verdict.holds else "the contract is BROKEN")
    if args.trial is None:
        about = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "holds": verdict.holds,
            "trials": list(verdict.trials),
            "stored": verdict.stored,
            "planned": verdict.planned,
        }
        with suppress(StorageError):  # others' runs may be read only
            write_verification(run.place, about)
    return 0 if verdict.holds else 1


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
    "plan": _plan,
    "report": _report,
    "list": _list,
    "verify": _verify,
    "doctor": _doctor,
}


@contextmanager
def _ended_by_signals(how_to_go_on: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process at once, with a message.

    A KeyboardInterrupt would wait for XLA to compile or compute, may be lost in one of its
    callbacks, and ends with a crash where it unwinds its threads. Nothing needs to be unwound:
    files are whole whenever a process ends (``sweep.store``).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    words: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
    # A background job of a shell starts with SIGINT ignored, and it stays so.
    ours = [number for number in words if signal.getsignal(number) is not signal.SIG_IGN]

    def watch() -> None:
        while received := os.read(reading, 1):
            if received[0] in ours:
                show_cursor = "\x1b[?25h\n" if os.isatty(2) else ""
                text = f"{show_cursor}gaunlearn: {words[received[0]]}{how_to_go_on}\n"
                os.write(2, text.encode())
                os._exit(128 + received[0])

    watcher = threading.Thread(target=watch, daemon=True)
    before = {number: signal.signal(number, lambda *_: None) for number in ours}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)
        watcher.join()
        os.close(reading)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    # Before JAX is imported. XLA logs an error for every program that it takes from its cache.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    args = _parser().parse_args(arguments)
    try:
        stored = "; what was stored is kept, run again to go on" if args.command == "run" else ""
        with _ended_by_signals(stored):
            status = _COMMANDS[args.command](args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Who read our output, such as `head`, has gone; Python would fail on it again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ValueError as error:
        # SpecError and RunError are the user's to mend; any other ValueError is a bug and shows.
        from gaunlearn.sweep.parts import RunError
        from gaunlearn.sweep.sections import SpecError

        if not isinstance(error, SpecError | RunError):
            raise
        print(f"gaunlearn: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        from gaunlearn.sweep.place import StorageError
        from gaunlearn.sweep.runner import FaultyJaxError, RunFailedError

        if not isinstance(error, FaultyJaxError | RunFailedError | StorageError):
            raise
        print(f"gaunlearn: {error}", file=sys.stderr)
        return 1

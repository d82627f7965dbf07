"""What computes the blocks of a run and stores them: a process with its devices.

``Worker`` is one such process, wherever it is; ``Alone`` is the crew of a run in this process. A
run hands blocks to a crew and is handed receipts: parts themselves never pass through it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gaunlearn.sweep import machine
from gaunlearn.sweep.execute import Results, run_block
from gaunlearn.sweep.identity import digest, forget_name
from gaunlearn.sweep.lanes import forget_capacities
from gaunlearn.sweep.parts import Completed, write_part
from gaunlearn.sweep.place import Place
from gaunlearn.sweep.plan import BLOCK_S, Block, Limits, Load, split_block
from gaunlearn.sweep.provenance import provenance_of
from gaunlearn.sweep.resume import claims_of
from gaunlearn.sweep.rows import rows_of, training_id
from gaunlearn.sweep.store import NetworkName, Weights
from gaunlearn.sweep.tally import counts_of
from gaunlearn.sweep.weights import write_weights

__all__ = ["Alone", "Crew", "Job", "Receipt", "RunFailedError", "Worker"]


class RunFailedError(RuntimeError):
    """A run that had to stop; the message is one line that says why. What was stored stays."""


class Job(NamedTuple):
    """What the workers of a run have to know; plain values, to be sent to other machines.

    Attributes:
        out: ``Place.uri`` of the run's directory.
        text: of the specification.
        directory: what relative paths in it refer to.
        started: when the run began.
        keep_weights: store trained networks too.
        allow_faulty_jax: work although a canary fails.
    """

    out: str
    text: str
    directory: Path
    started: str
    keep_weights: bool
    allow_faulty_jax: bool


class Receipt(NamedTuple):
    """That a part is stored, and what a run wants to know of it: some hundred bytes.

    Attributes:
        key: the part's.
        completed: what it holds.
        seconds: what it was estimated to take on two cores.
        utilisation: of training lanes.
        epsilons: ``tally.counts_of`` its trials' epsilons.
        steps_by: what took the steps of training.
        is_preview: whether programs were made for it that others do not need.
    """

    key: str
    completed: Completed
    seconds: float
    utilisation: float
    epsilons: Counter[int]
    steps_by: str = "XLA"
    is_preview: bool = False


class Crew(Protocol):
    """One worker or many."""

    def limits(self, seconds: float) -> Limits:
        """How large a block may be, once it has started.

        Args:
            seconds: what is left is estimated to take on two cores.
        """

    @property
    def speed(self) -> float:
        """Of all together, in units of two cores."""

    @property
    def workers(self) -> int:
        """How many there are."""

    def start(self, job: Job, notice: Callable[[str], None]) -> dict[str, Any]:
        """Make ready, unless it is.

        Args:
            notice: told what the user should know; also nothing, "", now and then while others
                work: it raises KeyboardInterrupt if that was asked for.

        Returns:
            The provenance of what will be computed (of the first worker's).

        Raises:
            SpecError: it cannot work: the message is for the user.
            FaultyJaxError: a canary failed.
        """

    def run(self, blocks: Iterator[Block], commit: Callable[[Receipt], None]) -> None:
        """Compute and store blocks; ``commit`` is called for each part that is stored.

        Raises:
            RunFailedError: it has to stop.
            StorageError: a part cannot be written.
        """

    def stop(self) -> None:
        """Let nobody of it write any more."""


class Worker:
    """Computes blocks with this process's devices, and stores what they come to.

    Args:
        place: the run's directory.
        report: called with the name of each stage as it begins.
        check: called before anything is written; raises if it is not to be.
    """

    def __init__(
        self,
        job: Job,
        place: Place,
        report: Callable[[str], None] = lambda stage: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.job, self.place, self.report, self.check = job, place, report, check
        self.provenance = provenance_of(job.text, job.directory, job.started, job.allow_faulty_jax)
        self.batch_pairs = machine.batch_pairs()

    def compute(self, block: Block) -> Iterator[tuple[Block, Results]]:
        """Run a block; in smaller batches, then in smaller blocks, if memory is short."""
        machine.drop_programs_if_crowded()
        pairs = block.program.room.neurons * block.program.room.samples
        try:
            results = run_block(
                block,
                self.job.directory,
                self.batch_pairs,
                self.report,
                keep_weights=self.job.keep_weights,
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
        parts = split_block(block, self.job.directory)
        if len(parts) == 1:
            raise RunFailedError(
                f"a trial with m = {block.program.room.samples} and n = "
                f"{block.program.room.neurons} does not fit into memory; what was stored is kept"
            )
        for part in parts:
            yield from self.compute(part)

    def store(self, block: Block, results: Results, networks: set[NetworkName]) -> Receipt:
        """Write a block's files.

        Args:
            networks: names of those that are stored, of which none is written again, if the run
                keeps networks; it is added to.
        """
        directory = self.job.directory
        rows = rows_of(block, results, directory)
        claims = [claim for family in block.families for claim in claims_of(family, directory)]
        self.check()
        if self.job.keep_weights:
            self.store_networks(block, results, networks)
        write_part(
            self.place,
            block.key,
            rows.columns,
            rows.parameters,
            rows.owner,
            claims,
            self.provenance | {"training_steps": results.steps_by},
        )
        return Receipt(
            block.key,
            Completed.of(claims),
            Load.total(block.families).seconds(block.program),
            results.utilisation,
            counts_of(rows.columns["epsilon"]),
            results.steps_by,
            block.is_preview,
        )

    def store_networks(self, block: Block, results: Results, stored: set[NetworkName]) -> None:
        """Write those that are not stored yet: blocks may share trainings."""
        new = {}
        for network in results.networks:
            weights = Weights(
                training_id=training_id(block.families[network.family], self.job.directory),
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
            write_weights(self.place, digest(list(new)), new.values())
            stored.update(new)


class Alone:
    """The crew of a run in one process: the main thread computes; others plan the next block and
    turn the last one's results into files.
    """

    def __init__(
        self, place: Place, networks: set[NetworkName], report: Callable[[str], None]
    ) -> None:
        self._place, self._networks, self._report = place, networks, report
        self._has_run = False

    @property
    def speed(self) -> float:
        """Of this process's devices."""
        return machine.speed()

    @property
    def workers(self) -> int:
        """This process."""
        return 1

    def limits(self, seconds: float) -> Limits:
        """By the devices' speed and what memory is free now. Before several blocks comes a preview:
        there is something to see soon.
        """
        speed = machine.speed()
        several = seconds > BLOCK_S * speed
        return Limits(
            speed=speed,
            memory=0.4 * machine.free_memory(),
            preview=several and not self._has_run,
        )

    def start(self, job: Job, notice: Callable[[str], None]) -> dict[str, Any]:
        """See ``Crew``."""
        self._worker = Worker(job, self._place, self._report)
        return self._worker.provenance

    def run(self, blocks: Iterator[Block], commit: Callable[[Receipt], None]) -> None:
        """See ``Crew``; commits in the thread that writes."""
        self._has_run = True

        def store(piece: Block, results: Results) -> None:
            commit(self._worker.store(piece, results, self._networks))

        # One thread writes what the other has computed; at most one block waits between them.
        with ThreadPoolExecutor(max_workers=1) as writer:
            pending: Future[None] | None = None
            for block in _ahead(blocks):
                for piece, results in self._worker.compute(block):
                    if pending is not None:
                        pending.result()
                    pending = writer.submit(store, piece, results)
            if pending is not None:
                pending.result()

    def stop(self) -> None:
        """Nobody is left when ``run`` returns."""


def _ahead(blocks: Iterator[Block]) -> Iterator[Block]:
    """The same blocks, each planned while the one before it is computed."""
    with ThreadPoolExecutor(max_workers=1) as planner:
        coming = planner.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = planner.submit(next, blocks, None)
            yield block

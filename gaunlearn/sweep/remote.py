"""A worker's process on a cluster: what it needs, what it says of itself, and what it does.

The only file whose objects are sent to other machines; JAX's devices are used here and not by the
driver (``cluster``).
"""

import os
import socket
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from gaunlearn.sweep import machine
from gaunlearn.sweep.execute import Results
from gaunlearn.sweep.lock import holds_token
from gaunlearn.sweep.place import Place, StorageError
from gaunlearn.sweep.plan import Block, key_of
from gaunlearn.sweep.provenance import FaultyJaxError, identity_of_code
from gaunlearn.sweep.sections import SpecError
from gaunlearn.sweep.worker import Job, Receipt, RunFailedError, Worker

__all__ = ["ARRIVED", "BLOCKS_AT_A_TIME", "Ability", "Demand", "RemoteWorker", "Stopped", "Unfit"]

# What a worker says when its process is there.
ARRIVED = "here"
# Blocks that a worker has at a time: one is computed while the one before it is stored.
BLOCKS_AT_A_TIME = 2


@dataclass(frozen=True)
class Demand:
    """What Ray is to reserve for a worker.

    Attributes:
        gpus: may be a fraction of 1; 0 for workers that compute on CPUs.
        cpus: cores; of a worker on CPUs also those that it uses.

    Raises:
        SpecError: Ray divides nothing so.
    """

    gpus: float = 0.0
    cpus: float = 2.0

    def __post_init__(self) -> None:
        for name, number in (("gpus", self.gpus), ("cpus", self.cpus)):
            if number and not (0.01 <= number <= 1 or float(number).is_integer()):
                raise SpecError(
                    f"--{name}-per-task {number:g}: must be a whole number, or 0.01 to 1"
                )

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU"]
        return " and ".join(parts + ([f"{self.gpus:g} GPU"] if self.gpus else []))

    def fits(self, resources: dict[str, float]) -> int:
        """How many of it a node has room for."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return int(min(resources.get(k, 0.0) / n + 1e-9 for k, n in wanted.items() if n))

    def settle_in(self) -> None:
        """Let JAX use no more than this in this process; before it looks for devices.

        Ray could set a process's environment too, but needs an agent on each node for it.
        """
        if not self.gpus:
            # Ray shows a worker no GPU that it has not asked for; XLA has NPROC threads.
            jax.config.update("jax_platforms", "cpu")
            os.environ["NPROC"] = str(max(1, int(self.cpus)))
        elif self.gpus < 1:
            os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * self.gpus:.3f}"


def _node(host: str, process: int) -> str:
    return f"{host}, process {process}"


class Ability(NamedTuple):
    """What a worker says of itself when it is ready.

    Attributes:
        host, process: where it is.
        speed: of its devices, in units of two cores.
        memory: bytes that are free on each.
        provenance: of what it will compute.
    """

    host: str
    process: int
    speed: float
    memory: float
    provenance: dict[str, Any]

    @property
    def node(self) -> str:
        """Where it is, for its user."""
        return _node(self.host, self.process)


class Unfit(NamedTuple):
    """Why a worker cannot work; a line for the user.

    Attributes:
        faulty_jax: a canary failed.
    """

    reason: str
    faulty_jax: bool = False


class Stopped(NamedTuple):
    """Why a block was not stored; a line for the user. Others may fare better, or not."""

    reason: str
    for_good: bool


class RemoteWorker:
    """A worker's process. Two blocks may be in it: one is stored while the next is computed."""

    def __init__(self, demand: Demand, cache: str | None) -> None:
        self._computing = threading.Lock()
        self._demand = demand
        demand.settle_in()
        if cache is not None:
            os.environ["GAUNLEARN_CACHE"] = cache

    def arrive(self) -> str:
        """The process is there, and could import all this."""
        return ARRIVED

    def stay(self) -> None:
        """Does not return: that this fails says that the process has ended."""
        threading.Event().wait()

    def prepare(self, job: Job, token: str, code: dict[str, str]) -> Ability | Unfit:
        """Look at where one is, before any block comes."""
        host, process = socket.gethostname(), os.getpid()
        node = _node(host, process)
        differing = [
            f"{name} is {own} there and {code.get(name)} here"
            for name, own in identity_of_code().items()
            if own != code.get(name)
        ]
        if differing:
            return Unfit(
                f"the worker on {node} runs other code: {'; '.join(differing)}; install the same "
                "on all nodes, and start Ray from there"
            )
        machine.keep_compiled()
        self._token, self._node = token, node
        try:
            self._place = Place.of(job.out)
            if not holds_token(self._place, token):
                return Unfit(
                    f"the worker on {node} does not see what the driver has written to {job.out}: "
                    "--out has to be on a file system that all nodes share, or an object store's "
                    "URI"
                )
            self._place.make()
        except StorageError as error:
            return Unfit(f"the worker on {node} cannot write: {error}")
        platform = jax.local_devices()[0].platform
        if self._demand.gpus and platform == "cpu":
            return Unfit(
                f"the worker on {node} has been given {self._demand.gpus:g} GPU, but JAX finds "
                "none there: install JAX's build for it, or give no --gpus-per-task"
            )
        try:
            self._worker = Worker(job, self._place, check=self._check)
        except FaultyJaxError as error:
            return Unfit(f"the worker on {node}: {error}", faulty_jax=True)
        return Ability(
            host, process, machine.speed(), machine.free_memory(), self._worker.provenance
        )

    def work(self, block: Block) -> list[Receipt] | Stopped:
        """Compute and store a block."""
        if key_of(block.families, self._worker.job.directory) != block.key:
            return Stopped(
                f"data that the specification names differ on {self._node} from those on the "
                "driver's machine: files have to be the same on all nodes",
                for_good=True,
            )
        try:
            with self._computing:
                done = list(self._worker.compute(block))
            return [self._store(piece, results) for piece, results in done]
        except (RunFailedError, SpecError) as error:
            return Stopped(str(error), for_good=True)
        except StorageError as error:
            return Stopped(str(error), for_good=False)

    def _check(self) -> None:
        if not holds_token(self._place, self._token):
            raise RunFailedError(f"{self._place}: another process has taken over this run")

    def _store(self, block: Block, results: Results) -> Receipt:
        # Which networks others have stored is not known here: each block stores its own.
        return self._worker.store(block, results, set())

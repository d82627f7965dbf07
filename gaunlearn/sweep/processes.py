"""Several processes that run one sweep together, each its share on its own devices: the hosts of a
TPU pod, the tasks of an ``srun`` or an ``mpirun``.

Nothing is computed across them: they agree on who does what, wait for each other, and write to one
directory, as shards do.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from gaunlearn.sweep.sections import SpecError
from gaunlearn.sweep.worker import RunFailedError

__all__ = ["OthersFailedError", "Processes", "join"]

# JAX's own names.
_OWN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Set by launchers that start several processes at once; JAX finds the rest by itself.
_LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# The hosts of a TPU pod, with commas between them.
_TPU_HOSTS = "TPU_WORKER_HOSTNAMES"
# How long processes wait until all of them are there.
_START_S = 300


class OthersFailedError(RunFailedError):
    """Another process has failed, and says why."""


@dataclass(frozen=True)
class Processes:
    """This process among those that run together."""

    index: int
    count: int

    def take_turn(self, turn: Callable[[], None]) -> None:
        """Do one's own part of something, and wait until all have done theirs.

        Raises:
            OthersFailedError: somebody has failed; whoever has raises what went wrong.
        """
        try:
            turn()
        except OthersFailedError:
            raise
        except BaseException:
            self._all_well(False)
            raise
        if not self._all_well(True):
            raise OthersFailedError("another of the processes that run this together has failed")

    def wait(self) -> None:
        """Until all are here.

        Raises:
            OthersFailedError: somebody has failed.
        """
        self.take_turn(lambda: None)

    def of_first(self, array: np.ndarray) -> np.ndarray:
        """The first process's array, everywhere."""
        return np.asarray(multihost_utils.broadcast_one_to_all(array))

    def _all_well(self, well: bool) -> bool:
        return bool(np.asarray(multihost_utils.process_allgather(np.int32(well))).all())


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ[name]
    if not text.isdecimal():
        raise SpecError(f"{name} = {text!r} in the environment: must be a whole number")
    return int(text)


def _asked_for(environ: Mapping[str, str]) -> dict[str, str | int] | None:
    """Arguments of ``jax.distributed.initialize``; None if the environment asks for nothing.

    Raises:
        SpecError: it says only a part of what has to be known.
    """
    given = [name for name in _OWN if name in environ]
    if given:
        for name in _OWN:
            if name not in environ:
                raise SpecError(
                    f"{given[0]} is set in the environment, {name} is not: set all three"
                )
        count, index = (_number(environ, name) for name in _OWN[1:])
        if not index < count:
            raise SpecError(f"{_OWN[2]} = {index} in the environment: must be below {count}")
        return {
            "coordinator_address": environ[_OWN[0]],
            "num_processes": count,
            "process_id": index,
        }
    several = any(name in environ and _number(environ, name) > 1 for name in _LAUNCHERS)
    return {} if several or "," in environ.get(_TPU_HOSTS, "") else None


def join(environ: Mapping[str, str] = os.environ) -> Processes | None:
    """Meet the other processes, if the environment says that there are some; before JAX is used.

    That is so where ``JAX_COORDINATOR_ADDRESS`` (host:port of the first), ``JAX_NUM_PROCESSES`` and
    ``JAX_PROCESS_ID`` are set, in each task of an ``srun`` or ``mpirun`` that starts several, and
    on a TPU pod whose hosts ``TPU_WORKER_HOSTNAMES`` lists.

    Raises:
        SpecError: the environment contradicts itself, or the others do not come.
    """
    arguments = _asked_for(environ)
    if arguments is None or arguments.get("num_processes") == 1:
        return None
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=_START_S)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SpecError(f"the processes that are to run together do not meet: {reason}") from None
    return Processes(jax.process_index(), jax.process_count())

"""Several processes that run one sweep together, each its share on its own devices: the hosts of a
TPU pod, the tasks of an ``srun`` or an ``mpirun``.

Nothing is computed across them: they agree on who does what, wait for each other, and write to one
directory, as shards do.
"""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax._src import distributed
from jax.errors import JaxRuntimeError
from numpy.typing import NDArray

from gaunlearn.sweep.sections import SpecError
from gaunlearn.sweep.worker import RunFailedError

__all__ = ["OthersFailedError", "Processes", "asked_for", "join"]

# JAX's own names.
_OWN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Set by launchers that start several processes at once; JAX finds the rest by itself.
_LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# The hosts of a TPU pod, with commas between them.
_TPU_HOSTS = "TPU_WORKER_HOSTNAMES"
# How long processes wait until all of them are there.
_START_S = 300
# How long one listens before it looks whether somebody has failed.
_LISTEN_MS = 2000
# Before the names of what they tell each other.
_OURS = "gaunlearn"
_GONE = "the first of the processes that run this together cannot be reached any more"


class OthersFailedError(RunFailedError):
    """Another process has failed, and says why."""


@dataclass
class Processes:
    """This process among those that run together.

    They talk through the service by which JAX lets processes meet: unlike its collective operations
    that waits for as long as others take, and does not use devices.
    """

    index: int
    count: int
    turns: int = 0

    def take_turn(self, turn: Callable[[], None]) -> None:
        """Do one's own part of something, and wait until all have done theirs.

        Raises:
            OthersFailedError: somebody has failed; whoever has raises what went wrong.
        """
        self.turns += 1
        name = f"{_OURS}/done/{self.turns}"
        try:
            turn()
        except OthersFailedError:
            raise
        except BaseException:
            with suppress(JaxRuntimeError):
                _service().key_value_set(f"{_OURS}/failed/{self.index}", "failed")
            raise
        self._say(f"{name}/{self.index}", "done")
        for other in range(self.count):
            self._hear(f"{name}/{other}")

    def wait(self) -> None:
        """Until all are here.

        Raises:
            OthersFailedError: somebody has failed.
        """
        self.take_turn(lambda: None)

    def of_first(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The first process's choice, everywhere.

        Raises:
            OthersFailedError: it has failed.
        """
        self.turns += 1
        name = f"{_OURS}/chosen/{self.turns}"
        if self.index == 0:
            self._say(name, json.dumps(chosen.tolist()))
        return np.asarray(json.loads(self._hear(name)), bool)

    def _say(self, name: str, text: str) -> None:
        try:
            _service().key_value_set(name, text)
        except JaxRuntimeError:
            raise OthersFailedError(_GONE) from None

    def _hear(self, name: str) -> str:
        """What somebody says, however long it takes, unless somebody fails."""
        while True:
            try:
                return _service().blocking_key_value_get(name, _LISTEN_MS)
            except JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise OthersFailedError(_GONE) from None
            try:
                failed = _service().key_value_dir_get(f"{_OURS}/failed/")
            except JaxRuntimeError:
                raise OthersFailedError(_GONE) from None
            if failed:
                raise OthersFailedError(
                    "another of the processes that run this together has failed"
                )


def _service() -> Any:
    # JAX has no public name for it; Orbax and others use the same one.
    return distributed.global_state.client


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ[name]
    if not text.isdecimal():
        raise SpecError(f"{name} = {text!r} in the environment: must be a whole number")
    return int(text)


def asked_for(environ: Mapping[str, str] = os.environ) -> dict[str, str | int] | None:
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
    arguments = asked_for(environ)
    if arguments is None or arguments.get("num_processes") == 1:
        return None
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=_START_S)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SpecError(f"the processes that are to run together do not meet: {reason}") from None
    return Processes(jax.process_index(), jax.process_count())

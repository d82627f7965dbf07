"""The crew of a run on a Ray cluster: a warm worker for each device, on whatever node has one.

Ray places workers on nodes, starts them, notices when they die, and carries blocks to them and
receipts back; parts go from a worker straight to the run's directory. What is done twice is stored
once: a part is named by what it holds. So a block whose worker is lost is given to another one, and
near the end one that takes much longer than others is given to an idle worker too; the first
receipt counts. Workers are replaced, not restarted by Ray with their blocks (``max_restarts``,
``max_task_retries``): a block would wait for its own worker where there is no room for that, and
one that kills its worker would do so for ever.

Workers write while they hold the directory's token (``lock``).

Ray itself is imported by ``connection`` alone, where a cluster is asked for.
"""

import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from gaunlearn.sweep.connection import connect, last_line
from gaunlearn.sweep.lock import give_token, holds_token, take_token
from gaunlearn.sweep.place import Place, StorageError
from gaunlearn.sweep.plan import BLOCK_S, Block, Limits, Load
from gaunlearn.sweep.provenance import FaultyJaxError, identity_of_code
from gaunlearn.sweep.remote import (
    ARRIVED,
    BLOCKS_AT_A_TIME,
    Ability,
    Demand,
    RemoteWorker,
    Stopped,
    Unfit,
)
from gaunlearn.sweep.sections import SpecError
from gaunlearn.sweep.worker import Crew, Job, Receipt, RunFailedError

__all__ = ["Cluster", "on_cluster", "recruiter"]

# Seconds: for a cluster's workers to be ready; between two looks at what it has; without any worker
# before a run gives up.
_READY_S, _LOOK_S, _NOBODY_S = 90.0, 5.0, 600.0
# Seconds: of a wait for answers; for a process to prepare before it is replaced; to end.
_PAUSE_S, _PREPARE_S, _END_S = 0.5, 300.0, 10.0
# Workers that a block may lose before it is left undone.
_MOST_LOST = 3
# A block that takes so many times as long as others do, and so many seconds more, is a straggler;
# after so much longer its worker is taken for hung. The first block of a program is compiled.
_STRAGGLING, _STRAGGLING_S = 3.0, 20.0
_HUNG, _HUNG_S = 20.0, 900.0
# Blocks of a worker in a whole run, roughly: on a cluster a block may take longer than on one
# machine, so that there are fewer files, but not so long that workers wait for the last ones.
_BLOCKS_OF_A_WORKER, _MOST_PATIENCE = 200, 40.0


@dataclass(eq=False)
class _Task:
    """A block, until one of the workers that have it says that it is stored.

    Attributes:
        lost: how often a worker failed at it.
        holders: how many workers have it.
        reason, error: why the last one failed; the error, if it was one of the program.
    """

    block: Block
    lost: int = 0
    holders: int = 0
    done: bool = False
    reason: str = ""
    error: Exception | None = None

    @cached_property
    def seconds(self) -> float:
        """What it was estimated to take on two cores."""
        return Load.total(self.block.families).seconds(self.block.program)

    def __str__(self) -> str:
        room = self.block.program.room
        return f"a block of {self.block.trials} trials (m = {room.samples}, n = {room.neurons})"


@dataclass(eq=False)
class _Member:
    """A worker, from its request to its end.

    Attributes:
        actor: Ray's handle.
        end: the reference of an answer that comes when the worker ends.
        arrived: when its process was there; 0 before.
        ability: None until it is ready.
        tasks: what it has been given, by the reference of the answer, in order.
        since: when it began what it is doing.
    """

    actor: Any
    end: Any
    arrived: float = 0.0
    ability: Ability | None = None
    tasks: dict[Any, _Task] = field(default_factory=dict)
    since: float = 0.0

    def __str__(self) -> str:
        return "a worker" if self.ability is None else f"the worker on {self.ability.node}"


class Cluster:
    """A crew (``worker.Crew``) of a cluster that this process is connected to."""

    def __init__(self, ray: Any, place: Place, demand: Demand) -> None:
        self._ray, self._place, self._demand = ray, place, demand
        self._token = ""
        self._members: list[_Member] = []
        self._preparing: dict[Any, _Member] = {}
        self._pace: deque[float] = deque(maxlen=101)
        self._looked = 0.0
        self._alone_since: float | None = None
        self._known: list[Ability] = []
        self._failed_starts, self._next_try = 0, 0.0
        self._refused = 0
        self._again: deque[_Task] = deque()
        self._undone: list[_Task] = []
        self._remote = ray.remote(
            num_cpus=demand.cpus,
            num_gpus=demand.gpus,
            max_concurrency=BLOCKS_AT_A_TIME + 1,  # and one for what tells that it ends
            scheduling_strategy="SPREAD",
        )(RemoteWorker)
        if not self._room():
            nodes = sorted(_resources(node) for node in self._nodes())
            raise SpecError(
                f"--cluster: no node has {demand} for a worker (they have {', '.join(nodes)}): "
                "give other --gpus-per-task or --cpus-per-task"
            )

    # -- the crew ----------------------------------------------------------------------------

    @property
    def _able(self) -> list[Ability]:
        return [m.ability for m in self._members if m.ability is not None]

    @property
    def speed(self) -> float:
        """See ``worker.Crew``."""
        return sum(ability.speed for ability in self._able or self._known)

    @property
    def workers(self) -> int:
        """See ``worker.Crew``."""
        return len(self._able or self._known)

    def limits(self, seconds: float) -> Limits:
        """Blocks that every worker has the memory for; longer ones where there is much to do."""
        usual = seconds / self.speed / _BLOCKS_OF_A_WORKER
        patience = min(max(1.0, usual / BLOCK_S), _MOST_PATIENCE)
        sharing = max((self._demand.fits(node["Resources"]) for node in self._nodes()), default=1)
        if self._demand.gpus:
            sharing = 1  # a GPU's memory is the worker's own
        able = self._able or self._known
        return Limits(
            speed=patience * min(ability.speed for ability in able),
            memory=0.4 * min(ability.memory for ability in able) / max(1, sharing),
        )

    def start(self, job: Job, notice: Callable[[str], None]) -> dict[str, Any]:
        """See ``worker.Crew``."""
        self._notice = notice
        if self._token:
            return self._known[0].provenance
        self._job = job
        self._token = give_token(self._place)
        self._recruit()
        began = told = time.monotonic()
        while self._preparing or not self._able:
            notice("")
            self._recruit()
            for ref, member in self._ready(self._watched() | self._preparing):
                if ref in self._preparing:
                    self._welcome(ref, member, strict=True)
                elif member in self._members:
                    self._lose(member, "was lost")
            self._drop_the_unready()
            now = time.monotonic()
            if self._able and now - began > _READY_S:
                break
            if now - told > _READY_S and not any(m.arrived for m in self._members):
                notice(f"waiting for the cluster: others use what a worker needs, {self._demand}")
                told = now
        self._known = self._able
        hosts = {ability.host for ability in self._able}
        notice(f"workers: {len(self._able)}, hosts: {len(hosts)}")
        return self._able[0].provenance

    def run(self, blocks: Iterator[Block], commit: Callable[[Receipt], None]) -> None:
        """See ``worker.Crew``."""
        self._again.clear()
        self._undone.clear()
        coming = map(_Task, blocks)
        exhausted = False
        while True:
            self._notice("")  # it may have been asked to end
            self._look()
            exhausted = self._hand_out(coming) or exhausted
            given = [task for member in self._members for task in member.tasks.values()]
            if exhausted and not self._again and all(task.done for task in given):
                break
            answers = {ref: member for member in self._members for ref in member.tasks}
            for ref, member in self._ready(answers | self._watched() | self._preparing):
                if member not in self._members:
                    continue  # lost by now
                if ref in self._preparing:
                    self._welcome(ref, member)
                elif ref in member.tasks:
                    for receipt in self._answer(ref, member):
                        commit(receipt)
                elif ref == member.end:
                    self._lose(member, "was lost")
        self._end([member for member in self._members if member.tasks])  # others have done it
        if self._undone:
            task = self._undone[0]
            if task.error is not None:
                raise task.error  # a mistake of ours, with its traceback
            raise RunFailedError(
                f"{task} was left undone after {task.lost} attempts ({task.reason}); "
                f"{len(self._undone)} such blocks, the others are stored"
            )

    def stop(self) -> None:
        """See ``worker.Crew``."""
        with suppress(StorageError):  # cut off
            if self._token and holds_token(self._place, self._token):
                take_token(self._place)
        self._end(list(self._members))

    # -- its members -------------------------------------------------------------------------

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """For how many workers there is room on the nodes."""
        return sum(self._demand.fits(node["Resources"]) for node in self._nodes())

    def _recruit(self) -> None:
        """Ask for as many workers as there is room for."""
        for _ in range(self._room() - len(self._members)):
            cache = os.environ.get("GAUNLEARN_CACHE")
            actor = self._remote.remote(self._demand, cache)
            member = _Member(actor, actor.stay.remote())
            self._members.append(member)
            self._preparing[actor.arrive.remote()] = member

    def _watched(self) -> dict[Any, _Member]:
        """What is answered when a worker ends, whatever it was at."""
        return {member.end: member for member in self._members}

    def _end(self, members: list[_Member]) -> None:
        """Dismiss some, and see that they write no more."""
        for member in members:
            self._dismiss(member)
        ends = [member.end for member in members]
        if ends:
            self._ray.wait(ends, num_returns=len(ends), timeout=_END_S)

    def _drop_the_unready(self) -> None:
        """Replace those that have been preparing for long: a file system or a device hangs."""
        for member in list(self._members):
            waiting = member.arrived and member in self._preparing.values()
            if waiting and time.monotonic() - member.arrived > _PREPARE_S:
                self._lose(member, f"has not become ready for {_PREPARE_S:.0f} s")

    def _dismiss(self, member: _Member) -> None:
        self._members.remove(member)
        self._preparing = {ref: m for ref, m in self._preparing.items() if m is not member}
        with suppress(Exception):  # it may be dead, or cut off
            self._ray.kill(member.actor)

    def _look(self) -> None:
        """Now and then: replace the lost, welcome new nodes, notice the hung."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        if now >= self._next_try:
            self._recruit()
        self._drop_the_unready()
        for member in list(self._members):
            if not member.tasks:
                continue
            task = next(iter(member.tasks.values()))
            if now - member.since > _HUNG_S + _HUNG * self._expected(task):
                self._lose(member, f"has not answered for {now - member.since:.0f} s")
        if self._able:
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = now
            self._notice(f"no worker is left: waiting for a node with {self._demand}")
        if now - self._alone_since > _NOBODY_S:
            raise RunFailedError(
                f"no node has had {self._demand} for {_NOBODY_S:.0f} s; what was stored is kept"
            )

    def _lose(self, member: _Member, why: str) -> None:
        """Give what it had to others; another one is started when there is room."""
        self._notice(f"{member} {why}{'; what it had is run again' if member.tasks else ''}")
        if member.ability is None and member in self._preparing.values():
            self._count_failed_start(f"{member} {why}")
        # What waited behind its first block did not end it.
        for place, task in enumerate(member.tasks.values()):
            self._return(task, f"{member} {why}", counts=place == 0)
        member.tasks.clear()  # other answers of its end are on their way
        self._dismiss(member)

    # -- blocks ------------------------------------------------------------------------------

    def _expected(self, task: _Task) -> float:
        """Seconds that a worker takes for it, as far as others tell."""
        if self._pace:
            return task.seconds * statistics.median(self._pace)
        return task.seconds / min(ability.speed for ability in self._known)

    def _hand_out(self, coming: Iterator[_Task]) -> bool:
        """Keep workers busy, those first that have nothing; whether no new blocks come."""
        for depth in range(BLOCKS_AT_A_TIME):
            for member in self._members:
                if member.ability is None or len(member.tasks) != depth:
                    continue
                task = self._again.popleft() if self._again else next(coming, None)
                exhausted = task is None
                if task is None and depth == 0:
                    task = self._straggler()
                if task is None:
                    return True
                if not member.tasks:
                    member.since = time.monotonic()
                member.tasks[member.actor.work.remote(task.block)] = task
                task.holders += 1
                if exhausted:
                    return True
        return False

    def _return(self, task: _Task, why: str, counts: bool) -> None:
        """A worker has not stored it: another one may, unless that has failed too often."""
        task.holders -= 1
        task.lost += counts
        task.reason = why
        if task.done or task.holders:
            return
        if task.lost < _MOST_LOST:
            self._again.append(task)
        else:
            task.done = True
            self._undone.append(task)

    def _straggler(self) -> _Task | None:
        """The block that one worker has had for longest, if that is much longer than it should."""
        now, found = time.monotonic(), []
        for member in self._members:
            for task in member.tasks.values():
                late = now - member.since - _STRAGGLING_S
                alone = not task.done and task.holders == 1
                if alone and self._pace and late > _STRAGGLING * self._expected(task):
                    found.append((late, task, member))
        if not found:
            return None
        late, task, member = max(found, key=lambda each: each[0])
        self._notice(
            f"{member} has been at {task} for {late + _STRAGGLING_S:.0f} s, in which others take "
            f"{self._expected(task):.0f} s: it is run elsewhere too"
        )
        return task

    # -- answers -----------------------------------------------------------------------------

    def _ready(self, answers: dict[Any, _Member]) -> list[tuple[Any, _Member]]:
        """Those that have come; waits a moment for the first."""
        if not answers:
            time.sleep(_PAUSE_S)
            return []
        ready, _ = self._ray.wait(list(answers), num_returns=1, timeout=_PAUSE_S)
        if ready:
            ready, _ = self._ray.wait(list(answers), num_returns=len(answers), timeout=0)
        return [(ref, answers[ref]) for ref in ready]

    def _welcome(self, ref: Any, member: _Member, strict: bool = False) -> None:
        """A worker says that it is ready, or why it is not.

        Args:
            strict: refuse a cluster of which a part cannot work; later, that part is left out.
        """
        try:
            found = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            found = self._of_failed_start(error)
            if found is None:
                self._lose(member, f"was lost as it started: {last_line(str(error))}")
                return
        del self._preparing[ref]
        if found == ARRIVED:
            member.arrived = time.monotonic()
            answer = member.actor.prepare.remote(self._job, self._token, identity_of_code())
            self._preparing[answer] = member
        elif isinstance(found, Ability):
            member.ability = found
            self._failed_starts = 0
        elif strict and found.faulty_jax:
            raise FaultyJaxError(found.reason)
        elif strict:
            raise SpecError(f"--cluster: {found.reason}")
        else:
            # It keeps its place for as long as its node lasts, so that no other one tries there.
            self._notice(f"{found.reason}; it is left out")

    def _count_failed_start(self, reason: str) -> None:
        """Where workers do not come up, trying again and again helps nobody."""
        self._next_try = time.monotonic() + _LOOK_S * 2**self._failed_starts
        self._failed_starts += 1
        if self._failed_starts >= _MOST_LOST and not self._able:
            raise RunFailedError(f"{reason}; what was stored is kept")

    def _of_failed_start(self, error: Exception) -> Unfit | None:
        """Whether no worker could start there; otherwise it was lost, and another one may."""
        text = str(error)
        if "No module named 'gaunlearn" in text or "failed to import" in text:
            return Unfit(
                "a node cannot import this version of gaunlearn: install it in the environment "
                "that Ray was started from"
            )
        return None

    def _answer(self, ref: Any, member: _Member) -> list[Receipt]:
        """What a worker says of a block: its receipts, once."""
        task = member.tasks[ref]
        try:
            found = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            # Its device may be broken: another one is to try.
            task.error = error
            self._lose(member, f"failed ({last_line(str(error))})")
            return []
        except self._ray.exceptions.RayError as error:
            self._lose(member, f"was lost ({type(error).__name__})")
            return []
        del member.tasks[ref]
        began, member.since = member.since, time.monotonic()
        if isinstance(found, Stopped):
            if found.for_good and not task.done:
                raise RunFailedError(found.reason)
            self._notice(f"{member}: {found.reason}; {task} is run again")
            self._return(task, found.reason, counts=True)
            self._refused += 1
            if self._refused > 2 * len(self._members) + 1:
                # Nothing has been stored for long: a full disk, credentials that have run out.
                raise RunFailedError(f"{found.reason}; what was stored before is kept")
            return []
        task.holders -= 1
        self._refused = 0
        self._pace.append((member.since - began) / task.seconds)
        if task.done:
            return []
        task.done = True
        return found


def _resources(node: dict[str, Any]) -> str:
    found = node["Resources"]
    return f"{found.get('CPU', 0):g} CPU and {found.get('GPU', 0):g} GPU"


@contextmanager
def on_cluster(address: str, demand: Demand, place: Place) -> Iterator[Crew]:
    """Connect to a cluster; in the end its workers are let go.

    Args:
        address: HOST:PORT of its head; "auto", the one that this machine is a node of; "local", one
            on this machine for as long as this lasts.
        demand: what a worker takes.
        place: the run's directory.

    Raises:
        SpecError: it cannot be reached, has no room for a worker, or is of another version.
    """
    ray = connect(address)
    try:
        cluster = Cluster(ray, place, demand)
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        ray.shutdown()


def recruiter(
    address: str | None, gpus: float | None = None, cpus: float | None = None
) -> Callable[[Place], AbstractContextManager[Crew]] | None:
    """What finds a run its crew; None if there is no address, and this process computes.

    Args:
        address: see ``on_cluster``.
        gpus: of each worker; none by default.
        cpus: cores of each worker; 1 beside a GPU and 2 otherwise by default.

    Raises:
        SpecError: a worker's needs without a cluster, or such as Ray does not know.
    """
    if address is None:
        if gpus or cpus:
            raise SpecError("--gpus-per-task and --cpus-per-task are of --cluster: give that too")
        return None
    return partial(on_cluster, address, Demand(gpus or 0.0, cpus or (1.0 if gpus else 2.0)))

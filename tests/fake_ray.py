"""What ``gaunlearn.sweep.cluster`` uses of Ray, on a clock that jumps from event to event."""

import itertools
from types import SimpleNamespace

from gaunlearn.sweep.remote import ARRIVED

__all__ = ["Clock", "FakeRay"]


class Clock:
    """In place of the module ``time``."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class _Ref:
    def __init__(self, at, value):
        self.at, self.value = at, value


class _Actor:
    """One worker; it has a place as soon as a node has room for it, and works in order."""

    def __init__(self, ray, number):
        self.ray, self.number, self.node = ray, number, None
        self.free_at, self.killed = ray.clock.now, False
        self.refs = []
        self.arrive = SimpleNamespace(remote=lambda: self._add(lambda *_: (1.0, ARRIVED), None))
        self.stay = SimpleNamespace(remote=lambda: self._add(None, None))
        self.prepare = SimpleNamespace(remote=lambda *arguments: self._add(ray.answer_of, None))
        self.work = SimpleNamespace(remote=lambda block: self._add(ray.work_of, block))

    def _add(self, of, block):
        self.refs.append(_Ref(None, None))
        self.refs[-1].request = of, block
        if self.killed:
            self.refs[-1].at = self.ray.clock.now
            self.refs[-1].value = self.ray.exceptions.ActorDiedError()
        self.ray.advance()
        return self.refs[-1]


class FakeRay:
    """Workers on nodes of one CPU each.

    Args:
        work_of: (actor's number, block) -> seconds and what it answers: an exception is raised, and
            ends the worker if it is ``exceptions.ActorDiedError``; inf seconds are for ever.
        answer_of: (actor's number, None) -> the same for its first answer.
    """

    class exceptions:  # noqa: N801, as Ray calls its module
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

        class ActorDiedError(RayError):
            pass

    def __init__(self, clock, nodes, work_of, answer_of):
        self.clock, self.work_of, self.answer_of = clock, work_of, answer_of
        self.alive = list(range(nodes))
        self.events = []  # (time, function), in order of time
        self.actors, self.numbers = [], itertools.count()

    def nodes(self):
        self.advance()
        return [{"Alive": True, "Resources": {"CPU": 1.0}} for _ in self.alive]

    def remote(self, **options):
        return lambda kind: SimpleNamespace(remote=self._new)

    def _new(self, *arguments):
        self.actors.append(_Actor(self, next(self.numbers)))
        return self.actors[-1]

    def lose_node(self, node):
        self.alive.remove(node)
        for actor in self.actors:
            if actor.node == node:
                self._end(actor, self.exceptions.ActorDiedError())

    def _end(self, actor, error):
        actor.killed, actor.node = True, None
        for ref in actor.refs:
            if ref.at is None or ref.at > self.clock.now:
                ref.at, ref.value = self.clock.now, error

    def kill(self, actor):
        self._end(actor, self.exceptions.ActorDiedError())

    def advance(self):
        """Place actors, and find out when their requests will be answered."""
        while self.events and self.events[0][0] <= self.clock.now:
            self.events.pop(0)[1]()
        used = {actor.node for actor in self.actors}
        for actor in self.actors:
            if actor.node is None and not actor.killed:
                free = [node for node in self.alive if node not in used]
                if not free:
                    continue
                actor.node = free[0]
                actor.free_at = self.clock.now
                used.add(free[0])
            for ref in actor.refs:
                of, block = ref.request
                if ref.at is None and actor.node is not None and of is not None:
                    seconds, ref.value = of(actor.number, block)
                    ref.at = actor.free_at = max(actor.free_at, self.clock.now) + seconds

    def wait(self, refs, num_returns, timeout):
        self.advance()
        coming = [ref.at for ref in refs if ref.at is not None]
        until = self.clock.now + timeout
        until = min([until, max(self.clock.now, min(coming, default=until))])
        if self.events:
            until = min(until, max(self.clock.now, self.events[0][0]))
        self.clock.now = until
        self.advance()
        ready = [ref for ref in refs if ref.at is not None and ref.at <= self.clock.now]
        return ready[:num_returns], [ref for ref in refs if ref not in ready[:num_returns]]

    def get(self, ref):
        assert ref.at <= self.clock.now
        if isinstance(ref.value, Exception):
            if isinstance(ref.value, self.exceptions.ActorDiedError):
                actor = next(actor for actor in self.actors if ref in actor.refs)
                self._end(actor, ref.value)
            raise ref.value
        return ref.value

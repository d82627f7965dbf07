"""A rehearsal: a block run with nothing in it, in a thread of its own beside the block itself, so
that its programs are traced, and their compilers at work, before it asks for them.

Nothing here knows what a block does.
"""

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress

import numpy as np

from gaunlearn.compiler import WORK

__all__ = ["Rehearsal", "rehearsed"]

_rehearsed: set[Hashable] = set()


class _StoppedError(Exception):
    """The block itself has ended."""


class Rehearsal:
    """Of a block.

    Attributes:
        work: what programs will have done, counted ahead of the block.
    """

    def __init__(self) -> None:
        self.work = WORK.copy()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End at the next stage."""
        self._stopped.set()

    def go_on(self) -> None:
        """Called before each stage; raises if there is nobody to rehearse for any more."""
        if self._stopped.is_set():
            raise _StoppedError


@contextmanager
def rehearsed(key: Hashable, perform: Callable[[Rehearsal], object]) -> Iterator[None]:
    """Run the block itself in this context, while it is rehearsed unless one like it has been.

    Args:
        key: the same for blocks that need the same programs.
        perform: runs the block on arrays of zeros, which takes memory of the host, but no device.
    """
    if key in _rehearsed:
        yield
        return
    _rehearsed.add(key)
    rehearsal = Rehearsal()

    def in_its_thread() -> None:
        # Whatever is wrong, the block itself will meet it, and say so.
        with suppress(BaseException), np.errstate(all="ignore"):
            perform(rehearsal)

    thread = threading.Thread(target=in_its_thread, name="rehearsal")
    thread.start()
    try:
        yield
    finally:
        rehearsal.stop()
        thread.join()

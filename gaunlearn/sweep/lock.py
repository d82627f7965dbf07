"""Who may write to a run's directory: one process, the shards of one sweep, or the workers of a
driver.

The system releases a lock when its process ends, however it ends. Object stores have no locks:
there it is the user's part to start no second run that is not another shard of the same.

Workers elsewhere hold no lock. They write while the token in the directory is their driver's; the
next run, of whatever kind, takes it away. So one that was cut off, or whose driver was killed,
stores nothing behind the back of the run that goes on.
"""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gaunlearn.sweep.place import Place
from gaunlearn.sweep.sections import SpecError

__all__ = ["give_token", "holds_token", "locked", "take_token"]

_TOKEN = ".driver"


def _take(path: Path, how: int) -> int | None:
    """An open file that holds a lock; None if another process has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


@contextmanager
def locked(directory: Path | None, shard: tuple[int, int], sweep: str) -> Iterator[None]:
    """Hold the directory, alone or, as one of several shards, with the others.

    Args:
        directory: None for what is not local.
        shard: (0, 1) is the whole.
        sweep: hash of the specification: shards of another one, or of another number, are refused.

    Raises:
        SpecError: another process holds it.
    """
    if directory is None:
        yield
        return
    part, count = shard
    common = directory / f".lock-{count}-{sweep[:12]}"
    wanted = [(common, fcntl.LOCK_EX if count == 1 else fcntl.LOCK_SH)]
    if count > 1:
        wanted.append((directory / f"{common.name}-{part + 1}", fcntl.LOCK_EX))
    held: list[int] = []
    try:
        for path, how in wanted:
            handle = _take(path, how)
            if handle is None:
                raise _refusal(directory, path)
            held.append(handle)
        ours = {path for path, _ in wanted}
        for path in directory.glob(".lock-*"):
            # Another shard of ours holds a lock of its own besides the common one.
            if path in ours or path.name.startswith(f"{common.name}-"):
                continue
            handle = _take(path, fcntl.LOCK_EX)
            if handle is None:
                raise _refusal(directory, path)
            os.close(handle)
        yield
    finally:
        for handle in held:
            os.close(handle)


def _refusal(directory: Path, path: Path) -> SpecError:
    return SpecError(
        f"{directory}: another process is running here ({path.name}); wait for it, or give another "
        "--out"
    )


def give_token(run: Place) -> str:
    """Let the workers of a driver write to a run's directory, and no others'.

    Raises:
        StorageError: it cannot be written.
    """
    token = uuid.uuid4().hex
    run.write(_TOKEN, token.encode())
    return token


def holds_token(run: Place, token: str) -> bool:
    """Whether a driver's workers may write.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return run.read(_TOKEN).decode(errors="replace") == token
    except FileNotFoundError:
        return False


def take_token(run: Place) -> None:
    """Let no driver's workers write any more.

    Raises:
        StorageError: it cannot be deleted.
    """
    run.delete(_TOKEN)

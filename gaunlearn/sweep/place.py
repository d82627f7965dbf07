"""Where a run's files lie: a local directory, or one of any file system that pyarrow knows.

A file appears whole or not at all. Locally it is written beside its place, flushed and renamed;
object stores show an object only when it is complete. What a remote store refuses in passing,
because it is busy or a connection broke, is asked again for a minute.
"""

import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

__all__ = ["Place", "StorageError", "side_by_side"]


Item = TypeVar("Item")
Result = TypeVar("Result")

# Files that are read at a time: an answer of a remote store takes some 50 ms, whatever it holds.
_TOGETHER = 16

# What a URI asks for unless it says otherwise: Google's client would try again for a quarter of an
# hour, and say nothing; Amazon's takes four requests for a small file in place of one.
_OPTIONS = {("gs", "gcs"): "retry_limit_seconds=10", ("s3",): "allow_delayed_open=true"}
# Seconds after which a remote store is asked again. Its client has tried for about 10 s each time.
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
# How pyarrow's clients name what may pass by itself.
_PASSING = (
    "SLOW_DOWN",
    "NETWORK_CONNECTION",
    "INTERNAL_FAILURE",
    "SERVICE_UNAVAILABLE",
    "REQUEST_TIMEOUT",
    "THROTTLING",
    "HTTP status 429",
    "HTTP status 5",
    "timed out",
    "Retry policy exhausted",
)
# Object stores: a file needs no directory to be in.
_DIRECTORYLESS = tuple(
    getattr(fs, name) for name in ("S3FileSystem", "GcsFileSystem") if hasattr(fs, name)
)
_REFUSED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE", "HTTP status 401", "status 403")
_CREDENTIALS = (
    "; are credentials missing? They are taken from the environment (such as AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY), the store's own files, or the machine's role"
)


class StorageError(RuntimeError):
    """A file could not be written or read; the message is one line for the user."""


def side_by_side(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What a function that waits for files makes of each; many wait together."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(max_workers=_TOGETHER) as waiting:
        return list(waiting.map(function, items))


def _reason(error: Exception) -> str:
    """In one line."""
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    return reason + (_CREDENTIALS if any(word in reason for word in _REFUSED) else "")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{name}: {_reason(error)}") from None


class Place(NamedTuple):
    """A directory.

    Attributes:
        system: pyarrow's file system.
        path: within it.
        name: for its user: the path as it was written, or a URI without credentials and options.
        uri: what names it in another process; empty if nothing does.
    """

    system: Any
    path: str
    name: str
    uri: str = ""

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of(cls, where: "str | Path | Place") -> "Place":
        """The directory that a path or a URI such as ``s3://bucket/runs/a`` names.

        Raises:
            StorageError: there is no such file system, or it cannot be reached.
        """
        if isinstance(where, Place):
            return where
        name = str(where)
        if "://" not in name:
            return cls(fs.LocalFileSystem(), name, name, str(Path(name).absolute()))
        uri = name
        parts = urlsplit(name)
        name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
        for schemes, option in _OPTIONS.items():
            if parts.scheme in schemes and option.partition("=")[0] not in parts.query:
                uri += f"{'&' if '?' in uri else '?'}{option}"
        try:
            system, path = fs.FileSystem.from_uri(uri)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StorageError(f"{name}: cannot be reached: {_reason(error)}") from None
        return cls(system, path, name, uri)

    @property
    def local(self) -> Path | None:
        """The directory as a local path, if it is one."""
        return Path(self.path) if isinstance(self.system, fs.LocalFileSystem) else None

    def __truediv__(self, below: str) -> "Place":
        return Place(self.system, f"{self.path}/{below}", f"{self.name}/{below}")

    def _patiently(self, operation: Callable[[], Result]) -> Result:
        """An operation's result; what a remote store refuses in passing is asked again."""
        for pause in _PAUSES_S if self.local is None else ():
            try:
                return operation()
            except OSError as error:
                if not any(word in str(error) for word in _PASSING):
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))  # not all workers at once
        return operation()

    def names(self) -> list[str]:
        """The files in the directory, sorted, without hidden ones; none if it does not exist."""
        with _explained(self.name):
            selector = fs.FileSelector(self.path, allow_not_found=True)
            found = self._patiently(lambda: self.system.get_file_info(selector))
        return sorted(
            info.base_name
            for info in found
            if info.type == fs.FileType.File and not info.base_name.startswith(".")
        )

    def remove_leftovers(self) -> None:
        """Delete what a writer that was killed has left half written. Nobody else may write."""
        if self.local is not None:
            for path in self.local.glob(".*.tmp"):
                path.unlink(missing_ok=True)

    def read(self, file: str) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: it does not exist.
            StorageError: it cannot be read.
        """
        try:
            return self._patiently(lambda: self._used(file, lambda stream: stream.read()))
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{self.name}/{file}") from None
        except OSError as error:
            raise StorageError(f"{self.name}/{file}: cannot be read: {_reason(error)}") from None

    def _used(self, file: str, function: Callable[[Any], Result]) -> Result:
        with self.system.open_input_file(f"{self.path}/{file}") as stream:
            return function(stream)

    def using(self, file: str, function: Callable[[Any], Result]) -> Result:
        """What a function makes of a file that is open for random access, such as Parquet's reader.

        Raises:
            StorageError: where it lies cannot be reached.
            Exception: what the function raises for what is in the file.
        """
        try:
            return self._patiently(lambda: self._used(file, function))
        except OSError as error:
            if self.local is None and any(word in str(error) for word in _PASSING):
                raise StorageError(
                    f"{self.name}/{file}: cannot be reached: {_reason(error)}"
                ) from None
            raise

    def write(self, file: str, content: bytes) -> None:
        """Write a file; whoever reads sees the old one, or none, or all of the new one.

        Raises:
            StorageError: it cannot be written, for instance because the disk is full.
        """
        try:
            if self.local is None:
                self._patiently(lambda: self._write_remotely(file, content))
            else:
                _write_locally(self.local / file, content)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"{self.name}/{file}: cannot be written: {_reason(error)}") from None

    def _write_remotely(self, file: str, content: bytes) -> None:
        if not isinstance(self.system, _DIRECTORYLESS):
            self.system.create_dir(self.path, recursive=True)
        with self.system.open_output_stream(f"{self.path}/{file}") as stream:
            stream.write(content)

    def move(self, file: str, target: "Place") -> None:
        """Move a file to another directory of the same file system.

        Raises:
            FileNotFoundError: it is not there.
            StorageError: it cannot be moved.
        """
        with _explained(f"{self.name}/{file}"):
            if not isinstance(target.system, _DIRECTORYLESS):
                target.system.create_dir(target.path, recursive=True)
            self._patiently(
                lambda: self.system.move(f"{self.path}/{file}", f"{target.path}/{file}")
            )

    def delete(self, file: str) -> None:
        """Delete a file, if it is there."""
        with _explained(f"{self.name}/{file}"), suppress(FileNotFoundError):
            self._patiently(lambda: self.system.delete_file(f"{self.path}/{file}"))

    def make(self) -> None:
        """Make the directory, and see that it can be written to.

        Raises:
            StorageError: it cannot.
        """
        try:
            self.system.create_dir(self.path, recursive=True)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"{self.name}: cannot be written: {_reason(error)}") from None
        self.write(probe := f".write-test-{uuid.uuid4().hex}", b"")
        self.delete(probe)


def _write_locally(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise

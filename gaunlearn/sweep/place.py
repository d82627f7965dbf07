"""Where a run's files lie: a local directory, or one of any file system that pyarrow knows.

A file appears whole or not at all. Locally it is written beside its place, flushed and renamed;
object stores show an object only when it is complete.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import fs

__all__ = ["Place", "StorageError"]


# How long Google's storage may fail to answer, unless the URI says so.
_RETRY_S = 10


class StorageError(RuntimeError):
    """A file could not be written or read; the message is one line for the user."""


def _reason(error: Exception) -> str:
    """In one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())


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
        name: as the user wrote it.
    """

    system: Any
    path: str
    name: str

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
            return cls(fs.LocalFileSystem(), name, name)
        uri = name
        if name.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in name:
            # Its client would try again for a quarter of an hour, and say nothing.
            uri += f"{'&' if '?' in name else '?'}retry_limit_seconds={_RETRY_S}"
        try:
            system, path = fs.FileSystem.from_uri(uri)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StorageError(f"{name}: cannot be reached: {_reason(error)}") from None
        return cls(system, path, name)

    @property
    def local(self) -> Path | None:
        """The directory as a local path, if it is one."""
        return Path(self.path) if isinstance(self.system, fs.LocalFileSystem) else None

    def __truediv__(self, below: str) -> "Place":
        return Place(self.system, f"{self.path}/{below}", f"{self.name}/{below}")

    def names(self) -> list[str]:
        """The files in the directory, sorted, without hidden ones; none if it does not exist."""
        with _explained(self.name):
            found = self.system.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
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
            with self.system.open_input_file(f"{self.path}/{file}") as stream:
                return stream.read()
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{self.name}/{file}") from None
        except OSError as error:
            raise StorageError(f"{self.name}/{file}: cannot be read: {_reason(error)}") from None

    def open(self, file: str) -> Any:
        """A file for random access, for Parquet's reader."""
        return self.system.open_input_file(f"{self.path}/{file}")

    def write(self, file: str, content: bytes) -> None:
        """Write a file; whoever reads sees the old one, or none, or all of the new one.

        Raises:
            StorageError: it cannot be written, for instance because the disk is full.
        """
        try:
            if self.local is None:
                # Object stores have no directories; file systems behind a URI have.
                self.system.create_dir(self.path, recursive=True)
                with self.system.open_output_stream(f"{self.path}/{file}") as stream:
                    stream.write(content)
            else:
                _write_locally(self.local / file, content)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"{self.name}/{file}: cannot be written: {_reason(error)}") from None

    def move(self, file: str, target: "Place") -> None:
        """Move a file to another directory of the same file system.

        Raises:
            FileNotFoundError: it is not there.
            StorageError: it cannot be moved.
        """
        with _explained(f"{self.name}/{file}"):
            target.system.create_dir(target.path, recursive=True)
            self.system.move(f"{self.path}/{file}", f"{target.path}/{file}")

    def delete(self, file: str) -> None:
        """Delete a file, if it is there."""
        with _explained(f"{self.name}/{file}"), suppress(FileNotFoundError):
            self.system.delete_file(f"{self.path}/{file}")

    def make(self) -> None:
        """Make the directory, and see that it can be written to.

        Raises:
            StorageError: it cannot.
        """
        try:
            self.system.create_dir(self.path, recursive=True)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"{self.name}: cannot be written: {_reason(error)}") from None
        self.write(".write-test", b"")
        self.delete(".write-test")


def _write_locally(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise

"""What a trial is called and where its random numbers come from: hashes of its own content.

Parameters at their default value are left out of the content, so that a parameter added later
changes no existing trial. Neither batch, order nor position in a sweep enters.
"""

import hashlib
import json
import struct
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaunlearn.sweep.samples import read_samples
from gaunlearn.sweep.sections import SECTIONS, FileData, Section
from gaunlearn.types import Dataset

__all__ = [
    "content_digest",
    "dataset_digest",
    "digest",
    "digest_of_code",
    "file_digest",
    "forget_files",
    "forget_name",
    "join_digests",
    "key_words",
    "section_digest",
    "training_digest",
    "trial_id",
]

# To be raised when the same content no longer gives the same numbers.
_GENERATION = 4


def digest(content: Any) -> str:
    """32 hexadecimal digits (128 bits of BLAKE2b) of a JSON value, independent of key order."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@cache
def digest_of_code() -> str:
    """Of this package's source."""
    files = sorted(Path(__file__).resolve().parent.parent.rglob("*.py"))
    return digest([file.read_text(encoding="utf-8") for file in files])


def dataset_digest(data: Dataset) -> str:
    """Of the arrays, so that where a file lies and how it is compressed does not matter."""
    found = hashlib.blake2b(digest_size=16)
    for array in (data.x, data.y, data.x_test, data.y_test):
        found.update(repr(np.shape(array)).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


@cache
def file_digest(section: FileData, directory: Path) -> str:
    """Of what a file holds when it is first asked for after ``forget_files``."""
    return dataset_digest(read_samples(section, directory))


def forget_files() -> None:
    """Look at files anew from here on: a specification is about what they hold when it is read."""
    for remembered in (file_digest, section_digest, content_digest):
        remembered.cache_clear()


@lru_cache(maxsize=4096)
def section_digest(section: Section, directory: Path) -> str:
    """Of a section's parameters; of what is read of a file rather than its name and columns."""
    content = section.model_dump(mode="json", exclude_defaults=True)
    if isinstance(section, FileData):
        features = {key: content[key] for key in ("random_features",) if key in content}
        content = {"kind": section.kind, "path": file_digest(section, directory), **features}
    return digest(content)


@lru_cache(maxsize=4096)
def content_digest(sections: tuple[Section, ...], directory: Path) -> str:
    """Of all of a trial but seed, forgotten sample and step.

    Args:
        sections: in the order of ``sections.SECTIONS``. One that has its default values only is
            left out, so that a section added later changes no existing trial.
    """
    each = {
        name: section_digest(section, directory)
        for name, section in zip(SECTIONS, sections, strict=True)
        if section.model_dump(exclude_defaults=True)
    }
    return digest({"generation": _GENERATION, "sections": each})


def training_digest(sections: tuple[Section, ...], directory: Path) -> str:
    """Of all that a training depends on but the seed: data, model, train, compute and, if
    certificates can end it, evaluate.
    """
    return join_digests(section_digest(section, directory) for section in sections)


def join_digests(digests: Iterable[str]) -> str:
    """Of several digests, in their order."""
    text = ":".join([str(_GENERATION), *digests])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def trial_id(content: str, seed: int, number: int, step_fraction: float) -> str:
    """The name of one trial of the ``content_digest``; the number is of a sample or draw."""
    place = struct.pack("<qqd", seed, number, step_fraction)
    return hashlib.blake2b(content.encode() + place, digest_size=16).hexdigest()


def forget_name(rule: Section, number: int) -> str:
    """What is forgotten, as JSON: a [forget] section and the number of a sample or draw."""
    return json.dumps(rule.model_dump(mode="json") | {"number": number}, sort_keys=True)


def key_words(purpose: str, content: str, seed: int) -> NDArray[np.uint32]:
    """The two words of a threefry key for one purpose ("data", "init 0") of one trial.

    Args:
        content: the ``section_digest`` of what the numbers are for.
    """
    text = digest({"generation": _GENERATION, "purpose": purpose, "content": content, "seed": seed})
    return np.frombuffer(bytes.fromhex(text[:16]), dtype=">u4").astype(np.uint32)

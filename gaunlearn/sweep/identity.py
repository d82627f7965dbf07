"""What a trial is called and where its random numbers come from: hashes of its own content.

Parameters at their default value are left out of the content, so that a parameter added later
changes no existing trial. Neither batch, order nor position in a sweep enters.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaunlearn.data.real import load_npz
from gaunlearn.sweep.spec import Cell, FileData

__all__ = ["data_content", "digest", "key_words", "model_content", "trial_content"]


def digest(content: Any) -> str:
    """32 hexadecimal digits (128 bits of BLAKE2b) of a JSON value, independent of key order."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _file_digest(path: Path) -> str:
    """Of the arrays, so that where the file lies and how it is compressed does not matter."""
    data = load_npz(path)
    found = hashlib.blake2b(digest_size=16)
    for array in (data.x, data.y, data.x_test, data.y_test):
        found.update(repr(np.shape(array)).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def data_content(cell: Cell, directory: Path) -> dict[str, Any]:
    """What the training data depend on, besides the seed."""
    content = cell.data.model_dump(mode="json", exclude_defaults=True)
    if isinstance(cell.data, FileData):
        content["path"] = _file_digest(directory / cell.data.path)
    return content


def model_content(cell: Cell) -> dict[str, Any]:
    """What the initial weights depend on, besides the seed and d."""
    return cell.model.model_dump(mode="json", exclude_defaults=True)


def trial_content(cell: Cell, data: dict[str, Any]) -> dict[str, Any]:
    """All of a trial but seed, forgotten point and step; ``data`` is its ``data_content``."""
    return {
        "data": data,
        "model": model_content(cell),
        **{
            section: getattr(cell, section).model_dump(mode="json", exclude_defaults=True)
            for section in ("train", "retrain", "evaluate", "compute")
        },
    }


def key_words(purpose: str, content: dict[str, Any], seed: int) -> NDArray[np.uint32]:
    """The two words of a threefry key for one purpose ("data", "init") of one trial."""
    text = digest({"purpose": purpose, "content": content, "seed": seed})
    return np.frombuffer(bytes.fromhex(text[:16]), dtype=">u4").astype(np.uint32)

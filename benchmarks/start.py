"""What does a user wait for before the first result?

    python benchmarks/start.py [--quick]

Processes, as a user starts them: importing JAX and gaunlearn, and `gaunlearn run` on a small sweep
until its first rows are in the directory, and until it ends; without anything kept from before
(cold), and with the programs of an earlier process (warm). Medians and spread.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import begin, table

SPEC = Path(__file__).parent.parent / "tests" / "small.toml"
LOOK_S = 0.02


def seconds_of(code: str, repeats: int) -> list[float]:
    """Of a process that runs some Python."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        taken.append(time.perf_counter() - began)
    return taken


def run(out: Path, cache: Path) -> tuple[float, float]:
    """Seconds until the first rows of a run, and until its end."""
    command = [sys.executable, "-m", "gaunlearn", "run", str(SPEC), "--out", str(out), "--fresh"]
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        env=os.environ | {"GAUNLEARN_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        first = None
        while process.poll() is None:
            if first is None and next((out / "trials").glob("*.parquet"), None):
                first = time.perf_counter() - began
            time.sleep(LOOK_S)
    ended = time.perf_counter() - began
    if process.returncode or first is None:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    return first, ended


def spread(values) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def compare(repeats: int) -> None:
    rows = [
        {"what": name, "s": spread(seconds_of(code, 2 * repeats + 1)), "until the end, s": ""}
        for name, code in (
            ("an empty Python", "pass"),
            ("import jax", "import jax.numpy"),
            ("import gaunlearn", "import gaunlearn"),
            ("import jax, and all of gaunlearn's API", "import jax.numpy, gaunlearn.api"),
        )
    ]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cold, warm = [], []
        for number in range(repeats):
            cache = folder / f"cache{number}"
            cold.append(run(folder / f"cold{number}", cache))
            warm.append(run(folder / f"warm{number}", cache))
    for name, measured in (("cold", cold), ("warm", warm)):
        first, ended = zip(*measured, strict=True)
        rows.append(
            {
                "what": f"gaunlearn run tests/small.toml, {name}: first rows",
                "s": spread(first),
                "until the end, s": spread(ended),
            }
        )
    table("Until the first result", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="once")
    args = parser.parse_args()
    begin("start")
    compare(1 if args.quick else 3)

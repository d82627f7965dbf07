"""What does a user wait for before the first result?

    python benchmarks/start.py [--quick]

Processes, as a user starts them: importing JAX and gaunlearn, and `gaunlearn run` on a small sweep
and on that of `make run`, until the first rows are in the directory, and until it ends; without
anything kept from before (cold), and with the programs of an earlier process (warm). Medians and
spread.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import begin, spread, table

ROOT = Path(__file__).parent.parent
SPECS = ("tests/small.toml", "sweeps/step_size.toml")
LOOK_S = 0.02


def seconds_of(code: str, repeats: int) -> list[float]:
    """Of a process that runs some Python."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        taken.append(time.perf_counter() - began)
    return taken


def run(spec: Path, out: Path, cache: Path) -> tuple[float, float]:
    """Seconds until the first rows of a run, and until its end."""
    command = [sys.executable, "-m", "gaunlearn", "run", str(spec), "--out", str(out), "--fresh"]
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


def compare(repeats: int) -> None:
    rows = [
        {"what": name, "s": spread(seconds_of(code, 2 * repeats + 1)), "until the end, s": ""}
        for name, code in (
            ("an empty Python", "pass"),
            ("import jax", "import jax.numpy"),
            ("import gaunlearn", "import gaunlearn"),
            ("import jax, then gaunlearn.certify", "import jax.numpy, gaunlearn as g; g.certify"),
            ("import jax, then gaunlearn.run", "import jax.numpy, gaunlearn as g; g.run"),
        )
    ]
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {
        (spec, state): [] for spec in SPECS for state in ("cold", "warm")
    }
    with tempfile.TemporaryDirectory() as place:
        for number in range(repeats):
            for spec in SPECS:
                folder = Path(place) / f"{Path(spec).stem}{number}"
                for state in ("cold", "warm"):
                    taken[spec, state].append(run(ROOT / spec, folder / state, folder / "cache"))
    for (spec, state), measured in taken.items():
        first, ended = zip(*measured, strict=True)
        rows.append(
            {
                "what": f"gaunlearn run {spec}, {state}: first rows",
                "s": spread(first),
                "until the end, s": spread(ended),
            }
        )
    table("Until the first result", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="once")
    args = parser.parse_args()
    begin("start", args.quick)
    compare(1 if args.quick else 3)

"""The batch script, with commands of SLURM's names that run everything on this machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

from cases import assert_same_rows
from runs import SPEC, write

import gaunlearn

SCRIPT = Path(__file__).parent.parent / "cluster" / "slurm.sh"
# Runs what follows its options, and ends it when it is told to end, as the real one does.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do echo "$1" >> asked; shift; done
"$@" &
child=$!
trap 'kill $child' TERM
wait $child
wait $child
"""
SCONTROL = '#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"\n'


def submit(folder, *arguments, **environment):
    return subprocess.run(
        [SCRIPT, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_job_runs_a_sweep_on_its_nodes_and_leaves_nothing(tmp_path, undisturbed):
    write(tmp_path, SPEC)
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(content)
        command.chmod(0o755)
    number = str(os.getpid())
    done = submit(
        tmp_path,
        "spec.toml",
        "--out",
        "run",
        "--cpus-per-task",
        "1",
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        GAUNLEARN_BIN=str(Path(sys.executable).parent),
        SLURM_JOB_ID=number,
        SLURM_JOB_NODELIST="node[1-2]",
        SLURM_CPUS_PER_TASK="1",
    )
    logs = [log.read_text() for log in tmp_path.glob("ray-*.log")]
    assert done.returncode == 0, (done.stderr, logs)
    assert "36 trials, 3 seeds" in done.stdout
    assert len(logs) == 2
    rows = gaunlearn.load(tmp_path / "run").to_pandas()
    assert_same_rows(rows, undisturbed.to_pandas())
    asked = (tmp_path / "asked").read_text().split()
    assert {"--nodelist=node1", "--nodelist=node2", "--overlap"} <= set(asked)
    assert not Path(f"/tmp/ray-{number}").exists()
    end = time.monotonic() + 30
    while subprocess.run(["pgrep", "-f", f"/tmp/ray-{number}/"], check=False).returncode == 0:
        assert time.monotonic() < end, "something of Ray still runs"
        time.sleep(0.5)


def test_what_it_cannot_do_without(tmp_path):
    without = {"SLURM_JOB_NODELIST": ""}
    done = submit(tmp_path, "spec.toml", **without)
    assert done.returncode == 2
    assert done.stderr == "slurm.sh: not in a SLURM job: submit it with sbatch\n"
    done = submit(tmp_path, "spec.toml", SLURM_JOB_NODELIST="a", GAUNLEARN_BIN=str(tmp_path))
    assert done.returncode == 2
    assert "has no ray and gaunlearn: pip install 'gaunlearn[cluster]' there" in done.stderr

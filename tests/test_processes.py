"""Processes that run a sweep together, each on its own devices, as on the hosts of a TPU pod."""

import socket

import pytest
from cases import assert_same_rows
from runs import SMALL_BLOCKS, SPEC, command, finish, write

import gaunlearn
from gaunlearn.sweep.processes import join
from gaunlearn.sweep.sections import SpecError

BORDER = (
    SPEC
    + """
[border]
predicate = "epsilon <= 0.1"
axes = ["data.d", "train.max_steps"]
coarse = 2
"""
)


# Says when this process has stored a block.
TELLING = (
    SMALL_BLOCKS
    + """
from gaunlearn.sweep.worker import Worker
store = Worker.store
def and_tell(*arguments):
    print("stored", len(__import__("jax").local_devices()))
    return store(*arguments)
Worker.store = and_tell
"""
)


def together(folder, *arguments, count=2, codes=None, **environment):
    """Processes that meet at a port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        command(
            folder,
            *arguments,
            code=(codes or {}).get(index, SMALL_BLOCKS),
            JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
            JAX_NUM_PROCESSES=str(count),
            JAX_PROCESS_ID=str(index),
            **environment,
        )
        for index in range(count)
    ]


def test_two_processes_of_two_devices_share_a_sweep(tmp_path, undisturbed):
    """Each runs its part on its own devices; the first says what came out, and merges."""
    write(tmp_path, SPEC)
    first, second = together(
        tmp_path, "--out", "run", codes={0: TELLING, 1: TELLING}, JAX_NUM_CPU_DEVICES="2"
    )
    out, told = finish(first)
    # Of a preview, the rest of its family, and another family.
    assert out.count("stored 2\n") == 3
    assert "36 trials, 3 seeds" in out
    of_second, nothing = finish(second)
    # Where a process has several devices, JAX's library for them says that it connects these.
    said = [line for line in of_second.splitlines() if not line.startswith("[Gloo]")]
    assert (said, nothing) == (["stored 2"] * 2, "")
    run = gaunlearn.load(tmp_path / "run")
    assert_same_rows(run.to_pandas(), undisturbed.to_pandas())
    assert "36 of 36 trials" in out + told
    assert sum(part["trials"] for part in run.manifest["parts"].values()) == 36
    # Merged: of one provenance, but for when each process began.
    assert len(run.parts()) == len(run.provenances())


def test_they_look_for_a_border_together(tmp_path):
    text = BORDER.replace("d = 50", "d = [50, 70, 100, 140]")
    text = text.replace("max_steps = 150", "max_steps = [20, 60, 180]")
    text = text.replace("step_fraction = [0.0, 0.5, 1.0]", "step_fraction = 1.0")
    write(tmp_path, text)
    finish(command(tmp_path, "--out", "alone", code=SMALL_BLOCKS))
    for process in together(tmp_path, "--out", "run"):
        finish(process)
    one, two = (gaunlearn.load(tmp_path / name) for name in ("alone", "run"))
    assert_same_rows(two.to_pandas(), one.to_pandas())
    assert two.border().equals(one.border())


def test_when_one_fails_the_others_stop_and_what_was_stored_is_kept(tmp_path):
    write(tmp_path, SPEC)
    failing = SMALL_BLOCKS + (
        "\nfrom gaunlearn.sweep import worker"
        "\ndef run_block(*_, **__): raise worker.RunFailedError('no memory here')"
        "\nworker.run_block = run_block"
    )
    first, second = together(tmp_path, "--out", "run", codes={1: failing})
    _, told = first.communicate(timeout=300)
    assert first.returncode == 1
    assert "gaunlearn: another of the processes that run this together has failed" in told
    _, told = second.communicate(timeout=300)
    assert second.returncode == 1
    assert "gaunlearn: no memory here" in told
    stored = gaunlearn.load(tmp_path / "run").to_pandas()
    assert len(stored) == 24
    finish(command(tmp_path, "--out", "run"))
    assert len(gaunlearn.load(tmp_path / "run").to_pandas()) == 36


def test_when_the_first_cannot_write_nobody_waits_for_it(tmp_path):
    write(tmp_path, SPEC)
    failing = (
        "from gaunlearn.sweep import runner"
        "\ndef make(place): raise runner.SpecError('no room here')"
        "\nrunner._make = make"
    )
    first, second = together(tmp_path, "--out", "run", codes={0: failing})
    _, told = first.communicate(timeout=300)
    assert (first.returncode, told) == (2, "gaunlearn: no room here\n")
    _, told = second.communicate(timeout=300)
    assert second.returncode == 1
    assert "the processes that run this together" in told
    assert "Traceback" not in told


def test_what_the_environment_asks_for(monkeypatch):
    met = {}
    monkeypatch.setattr("jax.distributed.initialize", lambda **how: met.update(how))
    own = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}
    for nothing in (
        {},
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"},  # a batch script, not a step of it
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {**own, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    ):
        assert join(nothing) is None
        assert not met
    join(own)
    assert met.pop("initialization_timeout") > 60
    assert met == {"coordinator_address": "h:1", "num_processes": 4, "process_id": 2}
    for several in (
        {"SLURM_STEP_NUM_TASKS": "2"},
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
    ):
        met.clear()
        join(several)
        assert met.keys() == {"initialization_timeout"}


def test_an_environment_that_says_half(monkeypatch):
    with pytest.raises(SpecError, match="JAX_NUM_PROCESSES is set in the environment, JAX_COORD"):
        join({"JAX_NUM_PROCESSES": "2"})
    own = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "x"}
    with pytest.raises(SpecError, match="JAX_PROCESS_ID = 'x' in the environment: must be a whole"):
        join(own)
    with pytest.raises(SpecError, match="JAX_PROCESS_ID = 2 in the environment: must be below 2"):
        join({**own, "JAX_PROCESS_ID": "2"})

    def nobody(**_):
        raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out\n" + "more " * 100)

    monkeypatch.setattr("jax.distributed.initialize", nobody)
    with pytest.raises(SpecError, match="run together do not meet: DEADLINE_EXCEEDED: Barrier"):
        join({**own, "JAX_PROCESS_ID": "1"})

"""Runs on real Ray clusters of several nodes on this machine, disturbed in every way."""

import os
import signal
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from cases import assert_same_rows
from object_store import object_store
from ray_nodes import nodes_of
from runs import SMALL_BLOCKS, SPEC, command, finish, refusal, write

import gaunlearn
from gaunlearn.cli import main
from gaunlearn.sweep import cluster, connection

ONE_EACH = ("--cpus-per-task", "1")


def wait_for(condition, seconds=240.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)
    return found


# A driver that plans a block a second, so that there is time to disturb it.
ONE_A_SECOND = """
import time
from gaunlearn.sweep import runner
plan_blocks = runner.plan_blocks
def one_a_second(*arguments):
    for block in plan_blocks(*arguments):
        time.sleep(1.0)
        yield block
runner.plan_blocks = one_a_second
"""


class Told:
    """What a process writes to stderr, as it comes."""

    def __init__(self, process):
        self.lines = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(process.stderr))
        self.reader.start()

    def count(self, text):
        return sum(text in line for line in list(self.lines))


def test_workers_a_node_and_the_driver_are_lost_and_no_trial_is(tmp_path):
    """One of two workers is killed, then a node is; the driver is killed, and started again with a
    worker that hangs. The data are those of a run in one process.
    """
    seeds = 40
    write(tmp_path, SPEC, seeds=seeds)
    finish(command(tmp_path, "--out", "quiet", code=SMALL_BLOCKS))
    parts = tmp_path / "run" / "trials"

    def stored():
        return len(list(parts.glob("*.parquet")))

    with nodes_of(1, 1) as nodes:
        on_cluster = ("--out", "run", "--cluster", nodes.address, *ONE_EACH)
        attentive = SMALL_BLOCKS + "\nfrom gaunlearn.sweep import cluster\ncluster._LOOK_S = 1.0"
        driver = command(tmp_path, *on_cluster, code=attentive + ONE_A_SECOND)
        told = Told(driver)
        wait_for(lambda: stored() >= 1)
        os.kill(nodes.workers()[0], signal.SIGKILL)
        wait_for(lambda: told.count("was lost") == 1)
        # Another one takes its place: two work again.
        wait_for(lambda: len(nodes.workers()) == 2)
        nodes.remove(1)
        wait_for(lambda: told.count("was lost") == 2)
        before = stored()
        wait_for(lambda: stored() > before)
        assert driver.poll() is None, told.lines
        driver.kill()
        told.reader.join()
        driver.communicate()
        for part in parts.glob("*.parquet"):
            pq.read_metadata(part)
        nodes.add(1)
        wait_for(lambda: not nodes.workers())
        before = stored()
        assert 3 < before < seeds - 4
        hasty = attentive + "\ncluster._STRAGGLING_S = 2.0"
        # The driver uses no device: JAX would find none.
        driver = command(tmp_path, *on_cluster, code=hasty, JAX_PLATFORMS="none_such")
        wait_for(lambda: stored() > before)
        os.kill(nodes.workers()[0], signal.SIGSTOP)
        out, told = finish(driver)
        assert f"{12 * seeds} of {12 * seeds} trials" in out + told
        assert "it is run elsewhere too" in told
        wait_for(lambda: not nodes.workers())
    got = gaunlearn.load(tmp_path / "run").to_pandas()
    want = gaunlearn.load(tmp_path / "quiet").to_pandas()
    assert got["trial_id"].is_unique
    assert_same_rows(got, want)
    assert got["trial_id"].tolist() == want["trial_id"].tolist()
    assert not (tmp_path / "run" / ".driver").exists()


def test_workers_that_cannot_work_are_named_before_any_compute(tmp_path, capsys, monkeypatch):
    """Other code, storage that is not shared, and no room: on one cluster."""
    path = write(tmp_path, SPEC, seeds=2)
    before = gaunlearn.run(path, tmp_path / "run").to_pandas()

    def refused(*arguments):
        """What is told, and that what is there is not replaced."""
        where = ("--out", str(tmp_path / "run"), "--fresh", "--cluster", address)
        told = refusal(tmp_path, capsys, *where, *arguments)
        assert gaunlearn.load(tmp_path / "run").to_pandas().equals(before)
        return told

    with nodes_of(1) as nodes:
        address = nodes.address
        with monkeypatch.context() as patch:
            other = {"gaunlearn": "0.0.1", "jax": "0.4.1"}
            patch.setattr(cluster, "identity_of_code", lambda: other)
            told = refused(*ONE_EACH)
        assert "runs other code: gaunlearn is 0.1.0 (code " in told
        assert "there and 0.0.1 here; jax is " in told
        with monkeypatch.context() as patch:
            patch.setattr(cluster, "give_token", lambda run: "written elsewhere")
            told = refused(*ONE_EACH)
        assert "does not see what the driver has written to" in told
        assert "--out has to be on a file system that all nodes share" in told
        told = refused("--gpus-per-task", "1")
        assert "no node has 1 CPU and 1 GPU for a worker" in told
        told = refused("--cpus-per-task", "2")
        assert "no node has 2 CPU for a worker (they have 0 CPU and 0 GPU, 1 CPU and 0 GPU)" in told
        nodes.add(1, gpus=1)
        told = refused("--gpus-per-task", "1")
        assert "has been given 1 GPU, but JAX finds none there: install JAX's build" in told


def test_a_cluster_of_this_machine_writes_to_an_object_store(tmp_path, undisturbed, monkeypatch):
    """Parts go from the workers to an S3 store that answers every tenth request by "slow down"; a
    network that is kept, is there once.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    write(tmp_path, SPEC + "[store]\nweights = true\n")
    with object_store("runs") as store:
        store.error_rate, store.needs_credentials = 0.1, True
        uri = store.uri("runs/a")
        arguments = ("--out", uri, "--cluster", "local", *ONE_EACH)
        out, told = finish(command(tmp_path, *arguments, code=SMALL_BLOCKS))
        assert "36 of 36 trials" in out + told
        assert store.errors > 3
        run = gaunlearn.load(uri)
        rows = run.to_pandas()
        assert_same_rows(rows, undisturbed.to_pandas())
        networks = run.weights(rows["training_id"][0])
        # The trained one, and for each of 4 samples two that were trained without it.
        assert len(networks) == 9
        assert len({(each.forget, each.start) for each in networks}) == 9


def test_calls_that_have_no_cluster(tmp_path, capsys, monkeypatch):
    path = write(tmp_path, SPEC)
    with pytest.raises(ValueError, match=r"--cluster 127\.0\.0\.1:1: cannot be reached"):
        gaunlearn.run(path, tmp_path / "run", cluster="127.0.0.1:1", gpus_per_task=1)
    line = refusal(tmp_path, capsys, "--cluster", "127.0.0.1:1")
    assert "--cluster 127.0.0.1:1: cannot be reached: " in line
    for wrong in ("here", "ray://127.0.0.1:10001", "head:port", ":6379"):
        assert "must be 'local', 'auto'" in refusal(tmp_path, capsys, "--cluster", wrong)
    assert "are of --cluster" in refusal(tmp_path, capsys, "--gpus-per-task", "1")
    line = refusal(tmp_path, capsys, "--cluster", "local", "--shard", "1/2")
    assert "share by themselves" in line
    with pytest.raises(SystemExit) as caught:
        main(["run", "spec.toml", "--cluster", "local", "--gpus-per-task", "-1"])
    assert caught.value.code == 2
    capsys.readouterr()
    import ray

    def another(*_, **__):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0")

    monkeypatch.setattr(ray, "init", another)
    with monkeypatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as other:
        # Something listens that is no cluster's head.
        patch.setattr(connection, "_PROVE_S", 4.0)
        address = f"127.0.0.1:{other.getsockname()[1]}"
        line = refusal(tmp_path, capsys, "--cluster", address)
        assert line.endswith("does not answer as a Ray cluster's head does (4 s)")
    monkeypatch.setattr(connection, "_prove", lambda address: None)
    monkeypatch.setattr("socket.create_connection", lambda *_: SimpleNamespace(close=list))
    line = refusal(tmp_path, capsys, "--cluster", "127.0.0.1:6379")
    assert "cannot be joined: Version mismatch: The cluster was started with: Ray: 2.9.0" in line
    for name, value in (
        ("NUM_PROCESSES", "2"),
        ("PROCESS_ID", "0"),
        ("COORDINATOR_ADDRESS", "h:1"),
    ):
        monkeypatch.setenv(f"JAX_{name}", value)
    line = refusal(tmp_path, capsys, "--cluster", "local")
    assert "is started once, not by each of several processes" in line
    monkeypatch.delenv("JAX_NUM_PROCESSES")
    assert "JAX_NUM_PROCESSES is not: set all three" in refusal(tmp_path, capsys)
    for name in ("JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refusal(tmp_path, capsys, "--cluster", "auto")
    assert line == "gaunlearn: --cluster needs Ray: pip install 'gaunlearn[cluster]'"


def test_without_a_cluster_ray_is_not_imported(tmp_path):
    write(tmp_path, SPEC, seeds=1)
    code = "import atexit\natexit.register(lambda: print('ray' in sys.modules))"
    out, _ = finish(command(tmp_path, "--out", "run", code=code))
    assert out.strip().endswith("False")

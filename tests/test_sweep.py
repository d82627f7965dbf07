"""Specifications, identity, storage and the command line."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pyarrow.parquet as pq
import pytest
from cases import assert_same_rows

import gaunlearn
from gaunlearn.cli import main
from gaunlearn.schema import COLUMNS, IDENTITY, RESULTS
from gaunlearn.sweep.parts import RunError
from gaunlearn.sweep.plan import survey
from gaunlearn.sweep.sections import SpecError
from gaunlearn.sweep.spec import load_spec

TINY = """# How small can a sweep be? As small as this.
[sweep]
seeds = 2
[data]
kind = "gaussian_mixture"
m = 4
d = 50
alpha = 0.1
n_test = 20
[model]
kind = "two_layer_relu"
n = 8
[train]
max_steps = 100
[unlearn]
step_fraction = [0.0, 1.0]
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of TINY through the command line, as a subprocess."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(TINY)
    command = [sys.executable, "-m", "gaunlearn", "run", "tiny.toml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_command_line_runs_a_sweep_and_parquet_reads_back(finished):
    folder, done = finished
    out = folder / "results" / "tiny"
    parts = sorted((out / "trials").glob("*.parquet"))
    assert parts
    table = pq.ParquetDataset(parts).read()
    frame = table.to_pandas()
    assert len(frame) == 2 * 4 * 2
    assert frame["trial_id"].is_unique
    assert set(zip(frame["seed"], frame["forget_index"], frame["step_fraction"], strict=True)) == {
        (s, i, f) for s in range(2) for i in range(4) for f in (0.0, 1.0)
    }
    for column in COLUMNS:
        field = table.schema.field(column.name)
        assert field.metadata[b"meaning"].decode() == column.meaning
    for column in (*IDENTITY, *RESULTS):
        if column.name == "forget_draw":
            assert frame[column.name].isna().all(), "samples are named by their index"
            continue
        assert not frame[column.name].isna().all(), f"{column.name} is present and empty"
    assert (frame["m"] == 4).all()
    assert (frame["alpha"] == 0.1).all()
    assert (frame["data_kind"] == "gaussian_mixture").all()
    about = json.loads(pq.read_metadata(parts[0]).metadata[b"provenance"])
    assert about["spec"] == TINY
    assert about["canaries"] == "well"
    for key in ("gaunlearn", "jax", "jaxlib", "device", "spec_hash", "commit"):
        assert key in about
    assert "directory" not in about, "a path of this machine, which no one needs"
    assert (out / "spec.toml").read_text() == TINY
    assert "epsilon is smallest at step fraction 1" in done.stdout
    assert "test accuracy" in done.stdout
    assert "16 of 16 trials" in done.stdout
    assert (out / "report" / "step_fraction.png").stat().st_size > 10_000
    assert b"<svg" in (out / "report" / "step_fraction.svg").read_bytes()


def test_load_gives_the_same_rows(finished):
    folder, _ = finished
    run = gaunlearn.load(folder / "results" / "tiny")
    frame = run.to_pandas()
    assert len(frame) == 16
    assert "stationarity residual" in frame.attrs["columns"]["epsilon"]
    assert run.manifest["name"] == "tiny"


def test_second_run_computes_nothing_and_an_interrupted_one_goes_on(finished, tmp_path, spec):
    folder, _ = finished
    out = tmp_path / "run"
    shutil.copytree(folder / "results" / "tiny", out)
    part = next((out / "trials").iterdir())
    stamp, before = part.stat().st_mtime_ns, gaunlearn.load(out).to_pandas()
    stages = []
    gaunlearn.run(spec, out, progress=lambda p: stages.append(p.stage))
    assert stages == ["already finished"]
    assert part.stat().st_mtime_ns == stamp
    part.write_bytes(part.read_bytes()[:1000])  # half a file, as no writer of ours leaves it
    again = gaunlearn.run(spec, out).to_pandas()
    assert_same_rows(again, before)


def test_progress_on_a_terminal(tmp_path, spec):
    """The live display, on a terminal of its own: what it counts, and that it ends well."""
    out = tmp_path / "run"
    gaunlearn.run(spec, out)
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gaunlearn", "run", str(spec), "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # how Linux says that nobody has the terminal open any more
        while chunk := os.read(master, 65536):
            shown += chunk
    os.close(master)
    assert process.wait() == 0, shown.decode()
    trials = len(gaunlearn.load(out).to_pandas())
    assert f"{trials} of {trials} trials" in shown.decode()
    assert "Traceback" not in shown.decode()


def test_more_seeds_keep_old_trials(finished, tmp_path, spec):
    """An added axis value changes no existing trial: same names, same numbers."""
    folder, _ = finished
    old = gaunlearn.load(folder / "results" / "tiny").to_pandas().set_index("trial_id")
    spec.write_text(TINY.replace("seeds = 2", "seeds = [5, 1]").replace("[0.0, 1.0]", "[1.0, 0.5]"))
    new = gaunlearn.run(spec, tmp_path / "run").to_pandas().set_index("trial_id")
    common = old.index.intersection(new.index)
    assert len(common) == 4
    for name in ("epsilon", "delta", "tau_retrain", "margin_forget_unlearned", "log_loss_train"):
        np.testing.assert_allclose(new.loc[common, name], old.loc[common, name], rtol=1e-9)


def test_changed_specification_runs_what_is_new_and_sets_the_rest_aside(finished, tmp_path, spec):
    folder, _ = finished
    out = tmp_path / "run"
    shutil.copytree(folder / "results" / "tiny", out)
    (out / "notes.txt").write_text("mine")
    old = gaunlearn.load(out).to_pandas()

    def ids(run):
        return set(run.to_pandas()["trial_id"])

    # One seed and one step fewer, one step more: four of sixteen trials stay.
    spec.write_text(TINY.replace("seeds = 2", "seeds = 1").replace("[0.0, 1.0]", "[1.0, 0.5]"))
    totals = []
    run = gaunlearn.run(spec, out, progress=lambda p: totals.append((p.done, p.total)))
    frame = run.to_pandas()
    assert totals[0] == (4, 8), "four trials were there"
    assert set(zip(frame["seed"], frame["step_fraction"], strict=True)) == {(0, 1.0), (0, 0.5)}
    assert frame["trial_id"].is_unique
    kept = old.merge(frame, on="trial_id")
    assert len(kept) == 4
    np.testing.assert_array_equal(kept["epsilon_x"], kept["epsilon_y"])
    # Back to the first specification: what was set aside is taken back, nothing is computed.
    spec.write_text(TINY)
    stages = []
    again = gaunlearn.run(spec, out, progress=lambda p: stages.append(p.stage))
    assert stages == ["already finished"]
    assert ids(again) == set(old["trial_id"])
    assert again.to_pandas()["trial_id"].is_unique
    gaunlearn.run(spec, out, fresh=True)
    assert (out / "notes.txt").exists(), "--fresh removes a run's own files only"
    (out / "run.json").unlink()
    with pytest.raises(ValueError, match="is not a run"):
        gaunlearn.run(spec, out, fresh=True)
    assert not list((out / "unused").glob("*"))


def test_axes_are_columns_and_share_trainings(tmp_path, spec):
    spec.write_text(
        TINY.replace("max_steps = 100", 'max_steps = 100\nloss = ["logistic", "exponential"]')
        + '[retrain]\ninit = ["same", "fresh"]\n[evaluate]\nkinks = ["handled", "ignored"]\n'
    )
    sweep = load_spec(spec)
    found = survey(sweep)
    # Fresh and fresh again, same and fresh: three retrainings of each sample.
    assert (found.trials, found.trainings, found.retrainings) == (8 * 16, 4, 4 * 4 * 3)
    frame = gaunlearn.run(spec, tmp_path / "run").to_pandas()
    assert len(frame) == 8 * 16
    assert frame["trial_id"].is_unique
    assert set(frame["retrain_init"]) == {"same", "fresh"}
    assert frame.groupby(["loss", "seed"])["log_loss_train"].nunique().eq(1).all()
    assert frame.groupby("loss")["log_loss_train"].median().nunique() == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("alpha = 0.1", "alhpa = 0.1", r"data.alhpa: unknown key; did you mean 'alpha'\?"),
        ("alpha = 0.1", "alpha = 0.3", "data.alpha = 0.3: must be less than 0.25"),
        ("alpha = 0.1", 'alpha = "big"', "data.alpha: there is no parameter 'big' here"),
        ("alpha = 0.1", "alpha = nan", "data.alpha = nan: must be a finite number"),
        ("alpha = 0.1\n", "", "data.alpha: missing"),
        ("m = 4", "m = 1", "data.m = 1: must be greater than or equal to 2"),
        ("m = 4", "m = 4.5", "data.m = 4.5"),
        ("m = 4", "m = true", "data.m = True: must be a valid integer"),
        ("seeds = 2", "seeds = [9223372036854775808]", "sweep.seeds"),
        ("m = 4", "m = []", r"data.m = \[\]: an axis needs at least one value"),
        ("m = 4", "m = [4, 4]", "data.m: the value 4 is given twice"),
        ("m = 4", "m = [4, 1]", "data.m = 1: must be greater"),
        (
            '"gaussian_mixture"',
            '"gaussian"',
            "data.kind: 'gaussian'; did you mean 'gaussian_mixture'",
        ),
        ("[model]", "[modle]", r"modle: unknown key; did you mean 'model'\?"),
        ("[unlearn]", "[unlearn]\nmethod = 1", "unlearn.method: 1; allowed are ascent"),
        ("seeds = 2", "seeds = 0", "sweep.seeds = 0: must be a count"),
        ("seeds = 2", "seeds = [1, 1]", "sweep.seeds: the value 1 is given twice"),
        ("seeds = 2", 'name = "../x"', "sweep.name = '../x': must be letters"),
        ("[0.0, 1.0]", "[-1.0]", "unlearn.step_fraction"),
        ("[0.0, 1.0]", "{ start = 0.0, stop = 1.0 }", "count must be a whole number from 2 to"),
        ("[0.0, 1.0]", "{ start = 0.0, stop = 1.0, cuont = 3 }", r"did you mean 'count'\?"),
        ("max_steps = 100", 'max_steps = 100\nloss = "hinge"', "must be one of logistic, expon"),
        ("max_steps = 100", "max_steps = 0", "train.max_steps = 0"),
        (
            "max_steps = 100",
            'max_steps = 100\nend = "edge"',
            "train.end = 'edge': must be 'descent'",
        ),
        ("n = 8", 'n = 8\n[compute]\ndtype = "float16"', "compute.dtype = 'float16'"),
        (
            "max_steps = 100",
            'max_steps = 3_000_000_000\n[compute]\ndtype = "float32"',
            r"train.max_steps = 3000000000: must be below 2\^31 with dtype float32",
        ),
        ("max_steps = 100", 'max_steps = 100\noptimizer = "adam"', "must be one of"),
        ("n = 8", "n = 8\n[forget]\nindex = 4", "forget.index = 4: there is no such sample"),
        ("n = 8", 'n = 8\n[forget]\nindex = "all"', 'must be "each", a sample index'),
        ("n = 8", 'n = 8\n[retrain]\ninit = "warm"', "retrain.init = 'warm'"),
        ("n = 8", "n = 8\n[evaluate]\nkink_tol = [-1.0]", "evaluate.kink_tol"),
        ("[data]", "[data", "not valid TOML"),
    ],
)
def test_wrong_specification_is_one_clear_line_and_status_2(spec, capsys, old, new, message):
    assert old in TINY
    spec.write_text(TINY.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_spec(spec)
    assert main(["run", str(spec)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"gaunlearn: {spec}: ")
    assert captured.err.count("\n") == 1


FILE_SPEC = """
[data]
kind = "file"
path = "mine.npz"
[model]
kind = "linear"
[train]
max_steps = 100
"""
X, Y = np.eye(3), np.array([1.0, -1.0, 1.0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "has no array 'y'"),
        ({"x": X, "y": np.array([1, 0, 1])}, r"y\[1\] is 0: labels must be"),
        ({"x": X * np.nan, "y": Y}, r"x\[0\] is NaN or infinite"),
        ({"x": X * np.array([[1], [0], [1]]), "y": Y}, r"x\[1\] is all zero"),
        ({"x": np.ones((3, 3)), "y": Y}, r"x\[0\] and x\[1\] are the same sample with both"),
        ({"x": X[:1], "y": Y[:1]}, "one sample"),
        ({"x": X, "y": Y, "x_test": X}, "x_test and y_test must be given together"),
        ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, "x_test has 2 features"),
        ({"x": X, "y": Y, "z": Y}, r"unknown arrays \['z'\]"),
        ({"x": X, "y": np.array([None, 1, 1])}, "cannot be read"),
    ],
)
def test_wrong_file_is_one_clear_line(tmp_path, capsys, arrays, message):
    (tmp_path / "spec.toml").write_text(FILE_SPEC)
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(SpecError, match=message):
        load_spec(tmp_path / "spec.toml")
    assert main(["run", str(tmp_path / "spec.toml")]) == 2
    assert "mine.npz" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"no archive", "npy"])
def test_file_that_is_no_archive_is_one_clear_line(tmp_path, content):
    (tmp_path / "spec.toml").write_text(FILE_SPEC)
    if content == "npy":
        with (tmp_path / "mine.npz").open("wb") as file:
            np.save(file, X)
    elif content is not None:
        (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(SpecError, match=r"mine.npz: (no such file|cannot be read|is not an .npz)"):
        load_spec(tmp_path / "spec.toml")


def test_file_without_test_set_has_no_accuracy_and_duplicates_are_legal(tmp_path):
    (tmp_path / "spec.toml").write_text(FILE_SPEC)
    np.savez(tmp_path / "mine.npz", x=np.vstack([X, X[:1]]), y=np.append(Y, Y[0]))
    frame = gaunlearn.run(tmp_path / "spec.toml", tmp_path / "run").to_pandas()
    absent = [name for name in frame if name.startswith(("accuracy", "membership", "disagree"))]
    assert absent
    assert frame[absent].isna().all().all()
    assert frame["separated"].all()
    assert frame["epsilon"].notna().all()


def test_command_line_says_what_is_wrong_with_paths(tmp_path, spec, capsys):
    assert main(["run", str(tmp_path / "none.toml")]) == 2
    assert main(["report", str(tmp_path)]) == 2
    (tmp_path / "file").write_text("")
    assert main(["run", str(spec), "--out", str(tmp_path / "file" / "run")]) == 2
    err = capsys.readouterr().err
    assert "none.toml: no such file" in err
    assert "not a run" in err
    assert "cannot be written" in err
    with pytest.raises(SystemExit) as caught:
        main(["run"])
    assert caught.value.code == 2


def test_report_on_a_damaged_run_says_so(finished, tmp_path):
    folder, _ = finished
    shutil.copytree(folder / "results" / "tiny", tmp_path / "run")
    next((tmp_path / "run" / "trials").iterdir()).unlink()
    with pytest.raises(RunError, match="missing; run again"):
        gaunlearn.load(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        gaunlearn.load(tmp_path / "run")


@pytest.mark.parametrize("moment", ["start", "compile", "compute"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_at_once_and_keeps_what_was_stored(tmp_path, moment, number):
    """While JAX is imported, while it compiles, and while blocks are computed: the status says by
    what, there is no traceback, and what was stored stays.
    """
    (tmp_path / "long.toml").write_text(
        TINY.replace("seeds = 2", "seeds = 400").replace("max_steps = 100", "max_steps = 20000")
    )
    # A background job of a shell starts with SIGINT ignored; Ctrl-C in a terminal is not.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import gaunlearn.sweep.plan as p; p.BLOCK_S = 0.1; print('there', flush=True); "
        "from gaunlearn.cli import main; sys.exit(main(['run', 'long.toml', '--out', 'run']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **({"GAUNLEARN_CACHE": "off"} if moment == "compile" else {})},
    )
    assert process.stdout is not None
    process.stdout.readline()
    sought = {"start": "long.toml", "compile": "run/run.json", "compute": "run/trials/*.parquet"}
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not list(tmp_path.glob(sought[moment])):
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(number)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert time.monotonic() - began < 30, "waited for XLA"
    assert ("interrupted" if number == signal.SIGINT else "terminated") in err
    assert "Traceback" not in err
    if moment == "compute":
        assert len(gaunlearn.load(tmp_path / "run").to_pandas()) > 0


def test_an_interrupt_from_python_waits_for_the_end_of_a_stage(tmp_path, spec):
    """``gaunlearn.run`` in a script or notebook: KeyboardInterrupt where nothing can be lost."""
    stages = []

    def interrupt(progress):
        stages.append(progress.stage)
        if progress.stage == "train":
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            gaunlearn.run(spec, tmp_path / "run", progress=interrupt)
        assert stages[-1] == "train"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)

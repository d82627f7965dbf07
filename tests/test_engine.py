"""The sweep engine: shapes, lanes, devices, batches, shards, resume, storage and verification."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from cases import assert_same_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

import gaunlearn
from gaunlearn.cli import main
from gaunlearn.schema import COLUMNS, as_markdown
from gaunlearn.sweep import machine, plan, runner
from gaunlearn.sweep.lanes import forget_capacities, map_lanes, pad_to_capacity, run_in_rounds
from gaunlearn.sweep.lock import locked
from gaunlearn.sweep.place import Place, StorageError
from gaunlearn.sweep.plan import Limits, families_of, plan_blocks, survey
from gaunlearn.sweep.resume import Finished, claims_of
from gaunlearn.sweep.runner import run_sweep
from gaunlearn.sweep.sections import SECTIONS, SpecError, column_name
from gaunlearn.sweep.shapes import COMPILATION_S, Size, choose_shapes, step_seconds
from gaunlearn.sweep.spec import load_spec
from gaunlearn.sweep.store import arrow_schema

SPEC = """
[sweep]
seeds = {seeds}
[data]
kind = "isotropic"
m = 4
d = 50
n_test = 10
[model]
kind = "two_layer_relu"
n = 8
init_scale = 0.3
[train]
max_steps = 150
step_size = 0.3
[unlearn]
step_fraction = [0.0, 0.5, 1.0]
"""


def write(folder, text, **values):
    path = folder / "spec.toml"
    path.write_text(text.format(seeds=3) if not values else text.format(**values))
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Rows of SPEC with 3 seeds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return gaunlearn.run(write(folder, SPEC), folder / "run")


# -- shapes ----------------------------------------------------------------------------------


def test_shapes_are_merged_while_that_saves_time():
    """By hand: two sizes, little work: one program. Much work in the small one: two."""
    small, large = Size(10, 100, 10, 0), Size(40, 400, 40, 0)
    assert choose_shapes({small: 1.0, large: 1.0}) == {small: large, large: large}
    extra = step_seconds(40, 400) - step_seconds(10, 100)
    enough = COMPILATION_S / extra
    assert choose_shapes({small: 0.9 * enough, large: 1.0})[small] == large
    assert choose_shapes({small: 1.1 * enough, large: 1.0})[small] == small
    # Neither contains the other: the room is the larger of both in each direction.
    a, b = Size(10, 400, 11, 5), Size(40, 100, 41, 0)
    assert choose_shapes({a: 1.0, b: 1.0})[a] == Size(40, 400, 41, 5)


def test_a_phase_diagram_needs_a_handful_of_programs():
    demand = {Size(m, n, m, 0): 1e5 for m in range(5, 101, 5) for n in range(20, 401, 20)}
    shapes = choose_shapes(demand)
    assert len(set(shapes.values())) <= 12
    assert all(all(a <= b for a, b in zip(s, room, strict=True)) for s, room in shapes.items())


ROOM = """
[sweep]
seeds = 2
zip = ["data.m", "data.d", "model.n"]
[data]
kind = "{kind}"
m = [4, 7]
d = [60, 5]
n_test = 12
{alpha}
[model]
kind = "two_layer_relu"
n = [8, 13]
init_scale = 0.3
[train]
max_steps = 250
step_size = 0.3
end = "{end}"
[forget]
index = [0, 3]
"""


@pytest.mark.parametrize(("kind", "end"), [("isotropic", "descent"), ("gaussian_mixture", "limit")])
def test_room_for_larger_problems_changes_no_result(tmp_path, kind, end):
    """m, d and n of two problems share one program; the smaller also runs in its own shape."""
    alpha = "alpha = 0.1" if kind == "gaussian_mixture" else ""
    path = write(tmp_path, ROOM, kind=kind, end=end, alpha=alpha)
    together = gaunlearn.run(path, tmp_path / "together").to_pandas()
    assert len(survey(load_spec(path)).programs) == 1
    given = ["data.m=4", "data.d=60", "model.n=8", "sweep.zip=[]"]
    (program,) = survey(load_spec(path, given)).programs
    assert program.room.samples == 4
    apart = gaunlearn.run(path, tmp_path / "apart", overrides=given).to_pandas()
    same = together[together["trial_id"].isin(apart["trial_id"])]
    assert len(same) == len(apart) == 4
    assert_same_rows(same, apart)


# -- lanes -----------------------------------------------------------------------------------


@given(st.integers(1, 20), st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_lanes_are_mapped_and_the_rest_is_left_alone(count, batch):
    total = batch * -(-20 // batch)
    lanes = jnp.arange(float(total))
    got = map_lanes(lambda lane: lane**2 + 1, lanes, jnp.asarray(count), batch)
    done = batch * -(-count // batch)
    np.testing.assert_array_equal(got[:done], lanes[:done] ** 2 + 1)
    assert not got[done:].any()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_lanes_that_end_make_room(lengths, batch):
    """Every lane takes its own number of rounds, and no more places are used than are needed when
    lanes may be replaced.
    """
    from collections import namedtuple

    State = namedtuple("State", "taken ended")
    total = 12
    wanted = jnp.asarray(lengths + [99] * (total - len(lengths)))
    states, places = run_in_rounds(
        wanted,
        jnp.asarray(len(lengths)),
        batch,
        begin=lambda lane: State(jnp.asarray(0), lane == 0),
        one_round=lambda lane, state: State(state.taken + 1, state.taken + 1 >= lane),
    )
    assert states.taken[: len(lengths)].tolist() == lengths
    # Greedy list scheduling: at most the mean load plus the longest lane, on every place.
    assert int(places) <= sum(lengths) + batch * max(lengths)


def test_lanes_of_different_lengths_are_no_burden(tmp_path):
    """Three short trainings and a long one: the batch is busy for most of the time."""
    text = SPEC.replace("max_steps = 150", "max_steps = [100, 200, 300, 2000]\ncheck_every = 50")
    text = text.replace("m = 4", "m = 8").replace("n = 8", "n = 128")
    run = gaunlearn.run(write(tmp_path, text, seeds=6), tmp_path / "run")
    frame = run.to_pandas()
    assert sorted(set(frame["steps"])) == [100, 200, 300, 2000]
    assert run.manifest["training_lanes_busy"] > 0.8


# -- devices, batches, shards ------------------------------------------------------------------


def command(folder, *arguments, code="", **environment):
    """Start ``gaunlearn run`` of a folder's specification as a process."""
    program = f"import sys\n{code}\nfrom gaunlearn.cli import main\nsys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, "run", "spec.toml", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


@pytest.mark.parametrize("devices", [2, 8])
def test_any_number_of_devices_gives_the_same_rows(undisturbed, tmp_path, devices):
    """15 trainings and retrainings a seed on 8 devices: shares are uneven, some are empty."""
    write(tmp_path, SPEC)
    finish(command(tmp_path, "--out", "run", JAX_NUM_CPU_DEVICES=str(devices)))
    run = gaunlearn.load(tmp_path / "run")
    assert run.manifest["provenance"]["devices"] == devices
    assert_same_rows(run.to_pandas(), undisturbed.to_pandas())


def test_batches_of_any_size_give_the_same_rows(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "batch_pairs", lambda: 64)
    run = gaunlearn.run(write(tmp_path, SPEC), tmp_path / "run")
    assert_same_rows(run.to_pandas(), undisturbed.to_pandas())


def test_shards_together_are_the_whole(undisturbed, tmp_path):
    path = write(tmp_path, SPEC)
    for part in (2, 0, 1):
        run = gaunlearn.run(path, tmp_path / "run", shard=(part, 3))
        assert run.to_pandas()["seed"].nunique() <= 3
    assert_same_rows(run.to_pandas(), undisturbed.to_pandas())
    assert gaunlearn.run(path, tmp_path / "run").manifest["trials"] == len(run.to_pandas())
    with pytest.raises(SpecError, match="run once without --shard"):
        gaunlearn.run(path, tmp_path / "run", shard=(0, 2), overrides=["data.d=60"])
    with pytest.raises(SpecError, match="--fresh with --shard"):
        gaunlearn.run(path, tmp_path / "run", shard=(0, 2), fresh=True)
    empty = gaunlearn.run(path, tmp_path / "empty", shard=(7, 8))
    assert empty.parts() == []
    with pytest.raises(ValueError, match="no trials have finished"):
        empty.to_pandas()
    for wrong in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(SystemExit) as caught:
            main(["run", str(path), "--shard", wrong])
        assert caught.value.code == 2


def out_of_memory_above(limit_pairs, limit_rows):
    """``run_block`` on a machine that cannot do more at a time."""
    sizes = []

    def run_block(block, directory, batch_pairs, report, keep_weights):
        sizes.append((batch_pairs, block.trials))
        if batch_pairs > limit_pairs or block.trials > limit_rows:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return original(block, directory, batch_pairs, report, keep_weights)

    original = runner.run_block
    return run_block, sizes


def test_short_memory_halves_batches_then_blocks(undisturbed, tmp_path, monkeypatch):
    limited, sizes = out_of_memory_above(100, 6)
    monkeypatch.setattr(runner, "run_block", limited)
    run = gaunlearn.run(write(tmp_path, SPEC), tmp_path / "run")
    assert_same_rows(run.to_pandas(), undisturbed.to_pandas())
    assert sizes[0][0] > 100
    assert sizes[-1][0] <= 100
    assert min(rows for _, rows in sizes) <= 6


def test_a_trial_too_large_for_memory_is_named(tmp_path, monkeypatch, capsys):
    limited, _ = out_of_memory_above(0, 0)
    monkeypatch.setattr(runner, "run_block", limited)
    path = write(tmp_path, SPEC)
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 1
    assert "m = 4 and n = 8 does not fit into memory" in capsys.readouterr().err


# -- resume ----------------------------------------------------------------------------------


# Blocks of one family each, so that there is something to interrupt.
SMALL_BLOCKS = "from gaunlearn.sweep import plan\nplan._BLOCK_S = 1e-9"


def test_killed_at_any_moment_it_goes_on(tmp_path):
    """kill -9 at random moments, 20 times; in the end the data are those of one quiet run."""
    text = SPEC.replace('kind = "two_layer_relu"\nn = 8', 'kind = "linear"')
    write(tmp_path, text, seeds=16)
    finish(command(tmp_path, "--out", "quiet", code=SMALL_BLOCKS))
    rng, counts = random.Random(0), []
    parts = tmp_path / "run" / "trials"
    kills = 0
    while kills < 20:
        process = command(tmp_path, "--out", "run", code=SMALL_BLOCKS)
        if kills % 4 == 0:
            time.sleep(rng.uniform(0.0, 3.0))  # while it starts
        else:
            # From the next stored part on, a random moment of computing, writing or renaming.
            before = len(list(parts.glob("*.parquet")))
            while process.poll() is None and len(list(parts.glob("*.parquet"))) == before:
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.25))
        finished = process.poll() is not None
        process.kill()
        process.communicate()
        if finished:
            # It had finished: begin anew.
            for part in parts.glob("*.parquet"):
                part.unlink()
            continue
        kills += 1
        counts.append(len(list(parts.glob("*.parquet"))))
        for part in parts.glob("*.parquet"):
            pq.read_metadata(part)  # none is half a file
    assert counts[-1] > 0
    finish(command(tmp_path, "--out", "run", code=SMALL_BLOCKS))
    got = gaunlearn.load(tmp_path / "run").to_pandas()
    want = gaunlearn.load(tmp_path / "quiet").to_pandas()
    assert got["trial_id"].is_unique
    assert len(got) == 16 * 4 * 3
    assert_same_rows(got, want)
    # The same blocks, and so the same order, whatever happened on the way.
    assert got["trial_id"].tolist() == want["trial_id"].tolist()


def test_small_parts_become_one_and_a_crash_in_between_loses_nothing(tmp_path, monkeypatch):
    """StoppedError at each file operation of the merging in turn; the next run completes it."""
    monkeypatch.setattr(plan, "_BLOCK_S", 1e-9)
    path, out = write(tmp_path, SPEC), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "compact", lambda run, parts: dict(parts))
        many = gaunlearn.run(path, out)
    assert len(many.parts()) == 3
    want = many.to_pandas()
    shutil.copytree(out, tmp_path / "many")
    operations = []

    class StoppedError(Exception):
        pass

    def counted(original):
        def operation(*arguments):
            if str(arguments[0].name).endswith(("trials", "unused")):
                operations.append(original.__name__)
                if len(operations) > allowed:
                    raise StoppedError
            return original(*arguments)

        return operation

    allowed = 100
    while allowed >= 0:
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "many", out)
        operations.clear()
        with monkeypatch.context() as patch:
            for name in ("write", "move", "delete"):
                patch.setattr(Place, name, counted(getattr(Place, name)))
            try:
                gaunlearn.run(path, out)
                assert operations == ["write", *["move"] * 4, *["delete"] * 3]
                allowed = len(operations)
            except StoppedError:
                for part in (out / "trials").glob("*.parquet"):
                    pq.read_metadata(part)
        again = gaunlearn.run(path, out)
        assert len(again.parts()) == 1
        assert again.to_pandas().equals(want)
        assert again.manifest["parts"].keys() == {again.parts()[0].removesuffix(".parquet")}
        allowed -= 1


def test_parts_of_different_provenance_stay_apart(tmp_path):
    path, out = write(tmp_path, SPEC, seeds=2), tmp_path / "run"
    first = gaunlearn.run(path, out).provenances()
    # A second run begins at another time, and so has a provenance of its own.
    time.sleep(1.1)
    second = gaunlearn.run(write(tmp_path, SPEC, seeds=3), out)
    assert len(second.parts()) == 2
    assert len(second.provenances()) == 2
    assert first[0] in second.provenances()


# Linux's /dev/full has no space left: after some parts, every file that is written is that device.
DEVICE_IS_FULL = (
    SMALL_BLOCKS
    + """
import os
from gaunlearn.sweep import place
real, left = place._write_locally, [200_000]
def write(path, content):
    left[0] -= len(content)
    if left[0] < 0:
        path.with_name(f".{path.name}.{os.getpid()}.tmp").symlink_to("/dev/full")
    real(path, content)
place._write_locally = write
"""
)


def run_on_a_small_disk(folder):
    """A run on a file system of 200 kB of its own, copied to ``saved`` when it ends; None on
    systems that let no user mount one.
    """
    privileged = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=200k tmpfs disk"
    script = (
        f'{mount} && {{ {sys.executable} -c "{SMALL_BLOCKS}\nimport sys\n'
        "from gaunlearn.cli import main\nsys.exit(main(['run', 'spec.toml', '--out', 'disk']))\"; "
        "status=$?; cp -r disk saved; exit $status; }"
    )
    (folder / "disk").mkdir()
    options = {"cwd": folder, "capture_output": True, "text": True, "check": False}
    if not shutil.which("unshare") or subprocess.run([*privileged, mount], **options).returncode:
        return None
    done = subprocess.run([*privileged, script], **options)
    return done.returncode, done.stderr


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path):
    """On a device that is full, and on a small file system where one can be mounted; later, with
    room again, the run goes on.
    """
    write(tmp_path, SPEC, seeds=24)
    process = command(tmp_path, "--out", "device", code=DEVICE_IS_FULL)
    _, err = process.communicate(timeout=300)
    runs = [("device", (process.returncode, err)), ("saved", run_on_a_small_disk(tmp_path))]
    for out, outcome in runs:
        if outcome is None:
            continue
        status, err = outcome
        assert status == 1, err
        assert "No space left on device; what was stored before is kept" in err
        assert "Traceback" not in err
        assert not list((tmp_path / out / "trials").glob(".*"))
        stored = len(gaunlearn.load(tmp_path / out).to_pandas())
        assert 0 < stored < 24 * 4 * 3
    out, _ = finish(command(tmp_path, "--out", "device", code=SMALL_BLOCKS))
    assert "288 of 288 trials" in out


def test_a_directory_of_an_older_version_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    (out / "trials").mkdir(parents=True)
    (out / "trials" / "a.parquet").write_bytes(b"old")
    (out / "run.json").write_text('{"schema_version": 2, "parts": ["a"]}')
    path = write(tmp_path, SPEC)
    assert main(["run", str(path), "--out", str(out)]) == 2
    assert "schema_version is 2, this version reads" in capsys.readouterr().err
    assert (out / "trials" / "a.parquet").read_bytes() == b"old"


def test_output_that_nobody_reads_is_no_error_of_ours():
    """As in ``gaunlearn list | head -0``."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "gaunlearn.cli", "list"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""


def test_two_processes_do_not_share_a_directory(tmp_path):
    path = write(tmp_path, SPEC)
    refused = []

    def try_another(progress):
        if progress.stage == "train" and not refused:
            with pytest.raises(SpecError, match="another process is running here") as caught:
                gaunlearn.run(path, tmp_path / "run")
            refused.append(str(caught.value))
            with pytest.raises(SpecError, match="another process"):
                gaunlearn.run(path, tmp_path / "run", shard=(0, 2))

    gaunlearn.run(path, tmp_path / "run", progress=try_another)
    assert refused
    # Shards of one division share it; of another, or of another specification, they do not.
    with locked(tmp_path, (0, 2), "a"), locked(tmp_path, (1, 2), "a"):
        for shard, sweep in (((0, 2), "a"), ((0, 3), "a"), ((0, 2), "b"), ((0, 1), "a")):
            with pytest.raises(SpecError, match="another process"), locked(tmp_path, shard, sweep):
                pass
    with locked(tmp_path, (0, 3), "a"):
        pass


def test_finished_work_is_found_by_content(tmp_path):
    """By hand: of samples 0 to 3 at steps 0, 0.5, 1 the pairs (0, 1) x (0, 1) are stored."""
    sweep = load_spec(write(tmp_path, SPEC, seeds=1))
    (family,) = families_of(sweep)
    (claim,) = claims_of(family, tmp_path)
    finished = Finished()
    finished.add([claim._replace(pairs=(((0, 1), (0.0, 1.0)),))])
    left = finished.left_of(family, tmp_path)
    assert left.branches[0].pairs == (((0, 1), (0.5,)), ((2, 3), (0.0, 0.5, 1.0)))
    assert left.trials == 12 - 4
    finished.add(claims_of(left, tmp_path))
    assert finished.left_of(family, tmp_path) is None


# -- storage ---------------------------------------------------------------------------------


def test_schema_documents_every_parameter_and_column():
    names = {column.name for column in COLUMNS}
    for section, kinds in SECTIONS.items():
        for cls in kinds.values():
            for key in cls.model_fields:
                assert column_name(section, key) in names
    committed = Path(__file__).parent.parent / "docs" / "columns.md"
    assert committed.read_text() == as_markdown(), "run python -m gaunlearn.schema"


def test_every_part_has_the_one_schema(undisturbed):
    for part in (undisturbed.path / "trials").glob("*.parquet"):
        assert pq.read_schema(part).equals(arrow_schema(), check_metadata=False)
        stages = undisturbed.manifest["parts"][part.stem]
        assert stages["trials"] == pq.read_metadata(part).num_rows


def test_object_stores_hold_runs_too(undisturbed, tmp_path):
    """A file system of pyarrow's that is not local, and a URI that is."""
    sweep = load_spec(write(tmp_path, SPEC))
    store = Place(fs._MockFileSystem(), "bucket/run", "mock://bucket/run")
    stages = []
    for _ in range(2):
        run = run_sweep(sweep, store, progress=lambda p: stages.append(p.stage))
    assert stages[-1] == "already finished"
    assert_same_rows(run.to_pandas(), undisturbed.to_pandas())
    shutil.copytree(undisturbed.path, tmp_path / "copy")
    (tmp_path / "copy" / "trials" / "notes.txt").write_text("a user's own")
    uri = (tmp_path / "copy").as_uri()
    assert_same_rows(gaunlearn.load(uri).to_pandas(), undisturbed.to_pandas())
    with pytest.raises(StorageError, match="nowhere"):
        Place.of("nowhere://bucket")


def test_weights_are_kept_in_a_form_that_certify_takes(tmp_path):
    text = SPEC + "[store]\nweights = true\n"
    run = gaunlearn.run(write(tmp_path, text, seeds=1), tmp_path / "run")
    frame = run.to_pandas()
    for row in frame.iloc[[1, 5, 11]].itertuples():
        nets = gaunlearn.networks(run, row.trial_id)
        got = gaunlearn.certify(nets.unlearned, nets.u, nets.x, nets.y, retain=nets.retain)
        want = (row.epsilon, row.delta, row.tau)
        np.testing.assert_allclose((got.epsilon, got.delta, got.tau), want, rtol=1e-9, atol=1e-12)
        again = gaunlearn.certify(nets.retrained, nets.u, nets.x, nets.y, retain=nets.retain)
        assert again.epsilon == pytest.approx(row.epsilon_retrain, rel=1e-9)
    with pytest.raises(ValueError, match="no trial 'x'"):
        gaunlearn.networks(run, "x")


def test_networks_need_weights(undisturbed):
    with pytest.raises(ValueError, match=r"\[store\] weights = true"):
        gaunlearn.networks(undisturbed, undisturbed.to_pandas()["trial_id"][0])


# -- the plan --------------------------------------------------------------------------------


def test_a_million_trials_are_planned_in_a_moment(tmp_path):
    """Counted, not held: 100 x 10 x 10 combinations with 10 seeds and 10 step fractions."""
    text = """
    [sweep]
    seeds = 10
    [data]
    kind = "isotropic"
    m = { start = 11, stop = 110, count = 100 }
    d = { start = 1e3, stop = 1e6, count = 10, scale = "log" }
    [model]
    kind = "two_layer_relu"
    n = { start = 10, stop = 400, count = 10 }
    [train]
    max_steps = 1000
    [forget]
    index = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    [unlearn]
    step_fraction = { start = 0, stop = 2, count = 10 }
    """
    path = tmp_path / "spec.toml"
    path.write_text(text)
    sweep = load_spec(path)
    found = survey(sweep)
    assert (found.trials, found.trainings) == (10**7, 10**5)
    assert found.retrainings == 2 * 10**6
    assert len(found.programs) <= 12
    block = next(plan_blocks(lambda: families_of(sweep), tmp_path, found.shapes, Limits()))
    assert 0 < block.trials <= plan._BLOCK_ROWS


def test_plan_prints_counts_and_runs_nothing(tmp_path, capsys):
    path = write(tmp_path, SPEC)
    assert main(["plan", str(path), "--set", "data.d=[50, 70]", "--set", "data.m=5"]) == 0
    out = capsys.readouterr().out
    assert "axis data.d: 2 values" in out
    assert "90 trials (evaluations) of 6 trainings and 60 retrainings" in out
    assert "1 programs to train and 1 to evaluate" in out
    assert "estimated time" in out
    assert list(tmp_path.iterdir()) == [path]


def test_list_shows_questions(capsys):
    assert main(["list", str(Path(__file__).parent.parent / "sweeps")]) == 0
    out = capsys.readouterr().out
    assert "step_size.toml" in out
    assert "How large must the gradient-ascent step be" in out
    assert main(["list", "tests"]) == 0 or "holds no specifications" in capsys.readouterr().err


def test_target_epsilon_depends_on_how_it_is_judged(tmp_path):
    """Two ladders: descent ends at different steps, so they are two trainings."""
    text = SPEC.replace("max_steps = 150", "max_steps = 4000\ntarget_epsilon = 0.2")
    path = write(tmp_path, text, seeds=1)
    overrides = ["evaluate.kink_tol=[[1e-6], [1e-2]]"]
    assert survey(load_spec(path, overrides)).trainings == 2
    assert survey(load_spec(write(tmp_path, SPEC, seeds=1), overrides)).trainings == 1
    write(tmp_path, text, seeds=1)
    frame = gaunlearn.run(path, tmp_path / "run", overrides=overrides).to_pandas()
    assert frame["training_id"].nunique() == 2
    by_ladder = frame.groupby("kink_tols")["steps"].first()
    assert by_ladder["[1e-06]"] != by_ladder["[0.01]"]


def test_trainings_are_told_apart_by_content(tmp_path):
    """hash(-1.0) is hash(-2.0) in Python; and two names of one file are one data set."""
    path = write(tmp_path, SPEC, seeds=2)
    found = survey(load_spec(path, ["train.target_log_loss=[-1.0, -2.0]"]))
    assert (found.trials, found.trainings) == (2 * 2 * 4 * 3, 4)
    for name in ("a.npz", "b.npz"):
        rng = np.random.default_rng(0)
        np.savez(tmp_path / name, x=rng.normal(size=(5, 8)), y=np.array([1, -1, 1, -1, 1.0]))
    text = SPEC.replace('kind = "isotropic"\nm = 4\nd = 50\nn_test = 10', 'kind = "file"')
    path = write(tmp_path, text.replace('"file"', '"file"\npath = ["a.npz", "b.npz"]'), seeds=2)
    found = survey(load_spec(path))
    assert (found.trials, found.trainings) == (2 * 5 * 3, 2)
    signed = load_spec(path, ["unlearn.step_fraction=[-0.0]"])
    assert str(next(families_of(signed)).branches[0].pairs[0][1]) == "(0.0,)"


def test_thousands_of_sizes_are_sorted_into_few_shapes():
    rng = np.random.default_rng(0)
    sizes = {Size(int(m), int(n), int(m), 0) for m, n in rng.integers(10, 1000, (6000, 2))}
    shapes = choose_shapes(dict.fromkeys(sizes, 1e4))
    assert set(shapes) == sizes
    assert len(set(shapes.values())) <= 12
    assert all(all(a <= b for a, b in zip(s, room, strict=True)) for s, room in shapes.items())


def test_memory_that_ran_short_shrinks_capacities():
    forget_capacities()
    assert len(pad_to_capacity(np.zeros(100), "key")) == 128
    assert len(pad_to_capacity(np.zeros(3), "key")) == 128, "one program serves both"
    forget_capacities()
    assert len(pad_to_capacity(np.zeros(3), "key")) == 4


# -- verification ------------------------------------------------------------------------------


def test_verify_confirms_a_run(undisturbed, capsys):
    assert main(["verify", str(undisturbed.path), "--sample", "9"]) == 0
    out = capsys.readouterr().out
    assert "9 trials in batches, 4 of them alone, 9 by NumPy and SciPy" in out
    assert "the contract holds" in out


@pytest.mark.parametrize("column", ["epsilon", "tau_retrain", "steps", "limit_status"])
def test_verify_finds_a_wrong_number_and_names_the_trial(undisturbed, tmp_path, capsys, column):
    """A value is changed by 1e-6 in the file, as a faulty machine would have written it."""
    shutil.copytree(undisturbed.path, tmp_path / "run")
    part = next((tmp_path / "run" / "trials").glob("*.parquet"))
    table = pq.read_table(part)
    values = table[column].to_pylist()
    if isinstance(values[0], float):
        values[0] *= 1 + 1e-6
    else:
        values[0] = values[0] + 1 if isinstance(values[0], int) else "infeasible"
    place = table.schema.get_field_index(column)
    wrong = table.set_column(place, table.schema.field(column), [values])
    pq.write_table(wrong, part)
    name = table["trial_id"][0].as_py()
    assert main(["verify", str(tmp_path / "run"), "--sample", "0"]) == 1
    out = capsys.readouterr().out
    assert f"trial {name}: differs in {column}" in out
    assert "BROKEN" in out


def test_verify_refuses_another_version_unless_asked(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed.path, tmp_path / "run")
    part = next((tmp_path / "run" / "trials").glob("*.parquet"))
    table = pq.read_table(part)
    about = dict(table.schema.metadata)
    about[b"provenance"] = json.dumps(json.loads(about[b"provenance"]) | {"jax": "0.0.1"}).encode()
    pq.write_table(table.replace_schema_metadata(about), part)
    assert main(["verify", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "computed with jax 0.0.1" in err
    assert "--any-version" in err
    assert main(["verify", str(tmp_path / "run"), "--sample", "2", "--any-version"]) == 0


def test_a_diverged_training_is_a_row_that_says_so(tmp_path):
    """Plain descent with a huge step on a linear model: it does not separate, or overflows."""
    text = SPEC.replace('kind = "two_layer_relu"\nn = 8', 'kind = "linear"')
    text = text.replace("step_size = 0.3", 'step_size = 1e300\noptimizer = "gd"')
    frame = gaunlearn.run(write(tmp_path, text, seeds=2), tmp_path / "run").to_pandas()
    assert len(frame) == 2 * 4 * 3
    bad = ~frame["separated_train"]
    assert frame.loc[bad, "epsilon"].isna().all()
    assert main(["verify", str(tmp_path / "run"), "--sample", "3"]) == 0

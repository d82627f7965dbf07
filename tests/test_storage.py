"""A run's directory: resume, crashes, full disks, locks, parts, weights and object stores."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases import assert_same_rows
from pyarrow import fs
from runs import SMALL_BLOCKS, SPEC, command, finish, write

import gaunlearn
from gaunlearn.cli import main
from gaunlearn.schema import COLUMNS, as_markdown
from gaunlearn.sweep import parts, plan, runner, store
from gaunlearn.sweep.lock import give_token, holds_token, locked
from gaunlearn.sweep.parts import arrow_schema
from gaunlearn.sweep.place import Place, StorageError
from gaunlearn.sweep.plan import families_of
from gaunlearn.sweep.resume import Finished, claims_of, reconcile
from gaunlearn.sweep.runner import run_sweep
from gaunlearn.sweep.sections import SECTIONS, SpecError, column_name
from gaunlearn.sweep.spec import load_spec

# -- resume ----------------------------------------------------------------------------------


def test_killed_at_any_moment_it_goes_on(tmp_path):
    """kill -9 at random moments, 8 times; in the end the data are those of one quiet run."""
    text = SPEC.replace('kind = "two_layer_relu"\nn = 8', 'kind = "linear"')
    write(tmp_path, text, seeds=16)
    finish(command(tmp_path, "--out", "quiet", code=SMALL_BLOCKS))
    rng, counts = random.Random(0), []
    parts = tmp_path / "run" / "trials"
    kills = 0
    while kills < 8:
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
    monkeypatch.setattr(plan, "BLOCK_S", 1e-9)
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


# Linux's /dev/full has no space left: after some of a run's files, all others are that device.
# Programs that are kept elsewhere do not count: how many there are depends on what is cached.
DEVICE_IS_FULL = (
    SMALL_BLOCKS
    + """
from types import SimpleNamespace
from gaunlearn.sweep import place
real, left = place._write_locally, [100_000]
def write(path, content):
    left[0] -= len(content) if path.suffix else 0
    if left[0] < 0 and path.suffix:
        place.uuid = SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="full"))
        path.with_name(f".{path.name}.full.tmp").symlink_to("/dev/full")
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


def test_a_part_that_another_process_stores_meanwhile_is_not_taken_for_damaged(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(plan, "BLOCK_S", 1e-9)
    path, out = write(tmp_path, SPEC, seeds=2), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "compact", lambda run, parts: dict(parts))
        names = gaunlearn.run(path, out).parts()
    late = out / "trials" / names[1]
    content = late.read_bytes()
    late.unlink()
    inspect = parts._inspect

    def and_meanwhile(*arguments):
        late.write_bytes(content)
        return inspect(*arguments)

    monkeypatch.setattr(parts, "_inspect", and_meanwhile)
    finished, _, _ = reconcile(Place.of(out), families_of(load_spec(path)), tmp_path)
    assert finished.damaged_parts == 0
    assert late.read_bytes() == content


def test_a_run_ends_what_workers_of_another_driver_may(tmp_path):
    path, place = write(tmp_path, SPEC, seeds=1), Place.of(tmp_path / "run")
    place.make()
    token = give_token(place)
    assert holds_token(place, token)
    assert not holds_token(place, "another")
    gaunlearn.run(path, tmp_path / "run")
    assert not holds_token(place, token)


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


def test_a_run_that_memory_does_not_hold_is_finished_without_a_figure(
    tmp_path, monkeypatch, capsys
):
    path = write(tmp_path, SPEC, seeds=1)
    monkeypatch.setattr(store, "host_memory", lambda: 3000.0 * 12 - 1)
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "no figure: " in out
    assert "12 trials take about 0 GiB of memory: read some of their columns" in out
    assert gaunlearn.run(path, tmp_path / "run").trials() == 12
    with pytest.raises(store.TooLargeError):
        gaunlearn.load(tmp_path / "run").to_pandas()
    monkeypatch.setattr(store, "host_memory", lambda: 3000.0 * 12)
    assert len(gaunlearn.load(tmp_path / "run").to_pandas()) == 12


# -- storage ---------------------------------------------------------------------------------


def test_schema_documents_every_parameter_and_column():
    names = {column.name for column in COLUMNS}
    for section, kinds in SECTIONS.items():
        for cls in kinds.values():
            for key in cls.model_fields:
                assert column_name(section, key) in names
    committed = Path(__file__).parent.parent / "docs" / "columns.md"
    assert committed.read_text() == as_markdown(), "run python -m gaunlearn.schema"


# Of each type of a column what a block may give, with what is missing.
GIVEN = {
    "string": (["a", None, "\u00fc", ""], np.array(["x", "yy"]), []),
    "int64": (
        [1, None, 2**60],
        [7.0, None, float("nan")],
        np.array([1.0, np.nan, -3.0]),
        [None, None],
        np.arange(20),
    ),
    "int32": ([1, None], np.array([7.0, np.nan]), np.arange(9)),
    "float64": ([0.5, None], [1, 2], np.array([1, np.nan], np.float32), np.array([np.inf, np.nan])),
    "bool": ([True, None, False], np.array([1.0, np.nan, 0.0]), np.arange(20) % 3 == 0),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_columns_are_what_arrow_makes_of_them(kind):
    """Arrow's own conversion, which imports pandas, is the reference."""
    column = next(column for column in COLUMNS if column.type == kind)
    for values in GIVEN[kind]:
        got = parts._array(values, column)
        got.validate(full=True)
        listed = values if isinstance(values, list) else values.tolist()
        plain = [None if each is None or each != each else each for each in listed]
        of_kind = [bool(each) if kind == "bool" and each is not None else each for each in plain]
        assert got.equals(pa.array(of_kind, getattr(pa, kind, pa.bool_)()))


@pytest.mark.parametrize("number", [2**40, 1.5])
def test_a_number_that_a_column_does_not_hold_is_an_error(number):
    column = next(column for column in COLUMNS if column.type == "int32")
    with pytest.raises(pa.ArrowInvalid):
        parts._array([number, None], column)


def test_a_part_is_written_without_pandas(tmp_path):
    """Half a second before the first rows, of which nothing needs it."""
    code = """
import sys, gaunlearn.cli
import numpy as np
from gaunlearn.schema import COLUMNS
from gaunlearn.sweep import parts, runner
from gaunlearn.sweep.place import Place
values = {column.name: "a" if column.type == "string" else 1 for column in COLUMNS}
results = {name: [value] for name, value in values.items() if name != "data_kind"}
given = [{"data_kind": "digits"}]
parts.write_part(Place.of(sys.argv[1]), "one", results, given, np.zeros(1, int), [], {})
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    (part,) = (tmp_path / "trials").glob("*.parquet")
    assert pq.read_table(part)["data_kind"].to_pylist() == ["digits"]


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
    assert str(run.path) == "mock://bucket/run"
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


@pytest.mark.parametrize("harm", ["body", "column", "row", "cut"])
def test_a_damaged_part_is_replaced(undisturbed, tmp_path, capsys, harm):
    """Bytes that changed on the disk, a column or a row that is gone, half a file."""
    path, out = write(tmp_path, SPEC), tmp_path / "run"
    shutil.copytree(undisturbed.path, out)
    (part,) = (out / "trials").glob("*.parquet")
    content, table = part.read_bytes(), pq.read_table(part)
    if harm == "body":
        place = table.schema.get_field_index("epsilon")
        page = pq.read_metadata(part).row_group(0).column(place)
        last = page.data_page_offset + page.total_compressed_size - 20
        part.write_bytes(content[:last] + bytes([content[last] ^ 1]) + content[last + 1 :])
        pq.read_metadata(part)  # its description is whole
    elif harm == "column":
        pq.write_table(table.drop_columns(["epsilon"]), part)
    elif harm == "row":
        pq.write_table(table.slice(1), part)
    else:
        part.write_bytes(content[:-100])
    assert main(["report", str(out)]) == 2
    err = capsys.readouterr().err
    assert part.name in err
    assert err.count("\n") == 1
    told = []
    again = gaunlearn.run(path, out, progress=lambda p: told.append(p.notice))
    assert_same_rows(again.to_pandas(), undisturbed.to_pandas())
    assert (out / "unused" / part.name).exists(), "set aside, not deleted"
    assert [notice for notice in told if notice] == ["1 damaged files of trials moved to unused/"]
    stages = []
    gaunlearn.run(path, out, progress=lambda p: stages.append(p.stage))
    assert stages == ["already finished"]


def networks_of(run):
    """(training_id, forget, start) of every stored network."""
    tables = [pq.read_table(part) for part in (run.path / "weights").glob("*.parquet")]
    return [
        (row["training_id"], row["forget"], row["start"])
        for table in tables
        for row in table.to_pylist()
    ]


def test_networks_are_stored_once_and_never_missing(tmp_path):
    """Asked for later, shared by parts that came one after the other, deleted, damaged."""
    out = tmp_path / "run"
    path = write(tmp_path, SPEC + "[forget]\nindex = [0]\n", seeds=1)
    plain = gaunlearn.run(path, out).to_pandas()
    with pytest.raises(ValueError, match=r"\[store\] weights = true .* run it again"):
        gaunlearn.networks(gaunlearn.load(out), plain["trial_id"][0])
    kept = ["store.weights=true"]
    run = gaunlearn.run(path, out, overrides=kept)
    assert_same_rows(run.to_pandas(), plain)
    assert len(networks_of(run)) == 1 + 2
    more = gaunlearn.run(path, out, overrides=[*kept, "forget.index=[0, 1]"])
    assert len(networks_of(more)) == len(set(networks_of(more))) == 1 + 4
    assert len(more.to_pandas()) == 2 * len(plain)
    assert more.to_pandas()["trial_id"].is_unique
    files = sorted((out / "weights").glob("*.parquet"))
    assert len(files) == 2
    files[0].unlink()
    files[1].write_bytes(b"nothing")
    again = gaunlearn.run(path, out, overrides=[*kept, "forget.index=[0, 1]"])
    assert sorted(networks_of(again), key=str) == sorted(networks_of(more), key=str)
    assert_same_rows(again.to_pandas(), more.to_pandas())
    stages = []
    gaunlearn.run(
        path,
        out,
        overrides=[*kept, "forget.index=[0, 1]"],
        progress=lambda p: stages.append(p.stage),
    )
    assert stages == ["already finished"]


def test_a_new_manifest_knows_how_the_parts_were_computed(undisturbed, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(undisturbed.path, out)
    (out / "run.json").unlink()
    again = gaunlearn.run(write(tmp_path, SPEC), out)
    assert again.manifest["provenance"] == undisturbed.manifest["provenance"]


def test_a_damaged_part_of_a_shard_does_not_stop_the_others(undisturbed, tmp_path):
    path, out = write(tmp_path, SPEC), tmp_path / "run"
    first = gaunlearn.run(path, out, shard=(0, 3))
    (part,) = (out / "trials").glob("*.parquet")
    part.write_bytes(b"junk")
    gaunlearn.run(path, out, shard=(1, 3))
    gaunlearn.run(path, out, shard=(2, 3))
    run = gaunlearn.run(path, out, shard=(0, 3))
    assert first.manifest["trials"] == len(run.to_pandas())
    assert_same_rows(run.to_pandas(), undisturbed.to_pandas())


def test_a_second_run_keeps_what_the_first_one_measured(undisturbed, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(undisturbed.path, out)
    busy = undisturbed.manifest["training_lanes_busy"]
    assert 0 < busy <= 1
    assert main(["run", str(write(tmp_path, SPEC)), "--out", str(out)]) == 0
    assert gaunlearn.load(out).manifest["training_lanes_busy"] == busy
    assert f"{100 * busy:.0f} % of the training batches' places" in capsys.readouterr().out


def edited(undisturbed, out, column, values, swept=()):
    """A copy of a run with other values in one column."""
    shutil.copytree(undisturbed.path, out)
    (part,) = (out / "trials").glob("*.parquet")
    table = pq.read_table(part)
    place = table.schema.get_field_index(column)
    field = table.schema.field(place)
    pq.write_table(table.set_column(place, field, pa.array(values(table), field.type)), part)
    manifest = json.loads((out / "run.json").read_text()) | {"swept": list(swept)}
    (out / "run.json").write_text(json.dumps(manifest))


def test_the_summary_is_short_and_says_what_is_missing(undisturbed, tmp_path, capsys):
    edited(undisturbed, tmp_path / "a", "tau_retrain", lambda table: [float("nan")] * len(table))
    assert main(["report", str(tmp_path / "a")]) == 0
    assert "smallest at nowhere" in capsys.readouterr().out
    edited(undisturbed, tmp_path / "b", "d", lambda table: range(50, 50 + len(table)), ["d"])
    assert main(["report", str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "and 32 more settings of d: see the data" in out
    assert out.count("\n") < 90

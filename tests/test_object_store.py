"""Runs in an S3-compatible store: parts, resume, listings, errors in passing and for good."""

import pytest
from cases import assert_same_rows
from object_store import object_store
from runs import SMALL_BLOCKS, SPEC, command, refusal, write

import gaunlearn
from gaunlearn.sweep import place as places
from gaunlearn.sweep import plan
from gaunlearn.sweep.place import Place, StorageError


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with object_store("runs") as running:
        running.needs_credentials = True
        yield running


def test_a_run_in_a_busy_store_is_killed_and_goes_on(tmp_path, store, undisturbed, monkeypatch):
    """A fifth of all requests are refused; kill -9 after the first parts; the rest runs here."""
    path, uri = write(tmp_path, SPEC), store.uri("runs/a/b")
    store.error_rate = 0.2
    process = command(tmp_path, "--out", uri, code=SMALL_BLOCKS)
    trials = Place.of(uri) / "trials"
    while process.poll() is None and not trials.names():
        pass
    process.kill()
    process.communicate()
    stored = len(gaunlearn.load(uri).to_pandas())
    ran = []
    monkeypatch.setattr(plan, "BLOCK_S", 1e-9)
    run = gaunlearn.run(path, uri, progress=lambda p: ran.append((p.stage, p.done)))
    assert ran[0][1] == stored > 0  # what was stored did not run again
    assert store.errors > 10
    assert_same_rows(run.to_pandas(), undisturbed.to_pandas())
    # Merged: those of a process each, if the first had not finished before it was killed.
    assert len(run.parts()) == len(run.provenances()) <= 2
    assert {"run.json", "spec.toml"} <= set(run.place.names())
    assert not (run.place / "unused").names()
    assert "step_fraction.png" in (run.place / "report").names()
    again = gaunlearn.run(path, uri)
    assert again.to_pandas().equals(run.to_pandas())


def test_a_listing_of_more_than_a_page(store):
    """S3 lists a thousand objects at a time."""
    folder = Place.of(store.uri("runs/many")) / "trials"
    wanted = sorted(f"{number}.parquet" for number in range(1100))
    for name in wanted:
        folder.write(name, b"")
    assert folder.names() == wanted


def test_what_fails_in_passing_is_asked_again_and_no_part_is_taken_for_damaged(
    tmp_path, store, monkeypatch
):
    """The store is away for longer than its client tries; parts that could not be read then are
    read later, or are an error, and stay where they are.
    """
    path, uri = write(tmp_path, SPEC, seeds=1), store.uri("runs/a")
    want = gaunlearn.run(path, uri).to_pandas()
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        store.error_rate = 1.0 if len(pauses) < 3 else 0.0

    monkeypatch.setattr(places.time, "sleep", sleep)
    monkeypatch.setattr(places, "_PAUSES_S", (1.0, 2.0, 4.0))
    store.error_rate = 1.0
    parts = (Place.of(uri) / "trials").names()
    assert len(pauses) == 3
    assert 1.0 < pauses[1] < 2.0
    assert gaunlearn.run(path, uri).to_pandas().equals(want)
    monkeypatch.setattr(places, "_PAUSES_S", ())
    place = Place.of(uri)
    store.error_rate = 1.0
    with pytest.raises(
        StorageError, match=r"s3://runs/a/trials/.*: cannot be reached: .*status 503"
    ):
        (place / "trials").using(parts[0], lambda source: source.read())
    store.error_rate = 0.0
    assert (place / "trials").names() == parts


def test_stores_that_cannot_be_written_to_are_named_before_any_compute(
    tmp_path, store, capsys, monkeypatch
):
    write(tmp_path, SPEC)
    line = refusal(tmp_path, capsys, "--out", store.uri("nobody/a"))
    assert line.startswith("gaunlearn: s3://nobody/a: cannot be written: ")
    secret = store.uri("runs/a").replace("s3://", "s3://key:hidden@")
    store.error_rate = 1.0
    line = refusal(tmp_path, capsys, "--out", secret)
    assert "s3://runs/a: cannot be written" in line
    assert "HTTP status 503" in line
    assert "hidden" not in line
    store.error_rate = 0.0
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    line = refusal(tmp_path, capsys, "--out", store.uri("runs/a"))
    assert "ACCESS_DENIED" in line
    assert "are credentials missing? They are taken from the environment (such as AWS_" in line

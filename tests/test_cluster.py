"""Runs on a Ray cluster: who does what when workers, nodes and drivers come and go."""

import itertools
import math
from collections import Counter

import pytest
from fake_ray import Clock, FakeRay
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import SPEC, write

from gaunlearn.sweep import cluster, plan, remote
from gaunlearn.sweep.cluster import Cluster, recruiter
from gaunlearn.sweep.parts import Completed
from gaunlearn.sweep.place import Place
from gaunlearn.sweep.plan import Limits, families_of, plan_blocks, survey
from gaunlearn.sweep.remote import Demand
from gaunlearn.sweep.sections import SpecError
from gaunlearn.sweep.spec import load_spec
from gaunlearn.sweep.worker import Job, Receipt, RunFailedError

DIED = FakeRay.exceptions.ActorDiedError


# -- the driver, without Ray -------------------------------------------------------------------


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """12 of one family each."""
    path = write(tmp_path_factory.mktemp("blocks"), SPEC, seeds=12)
    sweep = load_spec(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "BLOCK_S", 1e-9)
        found = list(
            plan_blocks(lambda: families_of(sweep), sweep.directory, survey(sweep).shapes, Limits())
        )
    assert len(found) == 12
    return found


def receipt(block):
    return Receipt(block.key, Completed(1, 4, block.trials), 1.0, 1.0, Counter())


def able(number, _=None):
    return 0.0, remote.Ability("node", number, 1.0, 4e9, {"number": number})


class Drive:
    """A run of blocks by workers of a fake Ray; all take 10 s for a block unless told otherwise.

    Attributes:
        committed: keys, in order.
        notices: what the user is told.
        took: seconds.
    """

    def __init__(self, place, patch, blocks, nodes=2, work=None, answer=able, events=()):
        clock = Clock()
        patch.setattr(cluster, "time", clock)
        self.attempts = Counter()

        def work_of(number, block):
            self.attempts[block.key] += 1
            found = work(number, block, self.attempts[block.key]) if work else None
            return found or (10.0, [receipt(block)])

        ray = FakeRay(clock, nodes, work_of, answer)
        for at, function in events:
            ray.events.append((at, lambda function=function: function(ray)))
        self.committed, self.notices = [], []
        crew = Cluster(ray, place, Demand(cpus=1.0))
        job = Job("", "", None, "", False, False)
        try:
            self.provenance = crew.start(job, lambda text: text and self.notices.append(text))
            crew.run(iter(blocks), lambda r: self.committed.append(r.key))
        finally:
            crew.stop()
            self.took = clock.now
            self.told = "\n".join(self.notices)


@pytest.fixture
def drive(tmp_path, monkeypatch, blocks):
    place = Place.of(tmp_path)

    def run(**how):
        return Drive(place, monkeypatch, how.pop("blocks", blocks), **how)

    return run


def test_every_worker_is_kept_busy_and_every_block_is_committed_once(drive, blocks, tmp_path):
    """By hand: 12 blocks of 10 s by 3 workers that are ready after 1 s take 41 s."""
    run = drive(nodes=3)
    assert sorted(run.committed) == sorted(block.key for block in blocks)
    assert run.took == pytest.approx(41, abs=1.5)
    assert run.notices == ["workers: 3, hosts: 1"]
    assert run.provenance == {"number": 0}
    assert not (tmp_path / ".driver").exists()


def test_what_a_lost_worker_had_is_run_by_others(drive, blocks):
    def work(number, block, attempt):
        if number == 0:
            return 3.0, DIED()

    run = drive(work=work)
    assert sorted(run.committed) == sorted(block.key for block in blocks)
    assert "process 0 was lost (ActorDiedError); what it had is run again" in run.told
    assert max(run.attempts.values()) == 2


def test_what_was_on_a_lost_node_is_run_on_the_others(drive, blocks):
    run = drive(events=[(15.0, lambda ray: ray.lose_node(1))])
    assert sorted(run.committed) == sorted(block.key for block in blocks)
    assert run.told.count("was lost") == 1
    # 1 block each by then; the other 10, and the one that was begun, by one worker.
    assert run.took == pytest.approx(1 + 10 + 11 * 10, abs=12)


def test_a_node_that_comes_later_is_used(drive, blocks):
    run = drive(nodes=1, events=[(20.0, lambda ray: ray.alive.append(7))])
    assert len(run.committed) == 12
    assert run.took < 90


def test_without_any_node_it_waits_and_then_gives_up(drive, monkeypatch):
    def lose_all(ray):
        for node in list(ray.alive):
            ray.lose_node(node)

    run = drive(events=[(15.0, lose_all), (300.0, lambda ray: ray.alive.append(5))])
    assert len(run.committed) == 12
    assert "no worker is left: waiting for a node with 1 CPU" in run.told
    with pytest.raises(RunFailedError, match="no node has had 1 CPU for 600 s; what was stored"):
        drive(events=[(15.0, lose_all)])


def test_a_hung_worker_keeps_nothing_to_itself(drive, blocks):
    """It never answers: near the end its blocks are given to the other one too."""

    def work(number, block, attempt):
        if number == 0:
            return math.inf, None

    run = drive(work=work)
    assert sorted(run.committed) == sorted(block.key for block in blocks)
    assert "the worker on node, process 0 has been at a block of 12 trials (m = 4, n = 8)" in (
        run.told
    )
    assert run.took < 250


def test_a_lonely_hung_worker_is_replaced(drive):
    def work(number, block, attempt):
        if number == 0:
            return math.inf, None

    run = drive(nodes=1, work=work)
    assert len(run.committed) == 12
    assert "process 0 has not answered for" in run.told
    assert cluster._HUNG_S < run.took < 1.5 * cluster._HUNG_S


def test_a_straggler_is_run_elsewhere_and_the_first_receipt_counts(drive, blocks):
    slow = blocks[3].key

    def work(number, block, attempt):
        if block.key == slow and attempt == 1:
            return 500.0, [receipt(block)]

    run = drive(work=work)
    assert Counter(run.committed) == Counter(block.key for block in blocks)
    assert run.attempts[slow] == 2
    assert run.took < 200


def test_a_block_that_ends_its_workers_is_left_and_the_others_are_stored(drive, blocks):
    bad = blocks[2].key
    committed = []

    def work(number, block, attempt):
        if block.key == bad:
            return 2.0, DIED()
        committed.append(block.key)

    with pytest.raises(RunFailedError, match=r"left undone after 3 attempts .* 1 such blocks"):
        drive(work=work)
    assert set(committed) == {block.key for block in blocks} - {bad}


def test_a_store_that_fails_in_passing_is_tried_again(drive, blocks):
    def work(number, block, attempt):
        if attempt == 1 and block in blocks[:4]:
            return 1.0, remote.Stopped("s3://b/r: cannot be written: SLOW_DOWN", False)

    run = drive(work=work)
    assert len(run.committed) == 12
    assert run.told.count("SLOW_DOWN; a block of 12 trials (m = 4, n = 8) is run again") == 4


def test_what_no_worker_can_do_ends_the_run(drive):
    def work(number, block, attempt):
        return 1.0, remote.Stopped("a trial does not fit into memory", True)

    with pytest.raises(RunFailedError, match="does not fit into memory"):
        drive(work=work)


def test_an_error_of_a_worker_is_another_ones_to_try_and_shows_its_traceback(drive, blocks):
    """A broken device fails once; a mistake of the program fails again, and is raised."""
    error, committed = FakeRay.exceptions.RayTaskError("a traceback\n\nKeyError: 'x'"), []

    def broken(number, block, attempt):
        if number == 0:
            return 1.0, error

    run = drive(work=broken)
    assert len(run.committed) == 12
    assert "process 0 failed (KeyError: 'x'); what it had is run again" in run.told

    def mistaken(number, block, attempt):
        if block == blocks[1]:
            return 1.0, error
        committed.append(block.key)

    with pytest.raises(FakeRay.exceptions.RayTaskError, match="KeyError"):
        drive(work=mistaken)
    assert set(committed) == {block.key for block in blocks} - {blocks[1].key}


def test_a_worker_that_cannot_work_is_named_before_any_block(drive):
    def answer(number, _):
        return 1.0, remote.Unfit("the worker on x runs other code") if number else able(0)[1]

    def work(number, block, attempt):
        raise AssertionError("no block is to be run")

    with pytest.raises(SpecError, match="--cluster: the worker on x runs other code"):
        drive(answer=answer, work=work)
    message = "The actor _Remote failed to import: No module named 'gaunlearn'"
    with pytest.raises(SpecError, match="a node cannot import this version of gaunlearn: install"):
        drive(answer=lambda number, _: (1.0, DIED(message)), work=work)


def test_one_that_comes_later_and_cannot_work_is_left_out(drive):
    def answer(number, _):
        return 1.0, remote.Unfit("no disk") if number else able(0)[1]

    run = drive(nodes=1, answer=answer, events=[(20.0, lambda ray: ray.alive.append(7))])
    assert len(run.committed) == 12
    assert run.told.count("no disk; it is left out") == 1


def test_a_worker_that_is_lost_as_it_starts_is_replaced(drive):
    def answer(number, _):
        return (1.0, DIED("out of memory")) if number in lost else able(number)

    lost = {1}
    run = drive(answer=answer)
    assert len(run.committed) == 12
    assert run.told.startswith("a worker was lost as it started: out of memory")
    assert run.took < 75  # two have worked
    lost = set(range(100))
    with pytest.raises(RunFailedError, match="lost as it started: out of memory; what was stored"):
        drive(answer=answer)


def test_a_worker_that_never_becomes_ready_is_replaced(drive):
    """Its file system hangs: others begin meanwhile."""

    def answer(number, _):
        return (math.inf, None) if number == 1 else able(number)

    run = drive(answer=answer, work=lambda number, block, attempt: (100.0, [receipt(block)]))
    assert len(run.committed) == 12
    assert "a worker has not become ready for 300 s" in run.told
    assert run.took < 900
    with pytest.raises(RunFailedError, match="has not become ready for 300 s; what was stored"):
        drive(answer=lambda number, _: (math.inf, None))


def test_idle_workers_of_a_lost_node_are_given_nothing(drive, blocks):
    """Near the end the last block's node is lost, with idle workers: it is run on another one."""

    def work(number, block, attempt):
        if block is blocks[-1]:
            return 60.0, [receipt(block)]

    def lose(ray):
        for node in (0, 1, 2):
            ray.lose_node(node)

    run = drive(nodes=4, work=work, blocks=blocks[-2:], events=[(15.0, lose)])
    assert len(run.committed) == 2
    assert max(run.attempts.values()) <= 2


def test_a_store_that_refuses_for_good_ends_the_run_soon(drive, blocks):
    refused = remote.Stopped("full: cannot be written: No space left on device", False)
    attempts = []

    def work(number, block, attempt):
        attempts.append(block)
        return 1.0, refused

    with pytest.raises(RunFailedError, match="No space left on device; what was stored before"):
        drive(work=work)
    assert len(attempts) < 12


def test_blocks_are_longer_where_there_is_much_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "time", clock := Clock())
    crew = Cluster(FakeRay(clock, 2, None, able), Place.of(tmp_path), Demand(cpus=1.0))
    crew.start(Job("", "", None, "", False, False), lambda text: None)
    for seconds, patience in ((100.0, 1.0), (2 * 200 * 8.0 * 5, 5.0), (1e9, 40.0)):
        assert crew.limits(seconds).speed == pytest.approx(patience)
    assert crew.speed == 2.0
    crew.stop()


def test_a_demand_that_no_node_meets_is_refused(tmp_path):
    ray = FakeRay(Clock(), 2, None, able)
    with pytest.raises(SpecError, match=r"no node has 4 CPU and 0.5 GPU for a worker"):
        Cluster(ray, Place.of(tmp_path), Demand(gpus=0.5, cpus=4.0))


def test_what_ray_does_not_divide_is_refused():
    with pytest.raises(SpecError, match=r"--gpus-per-task 1\.5: must be a whole number, or 0"):
        recruiter("auto", 1.5)
    with pytest.raises(SpecError, match=r"--cpus-per-task 2\.5: must be a whole number, or 0"):
        recruiter("auto", None, 2.5)
    with pytest.raises(SpecError, match="are of --cluster: give that too"):
        recruiter(None, 1.0)
    assert recruiter(None) is None
    assert recruiter("auto").args == ("auto", Demand(0.0, 2.0))
    assert recruiter("auto", 0.5).args == ("auto", Demand(0.5, 1.0))


def test_workers_of_a_node():
    """By hand: 3.5 GPUs hold seven halves, 8 cores hold eight of 1."""
    assert Demand(gpus=0.5, cpus=1.0).fits({"GPU": 3.5, "CPU": 8.0}) == 7
    assert Demand(gpus=0.1, cpus=0.1).fits({"GPU": 1.0, "CPU": 8.0}) == 10
    assert Demand(cpus=3.0).fits({"CPU": 8.0}) == 2
    assert Demand(gpus=1.0).fits({"CPU": 8.0}) == 0


@settings(deadline=None, max_examples=60)
@given(
    nodes=st.integers(1, 4),
    fates=st.lists(
        st.sampled_from(["well", "well", "well", "dies", "slow", "busy"]), min_size=40, max_size=40
    ),
    losses=st.lists(st.tuples(st.floats(2, 90), st.integers(0, 3)), max_size=3),
)
def test_whatever_happens_every_block_is_committed_once(
    blocks, tmp_path_factory, nodes, fates, losses
):
    """Workers that die, nodes that go and come back, a store that is busy now and then: where a
    block may fail however often, all are committed, and none twice.
    """
    # Some always go well, so that it ends; a store that is always busy ends the run.
    fate, busy = itertools.cycle([*fates, "well", "well"]), itertools.cycle([True, False])

    def work(number, block, attempt):
        what = next(fate)
        if what == "dies":
            return 4.0, DIED()
        if what == "busy" and next(busy):
            return 5.0, remote.Stopped("busy", False)
        if what == "slow":
            return 70.0, [receipt(block)]

    def lose(ray, node):
        if node in ray.alive:
            ray.lose_node(node)

    events = []
    for at, node in losses:
        events.append((at, lambda ray, node=node: lose(ray, node)))
        events.append((at + 100, lambda ray, node=node: ray.alive.append(node)))
    events.sort(key=lambda event: event[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_MOST_LOST", 1000)
        run = Drive(
            Place.of(tmp_path_factory.mktemp("any")),
            patch,
            blocks,
            nodes=nodes,
            work=work,
            events=events,
        )
    assert Counter(run.committed) == Counter(block.key for block in blocks)

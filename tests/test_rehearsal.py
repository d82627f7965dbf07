"""A block's rehearsal: it makes the programs that the block needs, and is never in its way."""

import threading
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace

import jax
import pytest
from cases import assert_same_rows
from runs import SPEC, write

import gaunlearn
from gaunlearn.sweep import execute, lanes, rehearsal, traced
from gaunlearn.sweep.plan import Limits, families_of, plan_blocks, survey
from gaunlearn.sweep.problems import build_problems, empty_problems
from gaunlearn.sweep.rehearsal import Rehearsal, rehearsed
from gaunlearn.sweep.spec import load_spec

ISOTROPIC = 'kind = "isotropic"\nm = 4\nd = 50\nn_test = 10'
TWO_LAYERS = 'kind = "two_layer_relu"\nn = 8'
# What differs from ``runs.SPEC``.
KINDS = {
    "deep": {TWO_LAYERS: 'kind = "deep_relu"\nn = 6\ndepth = 3'},
    "given data, to the limit": {
        ISOTROPIC: 'kind = "digits"\nm = 6',
        TWO_LAYERS: 'kind = "linear"',
        "[train]": '[train]\nend = "limit"',
    },
    "several methods, and what they forget asks the trained model, in float32": {
        "[unlearn]": '[unlearn]\nmethod = ["ascent", "identity"]',
        "[train]": '[forget]\nrule = "hardest"\nsize = 2\n[compute]\ndtype = "float32"\n[train]',
    },
}


@pytest.fixture(autouse=True)
def nothing_is_rehearsed_yet(monkeypatch):
    monkeypatch.setattr(rehearsal, "_rehearsed", set())


@pytest.fixture
def sweep_of(tmp_path):
    def sweep(changes):
        text = SPEC
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        return load_spec(write(tmp_path, text))

    return sweep


def first_block(sweep):
    shapes = survey(sweep).shapes
    return next(plan_blocks(lambda: families_of(sweep), sweep.directory, shapes, Limits()))


@pytest.mark.parametrize("kind", KINDS)
def test_it_makes_all_programs_that_the_block_needs(sweep_of, monkeypatch, kind):
    sweep = sweep_of(KINDS[kind])
    before = []

    @contextmanager
    def at_once(key, perform):
        perform(Rehearsal())
        before.extend(traced._programs)
        yield

    monkeypatch.setattr(execute, "rehearsed", at_once)
    lanes.forget_capacities()
    traced.forget_programs()
    execute.run_block(first_block(sweep), sweep.directory, 8000)
    assert traced._programs
    assert set(traced._programs) <= set(before)


def test_a_block_with_much_to_come_asks_for_better_programs_and_so_does_its_rehearsal(
    sweep_of, monkeypatch
):
    sweep = sweep_of({})
    block = first_block(sweep)
    rehearsals = []

    @contextmanager
    def at_once(key, perform):
        perform(Rehearsal())
        rehearsals.append(set(traced._programs))
        yield

    monkeypatch.setattr(execute, "rehearsed", at_once)
    lanes.forget_capacities()
    for later in (0.0, 1e9):
        traced.forget_programs()
        execute.run_block(block._replace(later=later), sweep.directory, 8000)
        assert set(traced._programs) == rehearsals[-1]
        options = {dict(how[4]).get("xla_backend_optimization_level") for how in traced._programs}
        assert options == ({None} if later else {0})


@pytest.mark.parametrize("kind", KINDS)
def test_empty_problems_have_the_shapes_of_those_that_are_built(sweep_of, kind):
    sweep = sweep_of(KINDS[kind])
    block = first_block(sweep)
    wanted = [(family.data, family.model, family.seed) for family in block.families]
    room, directory = block.program.room, sweep.directory
    built, empty = (make(wanted, room, directory) for make in (build_problems, empty_problems))
    for ours, theirs in zip(empty, built, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def test_a_block_gives_the_same_numbers_without_one(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "_REHEARSED", 0.0)
    monkeypatch.setattr(execute, "rehearsed", None)  # is not asked
    found = gaunlearn.run(write(tmp_path, SPEC), tmp_path / "run")
    assert_same_rows(found.to_pandas(), undisturbed.to_pandas())


def test_blocks_are_rehearsed_once():
    performed = []
    for key in ("one", "one", "another"):
        with rehearsed(("once", key), lambda rehearsal, key=key: performed.append(key)):
            pass
    assert performed == ["one", "another"]


def test_a_preview_is_compiled_quickly_and_what_follows_well(sweep_of, monkeypatch):
    """And of what is compiled quickly, a lane is alone: there is less to trace."""
    sweep = sweep_of({})
    block = first_block(sweep)._replace(later=1e9)
    monkeypatch.setattr(lanes, "_LEAST_PAIRS", 256)
    lanes.forget_capacities()
    traced.forget_programs()
    made = []
    for is_preview in (True, False):
        execute.run_block(block._replace(is_preview=is_preview), sweep.directory, 8000)
        made.append(set(traced._programs).difference(*made))
    for programs, level in zip(made, (0, None), strict=True):
        stages = {stage.__name__ for stage, *_ in programs}
        assert stages == {"train", "limit", "certify", "compare", "unlearn", "judge"}
        assert {dict(how[4]).get("xla_backend_optimization_level") for how in programs} == {level}
        widths = {batch for _, _, batch, *_ in programs}
        assert widths == {1} if level == 0 else min(widths) > 1


def test_what_goes_wrong_in_it_is_for_the_block_to_say(recwarn):
    def wrong(rehearsal):
        raise ValueError("no such thing")

    with rehearsed("wrong", wrong):
        pass
    assert not recwarn.list


def test_it_ends_with_the_block():
    begun, ended = threading.Event(), threading.Event()

    def forever(rehearsal):
        begun.set()
        try:
            while True:
                rehearsal.go_on()
        finally:
            ended.set()

    def block():
        with rehearsed("forever", forever):
            begun.wait(60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        block()
    assert ended.is_set()


@pytest.fixture
def programs(monkeypatch):
    """None, to begin with."""
    monkeypatch.setattr(traced, "_programs", {})


def program(compiled=None, error=None):
    """A program as far as its compiler goes, which has ended."""
    future = Future()
    if error is None:
        future.set_result(compiled)
    else:
        future.set_exception(error)
    return SimpleNamespace(compiled=future)


@pytest.mark.usefixtures("programs")
def test_programs_are_made_once_whichever_thread_asks():
    made, results = [], []
    tracing, go_on = threading.Event(), threading.Event()

    def make():
        made.append(threading.current_thread().name)
        tracing.set()
        go_on.wait(60)
        return program(compiled="quickly")

    def ask():
        results.append(traced.program_of("asked for twice", make))

    first, second = threading.Thread(target=ask), threading.Thread(target=ask)
    first.start()
    tracing.wait(60)
    second.start()
    second.join(0.3)
    assert second.is_alive(), "it waits for the first"
    go_on.set()
    first.join()
    second.join()
    assert results[0] is results[1]
    assert len(made) == 1


@pytest.mark.usefixtures("programs")
def test_a_program_that_could_not_be_made_is_tried_again():
    def wrong():
        raise MemoryError

    with pytest.raises(MemoryError):
        traced.program_of("fails at first", wrong)
    again = traced.program_of("fails at first", program)
    assert traced.program_of("fails at first", wrong) is again


@pytest.mark.usefixtures("programs")
def test_a_program_that_could_not_be_compiled_is_tried_again():
    """A device that has no memory now may have it later."""

    def make():
        return program(error=jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"))

    first = traced.program_of("too large", make)
    assert traced.program_of("too large", make) is not first

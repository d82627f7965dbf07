"""The sweep engine: shapes, lanes, devices, batches, shards and the plan."""

import gc
import os
import subprocess
import sys
import time
import weakref
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_same_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import SPEC, command, finish, write

import gaunlearn
from gaunlearn import compiler
from gaunlearn.cli import main
from gaunlearn.limit import STATUSES
from gaunlearn.sweep import execute, host, machine, plan, stages, traced, worker
from gaunlearn.sweep import lanes as lanes_module
from gaunlearn.sweep.expressions import parse
from gaunlearn.sweep.lanes import (
    Terms,
    forget_capacities,
    map_lanes,
    pad_to_capacity,
    programs_for,
    run_in_rounds,
    run_in_turns,
    run_lanes,
)
from gaunlearn.sweep.place import Place
from gaunlearn.sweep.plan import Limits, Load, families_of, plan_blocks, survey
from gaunlearn.sweep.sections import SpecError
from gaunlearn.sweep.shapes import COMPILATION_S, Size, choose_shapes, step_seconds
from gaunlearn.sweep.spec import load_spec

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
    # A column of truth values that lacks some in other rows is one of objects.
    same = together[together["trial_id"].isin(apart["trial_id"])].infer_objects()
    assert len(same) == len(apart) == 4
    assert_same_rows(same, apart)


def test_limits_that_need_the_fallback_get_it(tmp_path):
    """More samples than dimensions: the active set cannot tell all limits, but all that descent has
    separated have one.
    """
    changes = {
        'kind = "isotropic"': 'kind = "gaussian_mixture"\nalpha = 0.02',
        "m = 4\nd = 50": "m = 20\nd = 5",
        'kind = "two_layer_relu"\nn = 8': 'kind = "linear"',
    }
    text = SPEC
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    frame = gaunlearn.run(write(tmp_path, text, seeds=8), tmp_path / "run").to_pandas()
    for column, whose in (("limit_status", "train"), ("limit_status_retrain", "retrain")):
        assert set(frame[column]) == {"converged", "fallback", "infeasible"}
        separated = frame[f"separated_{whose}"].astype(bool)
        assert separated.any()
        assert not (separated & (frame[column] == "infeasible")).any()


def test_limits_that_are_stalled_are_solved_again(undisturbed, tmp_path, monkeypatch):
    """The first, smaller program says so of every third, and gives numbers that mean nothing."""
    again = []

    def stalling(stage, static, lanes, *rest, **others):
        found = run_in_turns(stage, static, lanes, *rest, **others)
        if stage is stages.limit and static[1]:
            again.append(len(lanes.problem))
        elif stage is stages.limit:
            status, kept = found
            status[::3] = STATUSES.index("stalled")
            for leaf in jax.tree.leaves(kept):
                leaf[::3] = 0
        return found

    monkeypatch.setattr(execute, "run_in_turns", stalling)
    run = gaunlearn.run(write(tmp_path, SPEC), tmp_path / "run")
    assert_same_rows(run.to_pandas(), undisturbed.to_pandas())
    assert again


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


@pytest.mark.usefixtures("in_batches")
def test_lanes_of_different_lengths_are_no_burden(tmp_path):
    """Three short trainings and a long one: the batch is busy for most of the time."""
    text = SPEC.replace("max_steps = 150", "max_steps = [100, 200, 300, 2000]\ncheck_every = 50")
    text = text.replace("m = 4", "m = 8").replace("n = 8", "n = 128") + "[forget]\nindex = [0]\n"
    run = gaunlearn.run(write(tmp_path, text, seeds=6), tmp_path / "run")
    frame = run.to_pandas()
    assert sorted(set(frame["steps"])) == [100, 200, 300, 2000]
    assert run.manifest["training_lanes_busy"] > 0.8


# -- devices, batches, shards ------------------------------------------------------------------


IN_BATCHES = """
from gaunlearn.sweep import execute, lanes
execute.Terms = lambda *a, **k: lanes.Terms(*a, **k | {"in_batches": True})
"""


@pytest.mark.parametrize(("devices", "code"), [(2, ""), (8, IN_BATCHES)])
def test_any_number_of_devices_gives_the_same_rows(undisturbed, tmp_path, devices, code):
    """15 trainings and retrainings a seed on 8 devices: shares are uneven, some are empty."""
    write(tmp_path, SPEC)
    finish(command(tmp_path, "--out", "run", code=code, JAX_NUM_CPU_DEVICES=str(devices)))
    run = gaunlearn.load(tmp_path / "run")
    assert run.manifest["provenance"]["devices"] == devices
    assert_same_rows(run.to_pandas(), undisturbed.to_pandas())


@pytest.mark.usefixtures("in_batches")
@pytest.mark.parametrize("pairs", [64, 8000])
def test_batches_of_any_size_give_the_same_rows(undisturbed, tmp_path, monkeypatch, pairs):
    monkeypatch.setattr(machine, "batch_pairs", lambda: pairs)
    run = gaunlearn.run(write(tmp_path, SPEC), tmp_path / "run")
    assert_same_rows(run.to_pandas(), undisturbed.to_pandas())


@pytest.mark.parametrize("programs", [1, 3])
def test_any_number_of_programs_gives_the_same_rows(undisturbed, tmp_path, monkeypatch, programs):
    """A small sweep would have one, whatever the machine has."""
    for module in (lanes_module, execute):
        monkeypatch.setattr(module, "programs_for", lambda count, terms: programs)
    run = gaunlearn.run(write(tmp_path, SPEC), tmp_path / "run")
    assert_same_rows(run.to_pandas(), undisturbed.to_pandas())


@pytest.mark.parametrize("count", [1, 2, 7, 200])
@pytest.mark.parametrize("cores", [1, 2, 5])
def test_lanes_are_dealt_to_programs_that_have_enough_to_do(monkeypatch, count, cores):
    """One for each core, but none with less than a batch; results in the order of the lanes."""
    monkeypatch.setattr(lanes_module, "host_cores", lambda: cores)
    terms, results = Terms(1, lanes_module._LEAST_PAIRS // 2, 8000), []
    assert programs_for(count, terms) == max(1, min(cores, count // 2))

    def counted(found):
        results.append(found)
        return found

    lanes = np.arange(float(count))
    found = run_in_turns(doubled, "dealt", lanes, (), terms, 1, 0, counted)
    np.testing.assert_array_equal(found, 2 * lanes)
    assert len(results) == programs_for(count, terms)


def test_where_one_program_fails_the_others_have_ended(monkeypatch):
    """They hold memory until then, and the block is to be tried again with less."""
    monkeypatch.setattr(lanes_module, "host_cores", lambda: 2)
    ended = []

    def failing(found):
        if found[0] == 0:  # the first lane's
            raise MemoryError
        time.sleep(0.3)
        ended.append(found)
        return found

    terms = Terms(1, lanes_module._LEAST_PAIRS, 8000)
    with pytest.raises(MemoryError):
        run_in_turns(doubled, "failing", np.arange(4.0), (), terms, 1, 0, failing)
    assert len(ended) == 1


def test_cores_are_those_that_the_process_may_keep_busy(monkeypatch, tmp_path):
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(host, "_QUOTA", quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.delenv("NPROC", raising=False)
    assert host.host_cores() == 6
    for text, cores in (("max 100000", 6), ("250000 100000", 3), ("5000 100000", 1)):
        quota.write_text(f"{text}\n")
        assert host.host_cores() == cores
    monkeypatch.setenv("NPROC", "2")
    assert host.host_cores() == 1
    quota.unlink()
    assert host.host_cores() == 2
    monkeypatch.setenv("NPROC", "5")
    assert machine.speed() == 2.5, "blocks are sized for pairs of cores"


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

    def run_block(block, directory, batch_pairs, *others, **named):
        sizes.append((batch_pairs, block.trials))
        if batch_pairs > limit_pairs or block.trials > limit_rows:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return original(block, directory, batch_pairs, *others, **named)

    original = worker.run_block
    return run_block, sizes


@pytest.mark.usefixtures("in_batches")
def test_short_memory_halves_batches_then_blocks(undisturbed, tmp_path, monkeypatch):
    limited, sizes = out_of_memory_above(100, 6)
    monkeypatch.setattr(worker, "run_block", limited)
    run = gaunlearn.run(write(tmp_path, SPEC), tmp_path / "run")
    assert_same_rows(run.to_pandas(), undisturbed.to_pandas())
    assert sizes[0][0] > 100
    assert sizes[-1][0] <= 100
    assert min(rows for _, rows in sizes) <= 6


def test_a_trial_too_large_for_memory_is_named(tmp_path, monkeypatch, capsys):
    limited, _ = out_of_memory_above(0, 0)
    monkeypatch.setattr(worker, "run_block", limited)
    path = write(tmp_path, SPEC)
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 1
    assert "m = 4 and n = 8 does not fit into memory" in capsys.readouterr().err


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


def test_a_preview_comes_before_several_blocks_and_all_know_what_comes_later(tmp_path, monkeypatch):
    """Families take 0.4 of a block each: two fit into one. The preview is one of the first one's
    four retrainings, whose training the block after it repeats for the others.
    """
    path, run, blocks = write(tmp_path, SPEC, seeds=6), worker.run_block, []
    sweep = load_spec(path)
    (program,), seconds = survey(sweep).programs, survey(sweep).seconds / 6
    monkeypatch.setattr(plan, "BLOCK_S", seconds / 0.4 / machine.speed())
    monkeypatch.setattr(worker, "BLOCK_S", plan.BLOCK_S)

    def seen(block, *others, **named):
        blocks.append(block)
        return run(block, *others, **named)

    monkeypatch.setattr(worker, "run_block", seen)
    told = []
    gaunlearn.run(path, tmp_path / "run", progress=told.append)
    assert [block.trials for block in blocks] == [3, 9 + 12, 24, 24]
    assert [block.is_preview for block in blocks] == [True, False, False, False]
    taken = np.asarray([Load.total(block.families).seconds(program) for block in blocks])
    left = (6 * seconds - taken.cumsum()).clip(0)
    assert left[-1] == 0 < left[-2]
    assert [block.later for block in blocks] == pytest.approx(left / taken)
    # Programs are made for the preview and for the block after it: their pace tells nothing.
    estimates = [each.seconds_left for each in told if each.stage == "stored"]
    assert estimates[:2] == pytest.approx(left[:2] / machine.speed())
    assert estimates[2] != pytest.approx(left[2] / machine.speed())
    halves = plan.split_block(blocks[2], tmp_path)
    assert [half.later for half in halves] == pytest.approx([2 * blocks[2].later] * 2)
    # Of what is one block, and of a search's later rounds, nothing is short.
    alone = worker.Alone(Place.of(tmp_path / "run"), set(), lambda stage: None)
    assert not alone.limits(plan.BLOCK_S * machine.speed()).preview
    assert alone.limits(1.1 * plan.BLOCK_S * machine.speed()).preview
    alone.run(iter(()), lambda receipt: None)
    assert not alone.limits(1.1 * plan.BLOCK_S * machine.speed()).preview


MANY_WAYS = """
[sweep]
seeds = 3
{sweep}
[data]
kind = ["gaussian_mixture", "isotropic", "near_duplicates"]
m = [4, 9]
d = [3, 8, 11, 5000]
alpha = 0.1
correlation = [0.2, 0.4]
n_test = 2
[model]
kind = ["linear", "two_layer_relu", "two_layer_leaky_relu"]
n = [8, 20]
leak = [0.1, 0.2]
init_scale = [0.1, 0.2]
[train]
max_steps = {steps}
step_size = [0.1, 0.2]
[evaluate]
kinks = ["handled", "ignored"]
[forget]
rule = ["random", "hardest"]
size = [1, 2]
draws = 3
[unlearn]
step_fraction = [0.0, 1.0]
"""


@pytest.mark.parametrize(
    ("sweep", "steps"),
    [
        ("", "[100, 200]"),
        ('zip = ["data.m", "model.n"]', "[100, 200]"),
        ('filter = "d >= m"', "[100, 200]"),
        ("", '["10 * m", 300]'),
    ],
)
def test_combinations_that_cost_the_same_are_counted_once(tmp_path, sweep, steps):
    """Against every combination counted by itself, and every one put together anew."""
    path = tmp_path / "spec.toml"
    path.write_text(MANY_WAYS.format(sweep=sweep, steps=steps))
    given = load_spec(path)
    examples = sum(1 for _ in given.costs())
    trainings = sum(1 for _ in given.trainings())
    assert examples < trainings / 4
    each = replace(given, alike=np.arange(len(given.kept), dtype=np.int32))
    assert sum(1 for _ in each.costs()) == trainings
    got, want = survey(given), survey(each)
    assert got.seconds == pytest.approx(want.seconds, rel=1e-12)
    assert replace(got, seconds=0) == replace(want, seconds=0)
    # A grid whose sections do depend on each other puts every combination together by itself.
    plain = replace(given.grid, filters=(parse("True"),)) if not sweep else given.grid
    cells = [cell for group in given.trainings() for cell in group]
    again = [plain.cell(int(index)) for index in given.kept]
    assert cells == again


def test_plan_prints_counts_and_runs_nothing(tmp_path, capsys):
    path = write(tmp_path, SPEC)
    assert main(["plan", str(path), "--set", "data.d=[50, 70]", "--set", "data.m=5"]) == 0
    out = capsys.readouterr().out
    assert "axis data.d: 2 values" in out
    assert "90 trials (evaluations) of 6 trainings and 60 retrainings" in out
    assert "1 programs to train and 1 to evaluate" in out
    assert "estimated time" in out
    assert list(tmp_path.iterdir()) == [path]


def test_list_shows_questions(capsys, tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()  # somebody else's
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "step_size.toml" in out
    assert "How large must the gradient-ascent step be" in out


def test_list_shows_what_is_no_text_as_well_as_it_can(tmp_path, capsys):
    (tmp_path / "a.toml").write_bytes(b"# What is \xff?\n")
    (tmp_path / "folder.toml").mkdir()
    assert main(["list", str(tmp_path)]) == 0
    assert "What is" in capsys.readouterr().out
    assert main(["list", str(tmp_path / "folder.toml")]) == 2
    assert "holds no specifications" in capsys.readouterr().err


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
    large = 1 << 20
    assert len(pad_to_capacity(np.zeros((9, large)), "key")) == 16
    assert len(pad_to_capacity(np.zeros((3, large)), "key")) == 16, "one program serves both"
    forget_capacities()
    assert len(pad_to_capacity(np.zeros((3, large)), "key")) == 4
    assert len(pad_to_capacity(np.zeros((3, 1)), "another")) == 256, "room that costs nothing"


def doubled(static, batch, lanes, count, common):
    return map_lanes(lambda lane: 2 * lane, lanes, count, batch)


@pytest.mark.parametrize(("size", "capacity"), [(1, 256), (1 << 22, 4), (1 << 30, 4)])
def test_lanes_have_room_for_more_only_if_it_costs_nothing(size, capacity):
    forget_capacities()
    seen = []

    def doubled_of(static, batch, lanes, count, common):
        seen.append(len(lanes))
        return doubled(static, batch, lanes, count, common)

    results = run_lanes(doubled_of, size, np.arange(3.0), (), Terms(size, 8, 8000))
    assert set(seen) == {capacity}
    assert results.tolist() == [0.0, 2.0, 4.0]


def test_turns_keep_the_order_and_share_a_program():
    """Also where there are many more lanes than it was compiled for."""
    forget_capacities()
    traced = []

    def squared(static, batch, lanes, count, common):
        traced.append(batch)
        return map_lanes(lambda lane: (lane**2, common + lane), lanes, count, batch)

    for count in (3, 25, 4, 1):
        lanes = np.arange(float(count))
        found = run_in_turns(
            squared,
            "turns",
            lanes,
            np.asarray(7.0),
            Terms(1 << 22, 8, 8000, in_batches=True),
            passes=1,
            ahead=0,
            keep=lambda each: each[1],
        )
        np.testing.assert_array_equal(found, lanes + 7)
    assert len(set(traced)) == 1
    terms = Terms(lanes_module._TURN_BYTES // 2, 8, 8000)
    many = run_in_turns(squared, "few", np.arange(9.0), np.asarray(0.0), terms, 1, 0)
    np.testing.assert_array_equal(many[0], np.arange(9.0) ** 2)


def test_programs_with_much_to_do_are_compiled_well(monkeypatch):
    """At once where that is known beforehand; else when a quick one has had its share."""
    asked = []
    for name in ("quick_options", "full_options", "loop_options"):
        monkeypatch.setattr(lanes_module, name, lambda name=name: asked.append(name) or {})
    # In passes of 8 pairs, of which a lane that is alone counts as more.
    share = lanes_module._QUICK_PAIRS * host.host_cores() * 8 // lanes_module._ALONE_PAIRS

    def run(static, passes, ahead=0, is_loop=False, later=0.0):
        terms = Terms(1, 8, 8000, is_loop=is_loop, later=later)
        run_in_turns(doubled, static, np.arange(2.0), (), terms, passes, ahead)
        return asked[-1]

    assert run("little", 1) == "quick_options"
    assert run("much", share) == "full_options"
    assert run("to come", 1, ahead=share) == "full_options"
    assert run("in later blocks", 1, later=share) == "full_options"
    assert run("ahead there", 1, ahead=share // 40, later=39.0) == "full_options"
    assert run("not enough", 1, ahead=share // 40, later=1.0) == "quick_options"
    assert run("short loop", 1, is_loop=True) == "quick_options"
    assert run("long loop", share, is_loop=True) == "loop_options"
    assert run("often", share // 40) == "quick_options"
    assert run("often", share // 40) == "quick_options"
    assert run("often", share // 40) == "full_options"


def test_programs_are_dropped_before_their_memory_maps_run_out(monkeypatch):
    """At once, though Python looks rarely for objects that refer to each other."""
    lanes = np.arange(2.0)
    run_in_turns(doubled, "dropped", lanes, (), Terms(1, 8, 8000), 1, 0)
    some = [weakref.ref(made.result()) for made in traced._programs.values()]
    gc.disable()
    try:
        monkeypatch.setattr(machine, "_memory_maps", lambda: (49, 100))
        machine.drop_programs_if_crowded()
        assert all(program() is not None for program in some)
        monkeypatch.setattr(machine, "_memory_maps", lambda: (51, 100))
        machine.drop_programs_if_crowded()
        assert some
        assert all(program() is None for program in some)
    finally:
        gc.enable()


def test_options_that_a_compiler_does_not_know_are_left_out(monkeypatch):
    assert set(compiler.full_options()) <= set(compiler.quick_options())
    assert "xla_backend_optimization_level" in compiler.quick_options()
    monkeypatch.setattr(compiler, "_PLAIN_FUSIONS", {"xla_cpu_no_such_option": True})
    assert compiler.full_options() == {}
    assert compiler.quick_options() == {"xla_backend_optimization_level": 0}


def test_quick_programs_stay_so_until_they_have_lost_what_they_saved():
    work = compiler.Work()
    assert work.stays_quick("counted", 4, enough=10)
    assert not work.stays_quick("another", 4, enough=10, ahead=7)
    assert not work.copy().stays_quick("counted", 7, enough=10)
    assert work.stays_quick("counted", 6, enough=10)
    assert not work.stays_quick("counted", 1, enough=10)


def test_output_that_nobody_reads_is_no_error_of_ours():
    """As in ``gaunlearn list | head -0``."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "gaunlearn", "list"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""

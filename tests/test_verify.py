"""Verification: what it confirms, and what it finds."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases import network_at_kinks
from runs import SPEC, write

import gaunlearn
from gaunlearn import reference
from gaunlearn.cli import main
from gaunlearn.reference import _independent
from gaunlearn.sweep.verify import _compare


def test_verify_confirms_a_run(undisturbed, capsys):
    assert main(["verify", str(undisturbed.path), "--sample", "9"]) == 0
    out = capsys.readouterr().out
    assert "9 trials in batches, 4 of them alone, 9 by NumPy and SciPy" in out
    assert "the contract holds" in out


@pytest.mark.parametrize("column", ["epsilon", "tau_retrain", "steps", "limit_status", "delta"])
def test_verify_finds_a_wrong_number_and_names_the_trial(undisturbed, tmp_path, capsys, column):
    """A value is changed by 1e-6 in the file, or is infinite, as a faulty machine would have
    written it.
    """
    shutil.copytree(undisturbed.path, tmp_path / "run")
    part = next((tmp_path / "run" / "trials").glob("*.parquet"))
    table = pq.read_table(part)
    values = table[column].to_pylist()
    if column == "delta":
        values[0] = float("inf")
    elif isinstance(values[0], float):
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


def test_verify_names_trials_that_are_there_twice(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed.path, tmp_path / "run")
    (part,) = (tmp_path / "run" / "trials").glob("*.parquet")
    shutil.copy(part, part.with_name("copy.parquet"))
    assert main(["verify", str(tmp_path / "run"), "--sample", "2"]) == 1
    out = capsys.readouterr().out
    name = undisturbed.to_pandas()["trial_id"][0]
    assert f"trial {name}: is there twice" in out
    assert f"trial {name}: is claimed by two parts" in out


def test_verify_names_trials_that_are_not_the_claimed_ones(undisturbed, tmp_path, capsys):
    """One trial's name is another's: as many rows as are claimed, and yet one is missing."""
    shutil.copytree(undisturbed.path, tmp_path / "run")
    (part,) = (tmp_path / "run" / "trials").glob("*.parquet")
    table = pq.read_table(part)
    names = table["trial_id"].to_pylist()
    wrong = table.set_column(0, table.schema.field("trial_id"), [["0" * 32, *names[1:]]])
    assert table.schema.names[0] == "trial_id"
    pq.write_table(wrong, part)
    assert main(["verify", str(tmp_path / "run"), "--sample", "0"]) == 1
    out = capsys.readouterr().out
    assert f"trial {names[0]}: is claimed by a part, and missing" in out
    assert f"trial {'0' * 32}: is there, and claimed by no part" in out


@pytest.mark.parametrize("change", ["delete", "repeat"])
def test_verify_names_trials_that_a_part_lacks_or_repeats(undisturbed, tmp_path, capsys, change):
    shutil.copytree(undisturbed.path, tmp_path / "run")
    (part,) = (tmp_path / "run" / "trials").glob("*.parquet")
    table = pq.read_table(part)
    name = table["trial_id"][3].as_py()
    rows = [i for i in range(len(table)) if i != 3]
    pq.write_table(table.take(rows if change == "delete" else [*rows, 3, 3]), part)
    assert main(["verify", str(tmp_path / "run")]) == 1
    out = capsys.readouterr().out
    what = "is claimed by a part, and missing" if change == "delete" else "is there twice"
    assert f"trial {name}: {what}" in out
    assert f"part {part.name}: has {len(rows) + 2 * (change == 'repeat')} rows and claims" in out


def test_verify_names_parts_that_are_missing_or_another_programs(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed.path, tmp_path / "run")
    (part,) = (tmp_path / "run" / "trials").glob("*.parquet")
    pd.read_parquet(part).to_parquet(part)
    assert main(["verify", str(tmp_path / "run")]) == 1
    out = capsys.readouterr().out
    assert f"part {part.name}: has no schema_version: another program has written it" in out
    part.unlink()
    assert main(["verify", str(tmp_path / "run")]) == 1
    out = capsys.readouterr().out
    assert f"part {part.name}: missing, and 36 trials with it" in out


def test_verify_says_that_a_run_is_unfinished(tmp_path, capsys):
    run = gaunlearn.run(write(tmp_path, SPEC), tmp_path / "run", shard=(0, 3))
    assert main(["verify", str(run.path), "--sample", "2"]) == 0
    out = capsys.readouterr().out
    assert "unfinished: 12 of 36 trials are stored" in out


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("kink_tols", "[1e-3, "),
        ("kink_tols", '"x"'),
        ("kink_tols", "[-1.0]"),
        ("kink_tols", "3"),
        ("alpha", 0.1),  # isotropic data have none
        ("method", "asent"),
    ],
)
def test_verify_names_the_trial_whose_parameters_are_junk(
    undisturbed, tmp_path, capsys, column, value
):
    shutil.copytree(undisturbed.path, tmp_path / "run")
    (part,) = (tmp_path / "run" / "trials").glob("*.parquet")
    table = pq.read_table(part)
    place = table.schema.get_field_index(column)
    values = pa.array([value, *table[column].to_pylist()[1:]], table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), values), part)
    assert main(["verify", str(tmp_path / "run"), "--sample", "0"]) == 2
    err = capsys.readouterr().err
    assert f"trial {table['trial_id'][0].as_py()}: its parameters cannot be read" in err
    assert err.count("\n") == 1


def test_reference_agrees_with_the_kernel_near_kinks():
    """Some of these make SciPy's non-negative least squares stop short."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        W, u, x, y, _ = network_at_kinks(rng, 8, 5, 30, 3)
        W = W + 1e-3 * rng.normal(size=W.shape)
        for tol in (0.0, 1e-2, 5e-2):
            found = gaunlearn.certify(W, u, x, y, kink_tol=tol)
            want = reference.certify(W, u, x, y, np.ones(5, bool), tol)
            assert found.separated == (want is not None)
            if want is not None:
                assert found.epsilon == pytest.approx(want.epsilon, rel=1e-8, abs=1e-10)
                assert found.tau == pytest.approx(want.tau, rel=1e-8, abs=1e-14)


def test_slack_of_a_limit_counts_from_rounding_on():
    """Two orthogonal samples, linear: w = (1, 1) is the limit, w = (1, 1 + s) has the multipliers
    (1, 1 + s) and the slack (0, s).
    """
    x, y, both = np.eye(2), np.ones(2), np.ones(2, bool)
    single = float(np.finfo(np.float32).eps)
    for slack, as_limit in ((1e-3, 1e-3 * (1 + 1e-3)), (1e-6, 0.0)):
        W = np.array([[1.0, 1.0 + slack]])
        for is_limit, want in ((False, slack * (1 + slack)), (True, as_limit)):
            found = reference.certify(W, None, x, y, both, None, 0.0, single, 1, is_limit)
            assert found is not None
            assert found.delta == pytest.approx(want, rel=1e-9, abs=0)


DEPENDENT = """
[sweep]
seeds = 2
[data]
kind = "file"
path = "mine.npz"
[model]
kind = "two_layer_relu"
n = 8
init_scale = 0.3
[train]
max_steps = 300
[evaluate]
kink_tol = [0.0, 1e-2]
[unlearn]
step_fraction = [0.0, 1.0]
"""


def test_verify_confirms_samples_that_depend_on_each_other_wherever_they_lie(tmp_path, capsys):
    """Duplicates leave multipliers a choice: it is told and no reason to say BROKEN. And a project
    that was moved is verified from where it is now.
    """
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 10)) / np.sqrt(10)
    y = np.array([1.0, -1, 1, -1])
    np.savez(old / "mine.npz", x=np.vstack([x, x[:2]]), y=np.append(y, y[:2]))
    (old / "spec.toml").write_text(DEPENDENT)
    gaunlearn.run(old / "spec.toml", old / "run")
    assert main(["verify", str(old / "run"), "--sample", "0"]) == 0
    out = capsys.readouterr().out
    assert "have multipliers that are not unique" in out
    assert "the contract holds" in out
    old.rename(new)
    assert main(["verify", str(new / "run"), "--sample", "2"]) == 2
    assert "mine.npz: no such file" in capsys.readouterr().err
    moved = ["verify", str(new / "run"), "--sample", "2", "--directory", str(new)]
    assert main(moved) == 0


@pytest.mark.parametrize(
    ("dtype", "value", "change", "broken"),
    [
        ("float64", 1.0, 1e-10, False),
        ("float64", 1.0, 1e-8, True),
        ("float64", 1e-6, 1e-13, False),
        ("float64", 1e-6, 1e-11, True),
        ("float32", 1.0, 1e-4, False),
        ("float32", 1.0, 1e-2, True),
        ("float32", 1e-6, 9e-4, True),
        ("float32", 1e-6, 1e-7, False),
    ],
)
def test_small_values_are_held_to_their_own_size(dtype, value, change, broken):
    """1e-9 in float64 and 1e-3 in float32, relative; rounding, absolute, is no difference."""
    stored = {"a": {"dtype": dtype, "tau": value}}
    (found,) = _compare("alone", stored, {"a": {"tau": value + change}}, 1e-9, {})
    assert bool(found.broken) == broken


@pytest.mark.parametrize(
    ("column", "value", "depend", "broken"),
    [
        ("epsilon_delta1_tau2", 1e-9, True, False),
        ("epsilon_delta1_tau2", 1e-9, False, True),
        ("epsilon_delta1_tau2", 1e-7, True, True),
        ("epsilon", 1e-9, True, True),
    ],
)
def test_an_epsilon_under_a_bound_of_dependent_samples_has_no_digits_below_the_root_of_rounding(
    column, value, depend, broken
):
    stored = {"a": {"dtype": "float64", column: value}}
    unsure = {"a": frozenset({"delta_train"})} if depend else {}
    (found,) = _compare("alone", stored, {"a": {column: 2 * value}}, 1e-9, unsure)
    assert bool(found.broken) == broken


def test_only_what_follows_from_a_choice_of_multipliers_is_held_less_tightly():
    stored = {"a": {"dtype": "float64", "delta": 1.0, "epsilon_train": 1.0}}
    other = {"a": {"delta": 1.0 + 1e-5, "epsilon_train": 1.0 + 1e-5}}
    found = _compare("alone", stored, other, 1e-9, {"a": frozenset({"delta"})})
    assert {d.column: d.broken for d in found} == {"epsilon_train": ("a",), "delta": ()}


@pytest.mark.parametrize(
    ("x", "kinks", "unique"),
    [
        (np.eye(3), [(0, 0), (0, 1)], True),
        # Twice the same sample: which of them carries the multiplier is open.
        (np.array([[1.0, 0], [1.0, 0]]), [], False),
        # More samples than dimensions, and yet each neuron is active on one sample of its own.
        (np.array([[1.0, 0], [0, 1.0], [1.0, 1.0]]), "own", True),
        # The third sample is only at kinks: its multiplier only bounds them.
        (np.eye(3), [(0, 2), (1, 2), (2, 2)], False),
        # Neuron 0 has three kinks in two dimensions.
        (np.array([[1.0, 0], [0, 1.0], [1.0, 1.0]]), [(0, 0), (0, 1), (0, 2)], False),
    ],
)
def test_the_reference_knows_when_multipliers_are_unique(x, kinks, unique):
    kink = np.zeros((3, len(x)), bool)
    slope = np.ones((3, len(x)))
    if kinks == "own":
        slope = np.eye(3)
    else:
        for pair in kinks:
            kink[pair] = True
    assert _independent(np.array([1.0, -1.0, 1.0]), x, slope, kink) == unique


def test_networks_too_large_for_the_reference_are_recomputed_only(undisturbed, monkeypatch, capsys):
    """As many pairs as the limit are within it, one more is not."""
    pairs = undisturbed.to_pandas()[["n", "m"]].prod(axis=1).iloc[0]
    one = undisturbed.to_pandas()["trial_id"].iloc[0]
    monkeypatch.setattr("gaunlearn.sweep.verify.MOST_PAIRS", pairs)
    assert main(["verify", str(undisturbed.path), "--trial", one]) == 0
    assert "1 by NumPy and SciPy\n" in capsys.readouterr().out
    monkeypatch.setattr("gaunlearn.sweep.verify.MOST_PAIRS", pairs - 1)
    assert main(["verify", str(undisturbed.path), "--trial", one]) == 0
    out = capsys.readouterr().out
    assert "0 by NumPy and SciPy" in out
    assert f"none of more than {pairs - 1:.0f} (neuron, sample) pairs" in out

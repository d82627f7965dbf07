"""Every kind of data through a sweep: it runs, is verified, and says what is wrong with it."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

import gaunlearn
from gaunlearn.cli import main
from gaunlearn.data.real import breast_cancer, digits, relu_features
from gaunlearn.sweep.plan import families_of
from gaunlearn.sweep.samples import load_file
from gaunlearn.sweep.sections import SpecError
from gaunlearn.sweep.spec import load_spec
from gaunlearn.types import Dataset

KINDS = """
[sweep]
seeds = 2
[data]
kind = ["gaussian_mixture", "isotropic", "clusters", "xor", "heavy_tailed", "correlated",
        "near_duplicates", "power_law", "breast_cancer"]
m = 5
d = 30
n_test = 6
alpha = 0.1
noise_scale = 0.5
label_noise = 0.1
positive = 0.6
clusters = 2
tail_dof = 4.0
correlation = 0.3
exponent = 1.0
scaling = "normalised"
[model]
kind = "linear"
[train]
max_steps = 200
[forget]
index = [0, 1]
"""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "spec.toml").write_text(KINDS)
    return gaunlearn.run(folder / "spec.toml", folder / "run")


def test_every_kind_runs_and_is_verified(kinds, capsys):
    frame = kinds.to_pandas()
    assert frame.groupby("data_kind").size().to_dict() == dict.fromkeys(
        [
            "gaussian_mixture",
            "isotropic",
            "clusters",
            "xor",
            "heavy_tailed",
            "correlated",
            "near_duplicates",
            "power_law",
            "breast_cancer",
        ],
        4,
    )
    assert (frame["epsilon"].notna() == frame["separated"]).all()
    assert frame.groupby("data_kind")["separated_train"].any().all()
    assert frame[["psi", "phi", "eps_d"]].notna().all().all()
    known = frame.groupby("data_kind")[["correlation", "exponent", "clusters", "scaling"]].count()
    assert known["correlation"].to_dict() == {
        kind: 4 * (kind in ("correlated", "near_duplicates")) for kind in known.index
    }
    assert main(["verify", str(kinds.path), "--sample", "18"]) == 0, capsys.readouterr().out


def test_scalings_of_real_data():
    raw = breast_cancer(0, 40, scaling="raw")
    bunch = load_breast_cancer()
    assert len(raw.y) + len(raw.y_test) == len(bunch.target)
    assert sum((raw.y > 0).tolist() + (raw.y_test > 0).tolist()) == (bunch.target == 0).sum()
    assert {tuple(row) for row in raw.x} <= {tuple(row) for row in bunch.data}
    for data in (breast_cancer(0, 40), digits(0, 40, (3, 8))):
        every = np.concatenate([data.x, data.x_test])
        np.testing.assert_allclose(every.mean(0), 0.0, atol=1e-12)
        assert np.mean(np.sum(every**2, 1)) == pytest.approx(1.0)
    for data in (
        breast_cancer(0, 40, scaling="normalised"),
        digits(0, 40, (3, 8), 5, "normalised"),
    ):
        np.testing.assert_allclose(np.linalg.norm(data.x, axis=1), 1.0)


FILE = """
[data]
kind = "file"
path = ["samples.npz", "samples.parquet"]
[model]
kind = "linear"
[train]
max_steps = 100
"""


def table_of(rng):
    return pd.DataFrame(
        {
            "first": rng.normal(size=9),
            "second": rng.integers(0, 5, 9),
            "label": np.where(np.arange(9) % 2 == 0, 1, -1),
            "held_out": np.arange(9) >= 6,
        }
    )


def test_a_parquet_file_is_the_archive_with_the_same_samples(tmp_path):
    table = table_of(np.random.default_rng(0))
    table.to_parquet(tmp_path / "samples.parquet")
    x, y = table[["second", "first"]].to_numpy(float), table["label"].to_numpy()
    np.savez(tmp_path / "samples.npz", x=x[:6], y=y[:6], x_test=x[6:], y_test=y[6:])
    (tmp_path / "spec.toml").write_text(FILE)
    columns = ["data.label=label", "data.features=['second', 'first']", "data.split=held_out"]
    for a, b in zip(
        load_file(tmp_path / "samples.npz"),
        load_file(tmp_path / "samples.parquet", "label", ("second", "first"), "held_out"),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    named = []
    for overrides in (["data.path=samples.npz"], ["data.path=samples.parquet", *columns]):
        sweep = load_spec(tmp_path / "spec.toml", overrides)
        named.append([family.contents(tmp_path) for family in families_of(sweep)])
    assert named[0] == named[1], "trials are named after what is read"
    everything = load_file(tmp_path / "samples.parquet", "label", None, "held_out")
    np.testing.assert_array_equal(everything.x, x[:6, ::-1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "has no column 'y'; it has first, second, label, held_out"),
        (["data.label=lable"], "has no column 'lable'; did you mean 'label'"),
        (["data.label=label", "data.features=['third']"], "has no column 'third'"),
        (["data.label=label", "data.features=['label']"], "'label' is no feature"),
        (["data.label=label", "data.split=second"], "must be true for test samples"),
        (["data.label=label", "data.features=[]"], "data.features"),
        (["data.label=second"], "labels must be .1 or -1"),
        (["data.path=broken.parquet"], "broken.parquet: cannot be read as Parquet"),
        (["data.path=none.parquet"], "none.parquet: no such file"),
        (["data.path=samples.npz", "data.label=a"], "name columns of a .parquet file"),
    ],
)
def test_wrong_files_are_one_clear_line(tmp_path, overrides, message):
    table_of(np.random.default_rng(0)).to_parquet(tmp_path / "samples.parquet")
    np.savez(tmp_path / "samples.npz", x=np.eye(3), y=np.array([1, -1, 1]))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "spec.toml").write_text(FILE)
    with pytest.raises(SpecError, match=message) as caught:
        load_spec(tmp_path / "spec.toml", ["data.path=samples.parquet", *overrides])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('kind = "clusters"\nd = 3\nalpha = 0.1\nclusters = 2', "data: clusters = 2 need d >= 4"),
        ('kind = "near_duplicates"\nd = 9\ncorrelation = 0.5\ncopies = 5',
         "data: copies = 5 of sample 0 need m > 5"),
        ('kind = "xor"\nd = 1\nalpha = 0.1', "data.d = 1: must be greater"),
        ('kind = "heavy_tailed"\nd = 9\ntail_dof = 2', "data.tail_dof = 2: must be greater"),
        ('kind = "correlated"\nd = 9\ncorrelation = 1', "data.correlation = 1: must be less"),
        ('kind = "correlated"\nd = 9\nalpha = 0.1', "data.alpha: unknown key"),
        ('kind = "breast_cancer"\nn_test = 565', "breast_cancer have 569 samples"),
        ('kind = "digits"\nscaling = "normalized"', "'normalized': did you mean 'normalised'"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_one_clear_line(tmp_path, data, message):
    path = tmp_path / "spec.toml"
    path.write_text(f'[data]\nm = 5\n{data}\n[model]\nkind = "linear"\n[train]\nmax_steps = 9\n')
    with pytest.raises(SpecError, match=message):
        load_spec(path)


def test_random_features_have_the_kernel_of_degree_one():
    """Inner products of many features: ||x|| ||x'|| (sin t + (pi - t) cos t) / pi."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 7))
    data = Dataset(x, np.ones(5), x[:2], np.ones(2))
    got = relu_features(data, 100_000, np.array([1, 2], np.uint32))
    lengths = np.linalg.norm(x, axis=1)
    angle = np.arccos(np.clip((x @ x.T) / np.outer(lengths, lengths), -1, 1))
    want = np.outer(lengths, lengths) * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi
    np.testing.assert_allclose(got.x @ got.x.T, want, atol=0.02 * lengths.max() ** 2)
    np.testing.assert_array_equal(got.x_test, got.x[:2])


def test_random_features_of_real_data_in_a_sweep(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x, x_test = rng.normal(size=(8, 3)), rng.normal(size=(20, 3))
    y, y_test = np.sign(rng.normal(size=8)), np.ones(20)
    np.savez(tmp_path / "mine.npz", x=x, y=y, x_test=x_test, y_test=y_test)
    (tmp_path / "spec.toml").write_text(
        """
        [sweep]
        seeds = 2
        [data]
        kind = ["digits", "file"]
        path = "mine.npz"
        m = 8
        n_test = 20
        random_features = [40, 300]
        [model]
        kind = "linear"
        [train]
        end = "limit"
        max_steps = 100
        [forget]
        index = 0
        """
    )
    run = gaunlearn.run(tmp_path / "spec.toml", tmp_path / "run")
    frame = run.to_pandas()
    assert frame.groupby(["data_kind", "random_features"]).size().tolist() == [2, 2, 2, 2]
    assert frame["separated_train"].all(), "8 samples in 40 dimensions, a file's 3 lifted"
    assert frame["phi"].nunique() == 8, "each seed draws its own features"
    assert main(["verify", str(run.path)]) == 0, capsys.readouterr().out
    with pytest.raises(SpecError, match="random_features"):
        load_spec(tmp_path / "spec.toml", ["data.random_features=0"])

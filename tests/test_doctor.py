"""The canaries pass on a sound JAX and are believed when they fail."""

import jax
import pytest

from gaunlearn import doctor
from gaunlearn.cli import main
from gaunlearn.sweep import runner


def test_this_jax_is_well(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"jax {jax.__version__}" in out
    assert out.count("well") == len(doctor.examine(in_own_process=False)) + 1
    assert "ILL" not in out


def test_a_failing_canary_is_named_and_stops_a_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(doctor._CANARIES, "elementwise operations", lambda: (False, "2 is 513"))
    assert main(["doctor"]) == 1
    assert "ILL" in capsys.readouterr().out
    spec = tmp_path / "spec.toml"
    spec.write_text(
        '[data]\nkind = "isotropic"\nm = 3\nd = 9\n[model]\nkind = "linear"\n'
        "[train]\nmax_steps = 10\n"
    )
    assert main(["run", str(spec), "--out", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert "elementwise operations: 2 is 513" in err
    assert "--allow-faulty-jax" in err
    arguments = ["run", str(spec), "--out", str(tmp_path / "run"), "--allow-faulty-jax"]
    assert main(arguments) == 0
    assert "2 is 513" in (tmp_path / "run" / "run.json").read_text()


def test_wrong_results_are_seen(monkeypatch):
    """The canary compares with NumPy: a jit that loses a row's tail is found out."""
    monkeypatch.setattr(doctor.jax, "jit", lambda f: lambda x: f(x).at[-1].add(-524_032.0))
    with jax.enable_x64(True):
        well, _ = doctor._CANARIES["vmapped matvec and sum, float64"]()
    assert not well


def test_run_reports_a_faulty_jax_as_its_own_error():
    with pytest.raises(RuntimeError):
        raise runner.FaultyJaxError("x")


def test_canaries_multiply_as_a_sweep_does(monkeypatch):
    """Where float32 products are rounded to ten bits unless one asks for more, so are the canary's
    and not a sweep's: it would cry wolf on every such GPU.
    """
    asked = []

    def canary():
        asked.append(jax.config.jax_default_matmul_precision)
        return True, ""

    monkeypatch.setattr(doctor, "_CANARIES", {"products": canary})
    doctor.examine(in_own_process=False)
    assert asked == ["highest"] * len(jax.local_devices())

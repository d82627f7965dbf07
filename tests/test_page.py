"""The report in a real headless browser: no errors, hover, click, filter, sort, one trial."""

import json
import re
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
from runs import SPEC, write

import gaunlearn
from gaunlearn.cli import main
from gaunlearn.report.page import _conditions, _failures, _table_data, _verification, write_page
from gaunlearn.sweep.findings import write_verification

# `make browser-test` sees to it that there is one; `make test` leaves these tests out.
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
in_a_browser = pytest.mark.browser
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
MALICE = "<script>window.stolen = 1</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two kinds of models and three steps; its question is an attack."""
    folder = tmp_path_factory.mktemp("page")
    text = f"# Is {MALICE} escaped?\n" + SPEC.replace("n = 8", "n = [8, 9]")
    return gaunlearn.run(write(folder, text, seeds=2), folder / "run")


@pytest.fixture(scope="module")
def page_file(run):
    write_page(run)
    return run.path / "report" / "index.html"


def test_it_is_small_self_contained_and_escaped(run, page_file):
    text = page_file.read_text(encoding="utf-8")
    assert len(text) < 5e6
    assert not re.search(r"<(script|link|img)[^>]+(src|href)\s*=\s*[\"'](?!data:)", text)
    assert MALICE not in text
    assert "Is &lt;script&gt;" in text
    picture = run._repr_html_()
    assert "&lt;script&gt;" in picture
    assert MALICE not in picture
    assert f"{len(run.to_pandas())} of {len(run.to_pandas())} trials" in picture
    assert 'src="data:image/png;base64,' in picture


def test_the_answer_is_computed_from_the_trials(run, page_file):
    """A trial without a number is the worst: a setting without a median is counted, not told of."""
    frame = run.to_pandas()
    epsilon = frame["epsilon"].fillna(1e9)
    medians = epsilon.groupby([frame["n"], frame["step_fraction"]]).median()
    found = re.search(r'class="answer">(.*?)</p>', page_file.read_text(encoding="utf-8"), re.DOTALL)
    least = medians.groupby("n").min()
    known = least[least < 1e8]
    assert f"{known.min():.3g}" in found[1]
    assert f"n {known.idxmin()}" in found[1]
    assert (f"In {2 - len(known)} of 2 settings most trials have none" in found[1]) == (
        len(known) < 2
    )


def test_a_page_of_many_trials_says_how_many_it_holds(run, monkeypatch):
    monkeypatch.setattr("gaunlearn.report.page._MOST_BYTES", 20_000)
    data, _ = _table_data(run.to_pandas(), run)
    count = len(run.to_pandas())
    assert 1 <= len(data["rows"]) < count == data["of"]
    assert len(json.dumps(data["rows"])) < 30_000
    ids = [row[data["columns"].index("trial_id")] for row in data["rows"]]
    assert len(set(ids)) == len(ids)
    assert {ids[0], ids[-1]} == {*run.to_pandas()["trial_id"].iloc[[0, -1]]}


def test_conditions_and_failures_by_hand():
    frame = pd.DataFrame(
        {
            "psi": [0.1, 0.3, np.nan],
            "phi": [0.0, 0.0, 0.0],
            "eps_d": [np.nan] * 3,
            "assumptions_hold": [True, False, None],
            "nearly_orthogonal": [True, True, False],
            "separated": [True, False, None],
            "separated_train": [True] * 3,
            "separated_retrain": [True] * 3,
            "limit_status": ["converged", "fallback", "stalled"],
            "limit_status_retrain": ["converged"] * 3,
            "limit_status_unlearned": ["infeasible", "infeasible", "converged"],
        }
    )
    text = _conditions(frame)
    assert "<b>psi</b>: median 0.2, from 0.1 to 0.3" in text
    assert "hold in 1 of the 2 trials" in text
    assert "nearly orthogonal in 2." in text
    assert "eps_d" not in text
    text = _failures(frame)
    assert "2 of 3 trials: the unlearned model does not separate the retain set" in text
    assert "1 trials: limit_status is stalled" in text
    assert "2 trials: limit_status_unlearned is infeasible" in text
    assert "training set" not in text


def test_a_verification_before_the_last_trials_is_called_so(run):
    found = {"when": "today", "holds": True, "stored": 3, "trials": [3, 1, 1]}
    write_verification(run.place, found)
    count = len(run.to_pandas())
    assert f"the run had 3 trials then, and has {count} now" in _verification(run, count)
    assert "now" not in _verification(run, 3)
    run.place.delete("verification.json")


@pytest.fixture(scope="module")
def browser():
    assert BROWSER, "neither chromium nor google-chrome is installed"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, page_file):
    errors = []
    made = browser.new_page(viewport={"width": 1200, "height": 900}, offline=True)
    made.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.goto(page_file.as_uri())
    made.wait_for_selector(".bk-Figure", state="attached")
    made.wait_for_function("window.Bokeh && Bokeh.index && document.querySelector('#table td')")
    yield made
    assert errors == []
    assert made.evaluate("window.stolen") is None
    made.close()


def rows_shown(page, column):
    names = page.locator("#table thead tr:first-child th button").all_inner_texts()
    place = names.index(column) + 1
    return page.locator(f"#table tbody td:nth-child({place})").all_inner_texts()


@in_a_browser
def test_filter_and_sort(page, run):
    frame = run.to_pandas()
    assert page.inner_text("#count") == f"{len(frame)} of {len(frame)} trials"
    page.fill("[aria-label='filter step_fraction']", "= 0.5")
    page.fill("[aria-label='filter epsilon']", "> 0.01")
    want = frame[(frame["step_fraction"] == 0.5) & (frame["epsilon"] > 0.01)]
    assert page.inner_text("#count") == f"{len(want)} of {len(frame)} trials"
    page.focus("#table thead th:has-text('epsilon') button")
    page.keyboard.press("Enter")
    got = np.array([float(text) for text in rows_shown(page, "epsilon")])
    np.testing.assert_allclose(got, np.sort(want["epsilon"]), rtol=1e-5)
    page.keyboard.press("Enter")
    got = np.array([float(text) for text in rows_shown(page, "epsilon")])
    np.testing.assert_allclose(got, np.sort(want["epsilon"])[::-1], rtol=1e-5)
    page.click("#clear")
    assert page.inner_text("#count").startswith(f"{len(frame)} of")


@in_a_browser
def test_a_figure_asks_for_trials_with_more_digits_than_the_table_has(page, run):
    """And for those without a number."""
    frame = run.to_pandas()
    one = frame["epsilon"].dropna().iloc[0]
    page.evaluate("value => showTrials({epsilon: value})", float(f"{one:.10g}"))
    same = (frame["epsilon"] - one).abs() <= 5e-6 * one
    assert page.inner_text("#count") == f"{same.sum()} of {len(frame)} trials"
    without = [name for name in frame if 0 < frame[name].isna().sum() < len(frame)]
    assert without, "some trials have no certificate"
    for name in without[:1]:
        page.evaluate("name => showTrials({[name]: null})", name)
        found = page.inner_text("#count")
        assert found == f"{frame[name].isna().sum()} of {len(frame)} trials"


@in_a_browser
def test_a_trial_is_shown_with_the_command_that_reproduces_it(page, run, capsys):
    page.click("#table tbody tr:first-child button")
    text = page.inner_text("#trial")
    name = re.search(r"Trial ([0-9a-f]{32})", text)[1]
    row = run.to_pandas().set_index("trial_id").loc[name]
    assert f"{row['epsilon']:.6g}" in text
    command = page.inner_text("#trial pre")
    assert command == f"gaunlearn verify {shlex.quote(str(run.path))} --trial {name}"
    assert main(shlex.split(command)[1:]) == 0
    assert "1 trials in batches, 1 of them alone" in capsys.readouterr().out
    assert main(["verify", str(run.path), "--trial", "nobody"]) == 2
    assert "has no trial 'nobody'" in capsys.readouterr().err


@in_a_browser
def test_hover_shows_what_the_data_hold_and_a_click_its_trials(page, run):
    """A point at step 1/2 of the first figure, found through Bokeh's own scales."""
    frame = run.to_pandas()
    numbers = frame["epsilon"].fillna(np.inf).groupby([frame["step_fraction"], frame["n"]])
    medians = numbers.median()[0.5]
    n = int(medians[np.isfinite(medians)].index[0])
    median = medians[n]
    where = page.evaluate(
        """(label) => {
          const view = Object.values(Bokeh.index).length ? [...Bokeh.index.roots][0]
            : null;
          const frame = view.frame, box = frame.bbox, own = view.el.getBoundingClientRect();
          const line = view.model.renderers.find(
            (r) => r.glyph.type === "Scatter" && r.data_source.data.line[0] === label);
          const data = line.data_source.data;
          const at = [...data.x].indexOf(0.5);
          return [own.left + frame.x_scale.compute(data.x[at]),
                  own.top + frame.y_scale.compute(data.y[at]), data.median[at]];
        }""",
        f"n {n}",
    )
    assert float(where[2]) == pytest.approx(median, rel=1e-5)
    page.mouse.move(where[0] - 3, where[1])
    page.mouse.move(where[0], where[1])
    page.wait_for_selector(".bk-Tooltip", state="attached")
    shown = page.locator(".bk-Tooltip").first.evaluate("e => (e.shadowRoot || e).textContent")
    assert where[2] in shown
    page.mouse.click(where[0], where[1])
    page.wait_for_function(
        "document.querySelector(\"[aria-label='filter step_fraction']\").value === '= 0.5'"
    )
    assert set(rows_shown(page, "step_fraction")) == {"0.5"}
    assert set(rows_shown(page, "n")) == {str(n)}


@in_a_browser
def test_values_and_trials_of_a_figure_without_a_mouse(page, run):
    frame = run.to_pandas()
    page.focus(".plot details summary")
    page.keyboard.press("Enter")
    first = page.locator(".plot details").first
    cells = first.locator("tbody tr").first.locator("td").all_inner_texts()
    names = first.locator("thead th").all_inner_texts()
    row = dict(zip(names, cells, strict=True))
    n, step = int(row["line"].split()[1]), float(row["step_fraction"])
    mine = frame[(frame["n"] == n) & (frame["step_fraction"] == step)]
    assert int(row["trials"]) == len(mine)
    median = mine["epsilon"].fillna(np.inf).median()
    assert float(row["median"]) == pytest.approx(median, rel=1e-5)
    first.locator("tbody button").first.focus()
    page.keyboard.press("Enter")
    assert page.inner_text("#count") == f"{len(mine)} of {len(frame)} trials"


@in_a_browser
def test_more_rows_are_shown_when_asked_for(browser, run, page_file, tmp_path):
    """The run's trials again and again, until there are more than the table begins with."""
    text = page_file.read_text(encoding="utf-8")
    found = re.search(r'(<script type="application/json" id="trials">)(.*?)(</script>)', text)
    data = json.loads(found[2])
    data["rows"] *= -(-450 // len(data["rows"]))
    data["of"] = len(data["rows"]) + 1
    many = tmp_path / "many.html"
    many.write_text(text[: found.start(2)] + json.dumps(data) + text[found.end(2) :])
    made = browser.new_page()
    made.goto(many.as_uri())
    made.wait_for_selector("#table td")
    count = len(data["rows"])
    held = f"; this page holds {count} of the run's {count + 1}, evenly chosen"
    for shown in (200, 400):
        assert made.locator("#table tbody tr").count() == shown
        assert made.inner_text("#count") == (
            f"{count} of {count} trials; the first {shown} are shown{held}"
        )
        made.click("#more")
    assert made.locator("#table tbody tr").count() == count
    assert made.locator("#more").is_hidden()
    made.close()


@in_a_browser
@pytest.mark.parametrize(("width", "scheme"), [(1200, "dark"), (390, "light")])
def test_it_fits_a_phone_and_the_dark(browser, page_file, width, scheme):
    made = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    made.goto(page_file.as_uri())
    made.wait_for_selector("#table td")
    assert made.evaluate("document.documentElement.scrollWidth") <= width
    frame = "window.Bokeh && [...(Bokeh.index.roots || [])][0]?.frame?.bbox.width"
    made.wait_for_function(frame)
    assert made.evaluate(frame) > width / 2, "legend and scales leave the figure its room"
    ground = made.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = made.evaluate("getComputedStyle(document.body).color")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, ink)]
    assert (light[0] < light[1]) == (scheme == "dark")
    assert len(made.screenshot()) > 10_000
    made.close()

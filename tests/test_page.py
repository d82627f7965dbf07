"""The report in a real headless browser: no errors, hover, click, filter, sort, one trial."""

import re
import shutil

import numpy as np
import pytest
from runs import SPEC, write

import gaunlearn
from gaunlearn.cli import main
from gaunlearn.report.page import write_page

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
    frame = run.to_pandas()
    medians = frame.groupby(["n", "step_fraction"])["epsilon"].median()
    found = re.search(r'class="answer">(.*?)</p>', page_file.read_text(encoding="utf-8"), re.DOTALL)
    best = {n: medians[n].idxmin() for n in (8, 9)}
    low = min(best, key=lambda n: medians[n].min())
    assert f"{medians[low].min():.3g} (n {low})" in found[1]


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
    assert command == f"gaunlearn verify {run.path} --trial {name}"
    assert main(command.split()[1:]) == 0
    assert "1 trials in batches, 1 of them alone" in capsys.readouterr().out
    assert main(["verify", str(run.path), "--trial", "nobody"]) == 2
    assert "has no trial 'nobody'" in capsys.readouterr().err


@in_a_browser
def test_hover_shows_what_the_data_hold_and_a_click_its_trials(page, run):
    """The point of n = 8 at step 1/2 of the first figure, found through Bokeh's own scales."""
    median = run.to_pandas().groupby(["n", "step_fraction"])["epsilon"].median()[8, 0.5]
    where = page.evaluate(
        """() => {
          const view = Object.values(Bokeh.index).length ? [...Bokeh.index.roots][0]
            : null;
          const frame = view.frame, box = frame.bbox, own = view.el.getBoundingClientRect();
          const line = view.model.renderers.find((r) => r.glyph.type === "Scatter");
          const data = line.data_source.data;
          const at = [...data.x].indexOf(0.5);
          return [own.left + frame.x_scale.compute(data.x[at]),
                  own.top + frame.y_scale.compute(data.y[at]), data.median[at]];
        }"""
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
    assert set(rows_shown(page, "n")) == {"8"}


@in_a_browser
@pytest.mark.parametrize(("width", "scheme"), [(1200, "dark"), (390, "light")])
def test_it_fits_a_phone_and_the_dark(browser, page_file, width, scheme):
    made = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    made.goto(page_file.as_uri())
    made.wait_for_selector("#table td")
    assert made.evaluate("document.documentElement.scrollWidth") <= width
    ground = made.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = made.evaluate("getComputedStyle(document.body).color")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, ink)]
    assert (light[0] < light[1]) == (scheme == "dark")
    assert len(made.screenshot()) > 10_000
    made.close()

"""The report: one self-contained HTML file that needs no network.

All text that a user's specification or data may have put into a run is escaped; the trials are
JSON, read as data.
"""

import html
import json
import math
import shlex
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from bokeh.embed import components
from bokeh.resources import Resources

from gaunlearn.report.answer import answer_of
from gaunlearn.report.medians import quartiles
from gaunlearn.report.parts import DIALS, as_meant, fits_of, grouped, settings_of
from gaunlearn.report.plots import Plot, lines_plot, plane_plot
from gaunlearn.report.style import QUALITY, symbol_of, tells_quality, title_of, told, value_of
from gaunlearn.schema import COLUMNS, GUARANTEED_EPSILON
from gaunlearn.sweep.store import Run

__all__ = ["write_page"]

_NAME = "index.html"
# Bytes of trials that a page holds; with Bokeh's 1.3 MB it stays well below 5 MB.
_MOST_BYTES = 2_500_000
# Rows of which the bytes of all are guessed.
_TRIED_ROWS = 200
_MOST_SETTINGS = 6
_DIGITS = 6
# What a trial's row has in the table; parameters that vary come before.
_SHOWN = (
    "seed",
    "forget_index",
    "forget_draw",
    "step_fraction",
    "epsilon",
    "delta",
    "tau",
    "tau_retrain",
    "margin_forget_unlearned",
    "accuracy_unlearned",
    "separated",
)
_CONDITIONS = ("psi", "phi", "eps_d")
_MEASURES = ("epsilon", "delta", "tau_retrain")
_STATUSES = ("limit_status", "limit_status_retrain", "limit_status_unlearned")


def _escape(value: Any) -> str:
    return html.escape(str(value))


def _plain(value: Any) -> Any:
    """A value as JSON knows it, numbers to six digits; NaN is null."""
    if value is None or value is pd.NA:
        return None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            return None
        return float(f"{value:.{_DIGITS}g}")
    return str(value)


def _as_json(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _table_data(frame: pd.DataFrame, run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """The trials as the page's script reads them, and the parameters that all of them share."""
    same, columns = {}, []
    for name in frame:
        values = frame[name].dropna()
        if name != "trial_id" and len(values) == len(frame) and values.nunique() == 1:
            same[str(name)] = _plain(values.iloc[0])
        elif len(values):
            columns.append(str(name))
    swept = [name for name in run.manifest["swept"] if name in columns]
    wanted = ("trial_id", *swept, *_SHOWN)
    shown = [name for name in dict.fromkeys(wanted) if name in columns]
    columns = [*shown, *(name for name in columns if name not in shown)]

    def evenly(count: int) -> list[list[Any]]:
        places = np.unique(np.linspace(0, len(frame) - 1, count).round().astype(int))
        some = frame.iloc[places][columns].itertuples(index=False)
        return [[_plain(value) for value in row] for row in some]

    tried = evenly(min(len(frame), _TRIED_ROWS))
    each = len(_as_json(tried)) / len(tried)
    rows = evenly(min(len(frame), max(1, int(_MOST_BYTES / each))))
    meanings = {column.name: column.meaning for column in COLUMNS if column.name in columns}
    data = {
        "run": shlex.quote(str(run.path)),
        "of": len(frame),
        "columns": columns,
        "shown": shown,
        "rows": rows,
        "meanings": meanings,
        "digits": _DIGITS,
    }
    return data, same


def _listed(pairs: Iterable[tuple[Any, Any]]) -> str:
    items = "".join(f"<div><dt>{_escape(a)}</dt><dd>{_escape(b)}</dd></div>" for a, b in pairs)
    return f'<dl class="columns">{items}</dl>'


def _conditions(frame: pd.DataFrame) -> str:
    """How far the data are from what the theorem assumes."""
    lines = []
    for name in _CONDITIONS:
        values = frame[name].astype(float).dropna()
        if len(values):
            meaning = next(column.meaning for column in COLUMNS if column.name == name)
            lines.append(
                f"<li><b>{name}</b>: median {values.median():.3g}, from {values.min():.3g} to "
                f"{values.max():.3g} ({_escape(meaning)})</li>"
            )
    known = frame["assumptions_hold"].dropna().astype(bool)
    nearly = int(frame["nearly_orthogonal"].dropna().astype(bool).sum())
    lines.append(
        f"<li>The assumptions under which ε ≤ {GUARANTEED_EPSILON:g} is certain beforehand hold in "
        f"{int(known.sum())} of the {len(known)} trials that the bound is about, out of "
        f"{len(frame)}. The samples are nearly orthogonal in {nearly}.</li>"
    )
    return f"<ul>{''.join(lines)}</ul>"


def _failures(frame: pd.DataFrame) -> str:
    """What has no number, and why."""
    lines = []
    for column, what in (
        ("separated_train", "the trained model does not separate its training set"),
        ("separated_retrain", "the retrained model does not separate the retain set"),
        ("separated", "the unlearned model does not separate the retain set"),
    ):
        failed = int((~frame[column].fillna(False).astype(bool)).sum())
        if failed:
            lines.append(f'<li class="bad">{failed} of {len(frame)} trials: {what}</li>')
    for column in _STATUSES:
        for status, count in frame[column].value_counts().items():
            if status not in ("converged", "fallback"):
                lines.append(f"<li>{count} trials: {column} is {_escape(status)}</li>")
    if not lines:
        return "<p>None: all models separate their samples, and all limits were solved for.</p>"
    return f"<ul>{''.join(lines)}</ul>"


def _verification(run: Run, count: int) -> str:
    found = run.verification()
    if found is None:
        command = _escape(f"gaunlearn verify {shlex.quote(str(run.path))}")
        return f"<p>Not verified yet.</p><pre>{command}</pre>"
    batch, alone, reference = found["trials"]
    verdict = "the contract holds" if found["holds"] else "the contract is BROKEN"
    if found["stored"] != count:
        verdict += f"; the run had {found['stored']} trials then, and has {count} now"
    kind = "" if found["holds"] and found["stored"] == count else ' class="bad"'
    return (
        f"<p{kind}>{_escape(found['when'])}: {_escape(verdict)}. Of {found['stored']} stored "
        f"trials {batch} were recomputed in batches, {alone} alone and {reference} by NumPy and "
        "SciPy.</p>"
    )


def _planes(frame: pd.DataFrame, run: Run, x: str, y: str) -> dict[str, Plot]:
    """Title -> heat map, one for each setting of the other swept parameters."""
    manifest, border, points = run.manifest, run.border(), run.points()
    if points is not None:
        found = {"Where it holds": plane_plot(points, x, y, "share", border, manifest)}
        if not tells_quality(manifest):
            table = quartiles(frame, [x, y], QUALITY)["median"].rename(QUALITY).reset_index()
            title = f"Median {symbol_of(QUALITY)}"
            found[title] = plane_plot(table, x, y, QUALITY, border, manifest)
        return found
    value, meant = value_of(manifest), as_meant(frame)
    others = settings_of(meant, manifest, apart_from=(x, y))
    groups, found = grouped(meant, others), {}
    for values, group in groups[:_MOST_SETTINGS]:
        table = quartiles(group, [x, y], value)["median"].rename(value).reset_index()
        where = f", {told(others, values)}" if others else ""
        setting = dict(zip(others, values, strict=True))
        found[f"Median {value}{where}"] = plane_plot(table, x, y, value, None, manifest, setting)
    return _cut(found, len(groups))


def _cut(found: dict[str, Plot], settings: int) -> dict[str, Plot]:
    """Say at the last figure how many settings have none."""
    if settings > _MOST_SETTINGS:
        last, plot = next(reversed(found.items()))
        missing = f"{settings - _MOST_SETTINGS} more settings are not drawn"
        found[last] = plot._replace(note="; ".join(filter(None, (plot.note, missing))))
    return found


def _plots(frame: pd.DataFrame, run: Run) -> dict[str, Plot]:
    """Title -> figure, of what the run has swept."""
    manifest, fits = run.manifest, fits_of(frame, run.manifest)
    found: dict[str, Plot] = {}
    if fits.plane is not None:
        found |= _planes(frame, run, *fits.plane)
    along = "step_fraction" if fits.steps else fits.axis
    if along is not None:
        varying = settings_of(frame, manifest, apart_from=[along])
        if not fits.steps and frame["step_fraction"].nunique() > 1:
            varying.append("step_fraction")
        for value in _MEASURES:
            found[f"{value} along {along}"] = lines_plot(frame, along, value, varying)
    elif fits.methods:
        # A figure for each setting: lines of all settings and methods in one could not be read.
        others = settings_of(frame, manifest, apart_from=DIALS)
        groups = grouped(as_meant(frame), others)
        for values, group in groups[:_MOST_SETTINGS]:
            setting = dict(zip(others, values, strict=True))
            where = f", {told(others, values)}" if others else ""
            for value in _MEASURES:
                plot = lines_plot(group, "unlearn_gradients", value, ["method"], setting)
                found[f"{value} against cost{where}"] = plot
        found = _cut(found, len(groups))
    return found


def _values(plot: Plot) -> str:
    """What a figure draws, as a table; a row's button shows its trials."""
    head = "".join(f'<th scope="col">{_escape(name)}</th>' for name in plot.values)
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{_escape(value)}</td>" for value in row)
        + f'<td><button type="button" data-trials="{_escape(trials)}">show trials</button></td>'
        + "</tr>"
        for row, trials in zip(plot.values.itertuples(index=False), plot.trials, strict=True)
    )
    return (
        "<details><summary>Values</summary>"
        '<div class="scroll" tabindex="0" role="region" aria-label="values of the figure"><table>'
        f"<thead><tr>{head}<th></th></tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _main(
    frame: pd.DataFrame,
    run: Run,
    plots: Mapping[str, Plot],
    divs: Mapping[str, str],
    same: Mapping[str, Any],
) -> str:
    manifest = run.manifest
    answer = answer_of(frame, manifest, run.border(), run.points())
    figures = "".join(
        f'<figure class="plot"><figcaption>{_escape(title)}'
        + (
            f' <span class="soft">({_escape(plots[title].note)})</span>'
            if plots[title].note
            else ""
        )
        + f"</figcaption>{div}{_values(plots[title])}</figure>"
        for title, div in divs.items()
    )
    provenance = manifest.get("provenance", {})
    about = [(k, v) for k, v in provenance.items() if k not in ("spec", "directory")]
    seconds = manifest.get("seconds")
    if seconds is not None:
        about.append(("seconds", seconds))
    return f"""
<header>
<p class="soft">gaunlearn: {_escape(manifest["name"])}</p>
<h1>{_escape(title_of(manifest))}</h1>
<p class="answer">{_escape(answer)}</p>
<p class="soft">{len(frame)} of {manifest["trials"]} trials, {frame["seed"].nunique()} seeds;
medians and quartiles over seeds and forgotten samples.</p>
<nav aria-label="sections"><a href="#figures">Figures</a> <a href="#data">Trials</a>
<a href="#conditions">Data conditions</a> <a href="#failures">Failures</a>
<a href="#verification">Verification</a> <a href="#provenance">Provenance</a></nav>
</header>
<main>
<h2 id="figures">Figures</h2>
<p class="soft">Hover for values, click a point for its trials; a name in a legend hides a line. A
trial without a number counts as worse than all that have one.</p>
<div class="plots">{figures}</div>
<h2 id="data">Trials</h2>
<p class="soft">Sort by a column's name. Filters take a part of a word, or <code>&gt; 0.1</code>,
<code>&lt;= 1e-3</code>, <code>= 5</code>. A trial's name opens all that is known of it.</p>
<p class="actions"><button type="button" id="clear">Clear filters</button>
<span id="count" class="soft" role="status"></span></p>
<div class="scroll" tabindex="0" role="region" aria-label="table of trials">
<table id="table"><thead></thead><tbody></tbody></table></div>
<p class="actions"><button type="button" id="more">Show more rows</button></p>
<p class="printed soft">Printed are the first rows only; the file holds all of them.</p>
<section id="trial" tabindex="-1" aria-label="one trial"></section>
<details><summary>What all trials share</summary>{_listed(same.items())}</details>
<h2 id="conditions">Data conditions</h2>{_conditions(frame)}
<h2 id="failures">Failures</h2>{_failures(frame)}
<h2 id="verification">Verification</h2>{_verification(run, len(frame))}
<h2 id="provenance">Provenance</h2>{_listed(about)}
<details><summary>Specification</summary><pre>{_escape(provenance.get("spec", ""))}</pre></details>
</main>"""


def write_page(run: Run) -> str | None:
    """Write ``report/index.html`` into a run's directory.

    Returns:
        The file's name; None if there are no trials yet.
    """
    if not run.parts():
        return None
    frame = run.to_pandas()
    data, same = _table_data(frame, run)
    plots = _plots(frame, run)
    script, divs = (
        components({title: plot.figure for title, plot in plots.items()}) if plots else ("", {})
    )
    assets = files("gaunlearn.report") / "assets"
    css, js = ((assets / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    library = Resources(mode="inline", components=["bokeh"]).render_js() if plots else ""
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_escape(title_of(run.manifest))}</title>
<link rel="icon" href="data:,">
<style>{css}</style>
</head>
<body>
{_main(frame, run, plots, divs, same)}
<script type="application/json" id="trials">{_as_json(data)}</script>
<script>{js}</script>
{library}
{script}
</body>
</html>
"""
    folder = run.place / "report"
    folder.make()
    folder.write(_NAME, page.encode())
    return f"{folder.name}/{_NAME}"

"""The page: one HTML file that needs no other and no network, and obeys nothing that a model or a log says."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..display import printable
from ..errors import UserError
from ..grid.ablation import equal_line
from ..grid.tables import best_of, cell_text, columns_shown, interval_text, short_name
from ..naming import require_package
from ..storage.files import check_folder, replace_file
from .figures import Figure, color_of, curves_of, other_curves_of, planes_of, supervised_curves_of
from .results import ResultsTable, results_of
from .runs import Reported, ReportedRun, as_text, comparable_keys, differing_keys, read_reported
from .samples import samples_of


NUM_PROMPTS = 1_000
"""Prompts of each task whose completions are in a page, unless another number is asked for."""

_MOST_OPEN = 15
"""Comparisons that are shown without being asked for."""

_HERE = Path(__file__).parent
_ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


def write_report(folders: Sequence[str | Path], out: str | Path, num_prompts: int = NUM_PROMPTS) -> Path:
    """Write a page about a run, several runs, or a grid.

    Args:
        folders: `output_dir` of runs, or the folder of one grid of `trl-nlpo grue` or `ablate`.
        out (`str` or `Path`): the HTML file; its folder is made where necessary.
        num_prompts (`int`, defaults to 1,000): prompts of each task whose completions are in the page.

    Returns:
        `Path`: `out`.

    Raises:
        UserError: plotly is not installed, `out` cannot be written, or there is nothing to report in a folder
            ([`read_reported`]).
    """
    require_package("plotly", "a report", "report")
    out = Path(out)
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give the name of a file, such as {out / 'report.html'}.")
    check_folder(out.parent, "the folder of --out")
    text = page(read_reported(folders), num_prompts)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, text)
    return out


def page(reported: Reported, num_prompts: int = NUM_PROMPTS) -> str:
    """The page as text.

    Args:
        reported ([`Reported`])
        num_prompts (`int`, defaults to 1,000): as for [`write_report`].
    """
    blocks = _Blocks()
    tasks = reported.tasks
    panels = [
        _panel(reported, task, number, blocks, num_prompts, hidden=number > 0) for number, task in enumerate(tasks)
    ]
    tabs = ""
    if len(tasks) > 1:
        buttons = (
            f'<button role="tab" aria-selected="{str(number == 0).lower()}" aria-controls="task-{number}">'
            f"{_text(task)}</button>"
            for number, task in enumerate(tasks)
        )
        tabs = f'<div class="tabs controls" role="tablist">{"".join(buttons)}</div>'
    body = [
        f"<header><h1>{_text(reported.title)}</h1>",
        _paragraph(f"Written {time.strftime('%Y-%m-%d %H:%M %Z')} by trl-nlpo report.", "soft"),
        *([_paragraph(f"Task: {task}", "soft") for task in tasks] if len(tasks) == 1 else []),
        *_commands(reported),
        f"</header>\n<main>{tabs}",
        *panels,
        *_failed(reported),
        *_environment(reported),
        "</main>",
    ]
    scripts = [_file("page.js"), require_package("plotly.offline", "a report", "report").get_plotlyjs()]
    return _TEMPLATE.format(
        policy=_policy(scripts),
        title=_text(reported.title),
        style=_file("page.css"),
        body="\n".join(body),
        data="\n".join(blocks.texts),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def _file(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    """What a browser allows the page: our scripts, by their hashes, and no connection at all."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    ours = " ".join(f"'sha256-{found}'" for found in hashes)
    # Plotly writes styles, and makes the pictures that it saves out of data.
    return (
        f"default-src 'none'; script-src {ours}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )


class _Blocks:
    """Data that the script reads, as blocks of JSON, which browsers do not run."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, text: str) -> str:
        """The id of a new block."""
        name = f"data-{len(self.texts)}"
        # No `</script>` can end it, whatever a text says; in JSON the letter occurs in strings only.
        escaped = text.replace("<", "\\u003c")
        self.texts.append(f'<script type="application/json" id="{name}">{escaped}</script>')
        return name


def _text(value: Any) -> str:
    """Text for HTML, in attributes too."""
    return html.escape(printable(str(value)))


def _paragraph(text: str, name: str = "") -> str:
    return f'<p class="{name}">{_text(text)}</p>' if name else f"<p>{_text(text)}</p>"


def _panel(reported: Reported, task: str, number: int, blocks: _Blocks, num_prompts: int, hidden: bool) -> str:
    groups = reported.groups(task)
    many = reported.is_grid
    sections = {
        "Leaderboard" if many else "Results": _results(results_of(reported, task)),
        "Ablation": _ablation(reported.ablation) if reported.ablation else "",
        "What the reward cost": _figures(planes_of(groups), blocks),
        "Learning curves": _curves(groups, blocks),
        "Supervised stage": _figures(supervised_curves_of(groups), blocks),
        "Everything else that was logged": "" if many else _folded(other_curves_of(groups), blocks),
        "Samples": _samples(samples_of(reported, task, num_prompts), blocks),
        "Recipe": _recipe(groups, f"recipe-{number}"),
    }
    found = {title: text for title, text in sections.items() if text}
    with_figures = [title for title, text in found.items() if 'class="plot"' in text]
    links = "".join(f'<a href="#part-{number}-{place}">{title}</a>' for place, title in enumerate(found))
    parts = []
    for place, (title, text) in enumerate(found.items()):
        # Whose colour is whose stays in sight as long as there are figures.
        parts += ["<div>", _switches(list(groups))] if title in with_figures[:1] else []
        parts.append(f'<section id="part-{number}-{place}"><h2>{title}</h2>\n{text}</section>')
        parts += ["</div>"] if title in with_figures[-1:] else []
    opened = f'<div id="task-{number}" data-task{" hidden" if hidden else ""}><nav>{links}</nav>'
    return "\n".join([opened, *parts, "</div>"])


def _switches(groups: Sequence[str]) -> str:
    """Names and colours of several groups, as buttons that take them out of the figures."""
    if len(groups) == 1:
        return ""
    buttons = (
        f'<button type="button" aria-pressed="true" data-group="{place}">'
        f'<i style="background: {color_of(place)}"></i>{_text(group)}</button>'
        for place, group in enumerate(groups)
    )
    return f'<div class="groups controls">{"".join(buttons)}</div>'


def _table(header: Sequence[str], rows: Iterable[str], name: str = "", identity: str = "") -> str:
    """A table whose columns sort; cells come as they are, headers as text."""
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{_text(title) or "system"}</button></th>'
        for title in header
    )
    place = f' id="{identity}"' if identity else ""
    return (
        f'<div class="wide"><table class="{name}"{place}><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(text: str, value: Any = None, soft: str = "", name: str = "") -> str:
    """A cell and what it is sorted by; without a value it comes last."""
    sort = "" if value is None else f' data-value="{_text(value)}"'
    style = f' class="{name}"' if name else ""
    below = f'<span class="soft">{_text(soft)}</span>' if soft else ""
    return f"<td{sort}{style}>{_text(text)}{below}</td>"


def _row_head(text: str, soft: str = "") -> str:
    below = f' <span class="soft">{_text(soft)}</span>' if soft else ""
    return f'<th scope="row" data-value="{_text(text)}">{_text(text)}{below}</th>'


def _results(found: ResultsTable) -> str:
    if not found.rows:
        return _paragraph("No stage has finished yet.")
    parts = [_systems(found.rows, found.better, found.missing)]
    numbers = {entry["seeds"] for row in found.rows.values() for entry in row.values()}
    words = ["The best of a column is bold."]
    if max(numbers, default=1) > 1:
        several = f"up to {max(numbers)}" if len(numbers) > 1 else str(max(numbers))
        words.append(f"Means ± standard deviations over {several} seeds.")
    if any("low" in entry for row in found.rows.values() for entry in row.values()):
        words.append("Below, where a number is a mean over prompts: its interval of 95 % over prompts.")
    parts.append(_paragraph(" ".join(words), "soft"))
    if found.comparisons:
        parts += [_comparisons(found.comparisons)]
    return "\n".join(parts)


def _systems(rows: Mapping[str, dict[str, Any]], better: Mapping[str, str | None], missing: Mapping[str, str]) -> str:
    known = {name: better.get(name) for row in rows.values() for name in row}
    names = columns_shown(rows, known)
    best = {name: best_of(name, rows, known[name]) for name in names}
    lines = (
        "<tr>"
        + _row_head(label, missing.get(label, ""))
        + "".join(_number(row.get(name), label in best[name]) for name in names)
        + "</tr>"
        for label, row in rows.items()
    )
    return _table(["", *(short_name(name) + _ARROWS[known[name]] for name in names)], lines)


def _number(entry: dict[str, Any] | None, is_best: bool) -> str:
    if entry is None:
        return _cell("-")
    interval = interval_text(entry) if "low" in entry else ""
    return _cell(cell_text(entry), entry["mean"], interval, "best" if is_best else "")


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    lines = (
        "<tr>"
        + _row_head(f"{entry['first']} - {entry['second']}")
        + _cell(short_name(entry["score"]), short_name(entry["score"]))
        + _difference_cells(entry)
        + _cell(str(entry["num_prompts"]), entry["num_prompts"])
        + "</tr>"
        for entry in comparisons
    )
    note = _paragraph(
        "Differences of scores per prompt, averaged over the seeds that both have; paired bootstrap over prompts. "
        f"Intervals hold together with 95 %, and p is corrected, for all {len(comparisons)} comparisons (max-T); "
        "bold: p < 0.05.",
        "soft",
    )
    table = _table(["systems", "score", "difference", "interval", "p", "prompts"], lines, "comparisons")
    is_open = " open" if len(comparisons) <= _MOST_OPEN else ""
    return f"<details{is_open}><summary>Is the difference chance?</summary>{note}{table}</details>"


def _difference_cells(entry: Mapping[str, Any]) -> str:
    p = entry["p_adjusted"]
    return (
        _cell(f"{entry['difference']:+.3f}", entry["difference"])
        + _cell(f"{entry['low']:+.3f} to {entry['high']:+.3f}", entry["low"])
        + _cell(f"{p:.4f}", p, name="best" if p < 0.05 else "")
    )


def _ablation(ablation: Mapping[str, Any]) -> str:
    parts = []
    for axis in ablation["axes"]:
        parts.append(f"<h3>{_text(axis['key'])}</h3>")
        labelled = {f"{axis['key']} = {value}": row for value, row in axis["rows"].items()}
        parts.append(_systems(labelled, ablation["better"], {}))
        lines = (
            "<tr>"
            + _row_head(f"{entry['value']} - {entry['against']}")
            + _difference_cells(entry)
            + _cell(f"{sum(value > 0 for value in entry['by_seed'])} of {entry['seeds']}")
            + "</tr>"
            for entry in axis["comparisons"]
        )
        if axis["comparisons"]:
            parts.append(
                _paragraph(
                    "Differences of the reward on the same seeds and prompts; Student's t over seeds, bootstrap over "
                    f"prompts, corrected for the {len(axis['comparisons'])} of this key (max-T).",
                    "soft",
                )
            )
            parts.append(_table([axis["key"], "difference", "interval", "p", "seeds above"], lines))
        # Ablations of earlier versions do not say so.
        if axis.get("equal"):
            parts.append(_paragraph(equal_line(axis["equal"], axis["base"], str)))
    return "\n".join(parts)


def _figures(figures: Sequence[Figure], blocks: _Blocks) -> str:
    shown = (
        f"<figure><h3>{_text(figure.title)}"
        + (f"<code>{_text(figure.name)}</code>" if figure.name != figure.title else "")
        + f'</h3><div class="plot" data-figure="{blocks.add(figure.json)}"></div></figure>'
        for figure in figures
    )
    return f'<div class="figures">{"".join(shown)}</div>' if figures else ""


def _curves(groups: Mapping[str, list[ReportedRun]], blocks: _Blocks) -> str:
    figures = curves_of(groups)
    if not figures:
        return ""
    words = ["Thick lines are smoothed (the mean of up to 50 updates, a twentieth of the run), faint ones raw."]
    if any(len(runs) > 1 for runs in groups.values()):
        words.append("Bands and bars are a standard deviation over seeds, lines the means.")
    words.append("Dotted lines are evaluations; triangles mark syncs of the mask, in the first of several seeds.")
    return _paragraph(" ".join(words), "soft") + _figures(figures, blocks)


def _folded(figures: Sequence[Figure], blocks: _Blocks) -> str:
    if not figures:
        return ""
    return f"<details><summary>{len(figures)} figures</summary>{_figures(figures, blocks)}</details>"


def _samples(found: dict[str, Any], blocks: _Blocks) -> str:
    if not found["columns"]:
        return ""
    name = blocks.add(json.dumps(found, ensure_ascii=False))
    left_out = found["total"] - len(found["prompts"])
    note = (
        f"The first {len(found['prompts'])} of {found['total']} prompts; more with --prompts {found['total']}."
        if left_out
        else ""
    )
    return (_paragraph(note, "soft") if note else "") + _SAMPLES.replace("{name}", name)


def _recipe(groups: Mapping[str, list[ReportedRun]], identity: str) -> str:
    """Keys and values; a column for each group, of its first run."""
    firsts = {group: runs[0].results.recipe for group, runs in groups.items() if runs[0].results.recipe is not None}
    recipes: dict[str, dict[str, Any]] = {group: recipe for group, recipe in firsts.items() if recipe is not None}
    if not recipes:
        return ""
    differing = set(differing_keys([comparable_keys(recipe) for recipe in recipes.values()]))
    keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe)
    lines = (
        ('<tr class="differs">' if key in differing else "<tr>")
        + _row_head(key)
        + "".join(_value(recipe, key) for recipe in recipes.values())
        + "</tr>"
        for key in keys
    )
    if len(recipes) == 1:
        return _table(["key", "value"], lines, "recipe", identity)
    checked = " checked" if differing else ""
    box = (
        '<div class="controls"><label><input type="checkbox" data-part="only-differing" '
        f'aria-controls="{identity}"{checked}> only keys that differ ({len(differing)})</label></div>'
    )
    several = any(len(runs) > 1 for runs in groups.values())
    note = _paragraph("Of the first seed of each.", "soft") if several else ""
    return note + box + _table(["key", *recipes], lines, "recipe", identity)


def _value(recipe: Mapping[str, Any], key: str) -> str:
    text = as_text(recipe[key]) if key in recipe else "-"
    return _cell(text, text if key in recipe else None)


def _commands(reported: Reported) -> list[str]:
    given = [record["command"] for record in (reported.board, reported.ablation) if record and "command" in record]
    return [f'<p class="soft"><code>{_text(command)}</code></p>' for command in dict.fromkeys(given)]


def _failed(reported: Reported) -> list[str]:
    failed = (reported.board or {}).get("failed", {})
    if not failed:
        return []
    lines = (f"<tr>{_row_head(folder)}{_cell(str(error))}</tr>" for folder, error in failed.items())
    return ["<section><h2>Failed cells</h2>", _table(["cell", "error"], lines, "texts"), "</section>"]


def _environment(reported: Reported) -> list[str]:
    """Versions, each once with the runs that had them."""
    by_versions: dict[str, list[str]] = {}
    for run in reported.runs:
        if run.versions:
            by_versions.setdefault(run.versions, []).append(run.name)
    if not by_versions:
        return []
    lines = (
        f"<tr>{_row_head(', '.join(names) if len(by_versions) > 1 else 'all runs')}{_cell(versions, versions)}</tr>"
        for versions, names in by_versions.items()
    )
    return ["<section><h2>Versions</h2>", _table(["runs", "ran with"], lines, "texts"), "</section>"]


_SAMPLES = """<div data-samples="{name}">
<div class="controls">
<label>Search <input type="search" data-part="words" placeholder="words in prompts and completions"></label>
<label>in <select data-part="within">
<option value="all">all that is shown</option><option value="prompt">prompts</option></select></label>
<label>Score of <select data-part="scored"></select></label>
<label>from <input type="number" step="any" data-part="least"></label>
<label>to <input type="number" step="any" data-part="most"></label>
<label>Order <select data-part="order"><option value="given">as in the data</option></select></label>
</div>
<div class="controls" data-part="columns"></div>
<div class="controls pager">
<button type="button" data-part="previous">Previous</button><button type="button" data-part="next">Next</button>
<span class="soft" data-part="count" aria-live="polite"></span></div>
<div class="wide"><table class="samples"><thead data-part="head"></thead><tbody data-part="rows"></tbody></table></div>
</div>"""

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
{data}
{scripts}
</body>
</html>
"""

"""What a study's judgements say, as a page to read: Markdown with pictures, and the same as one HTML file."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..display import markdown
from ..pictures import pyplot
from ..storage.files import replace_file


NUM_ITEMS = 10
"""Most items in the table of those that people disagree about."""


def write_report(record: dict[str, Any], out: Path) -> None:
    """`analysis.md`, `analysis.html`, which needs no other file and no network, and the pictures of both.

    Args:
        record (`dict`): what [`analyse`] found.
        out (`Path`): a folder.
    """
    pictures = draw(record, out)
    text = page(record, pictures)
    replace_file(out / "analysis.md", text)
    replace_file(out / "analysis.html", as_html(text, out))


def page(record: dict[str, Any], pictures: Sequence[str] = ()) -> str:
    """The record in Markdown; `pictures` are the names of those that [`draw`] made."""
    parts = [f"# What people said: {markdown(record['source'])}", _summary(record)]
    for number, (criterion, found) in enumerate(record["ratings"].items(), 1):
        parts.append(f"## Ratings: {markdown(criterion)}")
        parts += _picture(f"ratings-{number}.png", f"Mean ratings: {criterion}", pictures)
        parts += [_means_table(found), _agreement_text(found["agreement"])]
        parts += _correlations_table(found["correlations"])
        parts += _items_table(found["items"], "standard deviation")
    for number, (criterion, found) in enumerate(record["choices"].items(), 1):
        parts.append(f"## Choices: {markdown(criterion)}")
        parts += _picture(f"choices-{number}.png", f"Strengths: {criterion}", pictures)
        parts += [_strengths_table(found), _agreement_text(found["agreement"])]
        parts += _items_table(found["items"], "share of the largest group")
    parts += ["## Annotators", _annotators_table(record["annotators"])]
    return "\n\n".join(parts) + "\n"


def _summary(record: dict[str, Any]) -> str:
    people = record["annotators"]
    total = sum(person["judgements"] for person in people.values())
    return f"{total} judgements of {len(people)} {'person' if len(people) == 1 else 'people'}. Intervals are of 95 %."


def _picture(name: str, alternative: str, pictures: Sequence[str]) -> list[str]:
    return [f"![{markdown(alternative)}]({name})"] if name in pictures else []


def _means_table(found: dict[str, Any]) -> str:
    rows = [
        [name, _number(m["value"]), f"{_number(m['low'])} to {_number(m['high'])}", m["num_items"]]
        for name, m in sorted(found["means"].items(), key=lambda pair: -pair[1]["value"])
    ]
    parts = [_table(["system", "mean", "95 %", "completions"], rows)]
    if (variance := found["variance"]) is not None:
        parts.append(
            f"Analysis of variance: F({variance['between']}, {variance['within']}) = {variance['f']:.2f}, "
            f"p {_p(variance['p_value'])}. Tukey's test of every pair:"
        )
        rows = [
            [
                f"{d['first']} - {d['second']}",
                f"{d['value']:+.3f}",
                f"{d['low']:+.3f} to {d['high']:+.3f}",
                _p(d["p_value"]),
            ]
            for d in found["differences"]
        ]
        parts.append(_table(["", "difference", "95 %", "p"], rows))
    return "\n\n".join(parts)


def _strengths_table(found: dict[str, Any]) -> str:
    if found["problem"]:
        return f"No strengths: {markdown(found['problem'])}"
    rows = [
        [name, f"{s['value']:+.2f}", f"{s['low']:+.2f} to {s['high']:+.2f}", f"{s['win_rate']:.3f}",
         s["num_comparisons"]]
        for name, s in found["strengths"].items()
    ]  # fmt: skip
    return _table(["system", "strength (log-odds)", "95 %", "wins", "comparisons"], rows)


def _correlations_table(correlations: dict[str, dict[str, float]]) -> list[str]:
    if not correlations:
        return []
    rows = [
        [name, _number(c["spearman"]), _p(c["p_value"]), _number(c["pearson"]), c["items"]]
        for name, c in sorted(correlations.items(), key=lambda pair: -abs(pair[1]["spearman"]))
    ]
    return [
        "With automatic metrics, over completions:",
        _table(["metric", "Spearman", "p", "Pearson", "completions"], rows),
    ]


def _items_table(items: Sequence[dict[str, Any]], spread: str) -> list[str]:
    """The items that people disagree about most; those that one person judged say nothing of that."""
    several = [item for item in items if item["annotators"] > 1][:NUM_ITEMS]
    if not several:
        return []
    rows = [[item["item"], item["said"], _number(item["spread"]), item["annotators"]] for item in several]
    return [
        f"The {len(several)} of {len(items)} items with the least agreement; all are in analysis.json:",
        _table(["item", "what people said", spread, "people"], rows),
    ]


def _annotators_table(annotators: dict[str, dict[str, Any]]) -> str:
    rows = [
        [name, a["judgements"], *(_number(a[key]) for key in ("mean_rating", "gold", "repeats"))]
        for name, a in annotators.items()
    ]
    return _table(["annotator", "judgements", "mean rating", "gold met", "repeats answered alike"], rows)


def _agreement_text(found: dict[str, Any]) -> str:
    alphas = ", ".join(
        f"{level} {_number(alpha['value'])} ({_number(alpha['interval'][0])} to {_number(alpha['interval'][1])})"
        for level, alpha in found["alpha"].items()
    )
    cohen = ", ".join(f"{markdown(pair)}: {kappa:.3f}" for pair, kappa in found["cohen_kappa"].items())
    return (
        f"Agreement over {found['items_judged_twice_or_more']} of {found['items']} items that two or more judged: "
        f"Krippendorff's alpha {alphas}; Fleiss' kappa {_number(found['fleiss_kappa'])}"
        + (f"; Cohen's kappa {cohen}." if cohen else ".")
    )


def _table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return markdown(str(value))


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def draw(record: dict[str, Any], out: Path) -> list[str]:
    """Means and strengths with their intervals, a PNG each, where matplotlib is installed; the names of the files."""
    drawn = []
    for number, found in enumerate(record["ratings"].values(), 1):
        drawn += _draw_intervals(found["means"], "mean rating", out / f"ratings-{number}.png")
    for number, found in enumerate(record["choices"].values(), 1):
        drawn += _draw_intervals(found["strengths"], "log-odds of being chosen", out / f"choices-{number}.png")
    return drawn


def _draw_intervals(found: dict[str, dict[str, float]], label: str, path: Path) -> list[str]:
    """A point and its interval for each system, the best on top; nothing where nothing is known."""
    plt = pyplot()
    if plt is None or not found:
        return []
    ordered = sorted(found.items(), key=lambda pair: pair[1]["value"])
    figure, axis = plt.subplots(figsize=(6.5, 0.9 + 0.42 * len(ordered)))
    for place, (_, system) in enumerate(ordered):
        axis.plot([system["low"], system["high"]], [place, place], color="tab:blue", linewidth=2.5, alpha=0.5)
        axis.plot(system["value"], place, "o", color="tab:blue")
    # A dollar sign would begin a formula.
    axis.set_yticks(range(len(ordered)), [name.replace("$", r"\$") for name, _ in ordered])
    axis.set(xlabel=label, ylim=(-0.6, len(ordered) - 0.4))
    axis.grid(axis="x", color="0.9")
    axis.spines[["top", "right", "left"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return [path.name]


def as_html(text: str, folder: Path) -> str:
    """A page of this report as one HTML file, its pictures inside; whatever HTML the text has is shown, not obeyed.

    Args:
        text (`str`): in Markdown.
        folder (`Path`): where its pictures are.
    """
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for name in re.findall(r'<img src="([a-z]+-\d+\.png)"', body):
        picture = base64.b64encode((folder / name).read_bytes()).decode()
        body = body.replace(f'<img src="{name}"', f'<img src="data:image/png;base64,{picture}"')
    # Wide tables scroll by themselves, on a phone too.
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    title = html.escape(text.splitlines()[0].lstrip("# "))
    return _PAGE.replace("{title}", title).replace("{body}", body)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 16px/1.55 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #8884; }
  .table { overflow-x: auto; margin: 1rem 0; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { text-align: left; padding: 0.3rem 0.9rem 0.3rem 0; border-bottom: 1px solid #8883; }
  th { font-weight: 600; }
  img { max-width: 100%; background: white; border-radius: 4px; }
</style>
</head>
<body>
{body}
</body>
</html>
"""

"""A leaderboard as text: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..display import markdown, markdown_code, printable


_SHOWN = ("reward", "rewards/", "metrics/", "perplexity", "completions/mean_length")

Rows = Mapping[str, dict[str, Any]]
Directions = Mapping[str, "str | None"]
"""Of each column whether `"higher"` or `"lower"` is better; None: neither."""


def as_markdown(board: dict[str, Any]) -> str:
    """The leaderboard as Markdown: per task a table, the best of a column in bold, intervals and comparisons.

    Args:
        board (`dict`): as [`leaderboard.write_leaderboard`] writes it in JSON.
    """
    lines = ["# Leaderboard", "", markdown_code(board["command"]), ""]
    lines += [", ".join(f"{package} {version}" for package, version in board["versions"].items()), ""]
    for task, rows in board["tasks"].items():
        marks = _missing_seeds(board, task)
        lines += [f"## {markdown(task)}", "", *table(rows, board["better"][task], marks), ""]
        if marks:
            lines += [f"\\* Not all of the {board['seeds']} seeds are there.", ""]
        lines += _interval_lines(rows, board["better"][task])
        lines += _comparison_lines(board["comparisons"][task])
    if board["failed"]:
        lines += [
            "## Failed",
            "",
            *(f"- {markdown_code(folder)}: {markdown(str(error))}" for folder, error in board["failed"].items()),
            "",
        ]
    return "\n".join(lines)


def as_csv(board: dict[str, Any]) -> str:
    """The leaderboard as CSV: a line per task, algorithm and column, and one per comparison.

    Args:
        board (`dict`): as for [`as_markdown`].
    """
    names = ("task", "algorithm", "against", "column", "better", "mean", "std", "seeds", "low", "high", "p_adjusted")
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for task, rows in board["tasks"].items():
        better = board["better"][task]
        for label, row in rows.items():
            for column, entry in row.items():
                place = {"task": task, "algorithm": label, "column": column, "better": better.get(column) or ""}
                writer.writerow({**place, **entry})
        for entry in board["comparisons"][task]:
            place = {"task": task, "algorithm": entry["first"], "against": entry["second"], "column": entry["score"]}
            numbers = {name: entry[name] for name in ("seeds", "low", "high", "p_adjusted") if name in entry}
            writer.writerow({**place, "mean": entry["difference"], **numbers})
    return text.getvalue()


def as_latex(board: dict[str, Any]) -> str:
    """The leaderboard as LaTeX: a table per task, for the package booktabs.

    Args:
        board (`dict`): as for [`as_markdown`].
    """
    return "\n".join(
        line
        for task, rows in board["tasks"].items()
        for line in _latex_table(task, rows, board["better"][task], board, _missing_seeds(board, task))
    )


def _latex_table(
    task: str, rows: Rows, better: Directions, board: dict[str, Any], marks: Mapping[str, str]
) -> list[str]:
    names = columns_shown(rows, better)
    best = {name: best_of(name, rows, better.get(name)) for name in names}
    arrows = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", None: ""}
    header = " & ".join(["", *(_tex(short_name(name)) + arrows[better.get(name)] for name in names)])
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * len(names)}}}", r"\toprule"]
    lines += [rf"{header} \\", r"\midrule"]
    for label, row in rows.items():
        cells = [_tex(label + marks.get(label, ""))]
        for name in names:
            text = cell_text(row.get(name)).replace("±", r"$\pm$")
            cells.append(rf"\textbf{{{text}}}" if label in best[name] else text)
        lines.append(" & ".join(cells) + r" \\")
    seeds = f"Mean and standard deviation over {board['seeds']} seeds."
    return [
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{_tex(task)}. {seeds}}}",
        r"\end{table}",
        "",
    ]


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in printable(text))


def _missing_seeds(board: dict[str, Any], task: str) -> dict[str, str]:
    """Of each algorithm that lacks seeds, what is written after its name."""
    runs = board.get("runs", {}).get(task, {})
    asked = board["seeds"]
    return {label: f"* ({number} of {asked} seeds)" for label, number in runs.items() if number < asked}


def columns_shown(rows: Rows, better: Directions) -> list[str]:
    """The columns that are shown, in their order."""
    shown = {name for row in rows.values() for name in row if name.startswith(_SHOWN)}
    # A metric that is also a reward has one column, unless the reward turns it around.
    higher = [name for name in shown if name.startswith("metrics/") and better[name] == "higher"]
    return _ordered(shown - {f"rewards/{name.removeprefix('metrics/')}/mean" for name in higher})


def table(rows: Rows, better: Directions, marks: Mapping[str, str]) -> list[str]:
    """Lines of a Markdown table: a row per label, the best of a column in bold; `marks` follow labels."""
    names = columns_shown(rows, better)
    best = {name: best_of(name, rows, better[name]) for name in names}
    header = [markdown(short_name(name)) + _ARROWS[better[name]] for name in names]
    lines = ["| | " + " | ".join(header) + " |", "|---" * (len(names) + 1) + "|"]
    for label, row in rows.items():
        cells = [_cell(row.get(name), label in best[name]) for name in names]
        lines.append(f"| {markdown(label + marks.get(label, ''))} | " + " | ".join(cells) + " |")
    return lines


def _interval_lines(rows: Rows, better: Directions) -> list[str]:
    """The 95 % intervals over prompts of the columns that have them."""
    names = [name for name in columns_shown(rows, better) if any("low" in row.get(name, {}) for row in rows.values())]
    if not names:
        return []
    lines = ["95 % intervals over prompts, scores averaged over seeds:", ""]
    lines += [
        "| | " + " | ".join(markdown(short_name(name)) for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for label, row in rows.items():
        lines.append(f"| {markdown(label)} | " + " | ".join(interval_text(row.get(name, {})) for name in names) + " |")
    return [*lines, ""]


def interval_text(entry: Mapping[str, float]) -> str:
    if "low" not in entry:
        return "-"
    digits = _digits(entry["mean"])
    return f"{entry['low']:.{digits}f} to {entry['high']:.{digits}f}"


_ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


def _ordered(names: set[str]) -> list[str]:
    def place(name: str) -> tuple[int, str]:
        first = next((index for index, start in enumerate(_SHOWN) if name.startswith(start)), len(_SHOWN))
        return (0 if name == "reward" else first, name)

    return sorted((name for name in names if name != "reward_std"), key=place)


def short_name(name: str) -> str:
    if name.startswith("rewards/"):
        return f"reward {name.split('/')[1]}"
    names = {"completions/mean_length": "tokens", "perplexity": "judge's perplexity", "score": "reward"}
    return names.get(name, name.removeprefix("metrics/"))


def best_of(name: str, rows: Rows, better: str | None) -> list[str]:
    """The algorithms whose mean is the best; none where neither way is better, or where all are equal."""
    means = {label: row[name]["mean"] for label, row in rows.items() if name in row}
    if better is None or not means:
        return []
    wanted = max(means.values()) if better == "higher" else min(means.values())
    best = [label for label, value in means.items() if math.isclose(value, wanted)]
    # Such as a BLEU of 0 everywhere.
    return best if len(best) < len(means) else []


def _cell(entry: dict[str, Any] | None, is_best: bool) -> str:
    text = cell_text(entry)
    return f"**{text}**" if is_best else text


def cell_text(entry: dict[str, Any] | None) -> str:
    """Mean and, over several runs, standard deviation."""
    if entry is None:
        return "-"
    digits = _digits(entry["mean"])
    return f"{entry['mean']:.{digits}f}" + (f" ± {entry['std']:.{digits}f}" if entry["seeds"] > 1 else "")


def _digits(mean: float) -> int:
    return 4 if abs(mean) < 0.01 else 3 if abs(mean) < 10 else 1


def _comparison_lines(comparisons: Sequence[dict[str, Any]]) -> list[str]:
    if not comparisons:
        return []
    lines = [
        "Differences of scores per prompt, averaged over the seeds that both have; paired bootstrap over prompts. "
        f"Intervals hold together with 95 %, and p is corrected, for all {len(comparisons)} comparisons (max-T); "
        "bold: p < 0.05.",
        "",
        "| | score | difference | interval | p |",
        "|---|---|---|---|---|",
    ]
    for entry in comparisons:
        p = f"{entry['p_adjusted']:.4f}"
        lines.append(
            f"| {markdown(entry['first'])} - {markdown(entry['second'])} | {markdown(short_name(entry['score']))} | "
            f"{entry['difference']:+.3f} | {entry['low']:+.3f} to {entry['high']:+.3f} | "
            f"{f'**{p}**' if entry['p_adjusted'] < 0.05 else p} |"
        )
    return [*lines, ""]

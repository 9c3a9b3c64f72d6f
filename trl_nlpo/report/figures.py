"""Figures of a task as plotly draws them: curves over updates, and reward against KL and perplexity."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..display import printable
from ..naming import require_package
from .runs import ReportedRun


_COLORS = (
    "#2563eb", "#ea580c", "#059669", "#9333ea", "#dc2626", "#0891b2", "#ca8a04", "#db2777", "#4d7c0f", "#57534e",
)  # fmt: skip
_MOST_POINTS = 500
"""Of a line; longer ones are thinned, which no screen shows."""

_NOT_REINFORCED = {"supervised", "zero-shot"}

CURVES: tuple[tuple[str, str], ...] = (
    ("reward", "Reward"),
    ("objective/kl", "KL from the reference, per completion"),
    ("perplexity", "Perplexity under the reference"),
    ("nlpo/kl_coef", "β, the KL coefficient"),
    ("policy/entropy_avg", "Entropy per token"),
    ("val/explained_variance", "Explained variance of the critic"),
    ("policy/clipfrac_avg", "Clip fraction of the policy"),
    ("val/clipfrac_avg", "Clip fraction of the critic"),
    ("completions/mean_length", "Tokens per completion"),
    ("nlpo/mask_size", "Mask: allowed tokens per position"),
    ("nlpo/mask_mass", "Mask: the policy's probability of what is allowed"),
    ("nlpo/mask_age", "Mask: updates since the last sync"),
)
"""Logged names, and what their figures are called; after the reward come those of the single reward functions."""

PLANES: tuple[tuple[str, str, str], ...] = (
    ("objective/kl", "reward", "Reward against KL"),
    ("perplexity", "reward", "Reward against perplexity"),
    ("eval_perplexity", "eval_reward", "Reward against perplexity, in evaluation"),
)
"""What is across, what is up, and what the figure is called."""

SUPERVISED_CURVES = (("loss", "Loss"), ("mean_token_accuracy", "Share of tokens that are the likeliest"))

_IN_STEPS = {"nlpo/mask_age", "nlpo/kl_coef"}
"""What changes by steps, and is not noise to be smoothed."""

_UNTOLD = {"stage", "step", "time", "epoch", "episode", "nlpo/mask_syncs"}
"""Of a log line what is no curve of its own."""


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        title (`str`)
        name (`str`): what the log calls it.
        json (`str`): for `Plotly.newPlot`.
    """

    title: str
    name: str
    json: str


@dataclass(frozen=True)
class _Series:
    """`(N,)` updates and values of a number of one or several runs; `std` over seeds, 0 for one."""

    steps: np.ndarray
    values: np.ndarray
    std: np.ndarray


Groups = Mapping[str, Sequence[ReportedRun]]


def curves_of(groups: Groups) -> list[Figure]:
    """Curves of reinforcement, over updates."""
    logs = _reinforced(groups)
    of_rewards = [name for name in _names(logs) if re.fullmatch(r"rewards/.+/mean", name)]
    wanted = [*CURVES[:1]]
    if len(of_rewards) > 1:
        wanted += [(name, f"Reward {name.removeprefix('rewards/').removesuffix('/mean')}") for name in of_rewards]
    return _curves(logs, [*wanted, *CURVES[1:]])


def supervised_curves_of(groups: Groups) -> list[Figure]:
    """Curves of the supervised stage, over optimizer steps."""
    return _curves(_logs(groups, lambda stage: stage == "supervised"), SUPERVISED_CURVES, "step")


def planes_of(groups: Groups) -> list[Figure]:
    """What the reward was paid for with: points are updates, lines follow them."""
    logs = _reinforced(groups)
    return [
        figure
        for across, up, title in PLANES
        if (figure := _plane(logs, across, up, title)) is not None
    ]  # fmt: skip


def other_curves_of(groups: Groups) -> list[Figure]:
    """Curves of everything else that reinforcement logged, by its name."""
    logs = _reinforced(groups)
    names = _names(logs)
    told = {name for name, _ in CURVES} | _UNTOLD
    shown = set(names) & told
    several = sum(bool(re.fullmatch(r"rewards/.+/mean", name)) for name in names) > 1
    rest = [
        name
        for name in names
        if name not in told
        and not (several and re.fullmatch(r"rewards/.+/mean", name))
        and not any(_evaluates(name, other, names) for other in (*shown, *names) if other != name)
    ]
    return _curves(logs, [(name, name) for name in sorted(rest)])


Logs = dict[str, list[list[dict[str, Any]]]]
"""By group and run the log lines of a stage."""


def color_of(place: int) -> str:
    """The colour of a group, by its place among those of a task; with more than ten they come again."""
    return _COLORS[place % len(_COLORS)]


def _reinforced(groups: Groups) -> Logs:
    return _logs(groups, lambda stage: stage not in _NOT_REINFORCED)


def _logs(groups: Groups, wanted: Any) -> Logs:
    """Log lines with an update; those of the evaluation at the end of a stage have step 0."""
    return {
        group: [
            [
                line
                for line in run.results.log
                if _is_number(line.get("step")) and line["step"] > 0 and wanted(line.get("stage"))
            ]
            for run in runs
        ]
        for group, runs in groups.items()
    }


def _names(logs: Logs) -> list[str]:
    """Names of all numbers, in the order in which they were logged first."""
    lines = (line for runs in logs.values() for run in runs for line in run)
    return list(dict.fromkeys(name for line in lines for name, value in line.items() if _is_number(value)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _evaluates(name: str, other: str, names: Sequence[str]) -> str | None:
    """Of what an evaluation of `other` is on, if `name` is one: a data set's name, or `evaluation`; else None."""
    if name == f"eval_{other}":
        return "evaluation"
    if not name.startswith("eval_") or not name.endswith(f"_{other}"):
        return None
    data = name.removeprefix("eval_").removesuffix(f"_{other}")
    # A name that a reward function logged may end so as well; what an evaluation always logs tells them apart.
    return f"evaluation on {data}" if f"eval_{data}_completions/mean_length" in names else None


def _series(runs: Sequence[Sequence[Mapping[str, Any]]], name: str) -> _Series | None:
    """A number over updates, averaged over runs."""
    by_step: dict[int, list[float]] = {}
    for run in runs:
        # Of a resumed run's update that was logged twice, the later counts.
        for step, value in {line["step"]: line[name] for line in run if _is_number(line.get(name))}.items():
            by_step.setdefault(step, []).append(value)
    if not by_step:
        return None
    steps = sorted(by_step)
    return _Series(
        np.array(steps, dtype=np.int32),
        np.array([np.mean(by_step[step]) for step in steps]),
        np.array([np.std(by_step[step], ddof=1) if len(by_step[step]) > 1 else 0.0 for step in steps]),
    )


def window_of(num_points: int) -> int:
    """Over how many points a line of so many is smoothed: a twentieth, but at most 50."""
    return max(1, min(50, num_points // 20))


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Means of each value and the `window - 1` before it, as far as there are any."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _thinned(*columns: np.ndarray) -> list[np.ndarray]:
    """Every k-th point, and the last."""
    size = len(columns[0])
    if size <= _MOST_POINTS:
        return list(columns)
    kept = np.unique(np.linspace(0, size - 1, _MOST_POINTS).round().astype(int))
    return [column[kept] for column in columns]


def _curves(logs: Logs, wanted: Sequence[tuple[str, str]], unit: str = "update") -> list[Figure]:
    names = _names(logs)
    return [
        # Of several groups the page says whose colour is whose, once for all figures.
        _figure(title, name, traces, {"title": {"text": unit}}, shows_legend=len(logs) == 1 and len(traces) > 2)
        for name, title in wanted
        if (traces := list(_curve_traces(logs, name, names)))
    ]


def _curve_traces(logs: Logs, name: str, names: Sequence[str]) -> Iterator[Any]:
    """The traces of a number, each with the place of its group as `meta`."""
    evaluations = [(other, data) for other in names if (data := _evaluates(other, name, names))]
    for place, (group, runs) in enumerate(logs.items()):
        color = color_of(place)
        series = _series(runs, name)
        traces: list[dict[str, Any]] = []
        if series is not None:
            label = group if len(logs) > 1 else "training"
            traces += _line(series, label, color, 1 if name in _IN_STEPS else window_of(len(series.steps)))
        if series is not None and name.startswith("nlpo/mask"):
            traces += _syncs(runs, series, color, f"{group}: sync" if len(logs) > 1 else "sync")
        for number, (other, data) in enumerate(evaluations, 1):
            evaluated = _series(runs, other)
            if evaluated is not None:
                # One group has a colour for each data set, several have one each.
                own = color if len(logs) > 1 else _COLORS[number % len(_COLORS)]
                traces += _points(evaluated, f"{group}, {data}" if len(logs) > 1 else data, own)
        yield from ({**trace, "meta": place} for trace in traces)


def _line(series: _Series, label: str, color: str, window: int) -> Iterator[Any]:
    """Raw values faint, their mean over a window in full, and its band of a standard deviation over seeds."""
    mean, std = smoothed(series.values, window), smoothed(series.std, window)
    steps, raw, mean, std = _thinned(series.steps, series.values, mean, std)
    if std.any():
        yield from _band(steps, mean, std, color, label)
    if window > 1:
        yield _scatter(
            steps, raw, label, mode="lines", line={"color": color, "width": 1}, opacity=0.3, showlegend=False,
            hoverinfo="skip",
        )  # fmt: skip
    yield _scatter(
        steps, mean, label, mode="lines" if len(steps) > 1 else "markers", line={"color": color, "width": 2}
    )


def _points(series: _Series, label: str, color: str) -> Iterator[Any]:
    steps, values, std = _thinned(series.steps, series.values, series.std)
    bars = {"type": "data", "array": std.astype(np.float32), "thickness": 1} if std.any() else None
    yield _scatter(
        steps, values, label, mode="lines+markers", line={"color": color, "width": 1.5, "dash": "dot"},
        marker={"color": color, "size": 6}, error_y=bars,
    )  # fmt: skip


def _band(steps: np.ndarray, mean: np.ndarray, std: np.ndarray, color: str, label: str) -> Iterator[Any]:
    red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    more: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    yield _scatter(steps, mean - std, label, **more)
    yield _scatter(steps, mean + std, label, fill="tonexty", fillcolor=f"rgba({red},{green},{blue},0.15)", **more)


def _syncs(runs: Sequence[Sequence[Mapping[str, Any]]], series: _Series, color: str, label: str) -> Iterator[Any]:
    """Marks where the first run's log has more syncs than in the line before."""
    counts = [(line["step"], line["nlpo/mask_syncs"]) for line in runs[0] if _is_number(line.get("nlpo/mask_syncs"))]
    synced = {step for (_, before), (step, count) in pairwise(counts) if count > before}
    kept = np.isin(series.steps, list(synced))
    if kept.any():
        steps, values = _thinned(series.steps[kept], series.values[kept])
        yield _scatter(
            steps, values, label, mode="markers",
            marker={"symbol": "triangle-up-open", "size": 7, "color": color},
        )  # fmt: skip


def _plane(logs: Logs, across: str, up: str, title: str) -> Figure | None:
    traces = []
    for place, (group, runs) in enumerate(logs.items()):
        for run in runs:
            pairs = [line for line in run if _is_number(line.get(across)) and _is_number(line.get(up))]
            if not pairs:
                continue
            steps, xs, ys = (np.array([line[name] for line in pairs]) for name in ("step", across, up))
            window = window_of(len(pairs))
            path = _thinned(smoothed(xs, window), smoothed(ys, window))
            steps, xs, ys = _thinned(steps, xs, ys)
            color = color_of(place)
            # Of one run the colour tells the time, of several whose it is.
            alone = len(logs) == 1 and len(runs) == 1
            marker: dict[str, Any] = {"size": 6, "color": color, "opacity": 0.55}
            if alone:
                marker |= {
                    "color": steps, "colorscale": "Viridis", "opacity": 0.9,
                    "colorbar": {"title": {"text": "update"}, "thickness": 10},
                }  # fmt: skip
            hover = "%{x:.4~g}, %{y:.4~g}<br>update %{customdata}<extra></extra>"
            points: dict[str, Any] = {
                "meta": place,
                "mode": "markers",
                "marker": marker,
                "customdata": steps,
                "hovertemplate": hover,
            }
            traces.append(_scatter(xs, ys, group, **points))
            if window > 1:
                way: dict[str, Any] = {
                    "meta": place,
                    "mode": "lines",
                    "line": {"color": color, "width": 1.5},
                    "hoverinfo": "skip",
                }
                traces.append(_scatter(path[0], path[1], group, **way))
    if not traces:
        return None
    return _figure(title, f"{up} by {across}", traces, {"title": {"text": _shown(across)}}, _shown(up))


def _shown(name: str) -> str:
    """A name as text: plotly reads tags."""
    return html.escape(printable(name), quote=False)


def _scatter(xs: np.ndarray, ys: np.ndarray, label: str, **more: Any) -> Any:
    # Half of the bytes, and more digits than a screen has pixels.
    ys = ys.astype(np.float32)
    xs = xs if xs.dtype.kind == "i" else xs.astype(np.float32)
    given = {"x": xs, "y": ys, "name": _shown(label), **more}
    return {"type": "scatter", **{key: value for key, value in given.items() if value is not None}}


def _figure(
    title: str, name: str, traces: Sequence[Any], xaxis: dict[str, Any], up: str = "", shows_legend: bool = False
) -> Figure:
    graph = require_package("plotly.graph_objects", "a report", "report")
    axis = {"gridcolor": "#e5e7eb", "zerolinecolor": "#d1d5db", "hoverformat": ".4~g", "automargin": True}
    layout = {
        "template": "none",
        "margin": {"l": 50, "r": 10, "t": 8, "b": 40},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#374151"},
        "xaxis": {**axis, **xaxis},
        "yaxis": {**axis, "title": {"text": up}},
        "hovermode": "closest",
        "showlegend": shows_legend,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 11}},
    }
    return Figure(title, name, graph.Figure(list(traces), layout).to_json())

"""Everything that a study's judgements say, as one record."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..errors import UserError
from ..naming import require_package
from ..storage.files import replace_file
from ..storage.results import SAMPLES_NAME, read_samples
from .agreement import PACKAGES, Values, alpha_interval, cohen_kappa, fleiss_kappa, krippendorff_alpha, values_by_item
from .judgements import Choice, Rating, criteria_of, read_judgements
from .report import write_report
from .systems import analysis_of_variance, bradley_terry, item_means, means, tukey


def analyse(path: Path, out: Path, run: Path | None = None) -> dict[str, Any]:
    """Read the judgements of a file, and write `analysis.json` and its report to a folder.

    Args:
        path (`Path`): as [`read_judgements`] reads it.
        out (`Path`): made if it is not there.
        run (`Path`, *optional*): the run whose samples were judged; ratings are correlated with its automatic metrics.
            Its stages are the systems, and `prompt` is the number of the test prompt, from 0.

    Returns:
        `dict`: what `analysis.json` has.

    Raises:
        UserError: judgements or samples that cannot be read or do not belong together, or a package that is missing.
    """
    for name in PACKAGES:
        require_package(name, "a study's analysis", "people")
    ratings, choices = read_judgements(path)
    record = {
        "source": path.name,
        "ratings": {name: of_ratings(_of(ratings, name), run) for name in criteria_of(ratings)},
        "choices": {name: of_choices(_of(choices, name)) for name in criteria_of(choices)},
        "annotators": annotators(ratings, choices),
    }
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "analysis.json", json.dumps(_plain(record), indent=2, ensure_ascii=False) + "\n")
    write_report(record, out)
    return record


def _of(judgements: Sequence[Any], criterion: str) -> list[Any]:
    return [judgement for judgement in judgements if judgement.criterion == criterion]


def of_ratings(ratings: Sequence[Rating], run: Path | None = None) -> dict[str, Any]:
    """Agreement, means, variance, differences and correlations of the ratings by one criterion."""
    values = values_by_item(ratings, lambda rating: rating.value)
    variance = analysis_of_variance(ratings)
    return {
        "agreement": _agreement(values, ("nominal", "ordinal", "interval")),
        "items": rated_items(values),
        "means": {system: asdict(mean) for system, mean in means(ratings).items()},
        "variance": None if variance is None else asdict(variance),
        "differences": [asdict(difference) for difference in tukey(ratings)],
        "correlations": {} if run is None else correlations(ratings, run),
    }


def of_choices(choices: Sequence[Choice]) -> dict[str, Any]:
    """Agreement about the choice, and the strengths of the systems; `problem` where no strengths explain it."""
    values = values_by_item(choices, lambda choice: -1 if choice.choice is None else choice.choice)
    found: dict[str, Any] = {
        "agreement": _agreement(values, ("nominal",)),
        "items": chosen_items(values, {choice.about: choice.systems for choice in choices}),
        "strengths": {},
        "problem": None,
    }
    try:
        found["strengths"] = {name: asdict(strength) for name, strength in bradley_terry(choices).items()}
    except UserError as error:
        found["problem"] = str(error)
    return found


def _agreement(values: dict[Any, dict[str, Any]], levels: Sequence[str]) -> dict[str, Any]:
    people = sorted({annotator for of_item in values.values() for annotator in of_item})
    pairs = {f"{first}, {second}": cohen_kappa(values, first, second) for first, second in combinations(people, 2)}
    return {
        "items": len(values),
        "items_judged_twice_or_more": sum(len(of_item) > 1 for of_item in values.values()),
        "alpha": {
            level: {"value": krippendorff_alpha(values, level), "interval": alpha_interval(values, level)}
            for level in levels
        },
        "fleiss_kappa": fleiss_kappa(values),
        "cohen_kappa": {pair: kappa for pair, kappa in pairs.items() if not math.isnan(kappa)},
    }


def rated_items(values: Values) -> list[dict[str, Any]]:
    """What people said of each completion; those whose ratings have the largest standard deviation first."""
    found = [
        {
            "item": f"{item} ({system})",
            "said": ", ".join(f"{value:g}" for value in sorted(said.values())),
            "mean": fmean(said.values()),
            "spread": stdev(said.values()) if len(said) > 1 else None,
            "annotators": len(said),
        }
        for (item, system), said in values.items()
    ]
    return sorted(found, key=lambda item: -1.0 if item["spread"] is None else item["spread"], reverse=True)


def chosen_items(values: Values, systems: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """How often each system was chosen in each question, -1 being a tie; those with the least agreement first."""
    found = []
    for item, said in values.items():
        votes = Counter("tie" if choice < 0 else systems[item][choice] for choice in said.values())
        found.append(
            {
                "item": item,
                "said": ", ".join(f"{name}: {number}" for name, number in votes.most_common()),
                "votes": dict(votes),
                "spread": max(votes.values()) / len(said),
                "annotators": len(said),
            }
        )
    return sorted(found, key=lambda item: item["spread"])


def annotators(ratings: Sequence[Rating], choices: Sequence[Choice]) -> dict[str, dict[str, Any]]:
    """Of each person: judgements, mean rating, how often gold was met, how often a repeat was answered alike."""
    everything: list[Any] = [*ratings, *choices]
    first = {(j.annotator, j.about, j.criterion): _said(j) for j in everything if not j.is_repeat}
    found = {}
    for person in sorted({judgement.annotator for judgement in everything}):
        mine = [judgement for judgement in everything if judgement.annotator == person]
        gold = [_said(judgement) == judgement.gold for judgement in mine if judgement.gold is not None]
        again = [
            _said(judgement) == first[key]
            for judgement in mine
            if judgement.is_repeat and (key := (person, judgement.about, judgement.criterion)) in first
        ]
        rated = [judgement.value for judgement in mine if isinstance(judgement, Rating)]
        found[person] = {
            "judgements": len(mine),
            "mean_rating": fmean(rated) if rated else None,
            "gold": fmean(gold) if gold else None,
            "repeats": fmean(again) if again else None,
        }
    return found


def _said(judgement: Rating | Choice) -> float | int | None:
    return judgement.value if isinstance(judgement, Rating) else judgement.choice


def correlations(ratings: Sequence[Rating], run: Path) -> dict[str, dict[str, float]]:
    """How ratings go together with the run's automatic metrics, over completions.

    Returns:
        By metric Spearman's rank correlation (`spearman`) and its p-value, Pearson's (`pearson`), and `items`.

    Raises:
        UserError: the run has no samples, or none of the systems is a stage of it.
    """
    from scipy import stats

    samples = list(read_samples(run))
    pairs: dict[str, list[tuple[float, float]]] = {}
    prompts = {rating.item: rating.prompt for rating in ratings}
    for system, of_system in item_means(ratings).items():
        for item, mean in of_system.items():
            number = prompts[item]
            if not number.isdigit() or int(number) >= len(samples) or system not in samples[int(number)]:
                continue
            for metric, value in _metrics_of(samples[int(number)][system]).items():
                pairs.setdefault(metric, []).append((mean, value))
    if not pairs:
        raise UserError(
            f"{run / SAMPLES_NAME} has no completion that was rated: systems must be its stages, and prompt the "
            "number of the test prompt, from 0."
        )
    found = {}
    for metric, both in sorted(pairs.items()):
        people, automatic = zip(*both, strict=True)
        if len(set(people)) < 2 or len(set(automatic)) < 2:
            continue
        ranks = stats.spearmanr(people, automatic)
        found[metric] = {
            "spearman": float(ranks.statistic),
            "p_value": float(ranks.pvalue),
            "pearson": float(stats.pearsonr(people, automatic).statistic),
            "items": len(both),
        }
    return found


def _metrics_of(sample: dict[str, Any]) -> dict[str, float]:
    """The numbers that a run's samples have of a completion: its rewards and its metrics."""
    numbers = {"reward": sample.get("reward"), **(sample.get("rewards") or {}), **(sample.get("metrics") or {})}
    return {
        name: float(value)
        for name, value in numbers.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

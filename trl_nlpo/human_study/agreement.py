"""How far people agree beyond chance: Krippendorff's alpha, Cohen's and Fleiss' kappa, by well-kept libraries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from ..naming import require_package


Values = Mapping[Any, Mapping[str, Any]]
"""Of each item what each annotator said of it."""

PACKAGES = ("krippendorff", "markdown_it", "scipy", "statsmodels")
"""What the statistics of a study and their report need."""

LEVELS = ("nominal", "ordinal", "interval")


def krippendorff_alpha(values: Values, level: str) -> float:
    """Krippendorff's alpha: 1 is agreement, 0 chance. NaN where nobody judged what another did, or all said one thing.

    Args:
        values: of each item what each annotator said of it; any may be missing.
        level (`str`): nominal, ordinal or interval: how far apart two values are.
    """
    krippendorff = _package("krippendorff")
    if level not in LEVELS:
        raise UserError(f"level is {level!r}, but must be one of {', '.join(LEVELS)}.")
    table = _table(values)
    known = {value for row in table for value in row if value is not None}
    if len(known) < 2 or not any(len(of_item) > 1 for of_item in values.values()):
        return math.nan
    domain = sorted(known)
    numbers = {value: float(value) if level == "interval" else float(rank) for rank, value in enumerate(domain)}
    data = [[math.nan if value is None else numbers[value] for value in row] for row in table]
    return float(krippendorff.alpha(reliability_data=data, level_of_measurement=level))


def alpha_interval(values: Values, level: str, num_resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of Krippendorff's alpha: the percentiles over resamples of the items."""
    import numpy as np

    items, generator = list(values), np.random.default_rng(seed)
    found = []
    for _ in range(num_resamples):
        drawn = generator.integers(len(items), size=len(items))
        resampled = {position: values[items[index]] for position, index in enumerate(drawn)}
        found.append(krippendorff_alpha(resampled, level))
    known = [alpha for alpha in found if not math.isnan(alpha)]
    if not known:
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def fleiss_kappa(values: Values) -> float:
    """Fleiss' kappa over the items that most people judged; NaN where that is one person, or all said the same."""
    raters = _package("statsmodels.stats.inter_rater")
    most = max(map(len, values.values()), default=0)
    rows = [list(of_item.values()) for of_item in values.values() if len(of_item) == most]
    domain = sorted({value for row in rows for value in row})
    if most < 2 or len(domain) < 2:
        return math.nan
    return float(raters.fleiss_kappa([[row.count(value) for value in domain] for row in rows]))


def cohen_kappa(values: Values, first: str, second: str) -> float:
    """Cohen's kappa of two annotators over the items that both judged; NaN where there are none, or all are alike."""
    raters = _package("statsmodels.stats.inter_rater")
    pairs = [(of_item[first], of_item[second]) for of_item in values.values() if {first, second} <= set(of_item)]
    domain = sorted({value for pair in pairs for value in pair})
    if len(domain) < 2:
        return math.nan
    table = [[pairs.count((row, column)) for column in domain] for row in domain]
    return float(raters.cohens_kappa(table, return_results=False))


def _table(values: Values) -> list[list[Any]]:
    """A row per annotator, a column per item; None where there is nothing."""
    annotators = sorted({annotator for of_item in values.values() for annotator in of_item})
    return [[of_item.get(annotator) for of_item in values.values()] for annotator in annotators]


def _package(name: str) -> Any:
    return require_package(name, "a study's analysis", "people")


def values_by_item(judgements: Sequence[Any], value: Any) -> dict[Any, dict[str, Any]]:
    """Of each item what each annotator said first, gold items left out; `value` reads a judgement."""
    found: dict[Any, dict[str, Any]] = {}
    for judgement in judgements:
        if not judgement.is_repeat and judgement.gold is None:
            found.setdefault(judgement.about, {}).setdefault(judgement.annotator, value(judgement))
    return found

"""Every metric on the texts that break metrics: the documented value, never a crash."""

from __future__ import annotations

import math

import pytest

from support.metric_options import OPTIONS
from support.slow import slow_except
from trl_nlpo.metrics import get_metric, load


pytestmark = [
    pytest.mark.filterwarnings("ignore:metric 'cider'. there are no document frequencies"),
    pytest.mark.filterwarnings("ignore:metric 'ter'. a text or reference has more than"),
]


NAMES = [
    "bleu", "bleu3", "bleu4", "chrf", "chrf++", "cider", "concept_coverage", "meteor", "parent",
    "rouge", "rouge1", "rouge2", "rougeL", "rougeLsum", "sacrebleu", "spice", "ter",
]  # fmt: skip
REFERENCE = "the quick brown fox jumps over the lazy dog"
EMOJI, ARABIC = "🐕 runs 🏃🏽\u200d♀️ home", "الكلب السريع يجري في الحديقة"
LONG = " ".join(f"w{i % 97}" for i in range(10_000))
CASES = {
    "empty prediction": ([""], [[REFERENCE]]),
    "blank prediction": (["\n "], [[REFERENCE]]),
    "empty reference": ([REFERENCE], [[""]]),
    "both empty": ([""], [[""]]),
    "bare string": ([REFERENCE], [REFERENCE]),
    "single row": ([REFERENCE], [[REFERENCE]]),
    "emoji": ([EMOJI], [[EMOJI]]),
    "right to left": ([ARABIC], [[ARABIC]]),
    "punctuation only": (["..."], [["!?"]]),
    "10,000 words": ([LONG, REFERENCE], [[REFERENCE], [LONG]]),
    "several references": ([REFERENCE, "a dog"], [["a cat", REFERENCE], ["a dog"]]),
    "repeated rows": ([REFERENCE, "a dog", REFERENCE], [[REFERENCE]] * 3),
}


def rows(case):
    predictions, references = CASES[case]
    texts = [row if isinstance(row, str) else row[0] for row in references]
    return list(predictions), {
        "references": list(references),
        "concepts": [[word for word in text.split()[:5] if word.isalnum()] or ["dog"] for text in texts],
        "table": [[["name", "what"], text.split()[:2] or ["-"]] for text in texts],
        "highlighted_cells": [[[1, 0]] for _ in texts],
    }


def metric(name):
    return get_metric(name, **OPTIONS.get(name, {}))


def rewards(name, case):
    made = metric(name)
    predictions, columns = rows(case)
    return [made.as_reward(score) for score in made.score(predictions, **columns)]


@pytest.mark.parametrize("case", slow_except(CASES, "both empty", "emoji", "several references"))
@pytest.mark.parametrize("name", NAMES)
def test_every_text_has_a_finite_score_and_its_table_finite_numbers(name, case):
    predictions, columns = rows(case)
    made = metric(name)
    assert all(math.isfinite(score) for score in made.score(predictions, **columns))
    assert all(math.isfinite(number) for number in made.compute(predictions, **columns).values())


@pytest.mark.parametrize("case", ["empty prediction", "blank prediction", "both empty"])
@pytest.mark.parametrize("name", NAMES)
def test_an_empty_text_earns_nothing(name, case):
    assert rewards(name, case) == [0.0] * len(CASES[case][0])


@pytest.mark.parametrize("name", NAMES)
def test_a_row_scores_the_same_alone_twice_and_beside_others(name):
    alone = rewards(name, "single row")[0]
    first, _, third = rewards(name, "repeated rows")
    assert first == third == alone


@pytest.mark.parametrize("name", NAMES)
def test_one_string_is_one_reference(name):
    assert rewards(name, "bare string") == rewards(name, "single row")


@pytest.mark.parametrize("case", ["single row", "right to left", "emoji"])
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("rouge")])
def test_a_reference_itself_earns_nearly_all_in_any_script(name, case):
    assert rewards(name, case)[0] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "concept_coverage"])
def test_a_row_without_references_has_no_score(name):
    predictions, columns = rows("repeated rows")
    columns["references"] = [[REFERENCE], [], None]
    first, second, third = metric(name).score(predictions, **columns)
    assert first is not None
    assert second is third is None


@pytest.mark.parametrize("name", NAMES)
def test_the_evaluate_face_gives_the_same_numbers_as_compute(name):
    predictions, columns = rows("several references")
    made = metric(name)
    extra = {column: columns[column] for column in made.columns if column != "references"}
    if "references" in made.columns:
        extra["references"] = columns["references"]
    assert load(name, **OPTIONS.get(name, {})).compute(predictions=predictions, **extra) == made.compute(
        predictions, **columns
    )

"""A table of metrics that the processes of a run work out together; as a script, one of the processes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from accelerate import PartialState

from support.launching import leave_together
from trl_nlpo.metrics.base import Metric
from trl_nlpo.metrics.suite import SuiteResult, compute_metrics
from trl_nlpo.recipes.specs import parse_rewards


SPECS = [
    "rouge", "cider", "bleu", "distinct2", "support.shared_metrics.Shouts", "support.shared_metrics.TiredOnTheSecond",
    {"name": "chrf", "by": "kind"}, {"name": "meteor", "synonyms": False},
]  # fmt: skip
TEXTS = ["a dog runs!", "the cat sat on the mat", "", "two birds fly over it!!", "a dog"]
COLUMNS = {
    "references": [["a dog runs"], ["a cat sat on the mat", "cats sit"], ["x"], ["birds fly"], ["the dog barks"]],
    "kind": ["a", "b", "a", "b", None],
}


class Shouts(Metric):
    """Notes which rows it was asked about."""

    name = "shouts"

    def score(self, predictions, **columns):
        with open(f"asked-{os.environ.get('RANK')}", "a") as file:
            file.write("".join(f"{text}\n" for text in predictions))
        return [float(text.count("!")) for text in predictions]


class TiredOnTheSecond(Metric):
    """Fails on the second process, and alone."""

    name = "tired"

    def score(self, predictions, **columns):
        if os.environ.get("RANK", "1") == "1":
            raise ZeroDivisionError("tired")
        return [1.0] * len(predictions)


def table() -> SuiteResult:
    return compute_metrics(parse_rewards(SPECS, "metrics"), TEXTS, COLUMNS)


def as_json(found: SuiteResult) -> list:
    return json.loads(json.dumps([found.metrics, found.rows, found.unavailable]))


if __name__ == "__main__":
    PartialState(cpu=True)
    Path(sys.argv[1], f"found-{os.environ['RANK']}.json").write_text(json.dumps(as_json(table())))
    leave_together()

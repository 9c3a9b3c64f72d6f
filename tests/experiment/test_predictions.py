"""A file of predictions and the rows that they are for."""

from __future__ import annotations

import pytest
from datasets import Dataset

from support.data_files import predictions
from support.small_runs import SMALL
from trl_nlpo.errors import UserError
from trl_nlpo.experiment.predictions import matched_predictions
from trl_nlpo.experiment.systems import evaluate_on_task


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prediction": "a"}], "has 1 predictions, but the test split has 8 prompts"),
        ([{"text": "a"}], "row 1: a row needs the text of a `prediction`"),
        ([{"prompt": "x", "prediction": "a"}], "no prediction for 8 prompts of the test split, such as 'generate"),
        ([{"prompt": "x", "prediction": "a"}, {"prediction": "a"}], "the key 'prompt', but not every row has it"),
        ([{"id": n, "prediction": "a"} for n in range(8)], "the key 'id', but the test split has none"),
        ([], "is empty"),
    ],
)
def test_predictions_that_do_not_fit_are_a_users_mistake(rows, message, working_directory):
    with pytest.raises(UserError, match=message):
        evaluate_on_task(predictions(working_directory / "p.jsonl", rows), "commongen", SMALL)


def test_a_prompt_that_is_there_twice_gets_its_predictions_in_the_order_of_the_file(tmp_path):
    test = Dataset.from_list([{"prompt": "x"}, {"prompt": "y"}, {"prompt": "x"}])
    rows = [{"prompt": prompt, "prediction": text} for prompt, text in (("y", "one"), ("x", "two"), ("x", "three"))]
    predictions(tmp_path / "p.jsonl", rows)
    assert matched_predictions(tmp_path / "p.jsonl", test) == ["two", "one", "three"]
    predictions(tmp_path / "short.jsonl", rows[:2])
    with pytest.raises(UserError, match=r"the prompt 'x' in 1 rows, the test split .* in 2: give a prediction"):
        matched_predictions(tmp_path / "short.jsonl", test)

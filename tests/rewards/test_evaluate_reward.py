"""Modules of the package `evaluate` as rewards; here one that lies in a folder."""

from __future__ import annotations

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.rewards import get_reward


MODULE = """
import datasets
import evaluate


class SharedLetters(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="",
            citation="",
            inputs_description="",
            features=[
                datasets.Features(
                    {
                        "predictions": datasets.Value("string"),
                        "references": datasets.Sequence(datasets.Value("string")),
                    }
                ),
                datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
            ],
        )

    def _compute(self, predictions, references, bonus=0):
        shared = [len(set(text) & set("".join(row))) for text, row in zip(predictions, references)]
        return {"shared": sum(shared) / len(shared) + bonus, "all": shared}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "shared_letters").mkdir()
    (tmp_path / "shared_letters" / "shared_letters.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return "evaluate:./shared_letters"


def test_each_completion_is_judged_alone_by_the_number_that_is_asked_for(module):
    rows = {"completions": ["abc", "xyz"], "references": [["ab", "c"], ["q"]], "prompts": ["", ""]}
    assert get_reward(module, key="shared")(**rows) == [3.0, 0.0]
    assert get_reward(module, key="shared", scale=0.5, bonus=2)(**rows) == [2.5, 1.0]
    # a number in a list of one
    assert get_reward(module, key="all")(**rows) == [3.0, 0.0]
    assert get_reward(module, key="shared").__name__ == "shared_letters"


def test_conversational_completions_and_single_references_work(module):
    completions = [[{"role": "assistant", "content": "abc"}]]
    assert get_reward(module, key="shared")(completions=completions, references=["ab"]) == [2.0]


def test_several_numbers_need_a_choice_and_columns_are_named(module):
    with pytest.raises(UserError, match="gives shared, all: choose one with the option key"):
        get_reward(module)(completions=["a"], references=[["a"]])
    with pytest.raises(UserError, match="needs a column 'references'"):
        get_reward(module, key="shared")(completions=["a"])


def test_a_module_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="'evaluate:no_such_module' cannot be loaded") as caught:
        get_reward("evaluate:no_such_module")
    assert "\n" not in str(caught.value)

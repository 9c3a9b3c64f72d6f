"""Averages over completions, with a pencil."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from trl_nlpo.evaluation.summary import distinct_ngrams, perplexity, sample_row, summarize
from trl_nlpo.records import Completions, PromptBatch, Scores


@pytest.mark.parametrize(
    ("total_logprob", "num_tokens", "expected"),
    [(-math.log(8), 3, 2.0), (0.0, 5, 1.0), (0.0, 0, 1.0), (-1e9, 1, math.inf)],
)
def test_perplexity(total_logprob, num_tokens, expected):
    assert perplexity(total_logprob, num_tokens) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [
        (["a b a", "b"], 1, 2 / 4),
        (["a b a b", "a b"], 2, 2 / 4),  # ab, ba, ab and ab
        (["a", "b"], 2, 0.0),
        (["", ""], 1, 0.0),
        (["a b c"], 3, 1.0),
    ],
)
def test_distinct_ngrams(texts, n, expected):
    assert distinct_ngrams(texts, n) == pytest.approx(expected)


def test_a_single_row_has_no_deviation():
    row = {"sample": {"completion": "c"}, "score": 2.0, "rewards": {"f": 2.0}, "num_tokens": 1, "ended": True}
    row["judge_logprob"] = None
    assert summarize([row]).metrics["reward_std"] == 0.0


def row(score, completion="c", rewards=None, num_tokens=1, ended=True, judge_logprob=None):
    return {
        "sample": {"prompt": "p", "completion": completion},
        "score": score,
        "rewards": {"f": score} if rewards is None else rewards,
        "num_tokens": num_tokens,
        "ended": ended,
        "judge_logprob": judge_logprob,
    }


def test_rows_are_averaged_and_the_judges_tokens_weigh_alike():
    message = [{"role": "assistant", "content": "a b"}]
    rows = [
        row(1.0, "a a", {"f": 1.0, "g": math.nan}, num_tokens=3, judge_logprob=-math.log(4)),
        row(3.0, message, {"f": 3.0, "g": 5.0}, num_tokens=1, ended=False, judge_logprob=-math.log(4)),
    ]
    evaluation = summarize(rows)
    assert evaluation.metrics == pytest.approx(
        {
            "reward": 2.0,
            "reward_std": math.sqrt(2),
            "completions/mean_length": 2.0,
            "completions/eos_ratio": 0.5,
            "rewards/f/mean": 2.0,
            "rewards/g/mean": 5.0,  # it does not apply to the first row
            "perplexity": 2.0,  # exp(2 log 4 / 4 tokens)
            "distinct_1": 2 / 4,
            "distinct_2": 2 / 2,
        }
    )
    assert evaluation.samples == [entry["sample"] for entry in rows]


def test_completions_without_a_score_are_left_out_of_the_means_and_counted():
    metrics = summarize([row(1.0), row(math.nan), row(4.0)]).metrics
    assert (metrics["reward"], metrics["skipped_completions"]) == (2.5, 1)
    assert metrics["reward_std"] == pytest.approx(math.sqrt(4.5))
    assert "skipped_completions" not in summarize([row(1.0)]).metrics


def test_a_sample_keeps_prompt_score_and_what_was_logged_whatever_the_functions_are_called():
    one = torch.ones(1, 1, dtype=torch.long)
    batch = PromptBatch([[3]], ["p"], {})
    completions = Completions(batch, ["c"], one, one.bool(), one, one.bool(), torch.tensor([True]))
    per_function = torch.tensor([[1.0, 2.0, 3.0]])
    logged = {"note": ["n"], "score": ["s"]}
    scores = Scores(torch.tensor([6.0]), per_function, ["f", "prompt", "step"], extra_columns=logged)
    assert sample_row(completions, scores, 0, step=7) == {
        "prompt": "p",
        "completion": "c",
        "f": 1.0,
        "rewards/prompt": 2.0,
        "rewards/step": 3.0,
        "score": 6.0,
        "step": 7,
        "note": "n",
        "logged/score": "s",
    }


@pytest.mark.slow
def test_a_summary_loads_neither_models_nor_trl():
    code = """
import sys, trl_nlpo.evaluation.summary
loaded = [name for name in sys.modules if name.startswith(("trl.", "transformers", "trl_nlpo.models"))]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)

"""Rows of held-out prompts, on a model that a pencil can follow."""

from __future__ import annotations

import math

import pytest
from datasets import Dataset

from support import markov, tiny
from trl_nlpo import NLPOConfig
from trl_nlpo.evaluation.rows import evaluate_rows
from trl_nlpo.models.policy_and_value import completion_logits
from trl_nlpo.prompts import PromptDataset, prompt_tokenizer


def chances(rest=1e-6):
    """After w0 comes w1 or w2 by chance; after w1 comes w3, and after all others the end, almost surely.

    After the end, where padding stands, come the end and token 2 by chance.
    """
    rows = [[rest] * tiny.VOCAB_SIZE for _ in range(tiny.VOCAB_SIZE)]
    for token, row in enumerate(rows):
        likely = {1: (1, 2), 3: (4, 5), 4: (6,)}.get(token, (1,))
        for following in likely:
            row[following] = 1 / len(likely)
    return [[value / sum(row) for value in row] for row in rows]


def rows_of(indices, num_prompts=6, judge=None, **changes):
    tokenizer = tiny.tokenizer()
    args = NLPOConfig(
        output_dir="unused", report_to="none", use_cpu=True, **{"per_device_eval_batch_size": 2, **changes},
        response_length=4, stop_token="eos", temperature=1.0,
    )  # fmt: skip
    dataset = Dataset.from_list([{"prompt": "w0"}] * num_prompts)
    return evaluate_rows(
        markov.MarkovModel(chances()),
        PromptDataset(dataset, prompt_tokenizer(args, tokenizer), "prompts", None),
        indices,
        reward_functions=[tiny.length_reward],
        args=args,
        tokenizer=tokenizer,
        judge=None if judge is None else lambda sequences: completion_logits(judge, sequences),
    )


def test_a_row_has_the_sample_its_scores_and_its_length():
    # the end token counts
    words = {"w1 w3": (2.0, 3), "w2": (1.0, 2)}
    (row,) = rows_of([0])
    completion = row["sample"]["completion"]
    score, num_tokens = words[completion]
    assert row == {
        "sample": {"prompt": "w0", "completion": completion, "score": score, "length_reward": score},
        "score": score,
        "rewards": {"length_reward": score},
        "num_tokens": num_tokens,
        "ended": True,
        "judge_logprob": None,
    }


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_prompt_has_random_numbers_of_its_own_whatever_its_batch(batch_size):
    together = rows_of(range(6), per_device_eval_batch_size=batch_size)
    assert len({row["sample"]["completion"] for row in together}) == 2
    assert [rows_of([index])[0] for index in (4, 1)] == [together[4], together[1]]


def test_the_judge_counts_the_real_tokens_alone():
    # The judge gives 1/2 to w1 and w2 after w0, and the rest of a completion almost surely.
    rows = rows_of(range(6), judge=markov.MarkovModel(chances()), per_device_eval_batch_size=6)
    assert {row["num_tokens"] for row in rows} == {2, 3}
    assert [row["judge_logprob"] for row in rows] == pytest.approx([-math.log(2)] * 6, abs=1e-3)

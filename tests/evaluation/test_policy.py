"""A policy judged on held-out prompts, on a model that a pencil can follow."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset

from support import markov, tiny
from trl_nlpo import NLPOConfig, UserError
from trl_nlpo.evaluation.policy import evaluate_policy
from trl_nlpo.prompts import decoder
from trl_nlpo.records import PromptBatch


def table(likeliest: dict[int, int], rest: float = 1e-6) -> list[list[float]]:
    """After a token comes the one that is given for it (the end token by default), almost surely."""
    rows = []
    for token in range(tiny.VOCAB_SIZE):
        row = [rest] * tiny.VOCAB_SIZE
        row[likeliest.get(token, 1)] = 1 - rest * (tiny.VOCAB_SIZE - 1)
        rows.append(row)
    return rows


# w0 (3) is followed by w1 w2 and the end; w3 (6) by w4 for ever.
CERTAIN = {3: 4, 4: 5, 5: 1, 6: 7, 7: 7}
ROWS = [{"prompt": "w0", "gold": 1.0}, {"prompt": "w9 w3", "gold": 2.0}, {"prompt": "w1", "gold": 4.0}]


def config(**changes) -> NLPOConfig:
    return NLPOConfig(
        output_dir="unused", report_to="none", use_cpu=True, per_device_eval_batch_size=2,
        **{"response_length": 4, "stop_token": "eos", "temperature": 1.0, **changes},
    )  # fmt: skip


def evaluate(rows=ROWS, rewards=tiny.length_reward, model=None, judge=None, tokenizer=None, **changes):
    model = model or markov.MarkovModel(table(CERTAIN))
    return evaluate_policy(
        model, tokenizer or tiny.tokenizer(), Dataset.from_list(rows), rewards, config(**changes), judge
    )


def random_policy():
    torch.manual_seed(1)
    return markov.MarkovModel(torch.rand(tiny.VOCAB_SIZE, tiny.VOCAB_SIZE).softmax(-1).tolist())


def test_a_policy_that_knows_what_it_wants_is_judged_by_hand():
    evaluation = evaluate()
    assert [row["completion"] for row in evaluation.samples] == ["w1 w2", "w4 w4 w4 w4", "w2"]
    assert [row["score"] for row in evaluation.samples] == [2.0, 4.0, 1.0]
    expected = {
        "reward": 7 / 3,
        "reward_std": math.sqrt(((2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2 + (1 - 7 / 3) ** 2) / 2),
        "rewards/length_reward/mean": 7 / 3,
        "completions/mean_length": (3 + 4 + 2) / 3,  # the end token counts
        "completions/eos_ratio": 2 / 3,
        "distinct_1": 3 / 7,  # w1, w2, w4 of seven words
        "distinct_2": 2 / 4,  # w1 w2 and w4 w4 of four pairs
    }
    assert evaluation.metrics == pytest.approx(expected)
    assert evaluation.samples[1] == {
        "prompt": "w9 w3",
        "completion": "w4 w4 w4 w4",
        "score": 4.0,
        "length_reward": 4.0,
    }


def test_the_perplexity_is_the_judges_at_temperature_one():
    # The judge gives 0.5 to each token of the first completion, and to the others of the second and third.
    probabilities = [[0.5 / (tiny.VOCAB_SIZE - 1)] * tiny.VOCAB_SIZE for _ in range(tiny.VOCAB_SIZE)]
    for token in range(tiny.VOCAB_SIZE):
        probabilities[token][CERTAIN.get(token, 1)] = 0.5
    judge = markov.MarkovModel(probabilities)
    for temperature in (1.0, 0.3):
        metrics = evaluate(judge=judge, temperature=temperature).metrics
        assert metrics["perplexity"] == pytest.approx(2.0, rel=1e-5)


def test_columns_weights_and_penalties_reach_the_scores():
    def gold_reward(completions, gold, **kwargs):
        return gold

    evaluation = evaluate(
        rewards=[tiny.length_reward, gold_reward], reward_weights=[1.0, 10.0], missing_eos_penalty=0.5
    )
    # lengths 2, 4, 1 plus ten times gold; the second completion does not end
    assert [row["score"] for row in evaluation.samples] == [12.0, 23.5, 41.0]
    assert evaluation.metrics["rewards/gold_reward/mean"] == pytest.approx(7 / 3)


def test_a_function_that_applies_to_some_rows_is_averaged_over_those():
    def sometimes(completions, **kwargs):
        return [3.0 if completion == "w1 w2" else None for completion in completions]

    evaluation = evaluate(rewards=[tiny.length_reward, sometimes])
    assert evaluation.metrics["rewards/sometimes/mean"] == 3.0
    assert [row["score"] for row in evaluation.samples] == [5.0, 4.0, 1.0]


def test_sampling_is_the_same_for_the_same_seed_and_leaves_the_random_state_alone():
    model = random_policy()
    before = torch.random.get_rng_state()
    first, again, other = (evaluate(model=model, seed=seed).samples for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert torch.equal(torch.random.get_rng_state(), before)


def test_evaluation_is_without_a_mask():
    def token_1_to_20(completions, **kwargs):
        return [float(len(set(completion.split()))) for completion in completions]

    # a mask of one token would allow a single completion
    narrow = {"mask_strategy": "top_k", "mask_top_k": 1}
    free, masked = (
        evaluate(ROWS[:1] * 20, token_1_to_20, random_policy(), **changes).samples for changes in ({}, narrow)
    )
    assert free == masked
    assert len({row["completion"] for row in free}) > 10


@pytest.mark.parametrize("kwargs", [{"do_sample": False}, {"do_sample": False, "num_beams": 3}, {"top_k": 1}], ids=str)
def test_greedy_search_beams_and_warpers_are_taken_from_eval_generation_kwargs(kwargs):
    model = random_policy()
    weights = model.head.weight.T.clone()
    weights[:, 1] = -9.0  # no end
    model.head.weight.data = weights.T.contiguous()
    completions = [row["completion"] for row in evaluate(model=model, eval_generation_kwargs=kwargs).samples]
    if "num_beams" in kwargs:
        best = [best_of_all(weights.detach().log_softmax(-1), first) for first in (3, 6, 4)]
    else:
        best = [greedy(weights, first) for first in (3, 6, 4)]
    expected = [tiny.tokenizer().decode(tokens, skip_special_tokens=True) for tokens in best]
    assert completions == expected


def greedy(weights, last):
    tokens = []
    for _ in range(4):
        last = int(weights[last].argmax())
        tokens.append(last)
    return tokens


def best_of_all(logprobs, last, width=3):
    """Beam search by the book, without an end token."""
    beams = [(0.0, [last])]
    for _ in range(4):
        longer = [
            (score + float(logprobs[row[-1], t]), [*row, t]) for score, row in beams for t in range(len(logprobs))
        ]
        beams = sorted(longer, key=lambda beam: -beam[0])[:width]
    return beams[0][1][1:]


def test_messages_are_completed_with_a_message():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    prompt = [{"role": "user", "content": "w0"}]
    seen = []

    def reward(prompts, completions, **kwargs):
        seen.extend(zip(prompts, completions, strict=True))
        return [float(len(completion[0]["content"].split())) for completion in completions]

    evaluation = evaluate([{"prompt": prompt}], reward, tokenizer=tokenizer)
    assert seen == [(prompt, [{"role": "assistant", "content": "w1 w2"}])]
    assert evaluation.metrics["distinct_1"] == 1.0
    assert evaluation.metrics["reward"] == 2.0


def test_text_and_messages_are_decoded_without_special_tokens():
    batch = PromptBatch([[3], [4]], ["w0", [{"role": "user", "content": "w1"}]])
    decoded = decoder(tiny.tokenizer())(batch, [[5, 6, 1], [7, 0]])
    assert decoded == ["w2 w3", [{"role": "assistant", "content": "w4"}]]


def test_the_mode_and_the_settings_of_the_model_are_left_alone():
    model = random_policy().train()
    own = model.generation_config
    evaluate(model=model)
    assert model.training
    assert model.generation_config is own


def test_an_encoder_decoder_model_is_evaluated_too():
    evaluation = evaluate(model=tiny.policy("t5"), judge=tiny.policy("t5"))
    assert evaluation.metrics["perplexity"] > 1
    assert len(evaluation.samples) == 3


@pytest.mark.parametrize(
    ("family", "kwargs"),
    [
        ("t5", {"do_sample": False}), ("t5", {"do_sample": False, "num_beams": 3, "min_new_tokens": 2}),
        ("gpt2", {"do_sample": False, "min_new_tokens": 2}),
    ],
    ids=str,
)  # fmt: skip
def test_restrictions_and_forced_tokens_hold_in_greedy_and_beam_search(family, kwargs):
    evaluation = evaluate(model=tiny.policy(family).eval(), eval_generation_kwargs=kwargs)
    assert evaluation.metrics["completions/mean_length"] >= kwargs.get("min_new_tokens", 0)


@pytest.mark.parametrize("name", ["score", "num_tokens", "ended", "completion", "prompt"])
def test_a_reward_function_may_have_any_name(name):
    def reward(completions, **kwargs):
        return [float(len(completion.split())) for completion in completions]

    reward.__name__ = name
    evaluation = evaluate(rewards=reward, reward_weights=[10.0])
    assert evaluation.metrics["reward"] == pytest.approx(70 / 3)
    assert evaluation.metrics["completions/mean_length"] == pytest.approx(3.0)
    assert evaluation.metrics["completions/eos_ratio"] == pytest.approx(2 / 3)
    assert (evaluation.samples[0]["prompt"], evaluation.samples[0]["completion"]) == ("w0", "w1 w2")


def test_a_column_that_a_function_logs_does_not_replace_the_score():
    def reward(completions, log_extra, **kwargs):
        log_extra("score", ["high"] * len(completions))
        return [1.0] * len(completions)

    assert evaluate(rewards=reward).metrics["reward"] == 1.0


def test_an_empty_data_set_is_a_mistake_of_the_user():
    with pytest.raises(UserError, match="empty"):
        evaluate([])


def test_beams_that_are_sampled_know_the_repetitions_of_their_own_prompt():
    # Every token is likeliest after itself, but the penalty makes what stands in the prompt impossible.
    rows = torch.full((tiny.VOCAB_SIZE, tiny.VOCAB_SIZE), 0.1) + 20 * torch.eye(tiny.VOCAB_SIZE)
    rows[:, [0, 1, 2]] = 1e-9
    model = markov.MarkovModel(rows.tolist())
    kwargs = {"num_beams": 2, "repetition_penalty": 1e6}
    prompts = [{"prompt": "w0"}, {"prompt": "w1"}, {"prompt": "w2"}, {"prompt": "w3"}]
    samples = evaluate(prompts, model=model, eval_generation_kwargs=kwargs).samples
    assert not [row for row in samples if row["prompt"] in row["completion"].split()]

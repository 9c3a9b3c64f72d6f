"""The `.step()` loop: every number of a step computed again, without padding, by plain formulas."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from accelerate.tracking import GeneralTracker
from transformers.utils import logging as transformers_logging

from support import tiny
from trl_nlpo.errors import UserError
from trl_nlpo.legacy import (
    AutoModelForCausalLMWithValueHead,
    AutoModelForSeq2SeqLMWithValueHead,
    PPOConfig,
    PPOTrainer,
    create_reference_model,
)


pytestmark = pytest.mark.filterwarnings("ignore:trl_nlpo.legacy.PPOTrainer is for scripts:FutureWarning")

SAMPLING = {"do_sample": True, "eos_token_id": -1, "max_new_tokens": 5, "return_prompt": False}
QUERIES = [[5, 6, 7], [8], [9, 10], [4, 4, 4, 4]]


def small_trainer(family="gpt2", model=None, ref_model=None, optimizer=None, dataset=None, **settings):
    kind = AutoModelForSeq2SeqLMWithValueHead if family == "t5" else AutoModelForCausalLMWithValueHead
    model = kind.from_pretrained(tiny.policy(family)) if model is None else model
    values = {"batch_size": 4, "mini_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2}
    return PPOTrainer(PPOConfig(**{**values, **settings}), model, ref_model, tiny.tokenizer(), dataset, optimizer)


def queries():
    return [torch.tensor(query) for query in QUERIES]


# By hand


def states_of(model, head, query, response):
    """Logits `(T, V)` and values `(T,)` of one row alone."""
    ids = torch.cat([query, response])[None]
    output = model(input_ids=ids, output_hidden_states=True)
    places = slice(len(query) - 1, -1)
    return output.logits[0, places], head(output.hidden_states[-1][0, places]).squeeze(-1)


def chosen(logits, response, allowed=None):
    logits = logits if allowed is None else logits.masked_fill(~allowed, float("-inf"))
    return logits.log_softmax(-1).gather(-1, response[:, None]).squeeze(-1)


def advantages_by_hand(rewards, values, gamma, lam):
    found = []
    for start in range(len(rewards)):
        total = 0.0
        for t in range(start, len(rewards)):
            after = values[t + 1] if t + 1 < len(rewards) else 0.0
            total = total + (gamma * lam) ** (t - start) * (rewards[t] + gamma * after - values[t])
        found.append(total)
    return torch.stack(found)


@pytest.mark.parametrize(
    ("arguments", "temperature", "top_k", "is_masked"),
    [({}, 1.0, None, False), ({"temperature": 0.7, "top_k": 6}, 0.7, 6, False), ({}, 1.0, None, True)],
    ids=["plain", "temperature and top-k", "response masks"],
)
def test_a_step_is_what_plain_formulas_say(arguments, temperature, top_k, is_masked):
    gamma, lam, beta, scores = 0.9, 0.8, 0.3, torch.tensor([1.0, -0.5, 0.25, 2.0])
    model = AutoModelForCausalLMWithValueHead.from_pretrained(tiny.policy("gpt2"))
    # Without dropout, as the trainer has them; by `eval` here, which it does not use.
    reference = tiny.policy("gpt2", seed=4).eval()
    policy, head = copy.deepcopy(model.pretrained_model).eval(), copy.deepcopy(model.v_head)
    trainer = small_trainer(
        model=model, ref_model=copy.deepcopy(reference), optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        gamma=gamma, lam=lam, init_kl_coef=beta, ppo_epochs=2,
    )  # fmt: skip
    responses = trainer.generate(queries(), batch_size=3, **SAMPLING, **arguments)
    responses = [response[: 5 - index] for index, response in enumerate(responses)]
    masks = [torch.ones(len(response), dtype=torch.bool) for response in responses]
    if is_masked:
        masks[0][2] = masks[1][0] = masks[2][2] = False
    stats = trainer.step(queries(), responses, list(scores), masks if is_masked else None)

    rows = list(zip(queries(), responses, masks, strict=True))
    old, raw, ref, values, allowed, advantages, returns, kls = ([] for _ in range(8))
    with torch.no_grad():
        for (query, response, own), score in zip(rows, scores, strict=True):
            logits, value = states_of(policy, head, query, response)
            logits = logits / temperature
            sets = logits >= logits.topk(top_k).values[:, -1:] if top_k else torch.ones_like(logits, dtype=torch.bool)
            allowed.append(sets)
            old.append(chosen(logits, response, sets)[own])
            raw.append(chosen(logits, response)[own])
            ref.append(chosen(states_of(reference, head, query, response)[0] / temperature, response)[own])
            values.append(value[own])
            kls.append(raw[-1] - ref[-1])
            rewards = -beta * kls[-1]
            rewards[-1] += score
            advantages.append(advantages_by_hand(rewards, values[-1], gamma, lam))
            returns.append(advantages[-1] + values[-1])
    flat = torch.cat(advantages)
    whitened = (flat - flat.mean()) / (flat.var() + 1e-8).sqrt()

    optimizer = torch.optim.SGD([*policy.parameters(), *head.parameters()], lr=0.05)
    seen = {name: [] for name in ("policy", "value", "clipped", "kl", "half_square", "entropy", "vpred", "error")}
    for _ in range(2):
        new, value, entropy = [], [], []
        for (query, response, own), sets in zip(rows, allowed, strict=True):
            logits, each = states_of(policy, head, query, response)
            logits = logits / temperature
            new.append(chosen(logits, response, sets)[own])
            value.append(each[own])
            log_p = logits.masked_fill(~sets, float("-inf")).log_softmax(-1)
            entropy.append(-(log_p.exp() * log_p.clamp(min=-1e9)).sum(-1)[own])
        log_ratio, V, R = torch.cat(new) - torch.cat(old), torch.cat(value), torch.cat(returns)
        unclipped = -whitened * log_ratio.exp()
        clipped = -whitened * log_ratio.exp().clamp(0.8, 1.2)
        near = torch.cat(values) + (V - torch.cat(values)).clamp(-0.2, 0.2)
        policy_loss = torch.maximum(unclipped, clipped).mean()
        value_loss = 0.5 * torch.maximum((V - R) ** 2, (near - R) ** 2).mean()
        for name, number in {
            "policy": policy_loss, "value": value_loss, "clipped": (clipped > unclipped).float().mean(),
            "kl": -log_ratio.mean(), "half_square": 0.5 * (log_ratio**2).mean(),
            "entropy": torch.cat(entropy).mean(), "vpred": V.mean(), "error": ((V - R) ** 2).mean(),
        }.items():  # fmt: skip
            seen[name].append(float(number.detach()))
        optimizer.zero_grad()
        (policy_loss + 0.1 * value_loss).backward()
        optimizer.step()

    mean = {name: sum(numbers) / 2 for name, numbers in seen.items()}
    R = torch.cat(returns)
    expected = {
        "objective/kl": torch.stack([kl.sum() for kl in kls]).mean(),
        "objective/kl_coef": beta,
        "objective/entropy": torch.stack([-row.sum() for row in old]).mean(),
        "ppo/mean_non_score_reward": -beta * torch.cat(kls).mean(),
        "ppo/mean_scores": scores.mean(),
        "ppo/std_scores": scores.std(),
        "ppo/loss/policy": mean["policy"],
        "ppo/loss/value": mean["value"],
        "ppo/loss/total": mean["policy"] + 0.1 * mean["value"],
        "ppo/policy/entropy": mean["entropy"],
        "ppo/policy/approxkl": mean["half_square"],
        "ppo/policy/policykl": mean["kl"],
        "ppo/policy/clipfrac": mean["clipped"],
        "ppo/policy/advantages_mean": 0.0,
        "ppo/returns/mean": R.mean(),
        "ppo/returns/var": R.var(),
        "ppo/val/vpred": mean["vpred"],
        "ppo/val/error": mean["error"],
        "ppo/val/mean": torch.cat(values).mean(),
        "ppo/val/var": torch.cat(values).var(),
        "ppo/val/var_explained": 1 - mean["error"] / R.var(),
    }
    assert mean["clipped"] > 0
    assert {name: stats[name] for name in expected} == {
        name: pytest.approx(float(number), rel=2e-4, abs=2e-6) for name, number in expected.items()
    }
    assert stats["ppo/policy/advantages"] == pytest.approx(whitened.numpy(), rel=1e-4, abs=1e-5)
    assert stats["nlpo/first_ratio_deviation"] < 1e-5
    error = min(max(float(expected["objective/kl"]) / 6.0 - 1.0, -0.2), 0.2)
    assert trainer.kl_ctl.value == pytest.approx(beta * (1.0 + error * 4 / 10_000))
    for own, other in zip([*policy.parameters(), *head.parameters()], model.parameters(), strict=True):
        torch.testing.assert_close(other.data, own.data, rtol=1e-3, atol=2e-6)


# Exactness


@pytest.mark.parametrize(
    ("family", "settings", "arguments"),
    [
        ("gpt2", {}, {"top_p": 0.7}),
        ("gpt2", {"mask_strategy": "top_p", "mask_sync_steps": 1}, {"repetition_penalty": 1.3}),
        ("gpt2", {"mask_strategy": "top_k", "mask_top_k": 4, "mask_sync_steps": None}, {}),
        ("llama", {}, {"min_new_tokens": 3, "eos_token_id": 1}),
        ("t5", {}, {"top_k": 3, "temperature": 1.5}),
    ],
)
def test_the_first_ratio_is_1_under_whatever_generate_sampled_with(family, settings, arguments):
    trainer = small_trainer(family, ppo_epochs=1, **settings)
    for _ in range(2):
        responses = trainer.generate(queries(), batch_size=2, **{**SAMPLING, **arguments})
        stats = trainer.step(queries(), responses, [float(index) for index in range(4)])
        assert stats["nlpo/first_ratio_deviation"] < 2e-5
        assert stats["nlpo/optimizer_steps"] == 1
        # The ratio would be 1 under any settings that both passes share: these are those of generate().
        assert not trainer._has_warned


def test_models_with_dropout_compute_one_policy():
    trainer = small_trainer("opt", ppo_epochs=1)
    responses = trainer.generate(queries(), **SAMPLING)
    assert trainer.step(queries(), responses, [1.0] * 4)["nlpo/first_ratio_deviation"] < 1e-5


def test_a_response_made_of_two_turns_is_found_again_with_what_was_allowed():
    trainer = small_trainer(ppo_epochs=1, temperature=None)
    between = torch.tensor([11, 12])
    rows = []
    for query in queries():
        first = trainer.generate(query, top_k=3, **SAMPLING).squeeze(0)
        second = trainer.generate(torch.cat([query, first, between]), top_k=3, **SAMPLING).squeeze(0)
        rows.append(torch.cat([first, between, second]))
    masks = [torch.tensor([1] * 5 + [0] * 2 + [1] * 5) for _ in rows]
    stats = trainer.step(queries(), rows, [1.0, 0.0, 2.0, 0.5], response_masks=masks)
    assert stats["nlpo/first_ratio_deviation"] < 1e-5
    # Of three tokens, which no unrestricted policy would have.
    assert stats["ppo/policy/entropy"] <= torch.tensor(3.0).log() + 1e-6
    assert len(stats["ppo/policy/advantages"]) == 40


def test_a_pad_token_in_a_response_counts_like_any_other():
    trainer = small_trainer(ppo_epochs=1, temperature=1.0)
    responses = [torch.tensor([0, 0, 5]), torch.tensor([1]), torch.tensor([0]), torch.tensor([3, 0])]
    stats = trainer.step(queries(), responses, [1.0, 0.0, 2.0, 0.5])
    assert list(stats["tokens/responses_dist"]) == [3, 1, 1, 2]
    assert len(stats["ppo/policy/advantages"]) == 7


def test_early_stopping_ends_the_epochs_of_a_step():
    moved = {"learning_rate": 0.1, "early_stopping": True, "ppo_epochs": 6, "init_kl_coef": 0.0}
    found = []
    for target_kl in (1e-3, 1e6):
        torch.manual_seed(1)
        trainer = small_trainer(target_kl=target_kl, **moved)
        responses = trainer.generate(queries(), **SAMPLING)
        found.append(trainer.step(queries(), responses, [1.0, 0.0, 2.0, 0.5])["nlpo/optimizer_steps"])
    assert found[0] < found[1] == 6


# What is said


def messages_of(caplog, action):
    transformers_logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            action()
    finally:
        transformers_logging.disable_propagation()
    return [record.getMessage() for record in caplog.records if "of this step" in record.getMessage()]


def test_tokens_from_elsewhere_are_said_once(caplog):
    trainer = small_trainer(ppo_epochs=1)

    def steps():
        for _ in range(2):
            responses = trainer.generate(queries(), **SAMPLING)
            responses[1] = torch.tensor([3, 4])
            trainer.step(queries(), responses, [1.0] * 4)

    (message,) = messages_of(caplog, steps)
    assert message.startswith("2 of 17 tokens of this step were not sampled by generate()")
    assert "at temperature 1.0" in message


def test_greedy_tokens_are_said(caplog):
    trainer = small_trainer(ppo_epochs=1)

    def step():
        responses = trainer.generate(queries(), **{**SAMPLING, "do_sample": False})
        trainer.step(queries(), responses, [1.0] * 4)

    (message,) = messages_of(caplog, step)
    assert message.startswith("20 of 20 tokens of this step were generated greedily or with beams")


def test_sampled_tokens_are_passed_over_in_silence(caplog):
    trainer = small_trainer(ppo_epochs=1)
    assert not messages_of(caplog, lambda: trainer.step(queries(), trainer.generate(queries(), **SAMPLING), [1.0] * 4))


def test_several_temperatures_in_a_step_are_refused():
    trainer = small_trainer()
    responses = [
        trainer.generate(query, temperature=0.5 + index, **SAMPLING)[0] for index, query in enumerate(queries())
    ]
    with pytest.raises(UserError, match=r"were sampled with several settings .*; one step takes one\."):
        trainer.step(queries(), responses, [1.0] * 4)


@pytest.mark.filterwarnings("default:trl_nlpo.legacy.PPOTrainer is for scripts:FutureWarning")
def test_it_points_to_the_new_trainer():
    with pytest.warns(FutureWarning, match=r"train new ones with trl_nlpo.NLPOTrainer"):
        small_trainer()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": tiny.policy}, "wrap it with AutoModelForCausalLMWithValueHead"),
        ({"config": dict}, "config must be a trl_nlpo.legacy.PPOConfig, not dict"),
        ({"num_shared_layers": lambda: 2}, "train an adapter"),
        ({"reward_funcs": list}, r"PPOTrainer has no 'reward_funcs': compute scores in the script"),
        ({"training_data_collator": lambda: list}, "padded by their lengths"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_with_what_to_do(arguments, message):
    model = AutoModelForCausalLMWithValueHead.from_pretrained(tiny.policy())
    given = {"config": PPOConfig(batch_size=4, mini_batch_size=4), "model": model, "tokenizer": tiny.tokenizer()}
    with pytest.raises(UserError, match=message):
        PPOTrainer(**{**given, **{name: value() for name, value in arguments.items()}})


def test_the_model_itself_is_no_reference_and_an_optimizer_must_know_the_head():
    model = AutoModelForCausalLMWithValueHead.from_pretrained(tiny.policy())
    with pytest.raises(UserError, match="ref_model is the model that is trained"):
        small_trainer(model=model, ref_model=model)
    with pytest.raises(UserError, match="does not train the model with its value head"):
        small_trainer(model=model, optimizer=torch.optim.SGD(model.pretrained_model.parameters(), lr=1.0))


@pytest.mark.parametrize(
    ("query", "response", "message"),
    [
        ([3], [41], "step: response 0 has the token 41, but the model knows 41 tokens"),
        ([-1], [4], "step: query 0 has the token -1"),
        ([3] * 60, [4] * 5, "step: query with response 0 has 65 tokens, but the model's context only 64"),
    ],
)
def test_tokens_that_the_model_does_not_have_and_rows_beyond_its_context_are_refused(query, response, message):
    trainer = small_trainer(batch_size=1, mini_batch_size=1, gradient_accumulation_steps=1)
    with pytest.raises(UserError, match=message):
        trainer.step([torch.tensor(query)], [torch.tensor(response)], [1.0])


# Generating


def test_generate_has_the_old_shapes():
    trainer = small_trainer()
    (one,) = trainer.generate(queries()[0], **{**SAMPLING, "return_prompt": True})
    assert one[:3].tolist() == QUERIES[0]
    assert len(one) == 8
    both, others = trainer.generate(queries(), generate_ref_response=True, length_sampler=lambda: 2, **SAMPLING)
    assert [len(row) for row in both] == [len(row) for row in others] == [2, 2, 2, 2]
    with pytest.raises(UserError, match=r"a query is a tensor of shape \(P,\)"):
        trainer.generate(queries()[0][None], **SAMPLING)


def test_an_end_token_ends_a_row_and_padding_is_cut_by_lengths():
    trainer = small_trainer()
    prompts = [torch.tensor([1, 5, 0])] * 4
    rows = trainer.generate(prompts, **{**SAMPLING, "eos_token_id": list(range(3, 20)), "return_prompt": True})
    for row in rows:
        new = row[3:].tolist()
        assert row[:3].tolist() == [1, 5, 0]
        assert len(new) == 5 or 3 <= new[-1] < 20
        assert not [token for token in new[:-1] if 3 <= token < 20]


# Logging, data, learning


class Notes(GeneralTracker):
    name, requires_logging_directory = "notes", False

    def __init__(self):
        super().__init__()
        self.logs, self.tables = [], []

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.values = values

    def log(self, values, step=None, **kwargs):
        self.logs.append((step, values))

    def log_table(self, table_name, columns=None, data=None, step=None, **kwargs):
        self.tables.append((columns, data))


def test_log_stats_gives_trackers_numbers_and_a_table():
    notes = Notes()
    trainer = small_trainer(log_with=notes, ppo_epochs=1)
    responses = trainer.generate(queries(), **SAMPLING)
    rewards = [torch.tensor(float(index)) for index in range(4)]
    stats = trainer.step(queries(), responses, rewards)
    batch = {"query": list("abcd"), "response": list("efgh")}
    trainer.log_stats(stats, batch, rewards)
    ((step, logged),) = notes.logs
    assert step == 1
    assert logged["env/reward_mean"] == 1.5
    assert logged["objective/kl"] == stats["objective/kl"]
    assert all(isinstance(value, (int, float)) for value in logged.values())
    assert notes.tables == [
        (["query", "response", "reward"], [["a", "e", 0.0], ["b", "f", 1.0], ["c", "g", 2.0], ["d", "h", 3.0]])
    ]
    with pytest.raises(UserError, match="the batch has no column 'response'; it has query"):
        trainer.log_stats(stats, {"query": batch["query"]}, rewards)


def test_the_data_loader_gives_whole_batches_in_an_order_of_the_seed():
    orders = []
    for seed in (0, 0, 1):
        trainer = small_trainer(dataset=[{"number": index} for index in range(10)], seed=seed)
        orders.append([batch["number"].tolist() for batch in trainer.dataloader])
    assert [len(batch) for batch in orders[0]] == [4, 4]
    assert orders[0] == orders[1] != orders[2]
    with pytest.raises(UserError, match="dataset has 3 rows, but batch_size is 4"):
        small_trainer(dataset=[1, 2, 3])


def test_a_reference_copy_stands_still_and_the_policy_moves():
    model = AutoModelForCausalLMWithValueHead.from_pretrained(tiny.policy())
    reference = create_reference_model(model)
    before = copy.deepcopy(reference.state_dict())
    trainer = small_trainer(model=model, ref_model=reference)
    for _ in range(2):
        stats = trainer.step(queries(), trainer.generate(queries(), **SAMPLING), [1.0, 0.0, 2.0, 0.5])
    assert stats["objective/kl"] != 0.0
    assert all(torch.equal(weight, before[name]) for name, weight in reference.state_dict().items())


@pytest.mark.slow
def test_a_reward_goes_up():
    trainer = small_trainer(batch_size=32, mini_batch_size=32, gradient_accumulation_steps=1, init_kl_coef=0.0)
    prompts = [torch.tensor([3 + index]) for index in range(32)]
    means = []
    for _ in range(12):
        responses = trainer.generate(prompts, batch_size=32, **SAMPLING)
        scores = [(response < 15).float().mean() for response in responses]
        means.append(trainer.step(prompts, responses, scores)["ppo/mean_scores"])
    assert sum(means[-3:]) / 3 > sum(means[:3]) / 3 + 0.3

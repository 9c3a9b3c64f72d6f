"""Settings of the critic and of the ratio's limits, from configuration and command line to what is learned."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig

from support import tiny
from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.errors import UserError
from trl_nlpo.recipes.recipe import load_recipe
from trl_nlpo.trainer.optimizer_settings import set_critic_rate


def trainer(tmp_path, **settings) -> NLPOTrainer:
    given = {name: settings.pop(name) for name in ("peft_config", "optimizers", "model") if name in settings}
    settings = {"save_strategy": "no", **settings}
    args = NLPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_ppo_epochs=2, response_length=6, stop_token="eos",
        learning_rate=1e-2, max_steps=2, report_to="none", disable_tqdm=True, use_cpu=True,
        num_sample_generations=0, **settings,
    )  # fmt: skip
    return NLPOTrainer(
        args=args, processing_class=tiny.tokenizer(), reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(), **{"model": tiny.policy(), **given},
    )  # fmt: skip


def weights_after(tmp_path, **settings):
    subject = trainer(tmp_path, **settings)
    subject.train()
    return torch.cat([weight.detach().flatten() for weight in subject.policy_model.parameters()]), subject


def test_a_lambda_of_one_gives_the_critic_sums_of_rewards_and_leaves_the_advantages_alone(tmp_path):
    one, both = (trainer(tmp_path, lam=0.0, gamma=1.0, **more) for more in ({}, {"critic_lam": 1.0}))
    rollout = one.collect_rollout(list(tiny.prompts(4)["prompt"]))
    scores = one.score_rollout(rollout)
    plain, apart = one.estimate_advantages(rollout, scores), both.estimate_advantages(rollout, scores)
    assert torch.equal(plain.advantages, apart.advantages)
    to_come = apart.rewards.flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(apart.returns, torch.where(rollout.completion_mask, to_come, 0.0))
    assert not torch.allclose(plain.returns, apart.returns)


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        # Limits that nothing reaches change no weight ...
        ({"cliprange_high": 0.2}, True),
        ({"dual_clip": 1e6}, True),
        ({"is_truncation": [0.0, 1e6]}, True),
        ({"critic_lam": 0.95}, True),
        # ... and others do.
        ({"cliprange_high": 0.0}, False),
        ({"is_truncation": [0.999, 1.001]}, False),
        ({"critic_lam": 0.0}, False),
    ],
)
def test_each_setting_does_something_and_only_where_its_limit_is_reached(tmp_path, settings, same):
    plain, _ = weights_after(tmp_path)
    other, subject = weights_after(tmp_path, **settings)
    assert torch.equal(plain, other) is same
    assert all(math.isfinite(line["value/mean"]) for line in subject.state.log_history if "value/mean" in line)


def critic_and_policy(subject):
    """Their learning rates, as the optimizer has them; each weight is in one group."""
    critic = {id(weight) for weight in subject.policy_and_value.critic_parameters()}
    groups = subject.optimizer.param_groups
    weights = [id(weight) for group in groups for weight in group["params"]]
    assert len(weights) == len(set(weights)) == sum(w.requires_grad for w in subject.policy_and_value.parameters())
    rates = {is_critic: set() for is_critic in (True, False)}
    for group in groups:
        for weight in group["params"]:
            rates[id(weight) in critic].add(group["lr"])
    return rates[True], rates[False]


@pytest.mark.parametrize("peft", [False, True])
def test_the_critic_has_its_own_learning_rate_on_the_same_schedule(tmp_path, peft):
    adapter = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM") if peft else None
    subject = trainer(tmp_path, critic_learning_rate=4e-2, lr_scheduler_type="linear", peft_config=adapter)
    assert critic_and_policy(subject) == ({4e-2}, {1e-2})
    subject.train()
    logged = [(line["lr"], line["critic_lr"]) for line in subject.state.log_history if "critic_lr" in line]
    assert logged == [(1e-2, 4e-2), (5e-3, 2e-2)]


def test_the_same_rate_for_both_changes_no_weight(tmp_path):
    plain, _ = weights_after(tmp_path)
    apart, _ = weights_after(tmp_path, critic_learning_rate=1e-2)
    assert torch.equal(plain, apart)


def test_a_run_with_two_rates_resumes_to_the_same_weights(tmp_path):
    keys = {"critic_learning_rate": 4e-2, "save_strategy": "steps", "save_steps": 1, "value_trains_backbone": False}
    _, subject = weights_after(tmp_path / "whole", **keys)
    again = trainer(tmp_path / "whole", **keys)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    for ours, theirs in zip(again.model.parameters(), subject.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_rate_for_an_optimizer_that_is_given_or_has_no_groups_is_one_line(tmp_path):
    policy = tiny.policy()
    given = torch.optim.SGD(policy.parameters(), lr=0.1)
    with pytest.raises(UserError, match="critic_learning_rate has no effect on an optimizer that is given"):
        trainer(tmp_path, critic_learning_rate=1e-3, model=policy, optimizers=(given, None))
    with pytest.raises(UserError, match="critic_learning_rate cannot be set with the optimizer SGD"):
        set_critic_rate(given, torch.nn.Linear(2, 1).parameters(), 1e-3)


def test_pairs_of_numbers_come_from_the_command_line_too():
    recipe = load_recipe("quickstart", ["--is_truncation", "0.2", "4.0", "--critic_lam", "1.0", "--use_cpu", "true"])
    assert recipe.training.is_truncation == [0.2, 4.0]
    assert recipe.training.critic_lam == 1.0

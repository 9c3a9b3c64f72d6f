"""Settings of the critic and of the ratio's limits, from configuration and command line to what is learned."""

from __future__ import annotations

import math

import pytest
import torch

from support import tiny
from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.recipes.recipe import load_recipe


def trainer(tmp_path, **settings) -> NLPOTrainer:
    args = NLPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_ppo_epochs=2, response_length=6, stop_token="eos",
        learning_rate=1e-2, max_steps=2, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True,
        num_sample_generations=0, **settings,
    )  # fmt: skip
    return NLPOTrainer(
        args=args, processing_class=tiny.tokenizer(), model=tiny.policy(), reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(),
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


def test_pairs_of_numbers_come_from_the_command_line_too():
    recipe = load_recipe("quickstart", ["--is_truncation", "0.2", "4.0", "--critic_lam", "1.0", "--use_cpu", "true"])
    assert recipe.training.is_truncation == [0.2, 4.0]
    assert recipe.training.critic_lam == 1.0

"""A KL that is held near a target by the adaptive coefficient."""

import sys

import torch
from transformers import AutoTokenizer

from trl_nlpo.legacy import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer, set_seed


set_seed(0)


config = PPOConfig(
    model_name=sys.argv[1], batch_size=32, mini_batch_size=32, ppo_epochs=2, learning_rate=1e-2, adap_kl_ctrl=True,
    init_kl_coef=0.01, target=1.0, horizon=64, whiten_rewards=False, kl_penalty="kl",
)  # fmt: skip
model = AutoModelForCausalLMWithValueHead.from_pretrained(config.model_name)
tokenizer = AutoTokenizer.from_pretrained(config.model_name)
ppo_trainer = PPOTrainer(config, model, tokenizer=tokenizer)
query_tensors = [torch.tensor([3 + row, 4]) for row in range(32)]
means, expected = [], config.init_kl_coef
for _ in range(10):
    response_tensors = ppo_trainer.generate(
        query_tensors, return_prompt=False, batch_size=32, do_sample=True, max_new_tokens=5, eos_token_id=-1
    )
    rewards = [3.0 * (response < 12).float().mean() for response in response_tensors]
    stats = ppo_trainer.step(query_tensors, response_tensors, rewards)
    assert abs(stats["objective/kl_coef"] - expected) < 1e-9 * expected
    expected *= 1 + min(max(stats["objective/kl"] / config.target - 1, -0.2), 0.2) * config.batch_size / config.horizon
    assert abs(ppo_trainer.kl_ctl.value - expected) < 1e-9 * expected
    means.append(float(stats["ppo/mean_scores"]))
    print("deviation", stats.get("nlpo/first_ratio_deviation", 0.0))
print("kl_coef", expected)
print("rewards", *means)

"""Two turns in one response: what the environment says between them is masked out of the loss."""

import sys

import torch
from transformers import AutoTokenizer

from trl_nlpo.legacy import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer, set_seed


set_seed(0)


tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLMWithValueHead.from_pretrained(sys.argv[1])
config = PPOConfig(batch_size=16, mini_batch_size=8, learning_rate=1e-2, ppo_epochs=2, init_kl_coef=0.02)
trainer = PPOTrainer(config, model, None, tokenizer)
generation_kwargs = {"do_sample": True, "top_k": 20, "eos_token_id": -1, "max_new_tokens": 3, "return_prompt": False}
observation = torch.tensor(tokenizer("w0 w1")["input_ids"])

means = []
for _ in range(8):
    queries, responses, masks, rewards = [], [], [], []
    for row in range(16):
        query = torch.tensor([3 + row, 8])
        first = trainer.generate(query, **generation_kwargs).squeeze(0)
        history = torch.cat([query, first, observation])
        second = trainer.generate(history, **generation_kwargs).squeeze(0)
        queries.append(query)
        responses.append(torch.cat([first, observation, second]))
        masks.append(torch.cat([torch.ones_like(first), torch.zeros_like(observation), torch.ones_like(second)]))
        rewards.append((torch.cat([first, second]) < 20).float().mean())
    stats = trainer.step(queries, responses, rewards, response_masks=masks)
    means.append(float(stats["ppo/mean_scores"]))
    print("deviation", stats.get("nlpo/first_ratio_deviation", 0.0))
print("rewards", *means)

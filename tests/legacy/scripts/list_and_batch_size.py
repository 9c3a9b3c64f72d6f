"""Lists of queries of different lengths, top-p sampling, responses with the prompt that are cut by hand."""

import sys

import torch
from transformers import AutoTokenizer

from trl_nlpo.legacy import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer, set_seed


set_seed(0)


tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], padding_side="left")
model = AutoModelForCausalLMWithValueHead.from_pretrained(sys.argv[1])
ref_model = AutoModelForCausalLMWithValueHead.from_pretrained(sys.argv[1])
config = PPOConfig(batch_size=16, mini_batch_size=4, learning_rate=1e-2, ppo_epochs=2, init_kl_coef=0.05)
ppo_trainer = PPOTrainer(config=config, model=model, ref_model=ref_model, tokenizer=tokenizer)
queries = [torch.tensor(tokenizer(" ".join(["w4", "w9", "w21"] * (1 + row % 3)))["input_ids"]) for row in range(16)]

means = []
for _ in range(8):
    outputs = ppo_trainer.generate(queries, batch_size=5, do_sample=True, top_p=0.8, max_new_tokens=5)
    responses = [output[len(query) :] for query, output in zip(queries, outputs)]
    rewards = [(response > 20).float().mean() for response in responses]
    stats = ppo_trainer.step(queries, responses, rewards)
    means.append(float(stats["ppo/mean_scores"]))
    print("deviation", stats.get("nlpo/first_ratio_deviation", 0.0))
print("rewards", *means)

"""Scores of a classifier as tensors of shape (1,), scaled by their running deviation and clipped."""

import sys

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trl_nlpo.legacy import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer, set_seed


set_seed(0)


tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
reward_model = AutoModelForSequenceClassification.from_pretrained(sys.argv[2], num_labels=1).eval()
model = AutoModelForCausalLMWithValueHead.from_pretrained(sys.argv[1])
config = PPOConfig(
    model_name=sys.argv[1], reward_model=sys.argv[2], batch_size=16, mini_batch_size=16, learning_rate=1e-2,
    use_score_scaling=True, use_score_norm=True, score_clip=2.0, ppo_epochs=2, early_stopping=True, target_kl=0.5,
)  # fmt: skip
trainer = PPOTrainer(config, model, None, tokenizer)
queries = [torch.tensor([3 + row, 9, 4]) for row in range(16)]
means = []
for _ in range(10):
    responses = trainer.generate(
        queries, return_prompt=False, batch_size=16, do_sample=True, max_new_tokens=5, eos_token_id=-1
    )
    scores = []
    for query, response in zip(queries, responses):
        with torch.no_grad():
            scores.append(reward_model(input_ids=torch.cat([query, response])[None]).logits[0])
    stats = trainer.step(queries, responses, scores)
    assert abs(stats["ppo/mean_scores"]) <= 2.0
    means.append(float(torch.cat(scores).mean()))
    print("deviation", stats.get("nlpo/first_ratio_deviation", 0.0))
print("rewards", *means)

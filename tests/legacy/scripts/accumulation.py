"""Small passes, gradients added up, an optimizer and a scheduler of one's own, a limit on the gradient."""

import sys

import torch
from transformers import AutoTokenizer, get_linear_schedule_with_warmup

from trl_nlpo.legacy import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer, set_seed


set_seed(0)


tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLMWithValueHead.from_pretrained(sys.argv[1])
config = PPOConfig(
    batch_size=16, mini_batch_size=2, gradient_accumulation_steps=4, ppo_epochs=2, learning_rate=1e-2,
    max_grad_norm=1.0, gradient_checkpointing=True, init_kl_coef=0.02,
)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
lr_scheduler = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=40)
trainer = PPOTrainer(
    config, model, ref_model=None, tokenizer=tokenizer, optimizer=optimizer, lr_scheduler=lr_scheduler
)
assert config.backward_batch_size == 8
queries = [torch.tensor([3 + row] * (1 + row % 4)) for row in range(16)]
means = []
for step in range(10):
    responses = trainer.generate(
        queries, return_prompt=False, batch_size=4, do_sample=True, max_new_tokens=4, eos_token_id=-1
    )
    scores = [(response > 25).float().mean() for response in responses]
    stats = trainer.step(queries, responses, scores)
    assert abs(stats["ppo/learning_rate"] - config.learning_rate * (40 - step) / 40) < 1e-12
    assert stats.get("nlpo/optimizer_steps", 4) == 4
    means.append(float(stats["ppo/mean_scores"]))
    print("deviation", stats.get("nlpo/first_ratio_deviation", 0.0))
print("rewards", *means)

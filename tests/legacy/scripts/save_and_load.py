"""Train, save, load again with the value head, train on; and load without the value head."""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_nlpo.legacy import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer, set_seed


set_seed(0)


config = PPOConfig(batch_size=8, mini_batch_size=8, learning_rate=1e-2, ppo_epochs=2, init_kl_coef=0.02)
queries = [torch.tensor([3 + row, 12]) for row in range(8)]
means = []


def train(folder, steps):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLMWithValueHead.from_pretrained(folder)
    trainer = PPOTrainer(config, model, None, tokenizer)
    for _ in range(steps):
        responses = trainer.generate(
            queries, return_prompt=False, batch_size=8, do_sample=True, max_new_tokens=4, eos_token_id=-1
        )
        scores = [(response < 12).float().mean() for response in responses]
        stats = trainer.step(queries, responses, scores)
        means.append(float(stats["ppo/mean_scores"]))
        print("deviation", stats.get("nlpo/first_ratio_deviation", 0.0))
    trainer.save_pretrained(sys.argv[2])
    return trainer.model


first = train(sys.argv[1], 8)
again = AutoModelForCausalLMWithValueHead.from_pretrained(sys.argv[2])
tokens = torch.tensor([[5, 6, 7]])
with torch.no_grad():
    (logits, _, value), (same_logits, _, same_value) = first.eval()(tokens), again.eval()(tokens)
    plain = AutoModelForCausalLM.from_pretrained(sys.argv[2])(tokens).logits
assert torch.equal(logits, same_logits)
assert torch.equal(value, same_value)
assert torch.equal(logits, plain)
train(sys.argv[2], 4)
print("rewards", *means)

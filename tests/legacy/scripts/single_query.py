"""The quick start: one query, one response, one step."""

import sys

from transformers import AutoTokenizer

from trl_nlpo.legacy import (
    AutoModelForCausalLMWithValueHead,
    PPOConfig,
    PPOTrainer,
    create_reference_model,
    respond_to_batch,
    set_seed,
)


set_seed(0)


model = AutoModelForCausalLMWithValueHead.from_pretrained(sys.argv[1])
model_ref = create_reference_model(model)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ppo_config = PPOConfig(batch_size=1, mini_batch_size=1, learning_rate=5e-3, init_kl_coef=0.02)
ppo_trainer = PPOTrainer(ppo_config, model, model_ref, tokenizer)

query_tensor = tokenizer.encode("w5 w6 w7", return_tensors="pt")
means = []
for _ in range(30):
    response_tensor = respond_to_batch(model, query_tensor, txt_len=6)
    reward = [(response_tensor[0] % 2 == 0).float().mean()]
    train_stats = ppo_trainer.step([query_tensor[0]], [response_tensor[0]], reward)
    means.append(float(train_stats["ppo/mean_scores"]))
    print("deviation", train_stats.get("nlpo/first_ratio_deviation", 0.0))
logits, loss, value = model(query_tensor)
assert logits.shape[:2] == value.shape == query_tensor.shape
assert loss is None
print("rewards", *means)

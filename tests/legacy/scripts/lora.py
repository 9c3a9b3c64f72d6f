"""An adapter is trained; the reference is the same model without it."""

import sys

import torch
from peft import LoraConfig
from transformers import AutoTokenizer, HfArgumentParser

from trl_nlpo.legacy import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer, set_seed


parser = HfArgumentParser(PPOConfig)
(ppo_config,) = parser.parse_args_into_dataclasses(
    ["--model_name", sys.argv[1], "--learning_rate", "3e-2", "--batch_size", "16", "--mini_batch_size", "16",
     "--optimize_cuda_cache", "true", "--seed", "5", "--ppo_epochs", "4", "--init_kl_coef", "0.02"]
)  # fmt: skip
set_seed(ppo_config.seed)
tokenizer = AutoTokenizer.from_pretrained(ppo_config.model_name)
tokenizer.pad_token = tokenizer.eos_token
lora_config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM")
model = AutoModelForCausalLMWithValueHead.from_pretrained(ppo_config.model_name, peft_config=lora_config)
optimizer = torch.optim.Adam(filter(lambda p: p.requires_grad, model.parameters()), lr=ppo_config.learning_rate)
ppo_trainer = PPOTrainer(ppo_config, model, ref_model=None, tokenizer=tokenizer, optimizer=optimizer)

before = {name: weight.clone() for name, weight in model.named_parameters() if not weight.requires_grad}
means = []
for step in range(12):
    query_tensors = [tokenizer(f"w{row} w3", return_tensors="pt").input_ids.squeeze() for row in range(16)]
    response_tensors, ref_response_tensors = ppo_trainer.generate(
        query_tensors, return_prompt=False, generate_ref_response=True, batch_size=16, do_sample=True,
        max_new_tokens=4, eos_token_id=-1, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    rewards = [(response < 15).float().mean() for response in response_tensors]
    stats = ppo_trainer.step(query_tensors, response_tensors, rewards)
    means.append(float(stats["ppo/mean_scores"]))
    print("deviation", stats.get("nlpo/first_ratio_deviation", 0.0))
    if step == 0:
        print("first_kl", stats["objective/kl"])
print("last_kl", stats["objective/kl"])
assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters() if name in before)
print("rewards", *means)
ppo_trainer.save_pretrained(sys.argv[2])

"""An encoder-decoder model that learns to repeat words of its source, in batches."""

import sys

import torch
from datasets import Dataset
from transformers import AutoTokenizer

from trl_nlpo.legacy import AutoModelForSeq2SeqLMWithValueHead, PPOConfig, PPOTrainer, create_reference_model, set_seed


set_seed(0)


config = PPOConfig(
    model_name=sys.argv[1], learning_rate=1e-2, batch_size=16, mini_batch_size=8, ppo_epochs=2, cliprange=0.2,
    init_kl_coef=0.02, seed=3,
)  # fmt: skip
tokenizer = AutoTokenizer.from_pretrained(config.model_name)
model = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(config.model_name)
ref_model = create_reference_model(model)

articles = [" ".join(f"w{(row + place) % 12}" for place in range(5)) for row in range(64)]
dataset = Dataset.from_dict({"query": articles})
dataset = dataset.map(lambda row: {"input_ids": tokenizer(row["query"])["input_ids"]})
dataset.set_format(type="torch", columns=["input_ids", "query"], output_all_columns=True)


def collator(data):
    return {key: [row[key] for row in data] for key in data[0]}


ppo_trainer = PPOTrainer(config, model, ref_model, tokenizer, dataset=dataset, data_collator=collator)
generation_kwargs = {"top_k": 0.0, "top_p": 1.0, "do_sample": True, "eos_token_id": -1, "max_new_tokens": 5}

means = []
for epoch in range(2):
    for batch in ppo_trainer.dataloader:
        query_tensors = batch["input_ids"]
        response_tensors = ppo_trainer.generate(query_tensors, return_prompt=False, batch_size=8, **generation_kwargs)
        batch["response"] = tokenizer.batch_decode(response_tensors, skip_special_tokens=True)
        rewards = []
        for source, summary in zip(batch["query"], batch["response"]):
            rewards.append(torch.tensor(sum(int(word[1:]) < 12 for word in summary.split() if word[1:].isdigit()) / 5))
        stats = ppo_trainer.step(query_tensors, response_tensors, rewards)
        ppo_trainer.log_stats(stats, batch, rewards)
        means.append(float(stats["ppo/mean_scores"]))
        print("deviation", stats.get("nlpo/first_ratio_deviation", 0.0))
print("rewards", *means)

"""Positive continuations: a data set of short queries, a data loader, random lengths, one query at a time."""

import sys

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import AutoTokenizer

from trl_nlpo.legacy import (
    AutoModelForCausalLMWithValueHead,
    LengthSampler,
    PPOConfig,
    PPOTrainer,
    create_reference_model,
    set_seed,
)


set_seed(0)


config = PPOConfig(
    model_name=sys.argv[1],
    learning_rate=1e-2,
    batch_size=16,
    mini_batch_size=8,
    ppo_epochs=2,
    init_kl_coef=0.02,
    adap_kl_ctrl=False,
    log_with=None,
)
POSITIVE = {f"w{i}" for i in range(12)}


def build_dataset(config, input_min_text_length=2, input_max_text_length=6):
    tokenizer = AutoTokenizer.from_pretrained(config.model_name)
    tokenizer.pad_token = tokenizer.eos_token
    reviews = [" ".join(f"w{(row * 7 + place * 3) % 38}" for place in range(8)) for row in range(64)]
    ds = Dataset.from_dict({"review": reviews})
    input_size = LengthSampler(input_min_text_length, input_max_text_length)

    def tokenize(sample):
        sample["input_ids"] = tokenizer.encode(sample["review"])[: input_size()]
        sample["query"] = tokenizer.decode(sample["input_ids"])
        return sample

    ds = ds.map(tokenize, batched=False)
    ds.set_format(type="torch")
    return ds


def collator(data):
    return dict((key, [d[key] for d in data]) for key in data[0])


dataset = build_dataset(config)
model = AutoModelForCausalLMWithValueHead.from_pretrained(config.model_name)
ref_model = create_reference_model(model)
tokenizer = AutoTokenizer.from_pretrained(config.model_name)
tokenizer.pad_token = tokenizer.eos_token
ppo_trainer = PPOTrainer(config, model, ref_model, tokenizer, dataset=dataset, data_collator=collator)

output_length_sampler = LengthSampler(3, 6)
generation_kwargs = {
    "min_length": -1,
    "top_k": 0.0,
    "top_p": 1.0,
    "do_sample": True,
    "pad_token_id": tokenizer.eos_token_id,
    "eos_token_id": 100_000,
}
means = []
for epoch in range(3):
    for batch in tqdm(ppo_trainer.dataloader, disable=True):
        query_tensors = batch["input_ids"]
        response_tensors = []
        for query in query_tensors:
            gen_len = output_length_sampler()
            generation_kwargs["max_new_tokens"] = gen_len
            response = ppo_trainer.generate(query, **generation_kwargs)
            response_tensors.append(response.squeeze()[-gen_len:])
        batch["response"] = [tokenizer.decode(r.squeeze()) for r in response_tensors]
        texts = batch["response"]
        rewards = [torch.tensor(sum(word in POSITIVE for word in text.split()) / len(text.split())) for text in texts]
        stats = ppo_trainer.step(query_tensors, response_tensors, rewards)
        ppo_trainer.log_stats(stats, batch, rewards)
        means.append(stats["ppo/mean_scores"])
        print("deviation", stats["nlpo/first_ratio_deviation"] if "nlpo/first_ratio_deviation" in stats else 0.0)
print("rewards", *means)
model.save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])

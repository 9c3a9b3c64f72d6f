"""A script written for TRL's PPO. Only the first import from this package is new; it runs on every TRL since 1.0.

python examples/drop_in.py
"""

import tempfile

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from trl_nlpo import NLPOConfig as PPOConfig
from trl_nlpo import NLPOTrainer as PPOTrainer


WORDS = ["<pad>", "<eos>", "<unk>", "the", "cat", "dog", "sat", "ran", "on", "mat", "road", "a"]
raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
)

config = Qwen2Config(
    vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, pad_token_id=0, eos_token_id=1, num_labels=1,
)  # fmt: skip
prompts = [f"{article} {animal}" for article in ("the", "a") for animal in ("cat", "dog")] * 8
dataset = Dataset.from_dict({"prompt": prompts}).map(
    lambda row: {"input_ids": tokenizer(row["prompt"])["input_ids"]}, remove_columns="prompt"
)

trainer = PPOTrainer(
    args=PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=8,
        response_length=8,
        stop_token="eos",
        missing_eos_penalty=1.0,
        num_sample_generations=1,
        report_to="none",
    ),
    processing_class=tokenizer,
    model=AutoModelForCausalLM.from_config(config),
    ref_model=None,
    reward_model=AutoModelForSequenceClassification.from_config(config),
    value_model=AutoModelForSequenceClassification.from_config(config),
    train_dataset=dataset,
    eval_dataset=dataset.select(range(4)),
)
trainer.train()
trainer.save_model(trainer.args.output_dir)
trainer.generate_completions()
print("saved to", trainer.args.output_dir)

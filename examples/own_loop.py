"""A loop of one's own over the rooms of the algorithm: collect, score, estimate, update, sync.

python examples/own_loop.py
"""

import tempfile

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from trl_nlpo import NLPOConfig, NLPOTrainer


WORDS = ["<pad>", "<eos>", "<unk>", "red", "green", "blue", "sky", "grass", "rose", "is"]
raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
config = LlamaConfig(
    vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    pad_token_id=0, eos_token_id=1, bos_token_id=1,
)  # fmt: skip


def right_colour(completions, colour, **kwargs):
    """1 where the first word is the colour that the row asks for."""
    return [float(text.split()[:1] == [wanted]) for text, wanted in zip(completions, colour, strict=True)]


rows = [{"prompt": f"{thing} is", "colour": colour} for thing, colour in
        (("sky", "blue"), ("grass", "green"), ("rose", "red"))] * 32  # fmt: skip
trainer = NLPOTrainer(
    args=NLPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=48, response_length=4, stop_token="eos",
        temperature=1.0, learning_rate=3e-3, kl_coef=0.0, max_steps=25, report_to="none", mask_sync_steps=5,
    ),
    model=AutoModelForCausalLM.from_config(config),
    processing_class=tokenizer,
    reward_funcs=right_colour,
    train_dataset=Dataset.from_list(rows),
)  # fmt: skip

for batch in trainer.get_train_dataloader():
    rollout = trainer.collect_rollout(batch)
    scores = trainer.score_rollout(rollout)
    estimates = trainer.estimate_advantages(rollout, scores)
    stats = trainer.update_policy(rollout, estimates)
    trainer.adapt_kl_coef(estimates)
    trainer.sync_masking_policy()
    print(f"reward {scores.totals.mean():.2f}  step {stats.approx_kl:.4f}  {rollout.batch.prompts[0]!r} -> "
          f"{rollout.completions[0]!r}")  # fmt: skip

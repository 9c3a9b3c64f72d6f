"""A fixed set of small runs whose weights and logs must not change when only the code's shape does.

    python benchmarks/fixed_runs.py before.json                    # on the old commit: write the hashes
    python benchmarks/fixed_runs.py after.json --compare before.json    # on the new one: exit code 1 if any differs

Hashes hold for one machine, one thread and one set of versions. Public names only, so that it runs on any commit.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")

import peft
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from trl_nlpo import NLPOConfig, NLPOTrainer


WORDS = ["<pad>", "<eos>", "<unk>", *(f"w{index}" for index in range(61))]
TOKENS = {
    "vocab_size": len(WORDS), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **TOKENS),
    "llama": lambda: LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        max_position_embeddings=64, **TOKENS,
    ),
    "t5": lambda: T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, **TOKENS),
}  # fmt: skip
SETTINGS = {
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_mini_batches": 2, "num_ppo_epochs": 2,
    "response_length": 8, "stop_token": "eos", "temperature": 0.9, "mask_top_p": 0.8, "mask_sync_steps": 2,
    "learning_rate": 1e-3, "max_steps": 5, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
    "num_sample_generations": 0, "use_cpu": True, "eval_strategy": "steps", "eval_steps": 2,
}  # fmt: skip
TRAINED = {
    "ppo, value head": {"mask_strategy": "none"},
    "nlpo, value head": {"kl_target": 0.5, "entropy_coef": 0.01, "whiten_rewards": True},
    "nlpo, value model": {"family": "llama", "value_model": True, "max_grad_norm": 0.1},
    "nlpo, adapters": {"family": "llama", "adapter": True, "gradient_checkpointing": True},
    "nlpo, encoder-decoder": {"family": "t5", "kl_estimator": "k3"},
    "nlpo, encoder-decoder, adapters": {"family": "t5", "adapter": True},
    "nlpo, top-k": {"mask_strategy": "top_k", "mask_top_k": 5, "mask_min_tokens": 3, "mask_sync_steps": None},
    "nlpo, warpers": {"generation_kwargs": {"top_k": 20, "repetition_penalty": 1.2, "min_new_tokens": 2}},
    "nlpo, missing end": {"missing_eos_penalty": 1.0, "value_trains_backbone": False},
}
RECIPES = {
    "quickstart": ("quickstart", ("--max_steps", "3", "--supervised_num_train_epochs", "1")),
    "commongen, tiny": ("commongen", ("--preset", "tiny", "--max_steps", "2", "--max_eval_samples", "8",
                                      "--max_test_samples", "8",
                                      "--supervised_num_train_epochs", "1", "--rewards", "rougeL")),
}  # fmt: skip
CLOCKS = ("eps", "runtime", "per_second", "seconds", "time")


def tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def prompts(num_rows: int) -> Dataset:
    rows = [" ".join(WORDS[3 + (7 * row + word) % 61] for word in range(1 + row % 6)) for row in range(num_rows)]
    return Dataset.from_dict({"prompt": rows, "number": list(range(num_rows))})


def reward(completions, number, **kwargs):
    """Different words, for two prompts of three."""
    pairs = zip(completions, number, strict=True)
    return [None if row % 3 == 0 else float(len(set(completion.split()))) for completion, row in pairs]


def token_reward(completion_ids, **kwargs):
    """Even tokens."""
    return [[0.1 * (token % 2 == 0) for token in row] for row in completion_ids]


def trained(folder: Path, family: str = "gpt2", value_model: bool = False, adapter: bool = False, **settings) -> dict:
    """Hashes of a trainer's run: weights of policy and value function, of the masking policy, and the log."""
    torch.manual_seed(0)
    auto_model = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    model = auto_model.from_config(FAMILIES[family]())
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.13 if family == "t5" else 8.0)
    config = FAMILIES[family]()
    config.num_labels = 1
    trainer = NLPOTrainer(
        args=NLPOConfig(output_dir=str(folder), **{**SETTINGS, **settings}),
        processing_class=tokenizer(),
        model=model,
        reward_funcs=[reward, token_reward],
        train_dataset=prompts(20),
        eval_dataset=prompts(5),
        value_model=AutoModelForSequenceClassification.from_config(config) if value_model else None,
        peft_config=peft.LoraConfig(r=4, target_modules="all-linear") if adapter else None,
    )
    trainer.train()
    trainer.save_model(str(folder / "saved"))
    return {
        "weights": hash_of(trainer.policy_and_value.state_dict()),
        "mask": hash_of(trainer.masking_policy.state_dict()),
        "saved": hash_of_files(folder / "saved"),
        "log": hash_of_log(trainer.state.log_history),
        "kl_coef": trainer.kl_coef,
    }


def ran(folder: Path, name: str, overrides: tuple[str, ...]) -> dict:
    """Hashes of a run of the command line in a process of its own: its weights and its log."""
    command = [sys.executable, "-m", "trl_nlpo", "run", name, "--output_dir", str(folder), *overrides]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {"saved": hash_of_files(folder), "log": hash_of_log([json.loads(line) for line in lines])}


def hash_of(tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return found.hexdigest()[:16]


def hash_of_files(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()[:16]


def hash_of_log(entries: list[dict]) -> str:
    kept = [{key: value for key, value in row.items() if not any(clock in key for clock in CLOCKS)} for row in entries]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--compare", type=Path, help="a file that an earlier call wrote")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        folder = Path(scratch)
        found = {name: trained(folder / f"trained{n}", **what) for n, (name, what) in enumerate(TRAINED.items())}
        found |= {name: ran(folder / f"ran{n}", *what) for n, (name, what) in enumerate(RECIPES.items())}
    arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if arguments.compare is None:
        return
    before = json.loads(arguments.compare.read_text(encoding="utf-8"))
    different = [
        f"{name}: {what}" for name in before for what in before[name] if found[name].get(what) != before[name][what]
    ]
    print("\n".join(different) or f"all {len(before)} runs are equal, bit for bit")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()

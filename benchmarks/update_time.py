"""Seconds per update: TRL's PPO and NLPO side by side in one process, in turn, on the same model and prompts.

    pip install trl==1.12.0      # the last release that has PPO
    python benchmarks/update_time.py --layers 4 --hidden 128 --vocabulary 4096 --rounds 3

    python benchmarks/update_time.py --layers 6 --hidden 384 --vocabulary 50257 --lora    # LoRA on all linear layers

Both take the same optimizer steps (no gradient accumulation: with it TRL takes fewer than it promises) in float32 with
a value model of its own, which is the only kind that TRL has; ours is measured with a value head on the policy too,
which with LoRA reads an adapter of its own. Prints a table of medians and of ratios to TRL; with `--floor` also how
many matrix operations each does, and its time over what they take at the rate of a large matrix product here.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from functools import partial

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, PreTrainedTokenizerFast

from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo._trl import HAS_PPO


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=32, help="completions per update")
    parser.add_argument("--prompt", type=int, default=32, help="longest prompt; the shortest has half of it")
    parser.add_argument("--response", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lora", action="store_true", help="train adapters of rank 16 on all linear layers")
    parser.add_argument("--cpu-time", action="store_true", help="time of the processor, not of the clock")
    parser.add_argument("--floor", action="store_true", help="count operations, in two more runs of each case")
    parser.add_argument("--only", nargs="*", help="cases whose names end with one of these; the first is always there")
    return parser.parse_args()


class Workload:
    """Models, tokenizer and prompts of one size."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.clock = time.process_time if args.cpu_time else time.perf_counter
        words = {"<pad>": 0, "<eos>": 1, **{f"w{index}": index for index in range(2, args.vocabulary)}}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
        )
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(args.prompt // 2, args.prompt + 1, (args.batch * 4,), generator=generator).tolist()
        rows = [torch.randint(2, args.vocabulary, (n,), generator=generator).tolist() for n in lengths]
        self.dataset = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})

    def config(self) -> GPT2Config:
        return GPT2Config(
            vocab_size=self.args.vocabulary, n_embd=self.args.hidden, n_layer=self.args.layers, n_head=4,
            n_positions=256, pad_token_id=0, eos_token_id=1, bos_token_id=1, num_labels=1, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip

    def policy(self) -> torch.nn.Module:
        torch.manual_seed(0)
        policy = AutoModelForCausalLM.from_config(self.config())
        # A random model is close to uniform; a language model is not, and the cost of a mask depends on it.
        with torch.no_grad():
            policy.transformer.ln_f.weight.mul_(12.0)
        return policy

    def classifier(self) -> torch.nn.Module:
        torch.manual_seed(1)
        return AutoModelForSequenceClassification.from_config(self.config())

    def trainer_arguments(self) -> dict:
        adapter = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        return {
            "processing_class": self.tokenizer, "model": self.policy(), "reward_model": self.classifier(),
            "ref_model": None if self.args.lora else self.policy(),
            "train_dataset": self.dataset, "eval_dataset": self.dataset,
            "peft_config": LoraConfig(**adapter) if self.args.lora else None,
        }  # fmt: skip

    def settings(self, updates: int) -> dict:
        return {
            "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": self.args.batch, "num_mini_batches": 1,
            "num_ppo_epochs": 4, "response_length": self.args.response, "learning_rate": 1e-5, "temperature": 1.0,
            "total_episodes": updates * self.args.batch, "report_to": "none", "save_strategy": "no", "bf16": False,
            "num_sample_generations": 0, "use_cpu": not torch.cuda.is_available(), "disable_tqdm": True,
            "gradient_checkpointing": False,
        }  # fmt: skip


def trl_seconds(workload: Workload, updates: int) -> float:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    arguments = workload.trainer_arguments()
    trainer = PPOTrainer(args=PPOConfig(**workload.settings(updates)), value_model=workload.classifier(), **arguments)
    return seconds_of(trainer.train, workload.clock)


def nlpo_seconds(workload: Workload, own_value_model: bool, chosen: dict, updates: int) -> float:
    config = NLPOConfig(**workload.settings(updates), **chosen)
    value_model = workload.classifier() if own_value_model else None
    trainer = NLPOTrainer(args=config, value_model=value_model, **workload.trainer_arguments())
    return seconds_of(trainer.train, workload.clock)


def seconds_of(train, clock) -> float:
    start = clock()
    with contextlib.redirect_stdout(io.StringIO()):
        train()
    return clock() - start


def operations(run, updates: int) -> float:
    """Floating point operations of matrix products."""
    with FlopCounterMode(display=False) as counter:
        run(updates)
    return float(counter.get_total_flops())


def matmul_rate(clock, size: int = 2048) -> float:
    """Operations a second of a large matrix product: the best of five."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(6):
        start = clock()
        left @ right
        seconds.append(clock() - start)
    return 2 * size**3 / min(seconds[1:])


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    workload = Workload(args)
    old = {"mask_sync_steps": None}
    settings = {
        "PPO": {"mask_strategy": "none"},
        "PPO, logits in full": {"mask_strategy": "none", "fuse_output_layer": False},
        "NLPO, mask synced every update": {"mask_sync_steps": 1},
        "NLPO, mask never synced": old,
        "NLPO, mask never synced, no anchor": {**old, "mask_anchor_coef": 0.0},
        "NLPO, mask never synced, logits in full": {**old, "fuse_output_layer": False},
    }
    cases = {f"ours, {name}": partial(nlpo_seconds, workload, False, chosen) for name, chosen in settings.items()}
    if not args.lora:
        cases["ours, PPO, value model"] = partial(nlpo_seconds, workload, True, settings["PPO"])
    if args.only:
        cases = {name: run for name, run in cases.items() if name.endswith(tuple(args.only))}
    if HAS_PPO:
        cases = {"TRL PPO, value model": partial(trl_seconds, workload), **cases}
    # Two updates: a mask that is never synced is old in the second one only, and the first warms everything up.
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(args.rounds):
        for name, run in cases.items():
            times[name].append((run(3) - run(1)) / 2)
    base = statistics.median(next(iter(times.values())))
    print(f"{'seconds per update (median)':52s} {'s':>7s} {'ratio':>6s}   all")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:52s} {median:7.2f} {median / base:6.2f}   {' '.join(f'{value:.2f}' for value in values)}")
    if not args.floor:
        return
    rate = matmul_rate(workload.clock)
    print(f"\n{'a matrix product of 2,048 rows: GFLOP/s':52s} {rate / 1e9:7.1f}")
    for name, run in cases.items():
        count = (operations(run, 3) - operations(run, 1)) / 2
        median = statistics.median(times[name])
        print(f"{name:52s} {count / 1e9:7.0f} GFLOP, time / floor {median * rate / count:.2f}")


if __name__ == "__main__":
    main()

"""Seconds per rollout of a LoRA model whose mask is old: a second cached pass, or both adapters in one batch.

    python benchmarks/masked_decoding.py --layers 6 --hidden 384 --vocabulary 50257

The trainer takes the second pass on a CPU and one batch on a GPU. All are measured in turn, in one process, and with
them the share of the time that is not spent in forward passes: masks, sampling and bookkeeping.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config

from trl_nlpo.algorithm.distribution import MaskSettings, SamplingSettings
from trl_nlpo.algorithm.draws import row_draws
from trl_nlpo.algorithm.generation import sample_completions
from trl_nlpo.models.masking_policy import MaskingPolicy


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--response", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def clock() -> float:
    """Seconds, once all that was started has been computed."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class ForwardTime:
    """Adds up the seconds that a model's forward passes take."""

    def __init__(self, model: torch.nn.Module):
        self.seconds = self._start = 0.0
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end)

    def _begin(self, *_: object) -> None:
        self._start = clock()

    def _end(self, *_: object) -> None:
        self.seconds += clock() - self._start


def main() -> None:
    args = parse()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=args.vocabulary, n_embd=args.hidden, n_layer=args.layers, n_head=args.hidden // 64,
        n_positions=args.prompt + args.response,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(12.0)
    lora = LoraConfig(r=16, task_type="CAUSAL_LM", target_modules="all-linear")
    policy = get_peft_model(model, lora).to(device).eval()
    prompts = torch.randint(2, args.vocabulary, (args.batch, args.prompt)).tolist()
    sampling = SamplingSettings(max_new_tokens=args.response)
    mask, anchored = MaskSettings("top_p", top_p=0.9), MaskSettings("top_p", top_p=0.9, is_anchored=True)
    draws = row_draws(0, range(args.batch), args.response)
    cases: dict[str, tuple[MaskSettings | None, MaskingPolicy | None]] = {
        "no mask": (None, None),
        "mask in step with the policy": (mask, MaskingPolicy(policy, None)),
        "old mask, a second cached pass": (mask, MaskingPolicy(policy, None)),
        "old mask, anchored": (anchored, MaskingPolicy(policy, None)),
        "old mask, one batch of both": (mask, MaskingPolicy(policy, None, in_one_batch=True)),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    rest: dict[str, list[float]] = {name: [] for name in cases}
    forward = ForwardTime(policy.get_base_model())
    for name, (_, masking_policy) in cases.items():
        if masking_policy is not None and name.startswith("old"):
            masking_policy.policy_moved()
    for _ in range(args.rounds + 1):
        for name, (settings, masking_policy) in cases.items():
            start, forward.seconds = clock(), 0.0
            sample_completions(policy, prompts, sampling, settings, masking_policy, draws)
            times[name].append(clock() - start)
            rest[name].append(1.0 - forward.seconds / times[name][-1])
    base = statistics.median(times["no mask"][1:])
    print(f"{device}, {args.layers} x {args.hidden}, vocabulary {args.vocabulary}, batch {args.batch}")
    for name, values in times.items():
        median = statistics.median(values[1:])
        print(
            f"{name:34s} {median:7.2f} s  x {median / base:.2f}   outside of forward passes "
            f"{statistics.median(rest[name][1:]):4.0%}   {' '.join(f'{value:.2f}' for value in values[1:])}"
        )


if __name__ == "__main__":
    main()

"""Rollouts with vLLM against `generate`, on the same machine with the same prompts and draws; prints the ratio.

Completions that differ begin to do so where a draw lies at the edge of two tokens, or a set's mass at `top_p`, and
the two compute logits that differ by rounding: it prints how near the edge each of them was.

python benchmarks/rollout_engines.py [--model FOLDER] [--rows 32] [--tokens 48] [--rounds 3]
"""

from __future__ import annotations

import argparse
import time
import warnings
from statistics import median

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from trl_nlpo.algorithm.distribution import MaskSettings, SamplingSettings
from trl_nlpo.algorithm.draws import row_draws
from trl_nlpo.algorithm.engines.generate import TransformersEngine
from trl_nlpo.algorithm.engines.vllm import VLLMEngine
from trl_nlpo.algorithm.generation import Sample
from trl_nlpo.models.masking_policy import MaskingPolicy


PROMPT_WIDTH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a causal model; without: a random Llama of 4 layers x 128")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    policy = _model(args.model).eval()
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, policy.config.vocab_size, (args.rows, PROMPT_WIDTH), generator=generator).tolist()
    vllm = VLLMEngine(
        policy, "", max_model_length=PROMPT_WIDTH + args.tokens, max_num_seqs=args.rows, dtype=torch.float32,
        gpu_memory_utilization=0.3,
    )  # fmt: skip
    engines = {"transformers": TransformersEngine(), "vllm": vllm}
    for name, mask in {"top-p 0.9": MaskSettings("top_p", 0.9), "no mask": MaskSettings("none")}.items():
        seconds: dict[str, list[float]] = {engine: [] for engine in engines}
        samples = {}
        for number in range(args.rounds + 1):
            draws = row_draws(number, range(args.rows), args.tokens)
            for engine_name, engine in engines.items():
                start = time.perf_counter()
                engine.sync(policy, MaskingPolicy(policy, 1, masks=False))
                sampling = SamplingSettings(args.tokens)
                samples[engine_name] = next(engine.sample(prompts, draws, sampling, mask, args.rows))
                # The first round warms up.
                if number:
                    seconds[engine_name].append(time.perf_counter() - start)
        ids = [sample.sequences.completion_ids for sample in samples.values()]
        same = float((ids[0] == ids[1]).all(-1).float().mean())
        times = {engine: median(values) for engine, values in seconds.items()}
        print(
            f"{name}: transformers {times['transformers']:.2f} s, vllm with its sync {times['vllm']:.2f} s, ratio "
            f"{times['vllm'] / times['transformers']:.2f}; {same:.0%} of the completions equal"
        )
        apart = distances_from_edges(policy, samples["transformers"], samples["vllm"], draws, mask)
        print("  from the edge, where they begin to differ:", " ".join(f"{value:.0e}" for value in apart))


@torch.no_grad()
def distances_from_edges(policy, ours: Sample, theirs: Sample, draws: torch.Tensor, mask: MaskSettings) -> list[float]:
    """Of each pair of completions that differ, in probability: how far the draw is from the share of the other token,
    or the mass of the likeliest tokens from `top_p`, whichever is nearer."""
    first, second = ours.sequences, theirs.sequences
    logits = policy(input_ids=torch.cat([first.prompt_ids, first.completion_ids], 1)).logits.double()
    logits = logits[:, first.prompt_ids.shape[1] - 1 : -1]
    found = []
    for row in (first.completion_ids != second.completion_ids).any(-1).nonzero().flatten().tolist():
        place = int((first.completion_ids[row] != second.completion_ids[row]).int().argmax())
        actions, near = logits[row, place], []
        if first.token_sets is not None:
            masses = actions.softmax(-1).sort(descending=True).values.cumsum(-1)
            near.append(float((masses - mask.top_p).abs().min()))
            actions = actions.masked_fill(~first.token_sets[row, place].mask(), float("-inf"))
        ends, other = actions.softmax(-1).cumsum(-1), int(second.completion_ids[row, place])
        is_later = other > int(first.completion_ids[row, place])
        near.append(abs(float((ends[other - 1] if is_later else ends[other]) - draws[row, place])))
        found.append(min(near))
    return found


def _model(folder: str | None) -> torch.nn.Module:
    if folder is not None:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
        intermediate_size=512, max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


if __name__ == "__main__":
    main()

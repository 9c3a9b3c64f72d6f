"""Peak memory of TRL's PPO or GRPO and of NLPO, the same model, batch and lengths, one process per case.

    pip install trl==1.12.0      # the last release that has PPO
    python benchmarks/memory.py                    # GPT-2-small shape, random weights
    python benchmarks/memory.py --shape t5-base    # ours only: TRL's PPO cannot train it
    pip install trl==1.16.0
    python benchmarks/memory.py --shape large-vocabulary    # V = 151,936; GRPO, which has no critic and no mask

Every case runs in a process of its own and reports its peak resident memory (device memory on a GPU) less that of a
bare interpreter with the same imports. Both sides train LoRA of the same rank with the same reward; TRL's value model
is a second backbone that is trained in full, which is the only kind that it has.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile


CASES = {
    "bare": "bare interpreter with the imports",
    "trl": "TRL PPO, LoRA policy, value model trained in full",
    "grpo": "TRL GRPO, LoRA policy, no critic, no reference",
    "ppo": "ours, PPO, one base, value adapter",
    "nlpo": "ours, NLPO, one base, value adapter, mask one update old",
    "nlpo-full": "the same with logits in full",
    "nlpo-checkpointing": "NLPO with gradient checkpointing",
}
VOCABULARY = {"gpt2-small": 50257, "t5-base": 32128, "large-vocabulary": 151936}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(VOCABULARY), default="gpt2-small")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--response", type=int, default=48)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--target-modules", help="layers with LoRA; by default PEFT's choice for the model")
    parser.add_argument("--case", choices=list(CASES), help="run one case in this process and print JSON")
    return parser.parse_args()


def policy(args: argparse.Namespace):
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, LlamaConfig, T5Config

    torch.manual_seed(0)
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    if args.shape == "t5-base":
        config = T5Config(
            vocab_size=32128, d_model=768, d_kv=64, d_ff=3072, num_layers=args.layers, num_heads=12,
            decoder_start_token_id=0, **special,
        )  # fmt: skip
        return AutoModelForSeq2SeqLM.from_config(config)
    if args.shape == "large-vocabulary":
        config = LlamaConfig(
            vocab_size=VOCABULARY[args.shape], hidden_size=256, intermediate_size=1024, num_hidden_layers=args.layers,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, **special,
        )  # fmt: skip
        return AutoModelForCausalLM.from_config(config)
    return AutoModelForCausalLM.from_config(gpt2_config(args, **special))


def gpt2_config(args: argparse.Namespace, **special: int):
    from transformers import GPT2Config

    return GPT2Config(vocab_size=50257, n_embd=768, n_layer=args.layers, n_head=12, num_labels=1, **special)


def tiny_reward_model(args: argparse.Namespace):
    """Both sides get the same small reward model, as TRL takes no functions."""
    from transformers import AutoModelForSequenceClassification, GPT2Config

    config = GPT2Config(
        vocab_size=VOCABULARY[args.shape], n_embd=16, n_layer=1, n_head=1, num_labels=1, pad_token_id=0
    )
    return AutoModelForSequenceClassification.from_config(config)


def run_case(args: argparse.Namespace) -> dict:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    from trl_nlpo import NLPOConfig, NLPOTrainer

    if args.case == "trl":
        from trl.experimental.ppo import PPOConfig, PPOTrainer
    if args.case == "bare":
        return {"peak": peak()}
    words = {"<pad>": 0, "<eos>": 1, **{f"w{index}": index for index in range(2, 100)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="<eos>",
        padding_side="left",
    )  # fmt: skip
    rows = [[2 + (index + place) % 90 for place in range(args.prompt)] for index in range(args.batch)]
    dataset = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * args.prompt] * args.batch})
    settings = {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": args.batch, "num_ppo_epochs": 1,
        "total_episodes": 2 * args.batch, "response_length": args.response, "report_to": "none", "save_strategy": "no",
        "num_sample_generations": 0, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }  # fmt: skip
    arguments = {
        "processing_class": tokenizer, "model": policy(args), "ref_model": None, "train_dataset": dataset,
        "eval_dataset": dataset, "reward_model": tiny_reward_model(args),
        "peft_config": LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=args.target_modules),
    }  # fmt: skip
    base = sum(parameter.numel() for parameter in arguments["model"].parameters())
    if args.case == "trl":
        arguments["peft_config"].task_type = "CAUSAL_LM"
        value_model = AutoModelForSequenceClassification.from_config(gpt2_config(args, pad_token_id=0))
        trainer = PPOTrainer(args=PPOConfig(**settings), value_model=value_model, **arguments)
    elif args.case == "grpo":
        trainer = grpo_trainer(args, tokenizer, rows, arguments)
    else:
        strategy = "none" if args.case == "ppo" else "top_p"
        settings |= {
            "gradient_checkpointing": args.case == "nlpo-checkpointing",
            "fuse_output_layer": args.case != "nlpo-full",
        }
        trainer = NLPOTrainer(args=NLPOConfig(**settings, mask_strategy=strategy, mask_sync_steps=None), **arguments)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    return {"peak": peak(), "trained": trained / base}


def grpo_trainer(args: argparse.Namespace, tokenizer, rows: list, arguments: dict):
    """TRL's GRPO with as many completions of as many tokens, in two updates as ours."""
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=args.batch, num_generations=4, max_steps=2,
        max_completion_length=args.response, beta=0.0, report_to="none", save_strategy="no", bf16=False,
        gradient_checkpointing=False, disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
        generation_kwargs={"min_new_tokens": args.response},
    )  # fmt: skip
    prompts = Dataset.from_dict({"prompt": [" ".join(f"w{token}" for token in row) for row in rows]})
    return GRPOTrainer(
        model=arguments["model"], args=config, processing_class=tokenizer, train_dataset=prompts,
        reward_funcs=lambda completions, **_: [float(len(text) % 7) for text in completions],
        peft_config=arguments["peft_config"],
    )  # fmt: skip


def peak() -> float:
    """Peak memory in MiB: of the device where there is one, else resident."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    args = parse()
    if args.case:
        print(json.dumps(run_case(args)))
        return
    peer = {"gpt2-small": "trl", "large-vocabulary": "grpo"}.get(args.shape)
    cases = [case for case in CASES if case not in {"trl", "grpo"} - {peer}]
    results = {}
    for case in cases:
        command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if done.returncode:
            print(f"{CASES[case]}: failed\n{done.stderr[-2000:]}")
            continue
        results[case] = json.loads(done.stdout.splitlines()[-1])
    bare = results.pop("bare")["peak"]
    base = results.get(peer, results["ppo"])["peak"] - bare
    print(f"{args.shape}, batch {args.batch}, prompt {args.prompt}, response {args.response}, LoRA r={args.rank}")
    print(f"{'MiB above ' + CASES['bare']:62s} {'peak':>7s} {'ratio':>6s} {'trained / base':>15s}")
    for case, result in results.items():
        above = result["peak"] - bare
        print(f"{CASES[case]:62s} {above:7.0f} {above / base:6.3f} {result['trained']:15.2%}")
    if "nlpo" in results and "ppo" in results:
        ratio = (results["nlpo"]["peak"] - bare) / (results["ppo"]["peak"] - bare)
        print(f"switching the mask on: x {ratio:.3f}")


if __name__ == "__main__":
    main()

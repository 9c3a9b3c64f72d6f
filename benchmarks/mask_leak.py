"""What an old mask does to a run, read off the folders that `trl-nlpo ablate` leaves.

    trl-nlpo ablate quickstart --over mask_sync_steps=5,10,20,50 --over mask_anchor_coef=0.0,1.0 --seeds 8 \
        --out runs/leak --save_strategy no
    python benchmarks/mask_leak.py runs/leak/quickstart [--raw] [--json FILE]

Of every variant, over seeds: the reward of the table (the recipe's own sampling in evaluation), with `--raw` that of
completions sampled from the whole final policy at temperature 1, the mean of the training rewards, the largest fall of
the training reward in the update after a sync, the lowest mass of the mask (nlpo/mask_mass) in an update before one,
and the perplexity under the supervised model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any


os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", CUDA_VISIBLE_DEVICES="")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from trl_nlpo.storage.results import RunResults


COLUMNS = ("final", "raw", "mean", "drop", "mass", "perplexity")


def figures(folder: Path, with_raw: bool) -> dict[str, float] | None:
    """The numbers of one run; None of one that is not done, or did not reinforce."""
    run = RunResults.read(folder)
    stage = next(reversed(run.stages), None)
    lines = [line for line in run.log if line["stage"] == stage and "objective/kl" in line]
    if stage is None or not lines:
        return None
    rewards = [line["reward"] for line in lines]
    # The rollout of an update whose mask has the age 0 is the first after a sync; so is the very first of a run.
    synced = [number for number in range(1, len(lines)) if lines[number]["nlpo/mask_age"] == 0]
    found = {
        "final": run.stages[stage]["reward"],
        "mean": statistics.fmean(rewards),
        "drop": max((rewards[number - 1] - rewards[number] for number in synced), default=float("nan")),
        "mass": min((lines[number - 1]["nlpo/mask_mass"] for number in synced), default=float("nan")),
        "perplexity": run.stages[stage]["perplexity"],
    }
    return found | ({"raw": raw_reward(folder, run)} if with_raw else {})


def raw_reward(folder: Path, run: RunResults) -> float:
    """Mean reward of completions of the test prompts, sampled from the whole policy at temperature 1."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    from trl_nlpo.data.splits import load_splits
    from trl_nlpo.recipes.recipe import load_recipe

    recipe = load_recipe(folder / "recipe.yaml")
    arguments, training = recipe.arguments, recipe.training
    rows = load_splits(arguments, training.seed).test.to_dict()
    is_encoder_decoder = AutoConfig.from_pretrained(folder).is_encoder_decoder
    auto: Any = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    model, tokenizer = auto.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder, padding_side="left")
    limit = {"truncation": True, "max_length": training.max_prompt_length} if training.max_prompt_length else {}
    inputs = tokenizer(rows["prompt"], return_tensors="pt", padding=True, **limit)
    torch.manual_seed(training.seed)
    with torch.no_grad():
        output = model.generate(
            **inputs, max_new_tokens=training.response_length, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    ids = output.tolist() if is_encoder_decoder else output[:, inputs["input_ids"].shape[1] :].tolist()
    call = {
        "completions": tokenizer.batch_decode(ids, skip_special_tokens=True), "completion_ids": ids,
        "prompts": rows.pop("prompt"), **rows,
    }  # fmt: skip
    total = 0.0
    for function, spec in zip(arguments.reward_functions(), arguments.reward_specs, strict=True):
        total += spec.weight * statistics.fmean(function(**call))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a recipe's cells: VARIANT/seed-N")
    parser.add_argument("--raw", action="store_true", help="also sample from the final policies (they must be saved)")
    parser.add_argument("--json", type=Path, help="also write the numbers of every run there")
    options = parser.parse_args()
    runs: dict[str, dict[str, dict[str, float]]] = {}
    for folder in sorted(options.folder.glob("*/seed-*")):
        found = figures(folder, options.raw) if (folder / "results.json").is_file() else None
        if found is not None:
            runs.setdefault(folder.parent.name, {})[folder.name] = found
    columns = [column for column in COLUMNS if column != "raw" or options.raw]
    print("| variant | runs | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 2) + "|")
    for variant, seeds in runs.items():
        cells = []
        for column in columns:
            values = [figure[column] for figure in seeds.values()]
            spread = statistics.stdev(values) if len(values) > 1 and values[0] == values[0] else 0.0
            cells.append(f"{statistics.fmean(values):.3f} ± {spread:.3f}")
        print(f"| {variant} | {len(seeds)} | " + " | ".join(cells) + " |")
    if options.json:
        options.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()

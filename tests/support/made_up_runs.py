"""Folders of runs that nobody ran: what a report reads, in the shape that a run leaves it."""

from __future__ import annotations

from pathlib import Path

import yaml

from trl_nlpo.storage.run_folder import RunFolder


def made_up_run(path: Path, seed: int = 0, algorithm: str = "nlpo", updates: int = 40, texts=("good", "bad"), **keys):
    """A finished run with two stages: completions `TEXT N` of `zero-shot`, and `TEXT N STAGE` of reinforcement."""
    run = RunFolder(path)
    recipe = {"algorithm": algorithm, "seed": seed, "dataset_name": "quickstart", "output_dir": str(path), **keys}
    with (path / "recipe.yaml").open("w") as file:
        file.write("# quickstart, as it ran with python 3.11.7, trl 1.16.0\n")
        yaml.safe_dump(recipe, file)
    for step in range(1, updates + 1):
        reward = step / updates + 0.1 * seed
        line = {"reward": reward, "objective/kl": 2 * reward, "perplexity": 3 + reward, "nlpo/mask_mass": 0.9}
        run.log(algorithm, step, {**line, "nlpo/mask_syncs": float(step // 10), "value/mean": reward})
        if step % 10 == 0:
            run.log(algorithm, step, {"eval_reward": reward, "eval_perplexity": 3.0})
    better = {"reward": "higher", "perplexity": "lower"}
    for stage, gain in (("zero-shot", 0.0), (algorithm, 1.0 + 0.1 * seed)):
        more = "" if stage == "zero-shot" else f" {stage}"
        samples = [
            {"prompt": f"prompt {n}", "completion": f"{texts[n % len(texts)]} {n}{more}", "score": n % 7 + gain}
            for n in range(120)
        ]
        scores = [sample["score"] for sample in samples]
        run.add_result(stage, {"reward": sum(scores) / len(scores), "perplexity": 9.0}, samples, 1.0, better)
    return path

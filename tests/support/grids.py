"""Grids whose cells take no time: a made-up run that writes what a real one would."""

from __future__ import annotations

import json
from pathlib import Path

from trl_nlpo.errors import UserError
from trl_nlpo.grid.cells import Grid, parse_variant


VARIANTS = tuple(map(parse_variant, ["zero_shot", "supervised+ppo", "supervised+nlpo[mask_sync_steps=null]"]))


class FakeRun:
    """Writes what `run_experiment` would; a run of an algorithm can be made to fail."""

    def __init__(self, fails=(), error=UserError):
        self.recipes, self.fails, self.error = [], fails, error
        self.overwrites, self.says = [], "out of luck"

    def __call__(self, recipe, force, overwrite):
        self.recipes.append(recipe)
        self.overwrites.append(overwrite)
        if recipe.arguments.algorithm in self.fails:
            raise self.error(self.says)
        folder = recipe.training.output_dir
        stage = recipe.arguments.algorithm.replace("zero_shot", "zero-shot")
        better = 0.2 * recipe.arguments.algorithm.endswith("nlpo") + 0.1 * recipe.training.seed
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        metrics = {"reward": 0.5 + better, "perplexity": 9.0 + better, "metrics/ter": 80.0, "metrics/unique1": 5.0}
        metrics["metrics/bleu"] = 0.0
        (path / "results.json").write_text(json.dumps({"stages": {stage: metrics}}))
        rows = [{"prompt": str(n), stage: {"score": n + better}} for n in range(6)]
        (path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        lines = [{"stage": stage, "step": n, "reward": 0.1 * n} for n in (1, 2)]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def made_up_grid(tmp_path, recipes=("commongen",), seeds=2, overrides=("--preset", "tiny")):
    return Grid(recipes, VARIANTS, seeds, tmp_path / "grid", overrides)

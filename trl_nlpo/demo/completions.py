"""What the model before and the model after reinforcement make of a prompt, and what its rewards say of it."""

from __future__ import annotations

import copy
import math
import string
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..algorithm.reward_models import as_reward_functions
from ..algorithm.scoring import reward_names
from ..data.splits import load_splits
from ..errors import UserError
from ..evaluation.policy import evaluate_policy
from ..experiment.starting_model import starting_model, starting_tokenizer
from ..metrics.suite import fit_rewards
from ..metrics.texts import completion_text, prompt_text
from ..recipes.recipe import load_recipe
from ..storage.results import RECIPE_NAME, read_samples


_HERE = ("--push_to_hub", "false", "--report_to", "none")
_WITHOUT_GPU = ("--use_cpu", "true", "--bf16", "false", "--fp16", "false")
"""Keys of a recipe that the machine decides, not the run."""


@dataclass(frozen=True)
class Shown:
    """A completion.

    Attributes:
        text (`str`)
        rewards (`dict[str, float]`): of each reward function; NaN: it has none for this completion.
        score (`float`): their weighted sum; NaN likewise.
    """

    text: str
    rewards: dict[str, float]
    score: float


class Demo:
    """The models, tokenizer and rewards of a finished run.

    Args:
        folder (`Path`): the run's `output_dir`.

    Attributes:
        stages (`tuple[str, str]`): what the two models are called, before and after.
        example (`str`): a prompt to begin with; empty where the run has no samples.
        template (`str`): what a typed prompt is put into.
        unfitted (`str`): why rewards that learn from the train split could not; empty where all is well.

    Raises:
        UserError: a part of the run is missing.
    """

    def __init__(self, folder: Path):
        words = [*_HERE, *(() if torch.cuda.is_available() else _WITHOUT_GPU)]
        # The reinforced model as one to start from; an adapter is there already.
        of_model = ["--model_name_or_path", str(folder), "--use_peft", "false", "--supervised_model", "null"]
        self.recipe = load_recipe(folder / RECIPE_NAME, [*words, *of_model])
        begun = load_recipe(folder / RECIPE_NAME, words)
        stages = begun.algorithm.stages
        self.stages = (stages[-2], stages[-1])
        self.tokenizer = starting_tokenizer(self.recipe)
        before = None
        if begun.algorithm.supervised:
            before = Path(begun.arguments.supervised_model or folder / "supervised")
            if not before.is_dir():
                raise UserError(f"{before}, the supervised model of the run, is not there: bring it back.")
        models = starting_model(begun, self.tokenizer, before), starting_model(self.recipe)
        self.models = dict(zip(self.stages, models, strict=True))
        self.template = self._template()
        prompts = [row["prompt"] for row in read_samples(folder)[:1]]
        self.takes_messages = bool(prompts) and not isinstance(prompts[0], str)
        self.example = self._typed(prompt_text(prompts[0])) if prompts else ""
        self.functions, self.unfitted = self._rewards()

    def complete(self, typed: str, references: str = "", seed: int = 0) -> tuple[dict[str, Shown], list[str]]:
        """Completions of a prompt by both models, as the run's evaluation samples them.

        Args:
            typed (`str`): the prompt, which the template is put around.
            references (`str`): one a line, for rewards that compare with some.
            seed (`int`): of the samples.

        Returns:
            `(dict, list[str])`: by stage what it wrote, and why rewards are missing.

        Raises:
            UserError: the prompt is empty, or too long for a model.
        """
        if not typed.strip():
            raise UserError("the prompt is empty: write one.")
        text = self.template.format(prompt=typed).rstrip(" ")
        row: dict[str, Any] = {"prompt": [{"role": "user", "content": typed}] if self.takes_messages else text}
        if lines := [line for line in references.splitlines() if line.strip()]:
            row["references"] = lines
        args = copy.copy(self.recipe.training)
        # A function that needs what nobody has typed stops nothing.
        args.seed, args.reward_failure, args.reward_timeout = seed, "skip", None
        shown, missing = {}, []
        for stage, model in self.models.items():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = evaluate_policy(model, self.tokenizer, [row], self.functions, args, description="the prompt")
            missing += [str(warning.message) for warning in caught if "reward" in str(warning.message).lower()]
            (sample,) = found.samples
            names = reward_names(self.functions)
            rewards = {name: sample.get(name, sample.get(f"rewards/{name}", math.nan)) for name in names}
            shown[stage] = Shown(completion_text(sample["completion"]), rewards, sample["score"])
        return shown, list(dict.fromkeys(missing))

    def _template(self) -> str:
        template = self.recipe.arguments.prompt_template
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        # Of several columns the whole prompt is typed.
        return template if names == ["prompt"] else "{prompt}"

    def _typed(self, prompt: str) -> str:
        """The part of a test prompt that a person types."""
        before, _, after = self.template.format(prompt="\0").partition("\0")
        return prompt.removeprefix(before).removesuffix(after.rstrip(" "))

    def _rewards(self) -> tuple[list[Any], str]:
        rewards = self.recipe.arguments.reward_functions()
        reason = ""
        if any(getattr(getattr(reward, "metric", None), "fit_column", None) for reward in rewards):
            try:
                fit_rewards(rewards, load_splits(self.recipe.arguments, self.recipe.training.seed).train)
            except UserError as error:
                reason = f"Rewards that learn from the train split could not: {error}"
        device = next(self.models[self.stages[0]].parameters()).device
        options: Any = self.recipe.training.chat_template_kwargs
        return as_reward_functions(rewards, None, device, chat_template_kwargs=options), reason

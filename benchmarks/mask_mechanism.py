"""What a mask does to the gradient of a policy that stands still, and to a ratio that is not renormalised.

    python benchmarks/mask_mechanism.py commongen runs/masks --dataset_name FOLDER [--rollouts 24]

The policy of a seed is the supervised model of `mask_arms.py` after 20 updates of PPO; the old mask is the supervised
model. Of each mask: the noise of the policy gradient over rollouts of 32 completions (trace of its covariance over the
squared length of its mean, both unbiased), the policy's probability of the allowed tokens, and how many there are.
Of the old mask after one more update, on completions that were drawn before it: the mean of the ratio of renormalised
probabilities, which is 1 in expectation, and of the ratio without renormalisation, of a token and of a completion.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from mask_arms import recipe, supervised
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from trl_nlpo import NLPOTrainer
from trl_nlpo.algorithm.update import update_policy
from trl_nlpo.data.splits import load_splits
from trl_nlpo.models.policy_and_value import completion_logits


_PLAIN = {"mask_anchor_coef": 0.0, "vf_coef": 0.0, "kl_coef": 0.02}
MASKS: dict[str, tuple[dict[str, Any], bool]] = {
    "no mask": ({"mask_strategy": "none"}, False),
    "own nucleus": ({"mask_sync_steps": 1}, False),
    "own top 32": ({"mask_sync_steps": 1, "mask_strategy": "top_k", "mask_top_k": 32}, False),
    "old nucleus": ({"mask_sync_steps": None}, True),
    "old nucleus, floor 100": ({"mask_sync_steps": None, "mask_min_tokens": 100}, True),
}
"""Keys of each, and whether its masking policy is the supervised model."""


class Recorder:
    """In the place of an optimizer: keeps gradients, and leaves the weights alone."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter]):
        self.parameters = list(parameters)
        self.gradients: list[torch.Tensor] = []

    def step(self) -> None:
        self.gradients.append(torch.cat([parameter.grad.flatten().double() for parameter in self.parameters]))

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


class World:
    """Data and models of a seed."""

    def __init__(self, task: str, dataset_name: str, seed: int, out: Path):
        self.task, self.dataset_name, self.seed, self.out = task, dataset_name, seed, out
        self.start = supervised(task, dataset_name, seed, out)
        self.tokenizer = AutoTokenizer.from_pretrained(self.start, padding_side="left")
        self.rows = load_splits(self.recipe("runs").arguments, seed).train

    def recipe(self, folder: str, **keys: Any) -> Any:
        return recipe(
            self.task, self.dataset_name, self.seed, self.out, algorithm="supervised+nlpo",
            supervised_model=self.start, output_dir=folder, **keys,
        )  # fmt: skip

    def model(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.start, dtype=torch.float32)

    def trainer(self, folder: str, **keys: Any) -> NLPOTrainer:
        chosen = self.recipe(folder, **keys)
        return NLPOTrainer(
            args=chosen.training, processing_class=self.tokenizer, model=self.model(), ref_model=self.model(),
            reward_funcs=chosen.arguments.reward_functions(), train_dataset=self.rows,
        )  # fmt: skip


def gradients(trainer: NLPOTrainer, batches: list[Any]) -> dict[str, float]:
    """Noise of the gradient over rollouts, and what the masks were like."""
    recorder = Recorder(trainer.policy_and_value.policy.parameters())
    masses, sizes, tokens = [], [], []
    for number, batch in enumerate(batches):
        # Every rollout has random numbers of its own.
        trainer.run.num_updates = number
        rollout = trainer.collect_rollout(batch)
        estimates = trainer.estimate_advantages(rollout, trainer.score_rollout(rollout))
        update_policy(
            trainer.model_wrapped, rollout, estimates, module=trainer.policy_and_value, optimizer=recorder,
            launch=trainer.launch, plan=trainer.plan, objective=trainer.objective, sampling=trainer.sampling,
            generator=torch.Generator().manual_seed(number),
        )  # fmt: skip
        real = rollout.completion_mask
        tokens.append(int(real.sum()))
        masses.append(float((rollout.raw_logprobs - rollout.old_logprobs).exp()[real].mean()))
        mask = rollout.token_mask
        sizes.append(rollout.vocab_size if mask is None else float(mask.sum(-1)[real].double().mean()))
    stacked = torch.stack(recorder.gradients)
    count = len(stacked)
    squares = stacked.square().sum(1).mean()
    mean_squared = (stacked.mean(0).square().sum() * count - squares) / (count - 1)
    variance = (stacked - stacked.mean(0)).square().sum() / (count - 1)
    return {
        "signal": float(mean_squared.clamp(min=0).sqrt()), "variance": float(variance),
        "variance of a token": float(variance) * sum(tokens) / count, "noise": float(variance / mean_squared),
        "mass": sum(masses) / count, "allowed": sum(sizes) / count, "tokens": sum(tokens) / count,
    }  # fmt: skip


@torch.no_grad()
def ratios(trainer: NLPOTrainer, batches: list[Any]) -> dict[str, float]:
    """Means of both ratios after an update, on completions from before it that the update has not seen."""
    trainer.run.num_updates = 100
    seen, *fresh = [trainer.collect_rollout(batch) for batch in batches]
    with torch.enable_grad():
        trainer.update_policy(seen, trainer.estimate_advantages(seen, trainer.score_rollout(seen)))
    renormalised, plain, of_completions, plain_of_completions = [], [], [], []
    for rollout in fresh:
        real = rollout.completion_mask
        logits = completion_logits(
            trainer.policy_and_value.policy, rollout.sequences(torch.arange(len(rollout)))
        ).double()
        taken = rollout.completion_ids[:, : logits.shape[1], None].masked_fill(~real[..., None], 0)
        raw = logits.log_softmax(-1).gather(-1, taken)[..., 0]
        mask = rollout.token_mask
        masked = logits if mask is None else logits.masked_fill(~mask, -torch.inf)
        # Padding allows nothing.
        new = torch.where(real, masked.log_softmax(-1).gather(-1, taken)[..., 0].nan_to_num(), 0.0)
        difference = torch.where(real, new - rollout.old_logprobs, 0.0)
        plain_difference = torch.where(real, raw - rollout.raw_logprobs, 0.0)
        renormalised += difference[real].exp().tolist()
        plain += plain_difference[real].exp().tolist()
        of_completions += difference.sum(-1).exp().tolist()
        plain_of_completions += plain_difference.sum(-1).exp().tolist()
    return {
        name: statistic
        for of, values in (
            ("renormalised", renormalised), ("not renormalised", plain),
            ("completion, renormalised", of_completions), ("completion, not renormalised", plain_of_completions),
        )
        for name, statistic in _mean_and_error(of, values).items()
    }  # fmt: skip


def _mean_and_error(name: str, values: list[float]) -> dict[str, float]:
    numbers = torch.tensor(values, dtype=torch.float64)
    return {name: float(numbers.mean()), f"{name}, standard error": float(numbers.std() / len(numbers) ** 0.5)}


def measure(task: str, dataset_name: str, seed: int, out: Path, num_rollouts: int) -> dict[str, dict[str, float]]:
    world = World(task, dataset_name, seed, out)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        moved = world.trainer(f"{folder}/moved", mask_strategy="none", max_steps=20, kl_coef=0.02)
        moved.train()
        weights = moved.policy_and_value.state_dict()
        batches = list(islice(world.trainer(f"{folder}/batches").get_train_dataloader(), num_rollouts))
        for name, (keys, is_old) in MASKS.items():
            once = {"num_ppo_epochs": 1, "num_mini_batches": 1, "max_grad_norm": 0.0}
            trainer = world.trainer(f"{folder}/{len(found)}", **{**_PLAIN, **once, **keys})
            _move(trainer, weights, is_old)
            found[name] = gradients(trainer, batches)
            print(json.dumps({"mask": name, **found[name]}), flush=True)
            if is_old:
                trainer = world.trainer(f"{folder}/{len(found)}-ratios", **{**_PLAIN, **keys})
                _move(trainer, weights, is_old)
                found[name] |= ratios(trainer, batches)
                print(json.dumps({"mask": name, **found[name]}), flush=True)
    return found


def _move(trainer: NLPOTrainer, weights: dict[str, torch.Tensor], is_old: bool) -> None:
    """Put the policy where it is measured; the masking policy stays behind, or comes along."""
    trainer.policy_and_value.load_state_dict(weights)
    if is_old:
        trainer.masking_policy.policy_moved()
    else:
        trainer.masking_policy.sync()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("out", type=Path, help="the folder of mask_arms.py")
    parser.add_argument("--dataset_name", default="miniature")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rollouts", type=int, default=24)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    found = measure(options.task, options.dataset_name, options.seed, options.out, options.rollouts)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

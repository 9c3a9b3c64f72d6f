"""What a trainer's model card says of its settings, its rewards, and how prompts are read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from ..algorithm.distribution import SamplingSettings
from ..algorithm.scoring import reward_names
from ..config import NLPOConfig
from ..hub.snippet import PLACEHOLDER, Reading
from ..prompts import PromptDataset


_ALWAYS = (
    "learning_rate", "lr_scheduler_type", "per_device_train_batch_size", "gradient_accumulation_steps",
    "num_ppo_epochs", "num_mini_batches", "kl_coef", "gamma", "lam", "cliprange", "cliprange_value", "vf_coef",
    "temperature", "response_length", "seed",
)  # fmt: skip
_OF_MASKS = (
    "mask_strategy", "mask_top_p", "mask_top_k", "mask_min_tokens", "mask_sync_steps", "mask_anchor_coef",
)  # fmt: skip
_NOT_OF_THE_ALGORITHM = {
    # How a run is watched and kept, and a path.
    "log_completions", "num_completions_to_print", "logging_steps", "remove_unused_columns", "value_model",
    "max_skipped_steps", "stop_on_collapse", "reward_timeout", "gradient_checkpointing", "fuse_output_layer",
    "vllm_gpu_memory_utilization", "vllm_max_model_length", "reward_weights", "per_device_eval_batch_size",
}  # fmt: skip


def method_of(args: Any, name: str) -> str:
    """NLPO (`name`) where a mask limits the policy, and otherwise what the update is called."""
    if args.mask_strategy != "none":
        return name
    return "TRPO" if args.policy_update == "trust_region" else "PPO"


def settings_of(args: Any) -> dict[str, Any]:
    """The settings of the algorithm that matter: the ones everybody asks for, and all others that are not as usual."""
    of_masks = _OF_MASKS if args.mask_strategy != "none" else ()
    own = {field.name for field in dataclasses.fields(NLPOConfig)} & set(NLPOConfig.__annotations__)
    usual = {field.name: field.default for field in dataclasses.fields(NLPOConfig) if field.name in own}
    changed = [
        name
        for name, default in usual.items()
        if name not in {*_ALWAYS, *_OF_MASKS, *_NOT_OF_THE_ALGORITHM} and getattr(args, name) != default
    ]
    # What the mask's kind and the update's do not look at.
    idle = {"mask_top_k" if args.mask_strategy == "top_p" else "mask_top_p"}
    idle |= {"cliprange"} if args.policy_update == "trust_region" else set()
    names = [name for name in (*of_masks, *_ALWAYS, *sorted(changed)) if name not in idle]
    found = {name: _plain(getattr(args, name)) for name in names if getattr(args, name) is not None}
    if not found.get("bf16", True):
        del found["bf16"]
    if of_masks and args.mask_sync_steps is None:
        found["mask_sync_steps"] = "never"
    return found


def reward_weights(functions: Sequence[Any], weights: Sequence[float]) -> list[tuple[str, float]]:
    """Names and weights of reward functions."""
    return list(zip(reward_names(functions), weights, strict=True))


def reading_of(args: Any, tokenizer: Any, policy: Any, prompts: PromptDataset) -> Reading:
    """How prompts are read, and how completions are sampled when they are evaluated."""
    sampling = SamplingSettings.from_config(args, tokenizer, policy, for_evaluation=True)
    generation: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens, "do_sample": sampling.do_sample}
    if sampling.do_sample:
        # Models come with a top_k of their own, which evaluation does not take.
        generation |= {"temperature": sampling.temperature, "top_k": 0, **sampling.warpers}
    if sampling.repetition_penalty != 1.0:
        generation["repetition_penalty"] = sampling.repetition_penalty
    generation |= {name: value for name, value in sampling.generation_fields.items() if _is_plain(value)}
    if sampling.stop_token_ids:
        generation["eos_token_id"] = list(sampling.stop_token_ids)
    generation["pad_token_id"] = tokenizer.pad_token_id
    are_messages = len(prompts) > 0 and not isinstance(prompts[0]["prompt"], str)
    return Reading(
        messages=[{"role": "user", "content": PLACEHOLDER}] if are_messages else None,
        template_options=dict(args.chat_template_kwargs or {}),
        max_length=args.max_prompt_length,
        truncation_side=args.prompt_truncation_side,
        generation=generation,
    )


def _plain(value: Any) -> Any:
    """A value as JSON has it; of an enumeration its value."""
    value = getattr(value, "value", value)
    return value if _is_plain(value) else str(value)


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True

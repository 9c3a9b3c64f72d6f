"""How other trainers call what `NLPOConfig` and `NLPOTrainer` take: GRPO's names, and those of TRL's older PPO."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import UserError
from ..naming import did_you_mean


T = TypeVar("T")

_ONE_COMPLETION = "a critic needs one completion of each prompt only: remove it"
_SAMPLING = "use generation_kwargs, with fields of transformers.GenerationConfig"
_WHITENING = "use normalize_rewards or whiten_rewards, or change what the reward functions return"
_VLLM = "use rollout_engine='vllm'"

SETTINGS: dict[str, str] = {
    "ppo_epochs": "use num_ppo_epochs",
    "num_iterations": "use num_ppo_epochs",
    "noptepochs": "use num_ppo_epochs",
    "max_completion_length": "use response_length",
    "max_new_tokens": "use response_length",
    "max_length": "use max_prompt_length and response_length",
    "max_seq_length": "use max_prompt_length and response_length",
    "beta": "use kl_coef",
    "init_kl_coef": "use kl_coef",
    "target": "use kl_target",
    "horizon": "use kl_horizon",
    "adap_kl_ctrl": "set kl_target for an adaptive coefficient of the KL",
    "kl_penalty": "use kl_estimator",
    "epsilon": "use cliprange",
    "epsilon_high": "use cliprange_high",
    "clip_ratio_high": "use cliprange_high",
    "delta": "use dual_clip",
    "clip_ratio_c": "use dual_clip",
    "critic_warmup": "use critic_warmup_steps",
    "critic_lr": "use critic_learning_rate",
    "multi_objective_aggregation": "use normalize_rewards",
    "steps": "use total_episodes",
    "forward_batch_size": "use local_rollout_forward_batch_size",
    "backward_batch_size": "use per_device_train_batch_size",
    "steps_per_generation": "use num_mini_batches and num_ppo_epochs",
    "generation_batch_size": "use per_device_train_batch_size and gradient_accumulation_steps",
    "num_generations": _ONE_COMPLETION,
    "num_generations_eval": _ONE_COMPLETION,
    **dict.fromkeys(("top_p", "top_k", "min_p", "repetition_penalty"), _SAMPLING),
    **dict.fromkeys(("scale_rewards", "use_score_scaling", "use_score_norm", "score_clip"), _WHITENING),
    **dict.fromkeys(("use_vllm", "vllm_mode", "vllm_server_host"), _VLLM),
    "mask_truncated_completions": "use missing_eos_penalty",
    "non_eos_penalty": "use missing_eos_penalty",
    "penalty_reward_value": "use missing_eos_penalty",
    "target_kl": "use kl_target, or stop_on_collapse",
    "early_stopping": "use stop_on_collapse, or transformers.EarlyStoppingCallback",
    "log_with": "use report_to",
    "tracker_project_name": "use project or run_name",
    "evaluation_strategy": "use eval_strategy",
    "model_init_kwargs": "load the model with them, and pass it to the trainer",
    "model_name": "pass the model to the trainer",
}
"""Settings of other configurations: what to write instead."""

ARGUMENTS: dict[str, str] = {
    "config": "use args",
    "tokenizer": "use processing_class",
    "policy": "use model",
    "ref_policy": "use ref_model",
    "dataset": "use train_dataset",
    "optimizer": "use optimizers=(optimizer, scheduler)",
    "lr_scheduler": "use optimizers=(optimizer, scheduler)",
    "reward_func": "use reward_funcs",
    "reward_fn": "use reward_funcs",
    "reward_tokenizers": "use reward_processing_classes",
    "num_shared_layers": "the reference shares all frozen weights with an adapter: use peft_config",
    "model_init": "build a trainer for each trial of a search, with a model of its own",
    "compute_metrics": "evaluation reports every reward function: add one with the weight 0",
    "preprocess_logits_for_metrics": "evaluation samples completions: use reward functions",
    "compute_loss_func": "the loss is PPO's: use the trainer's steps in a loop of your own",
    "rollout_func": "use the trainer's steps in a loop of your own",
    "tools": "tools are not supported: remove it",
    "environment_factory": "environments are not supported: write the prompts into train_dataset",
}
"""Arguments of other trainers: what to write instead."""


def knows_other_names(others: Mapping[str, str]) -> Callable[[type[T]], type[T]]:
    """A class decorator: the constructor refuses keywords that it does not have in one line, with what to write.

    Args:
        others (`Mapping[str, str]`): names that something else has, and what to write instead.
    """

    def decorate(cls: type[T]) -> type[T]:
        construct = cls.__init__
        known = [name for name in inspect.signature(construct).parameters if name != "self"]

        @functools.wraps(construct)
        def checked(self: T, *args: Any, **kwargs: Any) -> None:
            for name in kwargs:
                if name not in known:
                    hint = f": {others[name]}" if name in others else did_you_mean(name, known)
                    raise UserError(f"{cls.__name__} has no {name!r}{hint}.")
            construct(self, *args, **kwargs)

        setattr(cls, "__init__", checked)  # noqa: B010
        return cls

    return decorate

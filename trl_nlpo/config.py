"""`NLPOConfig`: TRL's `PPOConfig` and what the paper adds to it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from ._trl import PPOConfig
from .errors import UserError
from .launch.zero import disable_sharded_loading


@dataclass
class NLPOConfig(PPOConfig):
    r"""
    Configuration class for the [`NLPOTrainer`].

    This class includes only the parameters that are specific to NLPO training. All of TRL's `PPOConfig` and of
    [`~transformers.TrainingArguments`] are there too. Note that default values in this class may differ from those.

    Parameters:
        mask_strategy (`str`, *optional*, defaults to `"top_p"`):
            Which tokens the masking policy lets the policy choose from: `"top_p"` (the paper), `"top_k"`, or `"none"`,
            which is plain PPO.
        mask_top_p (`float`, *optional*, defaults to `0.9`):
            For `"top_p"`: the smallest set of tokens whose probability under the masking policy exceeds this is
            allowed. In (0, 1]; 1 allows everything and is PPO.
        mask_top_k (`int`, *optional*):
            For `"top_k"`: how many of the masking policy's most likely tokens are allowed.
        mask_min_tokens (`int`, *optional*, defaults to `1`):
            Never allow fewer tokens than this. RL4LMs ran with 100.
        mask_sync_steps (`int`, *optional*, defaults to `20`):
            Updates between two copies of the policy into the masking policy (the paper's µ). `None`: never, which is
            how RL4LMs' published code behaves.
        gamma (`float`, *optional*, defaults to `0.95`):
            Discount of the token-level decision process (paper, section 5.4). 1 is the bandit view of most RLHF.
        kl_target (`float`, *optional*):
            Target of the adaptive KL controller, in nats per completion. `None` keeps `kl_coef` fixed.
        kl_horizon (`int`, *optional*):
            Completions over which the controller corrects a KL that is off by 100 %. `None`: the factor 0.1 per update
            of the paper (Ziegler et al. 2019).
        generation_kwargs (`dict` or `str`, *optional*):
            Any field of [`~transformers.GenerationConfig`], for rollouts.
        eval_generation_kwargs (`dict` or `str`, *optional*):
            The same for evaluation. `None`: as in rollouts. The paper found that a mismatch ruins test scores.
        reward_weights (`list[float]`, *optional*):
            One weight per reward function. `None`: 1 each.
        entropy_coef (`float`, *optional*, defaults to `0.0`):
            Coefficient of the entropy bonus (of the masked policy).
        log_completions (`bool`, *optional*, defaults to `False`):
            Print sample completions with their rewards at every log, and keep them under `completions/`.
        num_completions_to_print (`int`, *optional*, defaults to `5`):
            How many sample completions are printed.
        value_trains_backbone (`bool`, *optional*, defaults to `True`):
            With a value head on the policy's own states (no value model, no adapter): let the value loss train the
            backbone too. `False` trains the head alone.
        max_prompt_length (`int`, *optional*):
            Longer text prompts are cut to this many tokens. `None`: no cut; a prompt that leaves no room for the
            completion in the model's context is an error.
        prompt_truncation_side (`str`, *optional*, defaults to `"left"`):
            Which end of a long prompt is cut.
        chat_template_kwargs (`dict` or `str`, *optional*):
            Extra arguments of the chat template, for conversational prompts.
        reward_failure (`str`, *optional*, defaults to `"raise"`):
            What to do where a reward function raises, hangs, or returns NaN, infinity or no number: `"raise"` writes a
            checkpoint and ends the run; `"skip"` learns nothing from the completions concerned, nor from those for
            which every function returned None, and logs their number as `nlpo/skipped_completions`.
        reward_timeout (`float`, *optional*):
            Seconds after which a reward function is taken to hang. It cannot be ended: it goes on in a thread of its
            own until the process ends. `None`: wait for ever.
        max_skipped_steps (`int`, *optional*, defaults to `10`):
            Optimizer steps whose loss or gradient is not finite are skipped (`nlpo/skipped_steps`); after this many in
            a row the run writes a checkpoint and ends. `None`: never.
        stop_on_collapse (`bool`, *optional*, defaults to `False`):
            Stop, with a checkpoint, when the run looks like reward hacking; otherwise that is a warning. See
            `trl_nlpo/collapse.py`.
        remove_unused_columns (`bool`, *optional*, defaults to `False`):
            Must stay `False`: all columns reach the reward functions.

    > [!NOTE]
    > Defaults that differ from `PPOConfig`: `gamma` 0.95 instead of 1.0; `logging_steps` 1 instead of 10 (TRL's PPO
    > ignores it and logs every update); `gradient_checkpointing` `False` (TRL's PPO ignores its `True`); `bf16` is on
    > only where an accelerator computes in it (TRL's PPO ignores it with transformers 5); with
    > `load_best_model_at_end`, `metric_for_best_model` is `"reward"`, greater is better.
    """

    gamma: float = field(
        default=0.95,
        metadata={
            "help": "Discount factor of the token-level decision process, in [0, 1]. The paper uses 0.95; 1.0 is the "
            "bandit view of most RLHF, and made text less natural in the paper."
        },
    )
    logging_steps: float = field(
        default=1,
        metadata={"help": "Log every X updates; the metrics in between are averaged. In [0, 1): a share of the run."},
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata={"help": "Recompute activations in the backward pass: less memory, about 30 %% more time."},
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "Compute in bfloat16 (autocast). None: on where an accelerator supports it and fp16 is off; off "
            "on a CPU."
        },
    )
    remove_unused_columns: bool | None = field(
        default=False,
        metadata={"help": "Must stay False: all columns of the data set reach the reward functions."},
    )

    mask_strategy: Literal["top_p", "top_k", "none"] = field(
        default="top_p",
        metadata={
            "help": "Which tokens the masking policy allows: 'top_p' (the paper), 'top_k', or 'none', which is PPO."
        },
    )
    mask_top_p: float = field(
        default=0.9,
        metadata={
            "help": "Allow the smallest set of tokens whose probability under the masking policy exceeds this. "
            "In (0, 1]: lower is a tighter mask, 1.0 allows everything and is PPO."
        },
    )
    mask_top_k: int | None = field(
        default=None,
        metadata={"help": "With mask_strategy 'top_k': how many of the masking policy's likeliest tokens to allow."},
    )
    mask_min_tokens: int = field(
        default=1,
        metadata={"help": "Never allow fewer tokens than this at a position. RL4LMs' recipes ran with 100."},
    )
    mask_sync_steps: int | None = field(
        default=20,
        metadata={
            "help": "Updates between two copies of the policy into the masking policy (the paper's mu). None: never, "
            "which is how RL4LMs' published code behaves."
        },
    )
    kl_target: float | None = field(
        default=None,
        metadata={
            "help": "Target of the adaptive KL controller for `objective/kl`, in nats per completion. None keeps "
            "kl_coef fixed."
        },
    )
    kl_horizon: int | None = field(
        default=None,
        metadata={
            "help": "Completions over which the controller acts: kl_coef is multiplied by 1 + error * batch_size / "
            "kl_horizon after an update. None: by 1 + 0.1 * error, as in the paper."
        },
    )
    generation_kwargs: dict | str | None = field(
        default=None,
        metadata={
            "help": "Any field of transformers.GenerationConfig for rollouts, as a dict or JSON: "
            '\'{"top_k": 50, "min_new_tokens": 5}\'. The distribution sampled from is exactly the one optimized.'
        },
    )
    eval_generation_kwargs: dict | str | None = field(
        default=None,
        metadata={
            "help": "Any field of transformers.GenerationConfig for evaluation, as a dict or JSON. None: as in "
            "rollouts (without the mask)."
        },
    )
    reward_weights: list[float] | None = field(
        default=None,
        metadata={"help": "One weight per reward function; their weighted sum is the score. None: 1 each."},
    )
    entropy_coef: float = field(
        default=0.0,
        metadata={"help": "Coefficient of the entropy bonus, over the distribution sampled from. 0: off."},
    )
    log_completions: bool = field(
        default=False,
        metadata={"help": "Print sample completions with their rewards at every log and keep them as JSON lines."},
    )
    num_completions_to_print: int = field(
        default=5,
        metadata={"help": "How many completions log_completions and generate_completions print."},
    )
    value_trains_backbone: bool = field(
        default=True,
        metadata={
            "help": "With a value head on the policy's own states (no value_model, no adapter): let the value loss "
            "train the policy's backbone too. False: the head alone, which disturbs a good policy less."
        },
    )
    max_prompt_length: int | None = field(
        default=None,
        metadata={"help": "Cut longer text prompts to this many tokens. None: no cut."},
    )
    prompt_truncation_side: Literal["left", "right"] = field(
        default="left",
        metadata={"help": "Which end of a prompt longer than max_prompt_length is cut off."},
    )
    chat_template_kwargs: dict | str | None = field(
        default=None,
        metadata={"help": "Extra arguments of the chat template for conversational prompts, as a dict or JSON."},
    )

    reward_failure: Literal["raise", "skip"] = field(
        default="raise",
        metadata={
            "help": "What to do where a reward function raises, hangs or returns no finite number: 'raise' (after a "
            "checkpoint), or 'skip': learn nothing from these completions and count them."
        },
    )
    reward_timeout: float | None = field(
        default=None,
        metadata={
            "help": "Seconds after which a reward function is taken to hang. Its thread goes on until the process "
            "ends. None: wait for ever."
        },
    )
    max_skipped_steps: int | None = field(
        default=10,
        metadata={
            "help": "End the run, with a checkpoint, after this many optimizer steps in a row were skipped because "
            "loss or gradient was not finite. None: never."
        },
    )
    stop_on_collapse: bool = field(
        default=False,
        metadata={"help": "Stop, with a checkpoint, when the run looks like reward hacking, instead of warning only."},
    )

    def __post_init__(self) -> None:
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not self.use_cpu and torch.cuda.is_available() and _bf16_is_supported()
        for name in ("generation_kwargs", "eval_generation_kwargs", "chat_template_kwargs"):
            setattr(self, name, _as_dict(name, getattr(self, name)))
        if self.load_best_model_at_end and getattr(self, "metric_for_best_model", None) is None:
            self.metric_for_best_model: str | None = "reward"
            self.greater_is_better: bool | None = True
        # `transformers` works out DeepSpeed's batch sizes with it, long before the trainer fills it in.
        given = vars(self)["world_size"]
        self.world_size: Any = given or int(os.environ.get("WORLD_SIZE", "1"))
        super().__post_init__()
        self.world_size = given
        if getattr(self, "deepspeed_plugin", None) is not None:
            disable_sharded_loading()
        self._validate()

    def _validate(self) -> None:
        require = _Requirements()
        require(0.0 < self.mask_top_p <= 1.0, "mask_top_p", self.mask_top_p, "a number in (0, 1]")
        require(
            self.mask_strategy in ("top_p", "top_k", "none"),
            "mask_strategy",
            self.mask_strategy,
            "'top_p', 'top_k' or 'none'",
        )
        require(
            self.mask_strategy != "top_k" or (self.mask_top_k or 0) >= 1,
            "mask_top_k", self.mask_top_k, "a positive integer with mask_strategy='top_k'",
        )  # fmt: skip
        require(self.mask_min_tokens >= 1, "mask_min_tokens", self.mask_min_tokens, "at least 1")
        require(
            self.mask_sync_steps is None or self.mask_sync_steps >= 1,
            "mask_sync_steps",
            self.mask_sync_steps,
            "at least 1, or None for never",
        )
        require(0.0 <= self.gamma <= 1.0, "gamma", self.gamma, "a number in [0, 1]")
        require(0.0 <= self.lam <= 1.0, "lam", self.lam, "a number in [0, 1]")
        require(
            self.temperature > 0.0, "temperature", self.temperature, "greater than 0: the policy explores by sampling"
        )
        require(self.response_length >= 1, "response_length", self.response_length, "at least 1")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "local_rollout_forward_batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("cliprange", "cliprange_value"):
            require(getattr(self, name) >= 0.0, name, getattr(self, name), "0 or more")
        require(self.num_ppo_epochs >= 1, "num_ppo_epochs", self.num_ppo_epochs, "at least 1")
        require(self.num_mini_batches >= 1, "num_mini_batches", self.num_mini_batches, "at least 1")
        require(
            self.kl_target is None or self.kl_target > 0,
            "kl_target",
            self.kl_target,
            "positive, or None for a fixed kl_coef",
        )
        require(self.kl_horizon is None or self.kl_horizon > 0, "kl_horizon", self.kl_horizon, "positive, or None")
        require(self.kl_estimator in ("k1", "k3"), "kl_estimator", self.kl_estimator, "'k1' or 'k3'")
        require(
            not (self.stop_token and self.stop_token_id is not None),
            "stop_token",
            self.stop_token,
            "unset when stop_token_id is set",
        )
        require(self.stop_token in (None, "eos"), "stop_token", self.stop_token, "'eos' or None")
        require(
            self.prompt_truncation_side in ("left", "right"),
            "prompt_truncation_side",
            self.prompt_truncation_side,
            "'left' or 'right'",
        )
        require(self.reward_failure in ("raise", "skip"), "reward_failure", self.reward_failure, "'raise' or 'skip'")
        for name in ("reward_timeout", "max_skipped_steps"):
            limit = getattr(self, name)
            require(limit is None or limit > 0, name, limit, "greater than 0, or None for no limit")
        require(
            self.max_prompt_length is None or self.max_prompt_length >= 1,
            "max_prompt_length",
            self.max_prompt_length,
            "at least 1, or None",
        )


class _Requirements:
    def __call__(self, holds: bool, name: str, value: Any, wanted: str) -> None:
        if not holds:
            raise UserError(f"{name} is {value!r}, but must be {wanted}.")


def _bf16_is_supported() -> bool:
    return torch.cuda.is_bf16_supported()


def _as_dict(name: str, value: dict | str | None) -> dict[str, Any] | None:
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise UserError(f"{name} is not valid JSON ({error}): write it as '{{\"top_k\": 50}}'.") from None
    if not isinstance(parsed, dict):
        raise UserError(f"{name} must be a mapping such as '{{\"top_k\": 50}}', not {type(parsed).__name__}.")
    return parsed

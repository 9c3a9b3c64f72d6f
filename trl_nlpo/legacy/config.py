"""`PPOConfig`: the settings of the `.step()` loop under their old names, and those of a mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config.names_elsewhere import knows_other_names
from ..config.nlpo import as_mapping
from ..errors import UserError


WITHOUT_COUNTERPART: dict[str, str] = {
    "forward_batch_size": "use mini_batch_size, which does the same",
    "ratio_threshold": "use is_truncation=(0.0, 10.0), which leaves out single tokens",
    "compare_steps": "compare the stats that step() returns yourself",
    "push_to_hub_if_best_kwargs": "call push_to_hub(repo_id) where stats['ppo/mean_scores'] is the best so far",
    "dataset_num_proc": "pass num_proc to dataset.map yourself",
    "num_ppo_epochs": "use ppo_epochs",
    "kl_coef": "use init_kl_coef",
    "kl_estimator": "use kl_penalty",
    "report_to": "use log_with",
    "response_length": "pass max_new_tokens to generate()",
}
"""Settings of TRL's old `PPOConfig`, or of newer ones, that this one does not have: what to do instead."""


@knows_other_names(WITHOUT_COUNTERPART)
@dataclass
class PPOConfig:
    """Settings of [`PPOTrainer`], with the names and defaults of TRL 0.11. A mask, temperature and limits are ours."""

    exp_name: str = field(default="ppo", metadata={"help": "Name of the experiment, for trackers only."})
    seed: int = field(default=0, metadata={"help": "Random seed of everything, set by the trainer."})
    log_with: Any = field(
        default=None, metadata={"help": "Where log_stats logs: 'wandb', 'tensorboard' or a tracker of accelerate."}
    )
    task_name: str | None = field(default=None, metadata={"help": "For trackers only."})
    model_name: str | None = field(default="gpt2", metadata={"help": "For scripts and trackers; loads nothing."})
    query_dataset: str | None = field(default=None, metadata={"help": "For scripts and trackers; loads nothing."})
    reward_model: str | None = field(default=None, metadata={"help": "For scripts and trackers; loads nothing."})
    remove_unused_columns: bool = field(
        default=True, metadata={"help": "Taken for old scripts: all columns reach the collator either way."}
    )
    tracker_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of the trackers, as a dict or JSON."}
    )
    accelerator_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of the Accelerator, as a dict or JSON."}
    )
    project_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of accelerate's ProjectConfiguration, as a dict or JSON."}
    )
    tracker_project_name: str = field(default="trl", metadata={"help": "Name of the project in trackers."})
    steps: int = field(default=20000, metadata={"help": "For scripts that count; the trainer does not."})
    learning_rate: float = field(default=1.41e-5, metadata={"help": "Of Adam, where no optimizer is given."})
    adap_kl_ctrl: bool = field(default=True, metadata={"help": "Move the KL coefficient towards `target`."})
    init_kl_coef: float = field(default=0.2, metadata={"help": "Coefficient of the KL penalty at the start."})
    kl_penalty: Literal["kl", "k1", "k3"] = field(
        default="kl",
        metadata={"help": "Estimator of the KL: 'kl' (also 'k1'), the log-ratio, or 'k3', which is never negative."},
    )
    target: float = field(default=6.0, metadata={"help": "Target KL in nats per completion, with adap_kl_ctrl."})
    horizon: float = field(default=10000.0, metadata={"help": "Completions over which the coefficient adapts."})
    gamma: float = field(default=1.0, metadata={"help": "Discount over tokens, in [0, 1]."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of the generalized advantages, in [0, 1]."})
    cliprange: float = field(default=0.2, metadata={"help": "Range of the ratio in the policy's loss."})
    cliprange_value: float = field(default=0.2, metadata={"help": "Range of the values in the value loss."})
    vf_coef: float = field(default=0.1, metadata={"help": "Coefficient of the value loss."})
    batch_size: int = field(default=128, metadata={"help": "Completions that step() takes."})
    mini_batch_size: int = field(default=128, metadata={"help": "Completions of one forward and backward pass."})
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "Passes that one optimizer step adds up; the gradient is of their tokens' mean."}
    )
    ppo_epochs: int = field(default=4, metadata={"help": "Passes over a batch."})
    max_grad_norm: float | None = field(default=None, metadata={"help": "Limit of the gradient's norm; None: none."})
    optimize_cuda_cache: bool | None = field(default=None, metadata={"help": "As optimize_device_cache."})
    optimize_device_cache: bool = field(default=False, metadata={"help": "Empty a GPU's cache after each step."})
    early_stopping: bool = field(
        default=False, metadata={"help": "End a step after an epoch that moved the policy too far; see target_kl."}
    )
    target_kl: float = field(
        default=1.0, metadata={"help": "With early_stopping: 1.5 times this many nats per token are too far."}
    )
    use_score_scaling: bool = field(
        default=False, metadata={"help": "Divide scores by the standard deviation of all so far."}
    )
    use_score_norm: bool = field(
        default=False, metadata={"help": "With use_score_scaling: take the mean of all so far off them first."}
    )
    score_clip: float | None = field(default=None, metadata={"help": "Clip scores to [-score_clip, score_clip]."})
    whiten_rewards: bool = field(default=False, metadata={"help": "Scale token rewards to a variance of 1."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Recompute activations: less memory."})

    temperature: float | None = field(
        default=None,
        metadata={
            "help": "Ours: of responses that were not sampled by generate() of the trainer or its model, which "
            "know theirs. None: as generate()'s, or 1."
        },
    )
    mask_strategy: Literal["top_p", "top_k", "none"] = field(
        default="none", metadata={"help": "Ours: NLPO's mask on what trainer.generate() samples; 'none' is PPO."}
    )
    mask_top_p: float = field(default=0.9, metadata={"help": "Ours: probability that a 'top_p' mask exceeds."})
    mask_top_k: int | None = field(default=None, metadata={"help": "Ours: tokens that a 'top_k' mask allows."})
    mask_min_tokens: int = field(default=1, metadata={"help": "Ours: a mask never allows fewer tokens."})
    mask_sync_steps: int | None = field(
        default=20, metadata={"help": "Ours: steps between copies of the policy into the masking policy; None: never."}
    )
    mask_anchor_coef: float = field(
        default=1.0, metadata={"help": "Ours: keeps probability from leaking out of an old mask; 0: off."}
    )
    entropy_coef: float = field(default=0.0, metadata={"help": "Ours: coefficient of the entropy bonus."})
    cliprange_high: float | None = field(
        default=None, metadata={"help": "Ours: the ratio is clipped at 1 + this above; None: cliprange."}
    )
    dual_clip: float | None = field(
        default=None, metadata={"help": "Ours: limits the loss of tokens with a negative advantage; None: no limit."}
    )
    is_truncation: tuple[float, float] | None = field(
        default=None, metadata={"help": "Ours: learn nothing from tokens whose ratio is outside; None: from all."}
    )

    backward_batch_size: int = field(init=False, default=0)
    """Completions of an optimizer step."""
    world_size: int = field(init=False, default=1)
    global_backward_batch_size: int = field(init=False, default=0)
    global_batch_size: int = field(init=False, default=0)
    is_encoder_decoder: bool | None = field(init=False, default=None)
    is_peft_model: bool | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        for name in ("tracker_kwargs", "accelerator_kwargs", "project_kwargs"):
            setattr(self, name, as_mapping(name, getattr(self, name)) or {})
        if self.optimize_cuda_cache is not None:
            self.optimize_device_cache = self.optimize_cuda_cache
        for names, holds, wanted in _RULES:
            for name in names:
                if not holds(getattr(self, name)):
                    raise UserError(f"{name} is {getattr(self, name)!r}, but must be {wanted}.")
        if self.mask_strategy == "top_k" and (self.mask_top_k or 0) < 1:
            raise UserError(f"mask_top_k is {self.mask_top_k!r}, but must be at least 1 with mask_strategy 'top_k'.")
        if self.use_score_norm and not self.use_score_scaling:
            raise UserError("use_score_norm has no effect without use_score_scaling: set both, or neither.")
        self.backward_batch_size = self.mini_batch_size * self.gradient_accumulation_steps
        if self.batch_size % self.backward_batch_size:
            raise UserError(
                f"batch_size is {self.batch_size}, but must be a multiple of mini_batch_size x "
                f"gradient_accumulation_steps, which is {self.backward_batch_size}."
            )
        self.global_batch_size, self.global_backward_batch_size = self.batch_size, self.backward_batch_size

    @property
    def total_ppo_epochs(self) -> int:
        """`steps` over `batch_size`, rounded up: what old scripts loop over."""
        return -(-self.steps // self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """All fields, those within the dictionaries as `name/key`."""
        found: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            inner = {f"{item.name}/{key}": each for key, each in value.items()} if isinstance(value, dict) else None
            found.update({item.name: value} if inner is None else inner)
        return found


_RULES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        ("kl_penalty",),
        lambda value: value in ("kl", "k1", "k3"),
        "'kl' or 'k3' ('abs', 'mse' and 'full' are not there; 'k3' is the nearest: never negative, and unbiased)",
    ),
    (("gamma", "lam"), lambda value: 0.0 <= value <= 1.0, "a number in [0, 1]"),
    (
        ("batch_size", "mini_batch_size", "gradient_accumulation_steps", "ppo_epochs", "mask_min_tokens"),
        lambda value: isinstance(value, int) and value >= 1,
        "a whole number from 1",
    ),
    (("target", "horizon", "target_kl"), lambda value: value > 0.0, "greater than 0"),
    (
        ("cliprange", "cliprange_value", "init_kl_coef", "mask_anchor_coef", "learning_rate"),
        lambda value: value >= 0.0,
        "0 or more",
    ),
    (
        ("temperature", "score_clip", "max_grad_norm", "mask_sync_steps"),
        lambda value: value is None or value > 0,
        "greater than 0, or None",
    ),
    (("cliprange_high",), lambda value: value is None or value >= 0.0, "0 or more, or None for cliprange"),
    (("dual_clip",), lambda value: value is None or value > 1.0, "greater than 1, or None for no limit"),
    (
        ("is_truncation",),
        lambda value: value is None or (len(value) == 2 and 0.0 <= value[0] < 1.0 < value[1]),
        "two numbers, the first in [0, 1) and the second above 1, or None",
    ),
    (("mask_strategy",), lambda value: value in ("top_p", "top_k", "none"), "'top_p', 'top_k' or 'none'"),
    (("mask_top_p",), lambda value: 0.0 < value <= 1.0, "a number in (0, 1]"),
)

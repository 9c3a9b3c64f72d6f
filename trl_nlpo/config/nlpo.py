"""`NLPOConfig`: TRL's `PPOConfig` and what the paper adds to it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from .._trl import PPOConfig
from ..errors import UserError
from ..launch.zero import disable_sharded_loading
from .inherited_settings import check_inherited
from .names_elsewhere import SETTINGS, knows_other_names


@knows_other_names(SETTINGS)
@dataclass
class NLPOConfig(PPOConfig):  # type: ignore[misc]
    r"""
    Configuration class for the [`NLPOTrainer`].

    This class includes only the parameters that are specific to NLPO training. All of TRL's `PPOConfig` and of
    [`~transformers.TrainingArguments`] are there too. Note that default values in this class may differ from those.

    Parameters:

    > [!NOTE]
    > Defaults that differ from `PPOConfig`: `gamma` 0.95 instead of 1.0; `logging_steps` 1 instead of 10 (TRL's PPO
    > ignores it and logs every update); `gradient_checkpointing` `False` (TRL's PPO ignores its `True`); `bf16` is on
    > only where an accelerator computes in it (TRL's PPO ignores it with transformers 5); with
    > `load_best_model_at_end`, or a scheduler that follows evaluations, `metric_for_best_model` is `"reward"`,
    > greater is better, and such a scheduler takes its direction (`mode`) from `greater_is_better`.
    """

    # `help` is the only description of a field: the list of parameters above is made from it (at the end of this
    # file), and the README's table from its first sentence (`docs/make_tables.py`).

    mask_strategy: Literal["top_p", "top_k", "none"] = field(
        default="top_p",
        metadata={"help": "How the masking policy masks: 'top_p' (the paper), 'top_k', or 'none', which is PPO."},
    )
    mask_top_p: float = field(
        default=0.9,
        metadata={
            "help": "Allow the smallest set of tokens whose probability under the masking policy exceeds this. In "
            "(0, 1]: lower is a tighter mask, 1.0 allows everything and is PPO."
        },
    )
    mask_top_k: int | None = field(
        default=None,
        metadata={
            "help": "Allow this many of the masking policy's likeliest tokens. Needed with mask_strategy 'top_k', "
            "unused otherwise."
        },
    )
    mask_min_tokens: int = field(
        default=1,
        metadata={"help": "Never allow fewer tokens than this at a position; RL4LMs' recipes ran with 100."},
    )
    mask_sync_steps: int | None = field(
        default=20,
        metadata={
            "help": "Updates between two copies of the policy into the masking policy (the paper's mu); None: "
            "never. That is how RL4LMs' published code behaves."
        },
    )
    mask_anchor_coef: float = field(
        default=1.0,
        metadata={
            "help": "Coefficient of the anchor: of what the policy's log-probability of all allowed tokens together "
            "lacks of the masking policy's. It keeps probability from leaking out of an old mask, where nothing else "
            "in the objective sees it; 0 is the paper's objective."
        },
    )
    gamma: float = field(
        default=0.95,
        metadata={
            "help": "Discount over tokens, in [0, 1]; 1.0 is the bandit view of most RLHF. The paper uses 0.95 "
            "(section 5.4) and found text less natural with 1.0."
        },
    )
    kl_target: float | None = field(
        default=None,
        metadata={
            "help": "Target of the adaptive KL controller for `objective/kl`, in nats per completion; None keeps "
            "kl_coef fixed."
        },
    )
    kl_horizon: int | None = field(
        default=None,
        metadata={
            "help": "Completions over which the adaptive KL controller acts. kl_coef is multiplied by 1 + error * "
            "batch_size / kl_horizon after an update. None: by 1 + 0.1 * error, as in the paper."
        },
    )
    generation_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Any field of transformers.GenerationConfig for rollouts, as a dict or JSON. For example "
            '\'{"top_k": 50, "min_new_tokens": 5}\'. The distribution sampled from is exactly the one '
            "optimized."
        },
    )
    eval_generation_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Any field of transformers.GenerationConfig for evaluation, as a dict or JSON; None: as in "
            "rollouts. Evaluation is always without the mask. The paper found that a mismatch ruins test "
            "scores."
        },
    )
    reward_weights: list[float] | None = field(
        default=None,
        metadata={"help": "One weight per reward function; None: 1 each. The score is their weighted sum."},
    )
    entropy_coef: float = field(
        default=0.0,
        metadata={"help": "Coefficient of the entropy bonus, over the distribution sampled from; 0: off."},
    )
    log_completions: bool = field(
        default=False,
        metadata={
            "help": "Print sample completions with their rewards at every log, and keep all of them as JSON lines. "
            "They are under `completions/` in output_dir."
        },
    )
    num_completions_to_print: int = field(
        default=5,
        metadata={"help": "How many completions log_completions and generate_completions print."},
    )
    value_trains_backbone: bool = field(
        default=True,
        metadata={
            "help": "Let the loss of a value head on the policy's own states train the backbone too; False trains "
            "the head alone. That disturbs a good policy less. Without effect with a value_model or an "
            "adapter."
        },
    )
    disable_dropout: bool = field(
        default=True,
        metadata={
            "help": "Switch all dropout off, so that rollout and update compute one policy. False leaves it on in "
            "updates, for an ablation of just that: the paper found that training often diverges then."
        },
    )
    fuse_output_layer: bool = field(
        default=True,
        metadata={
            "help": "Compute logits together with their softmax, a few rows at a time, and under a mask only those of "
            "the allowed tokens, instead of all at once: the same distribution with less memory and time. False, and "
            "models that change their logits afterwards, sharded models and TRPO: all at once."
        },
    )
    max_prompt_length: int | None = field(
        default=None,
        metadata={
            "help": "Truncate longer text prompts to this many tokens; None: no truncation. A prompt that leaves no "
            "room for the completion in the model's context is an error."
        },
    )
    prompt_truncation_side: Literal["left", "right"] = field(
        default="left",
        metadata={"help": "Which end of a prompt longer than max_prompt_length is truncated."},
    )
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Extra arguments of the chat template for conversational prompts, as a dict or JSON."},
    )

    value_model: str | None = field(
        default=None,
        metadata={
            "help": "Start the value function from a saved one: the folder of a run or a checkpoint, or a sequence "
            "classifier with one label. None: random weights. The optimizer is fresh."
        },
    )
    critic_warmup_steps: int = field(
        default=0,
        metadata={
            "help": "First updates in which only the value function learns, before the policy moves (VC-PPO). They "
            "count as updates; a head on the policy's states then trains alone."
        },
    )
    critic_updates_per_step: int = field(
        default=1,
        metadata={
            "help": "Passes of the value function over a batch for each pass of the policy (SAO). More than 1 needs a "
            "value function with weights of its own: a value_model, an adapter, or value_trains_backbone false."
        },
    )
    critic_max_grad_norm: float | None = field(
        default=None,
        metadata={
            "help": "Clip the gradient of the value function's own weights to this norm, apart from the policy's; 0: "
            "no limit; None: max_grad_norm limits both together."
        },
    )
    lam_alpha: float | None = field(
        default=None,
        metadata={
            "help": "Lambda of the policy's advantages by the length of a completion, 1 - 1 / (lam_alpha * length), "
            "not below 0 (VAPO); None: lam for all. The targets of the value function keep critic_lam, or lam."
        },
    )
    critic_lam: float | None = field(
        default=None,
        metadata={
            "help": "Lambda of the targets of the value function, in [0, 1]; None: lam. VC-PPO takes 1.0 with a lower "
            "lam, so that late rewards reach the values of early tokens undiminished."
        },
    )
    critic_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the value function's own weights (head, model or adapter); None: learning_rate. "
            "The same schedule multiplies both."
        },
    )
    cliprange_high: float | None = field(
        default=None,
        metadata={
            "help": "The ratio is clipped at 1 + cliprange_high above, as at 1 - cliprange below; None: cliprange. "
            "DAPO takes 0.28 with 0.2."
        },
    )
    dual_clip: float | None = field(
        default=None,
        metadata={
            "help": "Limit the loss of a token with a negative advantage A to -dual_clip * A; greater than 1, such as "
            "3.0; None: no limit."
        },
    )
    is_truncation: list[float] | None = field(
        default=None,
        metadata={
            "help": "Learn nothing from tokens whose ratio is below the first or above the second number, such as "
            "0.2 4.0; None: from all. They count in `policy/clipfrac_avg`."
        },
    )

    bootstrap_at_length_limit: bool = field(
        default=False,
        metadata={
            "help": "Take a completion that the length limit cut for unfinished: the value of the state after its "
            "last token counts as what would have followed. False: as if it had ended there."
        },
    )
    positive_nll_coef: float = field(
        default=0.0,
        metadata={
            "help": "Coefficient of the likelihood of completions whose reward is above positive_nll_threshold, as in "
            "supervised training (VAPO takes 0.1); 0: off."
        },
    )
    positive_nll_threshold: float | None = field(
        default=None,
        metadata={"help": "Reward above which positive_nll_coef learns a completion. Needed with it."},
    )
    normalize_returns: bool = field(
        default=False,
        metadata={
            "help": "Have the value function learn returns divided by their running root mean square, so that its "
            "loss does not grow with the rewards. Its output is multiplied by the same again."
        },
    )
    normalize_rewards: bool = field(
        default=False,
        metadata={
            "help": "Divide each reward function's numbers by their running standard deviation before they are "
            "weighed, so that reward_weights alone say what counts more. Logged rewards stay as they are."
        },
    )
    policy_update: Literal["clipped", "trust_region"] = field(
        default="clipped",
        metadata={
            "help": "How the policy is updated: 'clipped' (PPO, with the optimizer), or 'trust_region' (TRPO: a "
            "step along the natural gradient a batch, as far as trpo_kl allows; only the critic has an optimizer)."
        },
    )
    trpo_kl: float = field(
        default=0.01,
        metadata={"help": "Most nats per token that a step of 'trust_region' may move the policy, in the mean."},
    )
    trpo_cg_steps: int = field(
        default=10,
        metadata={"help": "Steps of conjugate gradients, each a pass with second derivatives, for a direction."},
    )
    trpo_damping: float = field(
        default=0.1,
        metadata={"help": "Added to the diagonal of the Fisher information; more is nearer to the plain gradient."},
    )
    trpo_backtracks: int = field(
        default=10,
        metadata={"help": "How often a step is shortened (by 0.8) before none is taken."},
    )

    rollout_engine: Literal["transformers", "vllm"] = field(
        default="transformers",
        metadata={
            "help": "What samples the completions of rollouts: 'transformers' (the policy itself, with generate) or "
            "'vllm' (a copy of it in this process; same sets and draws, docs/engines.md). Evaluations use "
            "transformers either way."
        },
    )
    vllm_gpu_memory_utilization: float = field(
        default=0.3,
        metadata={"help": "Share of the GPU's memory for vLLM's copy of the policy and its cache."},
    )
    vllm_max_model_length: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens of prompt and completion in vLLM; None: the longest prompt of the data sets and "
            "response_length."
        },
    )

    reward_failure: Literal["raise", "skip"] = field(
        default="raise",
        metadata={
            "help": "What to do where a reward function raises, hangs, or returns NaN, infinity or no number. "
            "'raise' writes a checkpoint and ends the run; 'skip' learns nothing from the completions "
            "concerned, nor from those for which every function returned None, and logs their number as "
            "`nlpo/skipped_completions`."
        },
    )
    reward_timeout: float | None = field(
        default=None,
        metadata={
            "help": "Seconds after which a reward function is taken to hang; None: wait for ever. It cannot be "
            "stopped: its thread runs until the process ends."
        },
    )
    max_skipped_steps: int | None = field(
        default=10,
        metadata={
            "help": "End the run, with a checkpoint, after this many skipped optimizer steps in a row; None: never. "
            "A step is skipped where loss or gradient is not finite (`nlpo/skipped_steps`)."
        },
    )
    stop_on_collapse: bool = field(
        default=False,
        metadata={
            "help": "Stop, with a checkpoint, when the run looks like reward hacking, instead of warning only. "
            "docs/surviving.md says how that is told."
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
            "help": "Compute in bfloat16 (autocast); None: on where an accelerator supports it and fp16 is off; off "
            "on a CPU."
        },
    )
    remove_unused_columns: bool | None = field(
        default=False,
        metadata={"help": "Must stay False: all columns of the data set reach the reward functions."},
    )

    def __post_init__(self) -> None:
        check_inherited(self)
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not self.use_cpu and torch.cuda.is_available() and _bf16_is_supported()
        for name in ("generation_kwargs", "eval_generation_kwargs", "chat_template_kwargs"):
            setattr(self, name, as_mapping(name, getattr(self, name)))
        follows_evaluations = self.lr_scheduler_type in _FOLLOWING_EVALUATIONS
        if (self.load_best_model_at_end or follows_evaluations) and self.metric_for_best_model is None:
            # `transformers` would take the loss, which an evaluation does not have.
            self.metric_for_best_model: str | None = "reward"
            self.greater_is_better: bool | None = True
        # `transformers` works out DeepSpeed's batch sizes with it, long before the trainer fills it in.
        given = vars(self)["world_size"]
        for name in ("checkpointing", "checkpointing_kwargs"):
            # By the name that transformers 5.24 has, which warns of the older; the older is set to it there.
            if getattr(self, f"activation_{name}", False) is None:
                setattr(self, f"activation_{name}", getattr(self, f"gradient_{name}"))
        self.world_size: Any = given or int(os.environ.get("WORLD_SIZE", "1"))
        super().__post_init__()
        self.world_size = given
        if follows_evaluations:
            direction = {"mode": "max" if self.greater_is_better else "min"}
            self.lr_scheduler_kwargs: Any = direction | dict(self.lr_scheduler_kwargs or {})
        if getattr(self, "deepspeed_plugin", None) is not None:
            disable_sharded_loading()
        self._validate()

    def _validate(self) -> None:
        if self.mask_strategy == "top_k" and (self.mask_top_k or 0) < 1:
            raise _refusal("mask_top_k", self.mask_top_k, "a positive integer with mask_strategy='top_k'")
        if self.stop_token and self.stop_token_id is not None:
            raise _refusal("stop_token", self.stop_token, "unset when stop_token_id is set")
        for field_ in dataclasses.fields(self):
            value = getattr(self, field_.name, None)
            if isinstance(value, float) and not math.isfinite(value) and field_.name not in _MAY_BE_INFINITE:
                raise _refusal(field_.name, value, "a finite number")
        for names, holds, wanted in _RULES:
            for name in names:
                value = getattr(self, name)
                if not holds(value):
                    raise _refusal(name, value, wanted)
        for contradicts, message in _CONTRADICTIONS:
            if contradicts(self):
                raise UserError(message.format(**vars(self)))


_FOLLOWING_EVALUATIONS = ("reduce_lr_on_plateau", "greedy")
"""Schedulers that lower the learning rate when `metric_for_best_model` stops getting better."""

_MAY_BE_INFINITE = ("cliprange", "cliprange_value", "cliprange_high", "max_grad_norm")
"""Settings of which infinity says that there is no limit."""

_RULES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("mask_top_p",), lambda value: 0.0 < value <= 1.0, "a number in (0, 1]"),
    (("mask_strategy",), lambda value: value in ("top_p", "top_k", "none"), "'top_p', 'top_k' or 'none'"),
    (("mask_sync_steps",), lambda value: value is None or value >= 1, "at least 1, or None for never"),
    (("gamma", "lam"), lambda value: 0.0 <= value <= 1.0, "a number in [0, 1]"),
    (("critic_lam",), lambda value: value is None or 0.0 <= value <= 1.0, "a number in [0, 1], or None for lam"),
    (
        ("critic_learning_rate", "lam_alpha"),
        lambda value: value is None or value > 0.0,
        "greater than 0, or None",
    ),
    (("critic_max_grad_norm",), lambda value: value is None or value >= 0.0, "0 or more, or None"),
    (("mask_anchor_coef", "positive_nll_coef", "critic_warmup_steps"), lambda value: value >= 0, "0 or more"),
    (("trpo_kl", "trpo_damping"), lambda value: value > 0.0, "greater than 0"),
    (("policy_update",), lambda value: value in ("clipped", "trust_region"), "'clipped' or 'trust_region'"),
    (("cliprange_high",), lambda value: value is None or value >= 0.0, "0 or more, or None for cliprange"),
    (("dual_clip",), lambda value: value is None or value > 1.0, "greater than 1, or None for no limit"),
    (
        ("is_truncation",),
        lambda value: value is None or (len(value) == 2 and 0.0 <= value[0] < 1.0 < value[1]),
        "two numbers, the first in [0, 1) and the second above 1, or None",
    ),
    (("temperature",), lambda value: value > 0.0, "greater than 0: the policy explores by sampling"),
    (
        (
            "mask_min_tokens", "response_length", "per_device_train_batch_size", "per_device_eval_batch_size",
            "local_rollout_forward_batch_size", "num_ppo_epochs", "num_mini_batches", "gradient_accumulation_steps",
            "critic_updates_per_step", "trpo_cg_steps", "trpo_backtracks",
        ),
        lambda value: value >= 1,
        "at least 1",
    ),
    (
        ("max_steps",),
        lambda value: value == -1 or value >= 1,
        "at least 1, or -1 to train for num_train_epochs or total_episodes; evaluate() needs no training",
    ),
    (("num_train_epochs",), lambda value: value > 0, "greater than 0; evaluate() needs no training"),
    (("total_episodes",), lambda value: value is None or value >= 1, "at least 1, or None for num_train_epochs"),
    (("cliprange", "cliprange_value"), lambda value: value >= 0.0, "0 or more"),
    (("kl_target",), lambda value: value is None or value > 0, "positive, or None for a fixed kl_coef"),
    (("kl_horizon",), lambda value: value is None or value > 0, "positive, or None"),
    (("rollout_engine",), lambda value: value in ("transformers", "vllm"), "'transformers' or 'vllm'"),
    (("vllm_gpu_memory_utilization",), lambda value: 0.0 < value <= 1.0, "a number in (0, 1]"),
    (("vllm_max_model_length",), lambda value: value is None or value >= 2, "at least 2, or None"),
    (("kl_estimator",), lambda value: value in ("k1", "k3"), "'k1' or 'k3'"),
    (("stop_token",), lambda value: value in (None, "eos"), "'eos' or None"),
    (("prompt_truncation_side",), lambda value: value in ("left", "right"), "'left' or 'right'"),
    (("reward_failure",), lambda value: value in ("raise", "skip"), "'raise' or 'skip'"),
    (
        ("reward_timeout", "max_skipped_steps"),
        lambda value: value is None or value > 0,
        "greater than 0, or None for no limit",
    ),
    (("max_prompt_length",), lambda value: value is None or value >= 1, "at least 1, or None"),
)  # fmt: skip
"""Settings, what must hold for the value of each, and how that is said."""


_CONTRADICTIONS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda args: bool(args.positive_nll_coef) and args.positive_nll_threshold is None,
        "positive_nll_coef is {positive_nll_coef}, but positive_nll_threshold is not set: give the reward above which "
        "a completion is learned.",
    ),
    (
        lambda args: not args.positive_nll_coef and args.positive_nll_threshold is not None,
        "positive_nll_threshold has no effect without positive_nll_coef: set that, to 0.1 say, or leave both out.",
    ),
    (
        lambda args: args.lam_alpha is not None and args.lam_alpha * args.response_length <= 1.0,
        "lam_alpha is {lam_alpha}, with which lambda is 0 for every completion of at most {response_length} tokens "
        "(response_length): it must be above 1 / response_length.",
    ),
    (
        lambda args: 0 < args.max_steps <= args.critic_warmup_steps,
        "critic_warmup_steps is {critic_warmup_steps} and max_steps {max_steps}: the policy would never move.",
    ),
    (
        lambda args: args.policy_update == "trust_region" and _has_ratio_limits(args),
        "cliprange_high, dual_clip and is_truncation limit the ratio of policy_update 'clipped', and have no effect "
        "on 'trust_region': leave them out.",
    ),
    (
        lambda args: args.policy_update == "trust_region" and args.fp16,
        "policy_update 'trust_region' cannot take its second derivatives in fp16: set bf16, or neither.",
    ),
    (
        lambda args: args.policy_update == "trust_region" and _recomputes(args),
        "policy_update 'trust_region' needs second derivatives, which gradient_checkpointing does not give: set it to "
        "false and lower per_device_train_batch_size.",
    ),
)
"""Settings that contradict each other, and how that is said."""


def range_of(name: str) -> str | None:
    """What is checked of the value of a setting, in words: `"a number in (0, 1]"`; None where only its type is."""
    return next((wanted for names, _, wanted in _RULES if name in names), None)


def _recomputes(args: Any) -> bool:
    return bool(args.gradient_checkpointing or getattr(args, "activation_checkpointing", False))


def _has_ratio_limits(args: Any) -> bool:
    return any(value is not None for value in (args.cliprange_high, args.dual_clip, args.is_truncation))


def _refusal(name: str, value: Any, wanted: str) -> UserError:
    return UserError(f"{name} is {value!r}, but must be {wanted}.")


def _bf16_is_supported() -> bool:
    return bool(torch.cuda.is_bf16_supported())


def as_mapping(name: str, value: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """A setting that is a mapping, or JSON of one.

    Args:
        name (`str`): of the setting, for the message.
        value (`dict` or `str`, *optional*): None stays None.

    Raises:
        UserError: a text that is no JSON, or not of a mapping.
    """
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise UserError(f"{name} is not valid JSON ({error}): write it as '{{\"top_k\": 50}}'.") from None
    if not isinstance(parsed, dict):
        raise UserError(f"{name} must be a mapping such as '{{\"top_k\": 50}}', not {type(parsed).__name__}.")
    return parsed


def described_fields(config: type) -> list[dataclasses.Field[Any]]:
    """The fields that a configuration class itself defines or redefines, in the order of its source.

    Their `metadata["help"]` is what `argparse` prints, so a percent sign is doubled in it.
    """
    fields = {item.name: item for item in dataclasses.fields(config)}
    return [fields[name] for name in inspect.get_annotations(config)]


def _parameters(config: type) -> str:
    """The fields as the list of parameters of a docstring."""
    entries = []
    for item in described_fields(config):
        kind = str(item.type).removesuffix(" | None").replace("'", '"')
        # JSON writes text in double quotes, as code does here, but not True and False.
        value = json.dumps(item.default) if isinstance(item.default, str) else repr(item.default)
        default = "" if item.default is None else f", defaults to `{value}`"
        text = textwrap.indent(textwrap.fill(item.metadata["help"].replace("%%", "%"), 107), " " * 8)
        entries.append(f"    {item.name} (`{kind}`, *optional*{default}):\n{text}")
    return "\n".join(entries)


if NLPOConfig.__doc__:  # Python's -OO drops it.
    NLPOConfig.__doc__ = inspect.cleandoc(NLPOConfig.__doc__).replace(
        "Parameters:\n", f"Parameters:\n{_parameters(NLPOConfig)}\n"
    )

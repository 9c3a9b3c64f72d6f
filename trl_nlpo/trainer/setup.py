"""What the trainer does before it is one: arguments checked and copied, the policy made ready to be trained."""

from __future__ import annotations

import copy
import dataclasses
import os
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedDataParallelKwargs
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils import logging

from ..algorithm.batch_plan import BatchPlan
from ..algorithm.draws import seeded
from ..config import NLPOConfig
from ..errors import UserError, one_line
from ..launch.launch import Launch
from ..models.adapters import (
    VALUE_ADAPTER,
    add_value_adapter,
    can_hold_several,
    is_adapter_model,
    make_savable,
    remove_adapters_of_trainer,
    set_up_trained_adapter,
    with_adapter,
)
from ..models.checks import check_loaded, check_trainable, train_in_float32
from ..models.dropout import disable_dropout, has_dropout
from ..models.policy_and_value import PolicyAndValue, check_value_model, output_layer
from ..models.quantized import prepare_quantized


if TYPE_CHECKING:
    from peft import PeftConfig


logger = logging.get_logger(__name__)


def as_nlpo_config(args: Any) -> NLPOConfig:
    """A copy of `args`, for this trainer to fill in: the caller may use it again. TRL's `PPOConfig` gets our defaults.

    Raises:
        UserError: neither an [`NLPOConfig`] nor a `PPOConfig`.
    """
    if isinstance(args, NLPOConfig):
        config = copy.copy(args)
    elif dataclasses.is_dataclass(args) and hasattr(args, "num_ppo_epochs"):
        config = _from_ppo_config(args)
    else:
        raise UserError(f"args must be an NLPOConfig (or TRL's PPOConfig), not {type(args).__name__}.")
    if config.gradient_checkpointing:
        config.gradient_checkpointing_kwargs = {"use_reentrant": False, **(config.gradient_checkpointing_kwargs or {})}
    return config


def _from_ppo_config(args: Any) -> NLPOConfig:
    """May set the environment variable ACCELERATE_MIXED_PRECISION, which the `PPOConfig` has set itself."""
    known = {field.name for field in dataclasses.fields(NLPOConfig) if field.init}
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(args) if field.init}
    values["remove_unused_columns"] = False
    if values["metric_for_best_model"] == "loss":
        # What `transformers` fills in; TRL's PPO never evaluates.
        values["metric_for_best_model"] = values["greater_is_better"] = None
    # TRL's PPO on a CPU computes in float32, whatever its default of bf16 says.
    values["bf16"] = (values.get("bf16") and torch.cuda.is_available()) or None
    if not values["bf16"] and getattr(args, "bf16", False):
        # With transformers 4 that configuration has told accelerate already, by a variable that outlives it.
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    return NLPOConfig(**{name: value for name, value in values.items() if name in known and not name.startswith("_")})


def loaded(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """A policy and its tokenizer, loaded where the policy is given by its path or Hub id.

    Args:
        model: a model, which is returned as it is, or a name: its weights are loaded in float32, so that small steps
            move them.
        tokenizer: the policy's; None for the one that is with the named model, padded by EOS if it has no pad token.

    Raises:
        UserError: it cannot be loaded, or not all of its weights are there.
    """
    if not isinstance(model, (str, os.PathLike)):
        return model, tokenizer
    name = os.fspath(model)
    if os.path.isfile(os.path.join(name, "adapter_config.json")):
        raise UserError(
            f"model {name!r} is an adapter: load it, with "
            "peft.AutoPeftModelForCausalLM.from_pretrained(..., is_trainable=True) for example."
        )
    try:
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
        is_encoder_decoder = getattr(AutoConfig.from_pretrained(name), "is_encoder_decoder", False)
        auto_model: Any = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
        policy, found = auto_model.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise UserError(f"model {name!r} cannot be loaded: {one_line(error, 300)}") from error
    check_loaded(f"model {name!r}", policy, found)
    return policy, tokenizer


def check_arguments(
    processing_class: Any, model: Any, ref_model: Any, reward_model: Any, reward_funcs: Any, train_dataset: Any
) -> None:
    if train_dataset is None:
        raise UserError("`train_dataset` is required.")
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model must be a model or the path of one, not {type(model).__name__}: use "
            "AutoModelForCausalLM.from_pretrained."
        )
    if ref_model is model:
        raise UserError(
            "`model` and `ref_model` cannot be the same object: pass None for a copy of the model, or make a "
            "copy of your own."
        )
    if reward_model is None and reward_funcs is None:
        raise UserError("No reward: pass reward_funcs (a function, a model, or a list of these) or reward_model.")
    if reward_model is not None and reward_funcs is not None:
        raise UserError("reward_model and reward_funcs are two names of one thing: pass one of them.")
    if getattr(processing_class, "pad_token_id", None) is None:
        raise UserError(
            "The tokenizer has no pad token: set one before training, for example "
            "tokenizer.pad_token = tokenizer.eos_token."
        )


def prepare_policy(
    model: nn.Module,
    args: NLPOConfig,
    peft_config: PeftConfig | None = None,
    value_model: nn.Module | None = None,
    ref_model: nn.Module | None = None,
) -> PolicyAndValue:
    """The policy with its adapters and its value function, quantized bases made trainable, and dropout off everywhere.

    What is random in it (an adapter, the value head) is drawn from `args.seed` alone: neither what ran before in the
    process nor the algorithm changes it. The global random state is left as it was.

    Args:
        model, value_model, ref_model, peft_config: as [`NLPOTrainer`] takes them.
        args ([`NLPOConfig`]): `seed`, `model_adapter_name`, `ref_adapter_name`, `value_trains_backbone`,
            `disable_dropout`.

    Raises:
        UserError: a model without an output layer, an adapter that cannot be trained, or a value model that does not
            fit the policy.
    """
    output_layer(model)
    with seeded(args.seed, next(model.parameters()).device):
        return _prepared(model, args, peft_config, value_model, ref_model)


def _prepared(
    model: nn.Module,
    args: NLPOConfig,
    peft_config: PeftConfig | None,
    value_model: nn.Module | None,
    ref_model: nn.Module | None,
) -> PolicyAndValue:
    policy = with_adapter(model, peft_config)
    has_adapter = is_adapter_model(policy)
    prepare_quantized(policy, has_adapter)
    adapter, value_adapter = "", None
    if has_adapter:
        remove_adapters_of_trainer(policy)
        adapter = args.model_adapter_name or policy.active_adapter
        set_up_trained_adapter(policy, adapter, args.ref_adapter_name)
        if value_model is None and can_hold_several(policy):
            add_value_adapter(policy, adapter)
            value_adapter = VALUE_ADAPTER
    if value_model is not None:
        check_value_model(policy, value_model)
    for module in (policy, ref_model, value_model):
        if module is not None and args.disable_dropout:
            disable_dropout(module)
    trained = PolicyAndValue(policy, value_model, value_adapter, args.value_trains_backbone, adapter)
    idle = None if args.disable_dropout else _idle_dropout(policy, value_model)
    for line in (make_savable(policy), *check_trainable(trained), *train_in_float32(trained), idle):
        if line is not None and args.process_index == 0:
            logger.warning(line)
    return trained


def _idle_dropout(*models: nn.Module | None) -> str | None:
    if any(has_dropout(model) for model in models if model is not None):
        return None
    return "disable_dropout=False changes nothing: the model has no dropout (every rate is 0)."


def check_optimizer(optimizer: torch.optim.Optimizer, model: PolicyAndValue) -> None:
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in trained for parameter in model.policy.parameters() if parameter.requires_grad):
        raise UserError(
            "The optimizer given trains no weight of the policy: make it of model.parameters(), or leave `optimizers` "
            "out."
        )
    if model.shares_backbone and not any(id(parameter) in trained for parameter in model.value_model.parameters()):
        raise UserError(
            "The optimizer given does not train the value head, which the trainer made: pass a value_model of your "
            "own and its parameters, or leave `optimizers` out."
        )


def check_parts(args: NLPOConfig, module: PolicyAndValue, launch: Launch, plan: BatchPlan) -> None:
    """Refuse to train policy and value function apart where they cannot be, and a critic that never stops warming up.

    Raises:
        UserError: a setting that needs a value function with weights of its own, or one process or DDP.
    """
    asked = {
        "critic_updates_per_step": args.critic_updates_per_step > 1,
        "critic_warmup_steps": args.critic_warmup_steps > 0,
        "critic_max_grad_norm": args.critic_max_grad_norm is not None,
        "policy_update": args.policy_update == "trust_region",
    }
    if module.shares_backbone and module.value_trains_backbone:
        for name in ("critic_updates_per_step", "policy_update"):
            if asked[name]:
                raise UserError(
                    f"{name} is {getattr(args, name)!r}, but the value function's loss trains the policy's backbone "
                    "too: set value_trains_backbone to false, pass a value_model, or train an adapter."
                )
    if not launch.trains_parts_alone:
        for name, is_asked in asked.items():
            if is_asked:
                raise UserError(
                    f"{name} is {getattr(args, name)!r}, but {launch.description} trains policy and value function "
                    "in one step: launch one process or DDP, or leave it out."
                )
    if args.critic_warmup_steps >= plan.num_updates:
        raise UserError(
            f"critic_warmup_steps is {args.critic_warmup_steps}, but the run has {plan.num_updates} updates: the "
            "policy would never move."
        )


def ddp_settings(args: NLPOConfig) -> DistributedDataParallelKwargs:
    """The `ddp_*` arguments that are set, as `transformers.Trainer` reads them."""
    settings = {
        "find_unused_parameters": args.ddp_find_unused_parameters,
        "bucket_cap_mb": args.ddp_bucket_cap_mb,
        "broadcast_buffers": args.ddp_broadcast_buffers,
    }
    return DistributedDataParallelKwargs(**{name: value for name, value in settings.items() if value is not None})


def fill_in_batch_sizes(args: NLPOConfig, plan: BatchPlan) -> None:
    """TRL's PPO writes the sizes it works out into its configuration, where scripts read them."""
    args.world_size = plan.num_processes
    args.num_total_batches = plan.num_updates
    args.total_episodes = args.total_episodes or plan.num_updates * plan.batch_size
    args.local_batch_size, args.batch_size = plan.local_batch_size, plan.batch_size
    args.micro_batch_size = plan.microbatch_size * plan.num_processes
    args.local_mini_batch_size = plan.local_minibatch_size
    args.mini_batch_size = plan.local_minibatch_size * plan.num_processes

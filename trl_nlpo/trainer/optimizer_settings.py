"""Optimizer and scheduler settings, tried on a layer of four weights before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import Trainer, get_scheduler

from ..errors import UserError, one_line


def check_optimizer_settings(args: Any) -> None:
    """Make the optimizer and the scheduler that the arguments ask for, and throw them away.

    Those that choose layers of the model by name (`optim_target_modules`), or come from DeepSpeed, are not tried.

    Args:
        args ([`NLPOConfig`])

    Raises:
        UserError: a package is missing, or a value is out of range.
    """
    if args.deepspeed or getattr(args, "optim_target_modules", None):
        return
    model = nn.Linear(2, 2)
    try:
        cls, options = Trainer.get_optimizer_cls_and_kwargs(args, model)  # type: ignore[arg-type]
    except (ImportError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"optim {_name(args.optim)!r} cannot be used: {one_line(error, 300)}") from None
    if {"model", "optimizer_dict", "params"} & {*options}:
        return
    try:
        optimizer = cls(model.parameters(), **options)
    except (ImportError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"optim {_name(args.optim)!r} cannot be made with learning_rate {args.learning_rate}, weight_decay "
            f"{args.weight_decay} and its other settings: {one_line(error, 300)}"
        ) from None
    try:
        get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=args.get_warmup_steps(10),
            num_training_steps=10,
            scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"lr_scheduler_type {_name(args.lr_scheduler_type)!r} cannot be made with lr_scheduler_kwargs "
            f"{args.lr_scheduler_kwargs}: {one_line(error, 300)}"
        ) from None


def set_critic_rate(optimizer: torch.optim.Optimizer, critic: Iterable[nn.Parameter], learning_rate: float) -> None:
    """Give the critic's weights groups of their own, behind the others, with a learning rate of their own.

    Before a scheduler is made: it multiplies what each group begins with.

    Raises:
        UserError: the optimizer does not hold the critic's weights in groups.
    """
    wanted = {id(parameter) for parameter in critic}
    groups = list(optimizer.param_groups)
    for group in groups:
        own = [parameter for parameter in group["params"] if id(parameter) in wanted]
        if own:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in wanted]
            wanted -= {id(parameter) for parameter in own}
            settings = {name: value for name, value in group.items() if name != "params"}
            optimizer.add_param_group({**settings, "params": own, "lr": learning_rate})
    if wanted:
        raise UserError(
            f"critic_learning_rate cannot be set with the optimizer {type(optimizer).__name__}, which does not hold "
            "the value function's weights in groups: take another optim, or leave critic_learning_rate out."
        )
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def _name(value: Any) -> str:
    return str(getattr(value, "value", value))

"""Optimizer and scheduler settings, tried on a layer of four weights before a model is loaded."""

from __future__ import annotations

from typing import Any

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


def _name(value: Any) -> str:
    return str(getattr(value, "value", value))

"""One base model, many adapters: how policy, value function, reference and masking policy share a PEFT model."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..errors import UserError, one_line


logger = logging.get_logger(__name__)

VALUE_ADAPTER = "value"
"""Name of the adapter that turns the base model into the value function's backbone."""

MASK_ADAPTER = "mask"
"""Name of the adapter that is the masking policy, where it is computed in one batch with the policy."""

ADAPTER_FILE = "adapter_model.safetensors"


def is_adapter_model(model: Any) -> bool:
    """Whether `model` is a PEFT model."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def with_adapter(model: nn.Module, peft_config: Any) -> Any:
    """The model, with a fresh adapter on it when there is a `peft_config`.

    Raises:
        UserError: the model has an adapter already, its layers do not match, or `peft_config` is something else.
    """
    if peft_config is None:
        return model
    from peft import PeftConfig, PeftModel, get_peft_model

    if not isinstance(peft_config, PeftConfig):
        raise UserError(
            f"peft_config must be a PEFT configuration such as peft.LoraConfig, not {type(peft_config).__name__}."
        )
    if isinstance(model, PeftModel):
        raise UserError(
            "model is a PeftModel and peft_config is given too: pass the PeftModel alone to continue training its "
            "adapter, or merge_and_unload() it first."
        )
    # PEFT fills in target modules and the task in the configuration it is given.
    peft_config = copy.deepcopy(peft_config)
    peft_config.task_type = _task_type(model)
    _unload(model)
    try:
        return get_peft_model(model, peft_config)
    except ValueError as error:
        if "not found in the base model" not in str(error) and "target_modules" not in str(error):
            raise
        raise UserError(
            f"peft_config matches no layer of {type(model).__name__} (target_modules="
            f"{getattr(peft_config, 'target_modules', None)!r}): name some of its layers, or use 'all-linear'."
        ) from error


def _task_type(model: Any) -> str:
    """PEFT's name for what a language model does. TRL's configurations say `CAUSAL_LM` whatever the model is."""
    return "SEQ_2_SEQ_LM" if getattr(model.config, "is_encoder_decoder", False) else "CAUSAL_LM"


def starting_name(policy: Any) -> str | None:
    """The folder or the Hub's name that the policy was loaded from; of an adapter, its base model."""
    model = policy.get_base_model() if is_adapter_model(policy) else policy
    return getattr(model, "name_or_path", None) or None


def make_loadable(policy: Any) -> None:
    """Let all adapters say, when they are saved, what PEFT needs to load them again, from whatever directory."""
    if not is_adapter_model(policy):
        return
    for config in policy.peft_config.values():
        config.task_type = _task_type(policy)
        name = config.base_model_name_or_path or starting_name(policy)
        config.base_model_name_or_path = os.path.abspath(name) if name and os.path.isdir(name) else name


def _unload(model: nn.Module) -> None:
    """Take off the adapters that an earlier trainer, or `get_peft_model`, has put into a base model.

    A notebook's cell that is run twice hands over such a model, whose own weights are those of the start.

    Raises:
        UserError: `transformers` loaded an adapter into the model, which belongs to it.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(
            "model has an adapter that transformers loaded into it, and peft_config is given too: load the base model "
            "with PeftModel.from_pretrained and pass that alone, or merge the adapter first."
        )
    layers = [(name, module) for name, module in model.named_modules() if name and isinstance(module, BaseTunerLayer)]
    for name, layer in layers:
        if layer.merged:
            layer.unmerge()
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    if layers:
        logger.warning(
            f"{type(model).__name__} still had the adapters of an earlier trainer: they are removed, and a fresh one "
            "is trained. To train them further, pass the earlier trainer's policy_model without peft_config."
        )


def remove_adapters_of_trainer(policy: Any) -> None:
    """Take off the adapters that an earlier trainer has added to a PEFT model for itself.

    Raises:
        UserError: the model has an adapter of its own under a name that the trainer needs.
    """
    for name in getattr(policy, "adapters_of_trainer", ()):
        if name in policy.peft_config:
            policy.delete_adapter(name)
    policy.adapters_of_trainer = set()
    if VALUE_ADAPTER in policy.peft_config:
        raise UserError(
            f"The model has an adapter called {VALUE_ADAPTER!r}, which is the name of the value function's: load it "
            "under another name (adapter_name)."
        )


def changes_base(peft_config: Any) -> bool:
    """Whether making such an adapter changes the base model's own weights, so that only both together are the model.

    PiSSA, OLoRA and their like move a part of the weights into the adapter.
    """
    initialization = getattr(peft_config, "init_lora_weights", None)
    return isinstance(initialization, str) and initialization.lower().startswith(("pissa", "olora", "corda", "loftq"))


def set_up_trained_adapter(policy: Any, trained: str, reference: str | None) -> None:
    """Switch the adapter to train on; a `UserError` for one that the PEFT model does not have, or that is frozen."""
    for setting, name in (("model_adapter_name", trained), ("ref_adapter_name", reference)):
        if name is not None and name not in policy.peft_config:
            have = ", ".join(repr(adapter) for adapter in policy.peft_config)
            raise UserError(f"{setting} is {name!r}, but the model has no such adapter; it has {have}.")
    if policy.active_adapter != trained:
        policy.set_adapter(trained)
    if not any(parameter.requires_grad for parameter in adapter_parameters(policy, trained).values()):
        raise UserError(
            f"The adapter {trained!r} is frozen: load it with PeftModel.from_pretrained(..., is_trainable=True)."
        )


def adapter_parameters(policy: Any, name: str) -> dict[str, nn.Parameter]:
    """The parameters that belong to one adapter, by their names in the model."""
    mine: set[int] = set()
    for module in policy.modules():
        # PEFT keeps what belongs to adapters in dictionaries by adapter, under names that differ between methods.
        for attribute in (*getattr(module, "adapter_layer_names", ()), "prompt_encoder"):
            holder = getattr(module, attribute, None)
            if isinstance(holder, (nn.ModuleDict, nn.ParameterDict)) and name in holder:
                entry = holder[name]
                mine |= {id(entry)} if isinstance(entry, nn.Parameter) else {id(p) for p in entry.parameters()}
    return {full_name: parameter for full_name, parameter in policy.named_parameters() if id(parameter) in mine}


def trained_weights(policy: Any, name: str) -> dict[str, nn.Parameter]:
    """What an adapter makes of the base model: its parameters, and those of the base that are trained with it."""
    others = {
        id(p) for other in policy.peft_config if other != name for p in adapter_parameters(policy, other).values()
    }
    own = adapter_parameters(policy, name)
    beside = {
        full_name: parameter
        for full_name, parameter in policy.named_parameters()
        if parameter.requires_grad and id(parameter) not in others
    }
    return {**beside, **own}


def can_hold_several(policy: Any) -> bool:
    """Whether a second trained adapter fits beside the first: not for prompt tuning, nor where biases are trained."""
    config = policy.peft_config[policy.active_adapter]
    if getattr(config, "bias", "none") != "none":
        return False
    return not config.is_prompt_learning and config.peft_type.value in (
        "LORA",
        "IA3",
        "LOHA",
        "LOKR",
        "OFT",
        "BOFT",
        "VERA",
    )


def add_value_adapter(policy: Any, trained: str) -> None:
    """A second adapter of the same kind, with the weights of the trained one: V starts from the policy."""
    _copy_adapter(policy, VALUE_ADAPTER, trained, is_trained=True)


def add_frozen_adapter(policy: Any, name: str, source: str) -> dict[str, torch.Tensor]:
    """A copy of an adapter that takes no gradient; returns its weights, by the names of the source's."""
    _copy_adapter(policy, name, source, is_trained=False)
    return {_renamed(full_name, name, source): p.data for full_name, p in adapter_parameters(policy, name).items()}


def takes_mixed_batches(policy: Any) -> bool:
    """Whether PEFT can compute rows with different adapters in one batch of this model."""
    config = policy.peft_config[policy.active_adapter]
    if config.peft_type.value != "LORA" or getattr(config, "use_dora", False) or config.modules_to_save:
        return False
    return config.bias == "none" and _keeps_rows_apart(policy)


@torch.no_grad()
def _keeps_rows_apart(policy: Any) -> bool:
    """Try it: OPT and mixtures of experts join the tokens of all rows inside, where PEFT cannot tell them apart."""
    token_ids = torch.zeros(2, 3, dtype=torch.long, device=next(policy.parameters()).device)
    inputs = {"input_ids": token_ids}
    if policy.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = token_ids
    num_rows: set[int] = set()
    adapted = [module for module in policy.modules() if hasattr(module, "lora_A")]
    hooks = [
        module.register_forward_pre_hook(lambda _, arguments: num_rows.add(len(arguments[0]) if arguments else 0))
        for module in adapted
    ]
    was_training = policy.training
    policy.eval()
    try:
        policy(**inputs)
    finally:
        policy.train(was_training)
        for hook in hooks:
            hook.remove()
    return num_rows == {len(token_ids)}


def _copy_adapter(policy: Any, name: str, source: str, is_trained: bool) -> None:
    flags = {full_name: parameter.requires_grad for full_name, parameter in policy.named_parameters()}
    config = copy.deepcopy(policy.peft_config[source])
    # The weights are replaced below; some ways to begin would change the base model a second time.
    plain = {"init_lora_weights": True, "layer_replication": None}
    own = {field: getattr(config, field) for field in plain if getattr(config, field, None) is not None}
    for field in own:
        setattr(config, field, plain[field])
    policy.add_adapter(name, config)
    policy.adapters_of_trainer = {*getattr(policy, "adapters_of_trainer", ()), name}
    for field, value in own.items():
        setattr(policy.peft_config[name], field, value)
    originals = adapter_parameters(policy, source)
    for full_name, parameter in adapter_parameters(policy, name).items():
        original = _renamed(full_name, name, source)
        parameter.data = originals[original].detach().clone()
        flags[full_name] = is_trained and flags[original]
    policy.set_adapter(source)
    _set_flags(policy, flags)


@contextlib.contextmanager
def active_adapter(policy: Any, name: str) -> Iterator[None]:
    """Let the model compute with another adapter for a while; what is trained stays as it was.

    PEFT's own switch freezes the adapter that it switches off, and a frozen parameter gets no gradient even from a
    graph that was built before.
    """
    before = policy.active_adapter
    flags = {full_name: parameter.requires_grad for full_name, parameter in policy.named_parameters()}
    try:
        policy.set_adapter(name)
        _set_flags(policy, flags)
        yield
    finally:
        policy.set_adapter(before)
        _set_flags(policy, flags)


@contextlib.contextmanager
def without_adapter(policy: Any) -> Iterator[None]:
    """Let the bare base model compute for a while; what is trained stays as it was."""
    flags = {name: parameter.requires_grad for name, parameter in policy.named_parameters()}
    try:
        with policy.disable_adapter():
            yield
    finally:
        _set_flags(policy, flags)


def _set_flags(policy: Any, flags: dict[str, bool]) -> None:
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(flags[name])


def _renamed(name: str, old: str, new: str) -> str:
    """The name of the same parameter in another adapter. The last part counts: a layer may have an adapter's name."""
    parts = name.split(".")
    last = len(parts) - 1 - parts[::-1].index(old)
    return ".".join([*parts[:last], new, *parts[last + 1 :]])


def save_adapter(policy: Any, name: str, folder: str | Path) -> None:
    """Write one adapter so that `PeftModel.from_pretrained(base, folder)` loads it, whatever its name."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = get_peft_model_state_dict(policy, adapter_name=name)
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, folder / ADAPTER_FILE)
    config = copy.deepcopy(policy.peft_config[name])
    config.inference_mode = True
    if config.base_model_name_or_path is None:
        config.base_model_name_or_path = policy.get_base_model().name_or_path
    config.save_pretrained(str(folder))


def load_adapter_weights(policy: Any, name: str, folder: str | Path) -> None:
    """Put saved weights into an adapter that the model has already."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(policy, load_file(Path(folder) / ADAPTER_FILE), adapter_name=name)


@contextlib.contextmanager
def saving_only(policy: Any, name: str) -> Iterator[None]:
    """Let `policy.save_pretrained` write one adapter instead of all, and generation settings that can be written."""
    make_savable(policy)
    if not is_adapter_model(policy):
        yield
        return
    original = policy.save_pretrained
    policy.save_pretrained = lambda *args, **kwargs: original(*args, **{**kwargs, "selected_adapters": [name]})
    try:
        yield
    finally:
        del policy.save_pretrained


def make_savable(model: Any) -> str | None:
    """Mend generation settings that `transformers` refuses to write, as a temperature without `do_sample`.

    Scripts set them, and old models come with them; every save would fail, also the last one of a run. Nothing that
    is generated in a run depends on them.

    Returns:
        a line about what was changed, or None.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = getattr(base, "generation_config", None)
    if config is None or (error := _save_error(config)) is None:
        return None
    # They were meant for sampling.
    config.do_sample = True
    if _save_error(config) is None:
        return (
            "generation_config.do_sample is now True: its other settings are of no use without, and cannot be saved."
        )
    base.generation_config = type(config).from_model_config(base.config)
    return f"generation_config was reset, as it cannot be saved: {one_line(error, 200)}"


def _save_error(config: Any) -> ValueError | None:
    try:
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
    except ValueError as error:
        return error
    return None

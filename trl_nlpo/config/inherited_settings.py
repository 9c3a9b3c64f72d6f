"""What each setting of `transformers.TrainingArguments` and TRL's `PPOConfig` does in this trainer.

One table for transformers 4.57 to 5.24: a setting works, is for scripts to read, is refused, or has nothing to act on
and is said to be without effect. Names that the installed version does not have are never asked for.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

from ..errors import UserError


WORKING = frozenset({
    "output_dir", "per_device_train_batch_size", "num_train_epochs", "max_steps", "learning_rate",
    "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "optim", "optim_args",
    "adafactor", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "gradient_accumulation_steps",
    "max_grad_norm", "bf16", "fp16", "tf32", "gradient_checkpointing", "gradient_checkpointing_kwargs",
    "activation_checkpointing", "activation_checkpointing_kwargs", "logging_strategy", "logging_steps",
    "logging_first_step", "logging_dir", "log_level", "log_level_replica", "log_on_each_node", "disable_tqdm",
    "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    "eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size", "eval_on_start",
    "save_only_model", "save_strategy", "save_steps", "save_on_each_node", "save_total_limit",
    "save_safetensors", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy",
    "hub_always_push", "hub_revision", "push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
    "restore_callback_states_from_checkpoint", "full_determinism", "seed", "data_seed", "use_cpu", "no_cuda",
    "use_mps_device", "accelerator_config", "ddp_find_unused_parameters", "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers", "ddp_backend", "ddp_timeout", "fsdp", "fsdp_config", "fsdp_min_num_params",
    "fsdp_transformer_layer_cls_to_wrap", "deepspeed", "local_rank", "num_mini_batches", "total_episodes",
    "local_rollout_forward_batch_size", "num_sample_generations", "response_length", "stop_token",
    "stop_token_id", "temperature", "missing_eos_penalty", "world_size", "model_adapter_name",
    "ref_adapter_name", "num_ppo_epochs", "whiten_rewards", "kl_coef", "kl_estimator", "cliprange", "vf_coef",
    "cliprange_value", "gamma", "lam",
})  # fmt: skip
"""Settings that do here what they say."""

ALWAYS_SO = frozenset({
    "average_tokens_across_devices", "logging_nan_inf_filter", "dataloader_pin_memory", "dataloader_in_order",
    "use_cache", "_n_gpu", "fp16_opt_level", "half_precision_backend", "fp16_backend",
})  # fmt: skip
"""Settings of what is done in one way here, whatever they say: averages are over the tokens of all processes, logs
show what is not finite, prompts are in memory and in order, rollouts have a cache, autocast is PyTorch's."""

FOR_SCRIPTS = frozenset({
    "do_train", "do_eval", "do_predict", "resume_from_checkpoint", "overwrite_output_dir", "sft_model_path",
    "reward_model_path",
})  # fmt: skip
"""Settings that no trainer reads."""

_COMPILED = "compiled models are not supported: remove it"
_FILLED_IN = "the trainer works it out: set per_device_train_batch_size, gradient_accumulation_steps, num_mini_batches"

REFUSED: dict[str, str] = {
    "auto_find_batch_size": "batches decide what is learned: set per_device_train_batch_size to what fits, and "
    "gradient_accumulation_steps for the rest",
    "neftune_noise_alpha": "noise on embeddings would make the sampled and the scored distribution differ: remove it",
    "label_smoothing_factor": "there are no labels to smooth: entropy_coef keeps the policy from becoming certain",
    "use_liger_kernel": "its fused loss needs labels, and its layers are not tested here: remove it",
    "liger_kernel_config": "Liger kernels are not supported: remove it",
    "torch_compile": _COMPILED,
    "torch_compile_backend": _COMPILED,
    "torch_compile_mode": _COMPILED,
    "torchdynamo": _COMPILED,
    "jit_mode_eval": _COMPILED,
    "optim_target_modules": "optimizers for some modules (GaLore, APOLLO) are not supported: train an adapter "
    "(peft_config) instead",
    "parallelism_config": "every process samples with all weights: launch with DDP, FSDP2 or DeepSpeed ZeRO",
    "group_by_length": "every pass over the prompts has a random order of its own: remove it",
    "train_sampling_strategy": "every pass over the prompts has a random order of its own: remove it",
    "ignore_data_skip": "a resumed run continues with the prompts that come next: remove it",
    "enable_jit_checkpoint": "SIGTERM writes a checkpoint without it: remove it",
    "bf16_full_eval": "evaluation computes in the precision of training: set bf16",
    "fp16_full_eval": "evaluation computes in the precision of training: set fp16",
    "ddp_static_graph": "the passes of an update differ from one another: remove it",
    "per_gpu_train_batch_size": "use per_device_train_batch_size",
    "per_gpu_eval_batch_size": "use per_device_eval_batch_size",
    "mp_parameters": "SageMaker's model parallelism is not supported: launch with DDP, FSDP2 or DeepSpeed ZeRO",
    "tpu_num_cores": "TPUs are not supported: remove it",
    "tpu_metrics_debug": "TPUs are not supported: remove it",
    "debug": "debug modes of transformers' own training loop are not there: remove it",
    "ds3_gather_for_generation": "weights are always gathered for rollouts: remove it",
    "remove_unused_columns": "all columns of the data set reach the reward functions: leave it False",
    **dict.fromkeys(
        ("batch_size", "mini_batch_size", "micro_batch_size", "local_batch_size", "local_mini_batch_size",
         "num_total_batches"),
        _FILLED_IN,
    ),
}  # fmt: skip
"""Settings that would change what is learned or how, and that this trainer does not do: what to do instead."""

_IN_MEMORY = "prompts are tokenized before training and held in memory"
_NO_PREDICTIONS = "evaluation samples completions; there are no predictions with labels"
_NOT_COUNTED = "`episode` and `completions/mean_length` are logged instead"

WITHOUT_EFFECT: dict[str, str] = {
    "dataloader_num_workers": _IN_MEMORY,
    "dataloader_persistent_workers": _IN_MEMORY,
    "dataloader_prefetch_factor": _IN_MEMORY,
    "dataloader_multiprocessing_context": _IN_MEMORY,
    "dataset_num_proc": _IN_MEMORY,
    "length_column_name": _IN_MEMORY,
    "dataloader_drop_last": "what is left of a pass over the prompts opens the next pass",
    "eval_accumulation_steps": _NO_PREDICTIONS,
    "eval_do_concat_batches": _NO_PREDICTIONS,
    "eval_use_gather_object": _NO_PREDICTIONS,
    "prediction_loss_only": _NO_PREDICTIONS,
    "batch_eval_metrics": _NO_PREDICTIONS,
    "include_for_metrics": _NO_PREDICTIONS,
    "include_inputs_for_metrics": _NO_PREDICTIONS,
    "label_names": _NO_PREDICTIONS,
    "past_index": _NO_PREDICTIONS,
    "use_legacy_prediction_loop": _NO_PREDICTIONS,
    "include_num_input_tokens_seen": _NOT_COUNTED,
    "include_tokens_per_second": _NOT_COUNTED,
    "skip_memory_metrics": "memory is not measured",
    "torch_empty_cache_steps": "memory is left to PyTorch",
    "ray_scope": "this trainer is built once for each trial of a search",
}
"""Settings that have nothing to act on here, and why; neither what is learned nor what is logged depends on them."""


def check_inherited(config: Any) -> None:
    """Refuse what this trainer does not do and say what has no effect, of settings that are not at their default.

    Args:
        config: an instance of a dataclass that extends `TrainingArguments`, before it has changed its values.

    Raises:
        UserError: a setting in [`REFUSED`].
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name, None)
        if field.name not in {*REFUSED, *WITHOUT_EFFECT} or _is_default(field, value):
            continue
        if field.name in REFUSED:
            raise UserError(f"{field.name} is {value!r}, but {REFUSED[field.name]}.")
        warnings.warn(f"{field.name} is {value!r}, which has no effect: {WITHOUT_EFFECT[field.name]}.", stacklevel=4)


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether a value is a field's default, or another way to write one that stands for "off"."""
    if field.default_factory is not dataclasses.MISSING:
        return not value
    return bool(value == field.default) or (_is_off(value) and _is_off(field.default))


def _is_off(value: Any) -> bool:
    return not value or value == "no"

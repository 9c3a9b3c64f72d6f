"""The keys of a recipe by what they are about, and the value of each that switches off what it does."""

from __future__ import annotations

from fnmatch import fnmatchcase


THEMES: dict[str, tuple[str, ...]] = {
    "Run": (
        "task", "preset", "algorithm", "output_dir", "seed", "data_seed", "full_determinism", "env",
        "supervised_model", "zero_shot_results", "resume_from_checkpoint",
    ),
    "Data and prompts": (
        "dataset_*", "max_train_samples", "max_eval_samples", "max_test_samples", "prompt_column", "prompt_template",
        "references_column", "completion_column", "max_prompt_length", "prompt_truncation_side",
        "chat_template_kwargs",
    ),
    "Rewards and metrics": (
        "rewards", "metrics", "judge_model", "normalize_rewards", "whiten_rewards", "missing_eos_penalty",
        "reward_failure", "reward_timeout", "stop_on_collapse",
    ),
    "Model": (
        "model_name_or_path", "model_revision", "trust_remote_code", "dtype", "attn_implementation",
        "disable_dropout", "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "max_position_embeddings", "dropout",
    ),
    "Adapters and quantization": (
        "use_peft", "lora_*", "use_rslora", "use_dora", "*_adapter_name", "load_in_*", "bnb_*",
        "use_bnb_nested_quant",
    ),
    "Supervised stage": ("supervised_*",),
    "Length of the run, and batches": (
        "max_steps", "total_episodes", "num_train_epochs", "per_device_train_batch_size",
        "gradient_accumulation_steps", "num_mini_batches", "num_ppo_epochs",
    ),
    "Sampling": (
        "response_length", "stop_token", "stop_token_id", "temperature", "*generation_kwargs", "rollout_engine",
        "vllm_*", "local_rollout_forward_batch_size",
    ),
    "Mask": ("mask_*",),
    "KL penalty": ("kl_*",),
    "Policy": (
        "gamma", "lam", "lam_alpha", "cliprange", "cliprange_high", "dual_clip", "is_truncation", "entropy_coef",
        "positive_nll_*", "bootstrap_at_length_limit", "policy_update", "trpo_*",
    ),
    "Critic": ("vf_coef", "cliprange_value", "value_*", "critic_*", "normalize_returns"),
    "Optimizer": (
        "learning_rate", "lr_*", "warmup_*", "optim*", "adafactor", "weight_decay", "adam_*", "max_grad_norm",
        "max_skipped_steps",
    ),
    "Memory and precision": (
        "bf16", "fp16", "tf32", "gradient_checkpointing*", "activation_checkpointing*", "fuse_output_layer",
    ),
    "Evaluation": (
        "eval_*", "per_device_eval_batch_size", "load_best_model_at_end", "metric_for_best_model",
        "greater_is_better",
    ),
    "Logs": (
        "logging_*", "log_*", "disable_tqdm", "report_to", "run_name", "project", "trackio_*",
        "num_sample_generations", "num_completions_to_print",
    ),
    "Checkpoints": ("save_*", "restore_callback_states_from_checkpoint"),
    "Hub": ("push_to_hub*", "hub_*"),
    "Machine and processes": (
        "use_cpu", "no_cuda", "use_mps_device", "accelerator_config", "ddp_*", "fsdp*", "deepspeed", "local_rank",
    ),
}  # fmt: skip
"""Theme -> its keys in the order in which they are listed; `*` stands for any ending or beginning."""

OFF: dict[str, str] = {
    "cliprange": ".inf",
    "cliprange_value": ".inf",
    "critic_warmup_steps": "0",
    "entropy_coef": "0",
    "eval_delay": "0",
    "eval_strategy": "'no'",
    "gamma": "1.0 (no discount)",
    "kl_coef": "0",
    "lam": "1.0 (returns instead of a mixture with values)",
    "logging_strategy": "'no'",
    "lora_dropout": "0",
    "mask_anchor_coef": "0",
    "mask_strategy": "none (PPO)",
    "mask_top_p": "1.0 (or mask_strategy: none)",
    "max_grad_norm": "0",
    "num_completions_to_print": "0",
    "num_sample_generations": "0",
    "positive_nll_coef": "0",
    "report_to": "none",
    "rollout_engine": "transformers",
    "save_strategy": "'no'",
    "supervised_weight_decay": "0",
    "trackio_static_space_id": "false",
    "vf_coef": "0",
    "warmup_ratio": "0",
    "warmup_steps": "0",
    "weight_decay": "0",
}
"""What switches a key off, where that is neither `false` nor `null`."""

NEVER_OFF = frozenset({
    "dataset_name", "greater_is_better", "judge_model", "max_eval_samples", "max_test_samples", "max_train_samples",
    "metrics", "model_name_or_path", "output_dir", "rewards", "dtype", "metric_for_best_model", "task",
    "completion_column", "bnb_4bit_quant_storage", "attn_implementation", "data_seed", "eval_steps", "hub_model_id",
    "hub_revision", "hub_token", "run_name", "bf16", "mask_top_k", "ddp_backend", "ddp_bucket_cap_mb",
    "lora_target_modules", "model_adapter_name", "ref_adapter_name", "total_episodes", "trackio_bucket_id",
    "hub_private_repo", "stop_token", "tf32", "critic_lam", "critic_learning_rate", "cliprange_high",
    "vllm_max_model_length",
    "kl_horizon", "eval_generation_kwargs", "positive_nll_threshold", "dataset_config", "stop_token_id",
    "logging_dir",
})  # fmt: skip
"""Keys whose `null` is another choice, as their help says, and switches nothing off."""


def theme_of(key: str) -> str | None:
    """The theme of a key; None for one that has none."""
    exact = (theme for theme, patterns in THEMES.items() if key in patterns)
    matching = (theme for theme, patterns in THEMES.items() if any(fnmatchcase(key, pattern) for pattern in patterns))
    return next(exact, None) or next(matching, None)


def place_in_theme(key: str, theme: str) -> int:
    """Where a key stands in the list of its theme; 0 in a theme that has none."""
    places = (number for number, pattern in enumerate(THEMES.get(theme, ())) if fnmatchcase(key, pattern))
    return next(places, 0)

"""What keys of a recipe mean that transformers and TRL define: where their own help says too little, or not what is
so here.

Keys that are ours have their help at the field itself (`NLPOConfig`, `RecipeArguments`), and so have all others of
transformers' and TRL's, whose help is shown as it is.
"""

from __future__ import annotations


INHERITED_HELP: dict[str, str] = {
    # Model.
    "model_name_or_path": "The model to start from: a folder, a name on the Hub, or a saved adapter, which is then "
    "trained further. null: a small model with random weights (see model_type).",
    "model_revision": "Branch, tag or commit of a model on the Hub.",
    "dtype": "Type of the weights in memory; 'auto' is that of the saved model. Mixed precision (bf16) computes in "
    "another type than it stores.",
    "attn_implementation": "Which implementation of attention to use, such as 'sdpa' or 'flash_attention_2' (a "
    "package of its own). null: transformers chooses.",
    # Adapters and quantization.
    "use_peft": "Train a LoRA adapter instead of all weights. Policy, reference, mask and value function then share "
    "one base model.",
    "lora_r": "Rank of the LoRA adapter: more is more weights to train.",
    "lora_alpha": "Scale of the LoRA adapter, which is multiplied by lora_alpha / lora_r.",
    "lora_dropout": "Dropout in the LoRA adapter. Reinforcement has none unless disable_dropout is false.",
    "lora_target_modules": "Modules that get a LoRA adapter, by the ends of their names: [q_proj, v_proj]; "
    "'all-linear' for all linear layers but the output's. null: PEFT's choice for the architecture.",
    "lora_target_parameters": "Parameters, instead of modules, that get a LoRA adapter. null: none.",
    "lora_modules_to_save": "Modules that are trained as a whole and saved with the adapter. null: none.",
    "lora_task_type": "PEFT's name of what the model does. It follows from the model here.",
    "use_rslora": "Scale the adapter by lora_alpha / sqrt(lora_r) instead of lora_alpha / lora_r.",
    "use_dora": "Train magnitude and direction of the weights apart (DoRA). Slower; it can help at small ranks.",
    "load_in_8bit": "Hold the base model in 8 bits. Only with an adapter; needs trl-nlpo[quantization].",
    "load_in_4bit": "Hold the base model in 4 bits. Only with an adapter; needs trl-nlpo[quantization].",
    "bnb_4bit_quant_type": "Which 4-bit type load_in_4bit takes.",
    "use_bnb_nested_quant": "Quantize the constants of load_in_4bit as well, which saves some memory.",
    "bnb_4bit_quant_storage": "Type in which 4-bit weights are stored, such as 'bfloat16' for FSDP. null: uint8.",
    "model_adapter_name": "Name of the PEFT adapter to train, when the model has several. null: the active one.",
    "ref_adapter_name": "Name of the PEFT adapter that is the reference policy. null: the model as it starts.",
    # Run and batches.
    "output_dir": "Folder of the run: model, results, samples, checkpoints.",
    "seed": "Seed of everything that is random: weights, data, sampling.",
    "data_seed": "Seed of the order of the prompts. null: seed.",
    "full_determinism": "Let PyTorch use deterministic algorithms only, which is slower.",
    "num_train_epochs": "Passes over the prompts, where neither max_steps nor total_episodes is set.",
    "max_steps": "Updates, each on a batch of completions. -1: as total_episodes or num_train_epochs say.",
    "per_device_train_batch_size": "Completions per forward and backward pass and process.",
    "gradient_accumulation_steps": "With per_device_train_batch_size and the number of processes it makes the "
    "completions of an update: their product.",
    # Optimizer.
    "learning_rate": "Learning rate of policy and value function (see critic_learning_rate).",
    "lr_scheduler_type": "How the learning rate changes over the run, by transformers' name of the schedule.",
    "lr_scheduler_kwargs": "Options of the schedule, such as {num_cycles: 1}. null: none.",
    "warmup_steps": "Updates in which the learning rate rises from 0. In (0, 1): a share of the run.",
    "warmup_ratio": "Share of the run in which the learning rate rises from 0.",
    "optim": "The optimizer, by transformers' name.",
    "optim_args": "Options of optimizers that have some, as text. null: none.",
    "weight_decay": "Weight decay of the optimizer; none on biases and layer norms.",
    "adam_beta1": "Decay of Adam's mean of the gradients.",
    "adam_beta2": "Decay of Adam's mean of the squared gradients.",
    "adam_epsilon": "What Adam adds to the denominator.",
    "max_grad_norm": "Gradients are clipped to this norm.",
    # Memory and precision.
    "fp16": "Compute in float16 (autocast with loss scaling). bf16 is safer where the hardware has it.",
    "tf32": "Let matrix products of float32 use TF32 on NVIDIA GPUs. null: as PyTorch has it.",
    "activation_checkpointing": "The name of gradient_checkpointing in later versions of transformers. null: as "
    "gradient_checkpointing says.",
    "activation_checkpointing_kwargs": "Options of activation_checkpointing. null: none.",
    "gradient_checkpointing_kwargs": "Options of gradient_checkpointing, such as {use_reentrant: false}. null: none.",
    # Evaluation.
    "eval_strategy": "When the validation split is evaluated while reinforcement trains. The table at the end is of "
    "the test split, always.",
    "eval_steps": "Updates between evaluations with eval_strategy 'steps'; in (0, 1): a share of the run. null: "
    "logging_steps.",
    "eval_delay": "Updates before the first evaluation.",
    "per_device_eval_batch_size": "Prompts that are sampled at once in evaluations, per process.",
    "eval_on_start": "Evaluate before the first update as well.",
    "load_best_model_at_end": "End with the checkpoint whose metric_for_best_model was best. Needs eval_strategy.",
    "metric_for_best_model": "Number of an evaluation that says which checkpoint is best. null: 'reward' where "
    "load_best_model_at_end or the schedule needs one.",
    "greater_is_better": "Whether more of metric_for_best_model is better. null: yes, for 'reward'.",
    # Logs.
    "logging_strategy": "When metrics are logged.",
    "logging_first_step": "Log the first update, whatever logging_steps says.",
    "logging_dir": "Folder of TensorBoard's logs. null: runs/ in output_dir.",
    "log_level": "Level of transformers' log messages in the first process.",
    "log_level_replica": "Level of transformers' log messages in all other processes.",
    "log_on_each_node": "On several machines, log on each of them and not on one only.",
    "disable_tqdm": "Show no progress bar. null: shown, unless log_level is below 'warning'.",
    "report_to": "Trackers that get the metrics: [wandb, tensorboard], 'all' that are installed, or 'none'. "
    "metrics.jsonl in output_dir is written always.",
    "run_name": "Name of the run in trackers. null: output_dir.",
    "project": "Name of the project in Trackio.",
    "trackio_space_id": "Space on the Hub for Trackio's live page. null: local only.",
    "trackio_bucket_id": "Bucket on the Hub for Trackio's Space. null: Trackio's choice.",
    "trackio_static_space_id": "Static Space on the Hub for Trackio's results; false: none.",
    # Checkpoints.
    "save_strategy": "When checkpoints are written.",
    "save_steps": "Updates between checkpoints; in (0, 1): a share of the run.",
    "save_total_limit": "Checkpoints that are kept; older ones are deleted, the best is not. null: all.",
    "save_only_model": "Checkpoints without the optimizer's state, from which no run can resume.",
    "save_on_each_node": "On several machines, write checkpoints on each of them.",
    "save_safetensors": "Write weights as safetensors.",
    "restore_callback_states_from_checkpoint": "When resuming, restore the state of callbacks from the checkpoint.",
    # Hub.
    "push_to_hub": "Push the model to the Hub when everything else is done.",
    "hub_token": "Token for the Hub; it is never written. null: that of `hf auth login`.",
    "hub_private_repo": "Make the repository private. null: as the account's default is.",
    "hub_model_id": "Repository on the Hub. null: the name of output_dir.",
    "hub_strategy": "What is pushed, and when: 'end', 'every_save', 'checkpoint' or 'all_checkpoints'.",
    "hub_always_push": "Push at a save although the push before it has not ended.",
    "hub_revision": "Branch, tag or commit to push to. null: main.",
    # Machine and processes.
    "use_cpu": "Use the CPU although there is an accelerator.",
    "accelerator_config": "Options of accelerate, as a mapping or the path of a JSON file. null: its defaults.",
    "ddp_find_unused_parameters": "Option find_unused_parameters of DistributedDataParallel. null: false.",
    "ddp_bucket_cap_mb": "Option bucket_cap_mb of DistributedDataParallel, in MiB. null: PyTorch's.",
    "ddp_broadcast_buffers": "Option broadcast_buffers of DistributedDataParallel. null: true.",
    "ddp_backend": "What processes talk through, such as 'nccl' or 'gloo'. null: chosen by the device.",
    "ddp_timeout": "Seconds after which a process that waits for the others gives up.",
    "fsdp": "Shard the model over the processes with FSDP2 (docs/several_processes.md). null: not.",
    "fsdp_config": "Options of FSDP, as a mapping or the path of a JSON file. null: their defaults.",
    "deepspeed": "Configuration of DeepSpeed ZeRO, as a mapping or the path of a JSON file. null: none.",
    "local_rank": "Number of the process on its machine; launchers set it.",
}
"""Key -> what it means here."""

"""The supervised warm start: TRL's trainer for causal models, transformers' for encoder-decoder models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..data.rows import target_text
from ..errors import UserError
from ..launch.kinds import launch_of
from ..models.adapters import make_savable
from ..models.checks import HALF
from ..progress.callback import showing_progress
from ..prompts import prompt_tokenizer
from ..recipes.algorithms import SUPERVISED
from ..recipes.recipe import Recipe
from ..storage.run_folder import RunFolder
from .callbacks import MetricsLog
from .starting_model import adapter_config
from .trackers import Trackers


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def train_supervised(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    folder: RunFolder,
    trackers: Trackers,
) -> None:
    """Train on prompts and their completions; the model, adapter merged, is saved in `supervised/`.

    All that is random is drawn from `seed`; the global random state is set to it, as `transformers.Trainer` does.

    Args:
        recipe ([`Recipe`]): its `supervised_*` keys, precision and adapter.
        model, tokenizer: what to start from.
        dataset: rows with `prompt` and `completion`.
        folder ([`RunFolder`]): where the model and the logs go.
        trackers ([`Trackers`]): where the logs go besides.

    Raises:
        UserError: the recipe's adapter matches no layer of the model.
    """
    from transformers import set_seed

    dataset = _with_prompts_as_reinforced(dataset, tokenizer, recipe, model)
    make_savable(model)
    if any(parameter.dtype in HALF for parameter in model.parameters()) and not recipe.model.use_peft:
        # In half precision small steps are rounded away.
        model.float()
    # A fresh adapter is drawn before `transformers` seeds anything, so that the process's past would decide it.
    set_seed(recipe.training.seed)
    make = _encoder_decoder_trainer if model.config.is_encoder_decoder else _causal_trainer
    trainer = make(recipe, model, tokenizer, dataset, folder)
    trainer.add_callback(trackers.of_stage(SUPERVISED.last_stage))
    with showing_progress(trainer, SUPERVISED.last_stage):
        trainer.train()
    launch = launch_of(trainer.accelerator)
    with launch.gathered(trainer.model_wrapped):
        trained = trainer.accelerator.unwrap_model(trainer.model)
        if recipe.model.use_peft:
            # The next adapter starts from this model, and its folder must be able to name it.
            trained = trained.merge_and_unload()
        if trainer.accelerator.is_main_process:
            trained.save_pretrained(folder.supervised_model)
            tokenizer.save_pretrained(folder.supervised_model)
        trainer.accelerator.wait_for_everyone()
    launch.release()


def _with_prompts_as_reinforced(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, model: PreTrainedModel | None = None
) -> Dataset:
    """Text prompts as reinforcement and evaluation read them: truncated, empty ones as the start token's text.

    Messages and other prompts stay as they are.
    """
    if not isinstance(dataset[0]["prompt"], str):
        return dataset
    if recipe.training.max_prompt_length is None and all(map(str.strip, dataset["prompt"])):
        return dataset
    prompts = prompt_tokenizer(recipe.training, tokenizer, model)

    def truncated(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts, _ = prompts.truncated_texts(rows["prompt"])
        # A prompt that lost its last line break needs a space before its target, which needed none before.
        targets = [
            target if not full_text or text == full_text else target_text(text, target)
            for full_text, text, target in zip(rows["prompt"], texts, rows["completion"], strict=True)
        ]
        return {"prompt": texts, "completion": targets}

    return dataset.map(truncated, batched=True)


def _shared_settings(recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    arguments, training = recipe.arguments, recipe.training
    return {
        "output_dir": str(folder.supervised_model),
        "num_train_epochs": arguments.supervised_num_train_epochs,
        "learning_rate": arguments.supervised_learning_rate,
        "per_device_train_batch_size": arguments.supervised_batch_size,
        "lr_scheduler_type": arguments.supervised_lr_scheduler_type,
        "weight_decay": arguments.supervised_weight_decay,
        "seed": training.seed,
        "bf16": training.bf16,
        "fp16": training.fp16,
        "use_cpu": training.use_cpu,
        "ddp_backend": training.ddp_backend,
        "deepspeed": training.deepspeed,
        "fsdp": training.fsdp,
        "fsdp_config": training.fsdp_config,
        "gradient_checkpointing": training.gradient_checkpointing,
        "ddp_find_unused_parameters": bool(training.ddp_find_unused_parameters),
        "dataloader_pin_memory": training.device.type == "cuda",
        "logging_steps": 10,
        "disable_tqdm": training.disable_tqdm,
        "save_strategy": "no",
        "report_to": "none",
    }


def _causal_trainer(
    recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, folder: RunFolder
) -> Any:
    from trl import SFTConfig, SFTTrainer

    try:
        return SFTTrainer(
            model=model,
            args=SFTConfig(
                **_shared_settings(recipe, folder),
                completion_only_loss=True,
                max_length=getattr(model.config, "max_position_embeddings", None),
            ),
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=adapter_config(recipe),
            callbacks=[MetricsLog(folder, SUPERVISED.last_stage)],
        )
    except ValueError as error:
        if "target_modules" not in str(error) and "not found in the base model" not in str(error):
            raise
        raise UserError(
            f"lora_target_modules {recipe.model.lora_target_modules!r} matches no layer of {type(model).__name__}: "
            "name some of its layers, or use all-linear."
        ) from error


def _encoder_decoder_trainer(
    recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, folder: RunFolder
) -> Any:
    from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

    from ..models.adapters import with_adapter

    longest = getattr(model.config, "max_position_embeddings", None)

    def tokenized(row: dict[str, Any]) -> dict[str, Any]:
        # The space that joins a target to a decoder-only model's prompt has no use in a decoder of its own.
        target = row["completion"].strip()
        inputs = tokenizer(row["prompt"], truncation=longest is not None, max_length=longest)
        labels = tokenizer(text_target=target, truncation=longest is not None, max_length=longest)["input_ids"]
        if labels[-1:] != [tokenizer.eos_token_id]:
            labels = [*labels, tokenizer.eos_token_id]
        return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "labels": labels}

    adapted = with_adapter(model, adapter_config(recipe))
    return Seq2SeqTrainer(
        model=adapted,
        args=Seq2SeqTrainingArguments(**_shared_settings(recipe, folder)),
        train_dataset=dataset.map(tokenized, remove_columns=dataset.column_names),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        callbacks=[MetricsLog(folder, SUPERVISED.last_stage)],
    )

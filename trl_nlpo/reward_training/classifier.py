"""A classifier of texts, trained on labelled rows, to be used as a reward."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.files import read_rows
from ..errors import UserError
from ..models.from_scratch import train_tokenizer
from ..storage.files import check_folder
from .starting_points import pretrained, small_model


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class ClassifierArguments:
    """What to train a classifier on, and how."""

    data: str = field(metadata={"help": "A file, or a folder with <split>.jsonl or <prefix>_<split>.jsonl."})
    out: str = field(metadata={"help": "Folder for model and tokenizer."})
    prefix: str | None = field(default=None, metadata={"help": "<prefix> of the files, in a folder with several."})
    text: str = field(default="{prompt} {references}", metadata={"help": "What is read, with names of columns."})
    label: str = field(default="label", metadata={"help": "Column with the label: text, number or true/false."})
    model: str | None = field(
        default=None, metadata={"help": "Model to start from, path or Hub id. null: a small one with random weights."}
    )
    epochs: float = field(default=6.0, metadata={"help": "Passes over the train split."})
    learning_rate: float = field(default=1e-3, metadata={"help": "1e-3 for random weights; 2e-5 for a real model."})
    batch_size: int = field(default=32, metadata={"help": "Rows per step."})
    max_length: int = field(default=256, metadata={"help": "Tokens that are read; of a longer text, the last ones."})
    vocab_size: int = field(default=4000, metadata={"help": "Of the tokenizer that is trained with random weights."})
    seed: int = field(default=0, metadata={"help": "Decides first weights and order."})


def train_classifier(arguments: ClassifierArguments) -> dict[str, float]:
    """Train, save, and return the accuracy on the validation and test split, where the data has them.

    Args:
        arguments ([`ClassifierArguments`])

    Raises:
        UserError: the data does not exist, a column is missing, there is only one label, or a held-out row has a label
            that the train split does not have.
    """
    import torch
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

    check_folder(arguments.out, "--out")
    splits = {name: _examples(arguments, name) for name in ("train", "validation", "test")}
    train = splits["train"]
    if not train:
        raise UserError(f"{arguments.data} has no train split to learn from.")
    labels = sorted({label for _, label in train}, key=str)
    if len(labels) < 2:
        raise UserError(f"{arguments.data}: the column {arguments.label!r} has only the label {labels[0]!r}.")
    set_seed(arguments.seed)
    tokenizer, model = _starting_point(arguments, [text for text, _ in train], labels)
    encoded = {name: _encoded(rows, tokenizer, labels, arguments.max_length) for name, rows in splits.items() if rows}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=arguments.out,
            num_train_epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            per_device_train_batch_size=arguments.batch_size,
            per_device_eval_batch_size=arguments.batch_size,
            seed=arguments.seed,
            dataloader_pin_memory=torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            logging_steps=50,
        ),
        train_dataset=encoded["train"],
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    return {name: _accuracy(trainer, encoded[name]) for name in ("validation", "test") if name in encoded}


def _examples(arguments: ClassifierArguments, split: str) -> list[tuple[str, Any]]:
    """Text and label of every row of a split; none where the data has no such split."""
    rows = read_rows(Path(arguments.data), split, arguments.prefix)
    names = [name for _, name, _, _ in string.Formatter().parse(arguments.text) if name]
    for column in [*names, arguments.label]:
        if rows and column not in rows[0]:
            raise UserError(f"{arguments.data} has no column {column!r}; it has: {', '.join(rows[0])}.")
    return [
        (arguments.text.format(**{name: _as_text(row[name]) for name in names}), row[arguments.label]) for row in rows
    ]


def _as_text(value: Any) -> str:
    """A column as text; of several references the first, as the others say the same."""
    return str(value[0]) if isinstance(value, list) and value else str(value)


def _starting_point(
    arguments: ClassifierArguments, texts: list[str], labels: list[Any]
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and model to train: those of `arguments.model`, or small ones from scratch."""
    names = {index: str(label) for index, label in enumerate(labels)}
    mapping = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    if arguments.model is not None:
        tokenizer, model = pretrained(arguments.model, mapping)
    else:
        tokenizer = train_tokenizer(texts, arguments.vocab_size)
        model = small_model(tokenizer, arguments.max_length, mapping)
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
    tokenizer.model_max_length = arguments.max_length
    return tokenizer, model


def _encoded(
    rows: list[tuple[str, Any]], tokenizer: PreTrainedTokenizerBase, labels: list[Any], max_length: int
) -> list[dict[str, Any]]:
    """Token ids and the label's number of every row."""
    unknown = {label for _, label in rows} - set(labels)
    if unknown:
        raise UserError(f"the held-out rows have the label {unknown.pop()!r}, which the train split does not have.")
    ids = tokenizer([text for text, _ in rows], truncation=True, max_length=max_length)["input_ids"]
    return [{"input_ids": row, "label": labels.index(label)} for row, (_, label) in zip(ids, rows, strict=True)]


def _accuracy(trainer: Any, rows: list[dict[str, Any]]) -> float:
    predicted = trainer.predict(rows).predictions.argmax(-1)
    return float((predicted == [row["label"] for row in rows]).mean())

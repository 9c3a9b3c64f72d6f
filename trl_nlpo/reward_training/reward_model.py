"""A reward model from people's preferences (Ziegler et al. 2019, section 2), saved as a plain sequence classifier."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.files import read_rows
from ..errors import UserError
from ..launch.library_output import without_library_output
from ..pictures import pyplot
from ..storage.files import check_folder, replace_file
from .comparisons import COLUMNS, Comparison, comparisons_of, kind_of


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..metrics.classifier import SequenceClassifier
    from .reliability import Reliability

RESULTS_NAME = "reward_model.json"


@dataclass
class RewardModelArguments:
    """What to train a reward model on, and how."""

    data: str = field(metadata={"help": "A file, or a folder with <split>.jsonl or <prefix>_<split>.jsonl."})
    out: str = field(metadata={"help": "Folder for model and tokenizer."})
    kind: str = field(
        default="auto",
        metadata={
            "help": "pairs (columns chosen, rejected), choices (completions, choice), rankings (completions, "
            "ranking), ratings (completions, ratings), or auto: by the columns.",
            "choices": ["auto", *COLUMNS],
        },
    )
    prefix: str | None = field(default=None, metadata={"help": "<prefix> of the files, in a folder with several."})
    model: str | None = field(
        default=None,
        metadata={
            "help": "Model to start from, path or Hub id: best the policy that made the completions (a run's folder, "
            "an adapter too), which gets a new last layer. null: a small one with random weights."
        },
    )
    held_out: float = field(
        default=0.1,
        metadata={"help": "Share of the prompts that is held out where the data has no validation split."},
    )
    normalize: bool = field(
        default=True,
        metadata={"help": "Scale and shift rewards so that those of the train split's completions have mean 0 and "
                  "variance 1."},
    )  # fmt: skip
    epochs: float = field(default=1.0, metadata={"help": "Passes over the train split."})
    learning_rate: float = field(default=1e-4, metadata={"help": "1e-3 for random weights; 1e-5 for a real model."})
    batch_size: int = field(default=16, metadata={"help": "Choices per step."})
    max_length: int | None = field(
        default=None,
        metadata={"help": "Tokens that are read; a longer text loses its beginning. null: what the model can read."},
    )
    use_peft: bool = field(default=False, metadata={"help": "Train a LoRA adapter, which is merged in the end."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the adapter, times 1 / lora_r."})
    lora_target_modules: str | list[str] = field(
        default="all-linear", metadata={"help": "Layers that get an adapter: 'all-linear', or names."}
    )
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Less memory for more time."})
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16."})
    vocab_size: int = field(default=4000, metadata={"help": "Of the tokenizer that is trained with random weights."})
    seed: int = field(default=0, metadata={"help": "Decides first weights, order and what is held out."})

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "batch_size", "lora_r", "lora_alpha"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}, but must be positive.")
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out is {self.held_out}, but must be between 0 and 1.")


def train_reward_model(arguments: RewardModelArguments) -> dict[str, Reliability]:
    """Train, normalize, save, and return how reliable it is on each held-out split.

    Rows with two completions are trained by TRL's `RewardTrainer`, others by the same with Ziegler's loss
    ([`choice_loss`]). Completions are read as the model will read them as a reward. The model, its tokenizer,
    `reward_model.json` and, with matplotlib, `calibration.png` are written to `out`.

    Args:
        arguments ([`RewardModelArguments`])

    Raises:
        UserError: data that is not there or no preferences, a model that cannot be loaded, or nothing to hold out.
    """
    check_folder(arguments.out, "--out")
    with without_library_output():
        return train_on(read_splits(arguments), arguments)


def train_on(
    splits: dict[str, list[Comparison]],
    arguments: RewardModelArguments,
    normalize_on: Sequence[Comparison] | None = None,
) -> dict[str, Reliability]:
    """As [`train_reward_model`], on comparisons that are there already.

    Args:
        splits (`dict`): `train` and the splits to measure on.
        arguments ([`RewardModelArguments`]): `data` is not read.
        normalize_on (*optional*): whose completions get mean 0 and variance 1; by default those of `train`.
    """
    from ..metrics.classifier import SequenceClassifier

    tokenizer, model = starting_point(arguments, splits["train"])
    reader = SequenceClassifier(model, f"reward model {arguments.out!r}", tokenizer, arguments.batch_size)
    model = fit(model, reader, splits["train"], arguments)
    trained = SequenceClassifier(model, f"reward model {arguments.out!r}", reader.tokenizer, arguments.batch_size)
    # Before rewards are scaled: their scale is that of the probabilities that were learned.
    results = {name: measure(trained, rows, arguments.seed) for name, rows in splits.items() if name != "train"}
    scale = standardize(model, trained, normalize_on or splits["train"]) if arguments.normalize else None
    save(model, reader.tokenizer, arguments, results, scale, len(splits["train"]))
    return results


def read_splits(arguments: RewardModelArguments) -> dict[str, list[Comparison]]:
    """Comparisons of `train`, `validation`, and `test` where the data has one.

    Raises:
        UserError: no train split, no preferences, or too few prompts to hold some out.
    """
    found: dict[str, list[Comparison]] = {}
    for split in ("train", "validation", "test"):
        rows = read_rows(Path(arguments.data), split, arguments.prefix)
        if rows:
            where = f"{arguments.data} ({split})"
            kind = kind_of(rows, where) if arguments.kind == "auto" else arguments.kind
            found[split] = comparisons_of(rows, kind, where)
    if "train" not in found:
        raise UserError(f"{arguments.data} has no train split to learn from.")
    if "validation" not in found:
        found = {**found, **hold_out(found["train"], arguments)}
    return found


def hold_out(train: Sequence[Comparison], arguments: RewardModelArguments) -> dict[str, list[Comparison]]:
    """A share of the prompts, by what they say, so that a prompt's rows stay together and more data moves none."""

    def place(comparison: Comparison) -> float:
        text = json.dumps([arguments.seed, comparison.group or comparison.prompt or comparison.completions])
        return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12

    places = sorted({place(comparison) for comparison in train})
    if len(places) < 2:
        where = f"{arguments.data}: " if arguments.data else ""
        raise UserError(f"{where}all choices are of one prompt, so none can be held out to test on: give more data.")
    # Of few prompts one at least is on each side.
    limit = min(max(arguments.held_out, math.nextafter(places[0], 1)), places[-1])
    held_out = [comparison for comparison in train if place(comparison) < limit]
    rest = [comparison for comparison in train if place(comparison) >= limit]
    return {"train": rest, "validation": held_out}


def starting_point(
    arguments: RewardModelArguments, train: Sequence[Comparison]
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer, and a model with a new last layer and one label.

    Raises:
        UserError: the model cannot be loaded.
    """
    from transformers import set_seed

    from ..models.from_scratch import train_tokenizer
    from .starting_points import pretrained, small_model

    set_seed(arguments.seed)
    if arguments.model is None:
        texts = [str(part) for comparison in train for part in (comparison.prompt, *comparison.completions)]
        tokenizer: Any = train_tokenizer(texts, arguments.vocab_size)
        tokenizer.model_max_length = arguments.max_length or 256
        model = small_model(tokenizer, tokenizer.model_max_length, {"num_labels": 1})
    else:
        tokenizer, model = pretrained(arguments.model, {"num_labels": 1})
        if arguments.max_length is not None:
            tokenizer.model_max_length = arguments.max_length
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    _renew_last_layer(model)
    if model.config.is_encoder_decoder:
        _end_texts(tokenizer)
    return tokenizer, model


def _renew_last_layer(model: Any) -> None:
    """Draw the last layer anew, also that of a reward model, with the paper's standard deviation, 1 / sqrt(d + 1)."""
    import torch

    layer = last_layer(model)
    torch.nn.init.normal_(layer.weight, std=(layer.in_features + 1) ** -0.5)
    if layer.bias is not None:
        torch.nn.init.zeros_(layer.bias)
    model.config.reward_offset = 0.0


def _end_texts(tokenizer: Any) -> None:
    """Let a tokenizer put its end token after a text, where an encoder-decoder classifier reads the score.

    Those of T5 and BART do so; one that was made for a model with random weights does not.

    Raises:
        UserError: a tokenizer that has no end token, or cannot be told.
    """
    from tokenizers.processors import TemplateProcessing

    end = tokenizer.eos_token_id
    if end is None or not hasattr(tokenizer, "backend_tokenizer"):
        raise UserError("a reward model with an encoder and a decoder needs a fast tokenizer with an end token.")
    if tokenizer("a")["input_ids"][-1:] != [end]:
        name = tokenizer.eos_token
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"$A {name}", pair=f"$A {name} $B:1 {name}:1", special_tokens=[(name, end)]
        )


def fit(model: Any, reader: SequenceClassifier, train: Sequence[Comparison], arguments: RewardModelArguments) -> Any:
    """Train the model on choices; returns it without an adapter, in evaluation mode."""
    import torch
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from ..progress.callback import showing_progress
    from .choice_trainer import ChoiceCollator, ChoiceTrainer

    rows = Dataset.from_list([_encoded(comparison, reader) for comparison in train])
    are_pairs = all(len(comparison.completions) == 2 for comparison in train)
    args = RewardConfig(
        output_dir=arguments.out,
        num_train_epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        per_device_train_batch_size=arguments.batch_size,
        max_length=None,
        gradient_checkpointing=arguments.gradient_checkpointing,
        bf16=arguments.bf16,
        remove_unused_columns=are_pairs,
        dataloader_pin_memory=torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        logging_steps=50,
        disable_tqdm=False,
        seed=arguments.seed,
    )
    common: dict[str, Any] = {
        "model": model, "args": args, "train_dataset": rows, "processing_class": reader.tokenizer,
        "peft_config": _adapter_config(model, arguments) if arguments.use_peft else None,
    }  # fmt: skip
    if are_pairs:
        trainer = RewardTrainer(**common)
    else:
        trainer = ChoiceTrainer(**common, data_collator=ChoiceCollator(reader.tokenizer.pad_token_id))
    with showing_progress(trainer, "reward model"):
        trainer.train()
    trained: Any = trainer.accelerator.unwrap_model(trainer.model)
    if arguments.use_peft:
        trained = trained.merge_and_unload()
    return trained.eval()


def _encoded(comparison: Comparison, reader: SequenceClassifier) -> dict[str, Any]:
    tokens = tokens_of(comparison, reader)
    chosen = tokens.pop(comparison.choice)
    return {"chosen_ids": chosen, "rejected_ids": tokens[0], "other_ids": tokens}


def tokens_of(comparison: Comparison, reader: SequenceClassifier) -> list[list[int]]:
    """Token ids of each completion with its prompt, as the model reads them when it gives rewards.

    Raises:
        UserError: a completion without a single token.
    """
    from ..algorithm.reward_models import texts_to_score

    prompts = [comparison.prompt] * len(comparison.completions)
    texts, are_texts = texts_to_score(prompts, comparison.completions, reader, reader.who)
    tokens = [row["input_ids"] for row in reader.encode(texts, None, "left", add_special_tokens=are_texts)]
    if not all(tokens):
        raise UserError(f"row {comparison.row + 1}: a completion and its prompt have no token to read.")
    return tokens


def _adapter_config(model: Any, arguments: RewardModelArguments) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        task_type="SEQ_CLS",
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        target_modules=arguments.lora_target_modules,
        modules_to_save=head_names(model),
    )


def head_names(model: Any) -> list[str]:
    """Names of the modules of a classifier that are not its backbone."""
    return [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and next(module.parameters(), None) is not None
    ]


def last_layer(model: Any) -> torch.nn.Linear:
    """The layer that gives the one logit.

    Raises:
        UserError: the classifier has none.
    """
    import torch

    layers = [
        layer
        for name in head_names(model)
        for layer in getattr(model, name).modules()
        if isinstance(layer, torch.nn.Linear) and layer.out_features == 1
    ]
    if not layers:
        raise UserError(f"{type(model).__name__} has no last linear layer with one output: set normalize to false.")
    return layers[-1]


def standardize(model: Any, reader: SequenceClassifier, train: Sequence[Comparison]) -> dict[str, float]:
    """Give the rewards of the data's completions mean 0 and variance 1, by the model's own last layer.

    Ziegler et al. 2019, section 2: so that the same KL coefficient means the same for every reward model. Of a layer
    without a bias the shift is kept in the model's config (`reward_offset`), where this package's rewards read it.

    Returns:
        The mean and standard deviation that were taken out.

    Raises:
        UserError: all rewards are equal.
    """
    import torch

    values = torch.tensor([value for row in rewards_of(reader, train) for value in row], dtype=torch.float64)
    mean, deviation = float(values.mean()), float(values.std(correction=0))
    if not deviation > 1e-8:
        raise UserError("the reward model gives every completion the same reward: it has learned nothing.")
    layer = last_layer(model)
    with torch.no_grad():
        layer.weight /= deviation
        if layer.bias is not None:
            layer.bias.copy_((layer.bias - mean) / deviation)
        else:
            model.config.reward_offset = -mean / deviation
    return {"mean": mean, "standard_deviation": deviation}


def rewards_of(reader: SequenceClassifier, comparisons: Sequence[Comparison]) -> list[list[float]]:
    """The reward of every completion of every comparison."""
    rows = [{"input_ids": ids} for comparison in comparisons for ids in tokens_of(comparison, reader)]
    values = iter(_rewards(reader, rows))
    return [[next(values) for _ in comparison.completions] for comparison in comparisons]


def _rewards(reader: SequenceClassifier, rows: list[dict[str, list[int]]]) -> list[float]:
    import torch

    from ..metrics.classifier import reward_offset

    flat = [0.0] * len(rows)
    with torch.no_grad():
        for indices, inputs in reader.batches(rows):
            for index, value in zip(indices, reader.model(**inputs).logits[:, 0].float().tolist(), strict=True):
                flat[index] = value + reward_offset(reader.model)
    return flat


def measure(reader: SequenceClassifier, comparisons: Sequence[Comparison], seed: int) -> Reliability:
    """How reliable the model is on comparisons."""
    from .reliability import reliability

    rewards = rewards_of(reader, comparisons)
    return reliability(rewards, [c.choice for c in comparisons], [c.row for c in comparisons], seed)


def save(
    model: Any,
    tokenizer: Any,
    arguments: RewardModelArguments,
    results: dict[str, Reliability],
    scale: dict[str, float] | None,
    num_choices: int,
) -> None:
    """Write model, tokenizer, numbers and picture to `arguments.out`."""
    folder = Path(arguments.out)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {
        "trained_on": num_choices,
        "normalized_by": scale,
        "splits": {name: result.as_dict() for name, result in results.items()},
    }
    replace_file(folder / RESULTS_NAME, json.dumps(record, indent=2) + "\n")
    draw_calibration(results, folder / "calibration.png")


def draw_calibration(results: dict[str, Reliability], path: Path) -> None:
    """How often the model's favourite was chosen against the probability that it gave it, where matplotlib is."""
    plt = pyplot()
    if plt is None:
        return
    figure, axis = plt.subplots(figsize=(4.5, 4))
    axis.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="calibrated")
    for name, result in results.items():
        sizes = [8 + 60 * b["number"] / result.num_choices for b in result.bins]
        x, y = [b["probability"] for b in result.bins], [b["accuracy"] for b in result.bins]
        axis.plot(x, y, linewidth=1)
        axis.scatter(x, y, s=sizes, label=f"{name}: {result.accuracy:.3f} of {result.num_choices}")
    axis.set(
        xlabel="probability of the model's favourite", ylabel="share that was chosen", xlim=(0, 1), ylim=(0, 1.02)
    )
    axis.legend(fontsize="small", loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)

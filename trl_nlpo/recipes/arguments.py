"""The keys of a recipe that are neither the trainer's (`NLPOConfig`) nor the model's (TRL's `ModelConfig`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import UserError
from ..metrics.registry import check_metric
from ..rewards import built_in_names, get_reward
from ..rewards.registry import check_reward
from .algorithms import ALGORITHMS, Algorithm
from .specs import parse_rewards


SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
)  # fmt: skip
"""Schedules of transformers that need neither settings of their own nor evaluations."""


@dataclass
class RecipeArguments:
    """What data, what rewards and which stages a run has. Each field's help says what it means."""

    algorithm: str = field(
        default="nlpo",
        metadata={
            "choices": list(ALGORITHMS),
            "help": "Stages of the run: 'zero_shot' only evaluates; 'supervised' trains on the references; 'ppo', "
            "'nlpo', 'a2c' and 'trpo' reinforce; 'supervised+ppo', 'supervised+nlpo', 'supervised+a2c' and "
            "'supervised+trpo' do one after the other. All but nlpo set mask_strategy 'none'; a2c is PPO in one "
            "step a batch, trpo sets policy_update 'trust_region' and value_trains_backbone false.",
        },
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "A task by its name (`trl-nlpo tasks` lists them) or path (my_module:my_task): it decides data, "
            "prompt, lengths, rewards and metrics unless the recipe does."
        },
    )
    preset: str | None = field(
        default=None,
        metadata={
            "help": "'tiny': the same recipe with a small model from scratch on rows that the task makes up, for a "
            "CPU. On the command line it overrides the recipe's file, and in a file the file's own keys override it; "
            "keys on the command line override both."
        },
    )
    rewards: list | dict | str | None = field(
        default=None,
        metadata={
            "help": "Reward functions: names (rougeL), dotted paths (my_module.my_reward), paths of classifiers "
            "(owner/name), or mappings {name: rougeL, weight: 2.0} with further options of the function. Weight 0 "
            "only reports."
        },
    )
    metrics: list | dict | str | None = field(
        default=None,
        metadata={
            "help": "Metrics of the test split besides the rewards, written as rewards are. null: the task's. One "
            "whose package or model is missing is reported as unavailable; the run continues."
        },
    )
    judge_model: str | None = field(
        default=None,
        metadata={
            "help": "Model (path or Hub id, same tokenizer) whose perplexity of the completions is reported. null: "
            "the supervised model, or the starting model without a supervised stage."
        },
    )
    supervised_model: str | None = field(
        default=None,
        metadata={"help": "Folder with the supervised model of another run, to start from instead of training one."},
    )
    zero_shot_results: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a run whose zero-shot results are taken instead of evaluating again, where model, "
            "data, seed, evaluation and metrics are the same. A grid sets it."
        },
    )
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "A file (.jsonl, .json, .csv, .parquet), a folder with <split>.jsonl or <prefix>_<split>.jsonl, a "
            "data set on the Hub, 'miniature' for rows that the task makes up, or 'quickstart'. null: the task's data "
            "on the Hub."
        },
    )
    dataset_config: str | None = field(
        default=None,
        metadata={"help": "Configuration of a Hub data set; in a folder, the <prefix> of the files."},
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_validation_split: str | None = field(
        default="validation", metadata={"help": "Split for evaluation during training. null: none."}
    )
    dataset_test_split: str = field(default="test", metadata={"help": "Split for the final table."})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Take this many rows of the train split. null: all."}
    )
    max_eval_samples: int | None = field(
        default=None,
        metadata={"help": "Take this many rows of the validation split, for evaluation during training. null: all."},
    )
    max_test_samples: int | None = field(
        default=None, metadata={"help": "Take this many rows of the test split, for the final table. null: all."}
    )
    prompt_column: str = field(default="prompt", metadata={"help": "Column with the prompt: text or messages."})
    prompt_template: str = field(
        default="{prompt}",
        metadata={"help": "What the model reads: {prompt} is the prompt column; any other column may be named too."},
    )
    references_column: str = field(
        default="references", metadata={"help": "Column with the references: a list of texts, or one."}
    )
    completion_column: str | None = field(
        default=None, metadata={"help": "Column with the supervised target. null: the first reference."}
    )
    supervised_all_references: bool = field(
        default=False, metadata={"help": "Train on every reference of a row, not only on the first."}
    )
    supervised_where: dict | None = field(
        default=None,
        metadata={
            "help": "The supervised stage trains only on rows with these values of columns, such as {label: 1}; the "
            "other stages take all rows. null: on all."
        },
    )
    supervised_num_train_epochs: float = field(
        default=3.0, metadata={"help": "Passes over the train split in the supervised stage."}
    )
    supervised_learning_rate: float = field(default=2e-5, metadata={"help": "Learning rate of the supervised stage."})
    supervised_batch_size: int = field(
        default=8, metadata={"help": "Rows per device and step of the supervised stage."}
    )
    supervised_lr_scheduler_type: str = field(
        default="linear",
        metadata={
            "choices": list(SCHEDULES),
            "help": "Learning-rate schedule of the supervised stage, by transformers' name.",
        },
    )
    supervised_weight_decay: float = field(
        default=0.0, metadata={"help": "Weight decay of the supervised stage's AdamW."}
    )
    model_type: Literal["gpt2", "llama", "t5"] = field(
        default="llama",
        metadata={"help": "Without model_name_or_path: architecture of a small model with random weights."},
    )
    vocab_size: int = field(
        default=4096,
        metadata={"help": "Without model_name_or_path: size of the vocabulary of a tokenizer trained for the run."},
    )
    hidden_size: int = field(
        default=256, metadata={"help": "Without model_name_or_path: width of the model's states."}
    )
    num_hidden_layers: int = field(default=4, metadata={"help": "Without model_name_or_path: number of layers."})
    num_attention_heads: int = field(
        default=4, metadata={"help": "Without model_name_or_path: number of attention heads."}
    )
    max_position_embeddings: int = field(
        default=256,
        metadata={"help": "Without model_name_or_path: maximum number of tokens of prompt and completion together."},
    )
    dropout: float = field(
        default=0.0,
        metadata={
            "help": "Without model_name_or_path: rate of the model's dropout, in the supervised stage and, where "
            "disable_dropout is false, in updates. Llama has it in the attention alone."
        },
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run Python code that comes with the model on the Hub. Only if you have read it."},
    )
    resume_from_checkpoint: bool | str | None = field(
        default=None,
        metadata={
            "help": "true: resume the run in output_dir from its newest checkpoint. A folder: resume from that "
            "checkpoint."
        },
    )

    def __post_init__(self) -> None:
        self.reward_specs = parse_rewards(self.rewards)
        self.metric_specs = parse_rewards(self.metrics, "metrics")
        weighted = [spec.name for spec in self.metric_specs if spec.weight != 1.0]
        if weighted:
            raise UserError(f"metrics: {weighted[0]!r} has a weight, but metrics are not added up: remove the weight.")
        if not self.reward_specs:
            raise UserError(f"rewards is missing: name at least one of {', '.join(built_in_names())}.")
        if not self.dataset_name and self.task is None:
            raise UserError(
                "dataset_name is missing: give a file, a folder, a data set on the Hub, or 'quickstart' (or a task)."
            )
        if self.supervised_model is not None and not Algorithm.parse(self.algorithm).supervised:
            raise UserError(f"supervised_model is set, but algorithm {self.algorithm!r} has no supervised stage.")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} is {value}, but must be positive.")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, but must not be negative.")
        for name in _RATES:
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be 0 or more and below 1.")

    def reward_functions(self) -> list[Any]:
        """The functions that `rewards` names. A name with a slash is a classifier's and stays one: trainers load it.

        Raises:
            UserError: a name or an option that is not known.
        """
        return [
            spec.name
            if _is_reward_model(spec.name)
            else _naming_the_key("rewards", get_reward, spec.name, **spec.options)
            for spec in self.reward_specs
        ]

    def check_functions(self) -> None:
        """Raise a `UserError` for a reward or metric with an unknown name or option; runs no code of users."""
        for spec in self.reward_specs:
            if not _is_reward_model(spec.name):
                _naming_the_key("rewards", check_reward, spec.name, spec.options)
        for spec in self.metric_specs:
            _naming_the_key("metrics", check_metric, spec.name, spec.options)


def _is_reward_model(name: str) -> bool:
    """Whether a name is a classifier's, which the trainer loads: it has a slash."""
    return "/" in name and not name.startswith("evaluate:")


def _naming_the_key(key: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a function returns; its `UserError` begins with the key."""
    try:
        return call(*arguments, **options)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


_POSITIVE = (
    "max_train_samples",
    "max_eval_samples",
    "max_test_samples",
    "supervised_num_train_epochs",
    "supervised_learning_rate",
    "supervised_batch_size",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
_NOT_NEGATIVE = ("supervised_weight_decay",)
_RATES = ("dropout",)


def range_of(name: str) -> str | None:
    """What is checked of the value of one of the fields, in words; None where only its type is."""
    if name in _POSITIVE:
        return "greater than 0"
    if name in _RATES:
        return "0 or more, below 1"
    return "0 or more" if name in _NOT_NEGATIVE else None

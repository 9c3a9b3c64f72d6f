"""Settings of `trl-nlpo collect`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import UserError


@dataclass
class CollectionArguments:
    """What is asked, whom, when, and how the reward model learns from it."""

    asker: str = field(
        default="judge",
        metadata={
            "help": "judge: the recipe's rewards choose, for simulations; people: on a page that the run serves; "
            "files: people, by JSON Lines files.",
            "choices": ["judge", "people", "files"],
        },
    )
    noise: float = field(default=0.0, metadata={"help": "Share of the judge's choices that are made by chance."})
    question: str = field(default="Which text is best?", metadata={"help": "What people are asked."})
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address of the page; any but this machine's own needs TRL_NLPO_STUDY_TOKEN."},
    )
    port: int | None = field(default=None, metadata={"help": "Port of the page. null: the first that is free."})
    num_completions: int = field(
        default=4, metadata={"help": "Completions of a prompt to choose from (4 in the paper)."}
    )
    num_labels: int = field(default=1000, metadata={"help": "Choices in all."})
    initial_labels: int | None = field(
        default=None, metadata={"help": "Choices before the first update. null: a quarter of all."}
    )
    retrainings: int = field(
        default=4,
        metadata={"help": "How often more labels are asked for and the reward model is trained again (19 in the "
                  "paper). 0: offline, all labels before the first update."},
    )  # fmt: skip
    reward_model: str | None = field(
        default="policy",
        metadata={
            "help": "Model that every reward model starts from, with a new last layer: policy, the model that "
            "reinforcement starts from (as in the paper); a path or Hub id; null: a small one with random weights."
        },
    )
    reward_epochs: float = field(default=1.0, metadata={"help": "Passes over all choices at each training."})
    reward_learning_rate: float = field(default=1e-4, metadata={"help": "1e-3 for small models; 1e-5 for a real one."})
    reward_batch_size: int = field(default=16, metadata={"help": "Choices per step."})
    reward_max_length: int | None = field(default=None, metadata={"help": "Tokens that the reward model reads."})
    held_out: float = field(default=0.1, metadata={"help": "Share of the prompts whose choices only test the model."})

    def __post_init__(self) -> None:
        if not 0.0 <= self.noise <= 1.0:
            raise UserError(f"noise is {self.noise}, but must be from 0 to 1.")
        if self.noise and self.asker != "judge":
            raise UserError("noise is the judge's; people err by themselves: remove it.")
        if self.num_completions < 2:
            raise UserError(f"num_completions is {self.num_completions}, but a choice needs two or more.")
        if not 0 < self.first_labels <= self.num_labels:
            raise UserError(
                f"initial_labels is {self.first_labels}, but must be from 1 to num_labels ({self.num_labels})."
            )
        if self.retrainings < 0:
            raise UserError(f"retrainings is {self.retrainings}, but must not be negative.")
        if (self.retrainings == 0) != (self.first_labels == self.num_labels):
            raise UserError(
                f"retrainings is {self.retrainings} and initial_labels {self.first_labels} of {self.num_labels}: "
                "without retraining all labels come first, and with it some must be left for later."
            )

    @property
    def first_labels(self) -> int:
        """Choices before the first update, also where `initial_labels` leaves it open."""
        if self.initial_labels is not None:
            return self.initial_labels
        return self.num_labels if self.retrainings == 0 else max(self.num_labels // 4, 1)

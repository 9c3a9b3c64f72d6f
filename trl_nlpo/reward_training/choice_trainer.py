"""TRL's trainer of reward models, for choices among any number of completions."""

from __future__ import annotations

from typing import Any

import torch
from trl import RewardTrainer

from ..functional.choices import choice_loss


class ChoiceTrainer(RewardTrainer):
    """TRL's `RewardTrainer` with Ziegler's loss. Of rows with two completions each, its loss is TRL's.

    Rows are tokenized: `chosen_ids`, and `other_ids`, a list for each completion that was not chosen. TRL also asks
    for `rejected_ids`, by which it knows that rows are tokenized; they are the first of the others.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean of [`choice_loss`] over the rows of a batch; as `transformers.Trainer` calls it."""
        sizes = inputs.pop("num_completions").tolist()
        outputs = model(**inputs, use_cache=False) if _takes_cache(model) else model(**inputs)
        rewards = torch.nn.utils.rnn.pad_sequence(list(outputs.logits[:, 0].float().split(sizes)), batch_first=True)
        is_offered = torch.arange(rewards.shape[1], device=rewards.device) < torch.tensor(
            sizes, device=rewards.device
        ).unsqueeze(1)
        chosen = torch.zeros(len(sizes), dtype=torch.long, device=rewards.device)
        loss = choice_loss(rewards, chosen, is_offered).mean()
        return (loss, outputs) if return_outputs else loss


def _takes_cache(model: Any) -> bool:
    return bool(getattr(getattr(model, "config", None), "use_cache", False))


class ChoiceCollator:
    """A batch of rows: all completions of the first row, the chosen one first, then those of the second, and so on.

    Args:
        pad_token_id (`int`): right padding.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` of shape `(all completions, T)`, and `num_completions` `(B,)`."""
        ids = [torch.tensor(tokens) for row in rows for tokens in (row["chosen_ids"], *row["other_ids"])]
        lengths = torch.tensor([len(tokens) for tokens in ids])
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id)
        return {
            "input_ids": padded,
            "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
            "num_completions": torch.tensor([1 + len(row["other_ids"]) for row in rows]),
        }

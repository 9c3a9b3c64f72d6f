"""Choices among completions as a likelihood (Ziegler et al. 2019, equation 1; of two: Bradley and Terry)."""

from __future__ import annotations

from torch import Tensor


def choice_log_probs(rewards: Tensor, is_offered: Tensor | None = None) -> Tensor:
    """Log-probability that each completion is chosen: log softmax of the rewards.

    Args:
        rewards (`Tensor`): `(B, K)`.
        is_offered (`Tensor`, *optional*): `(B, K)` of bool; False where a row has fewer than K completions.

    Returns:
        `Tensor`: `(B, K)`, -inf where nothing was offered.

    Example:
        >>> choice_log_probs(torch.tensor([[0.0, 0.0]])).exp()
        tensor([[0.5000, 0.5000]])
    """
    if is_offered is not None:
        rewards = rewards.masked_fill(~is_offered, float("-inf"))
    return rewards.log_softmax(-1)


def choice_loss(rewards: Tensor, choice: Tensor, is_offered: Tensor | None = None) -> Tensor:
    """-log(exp r_b / sum_i exp r_i), in nats; of two completions it is TRL's pair loss -log sigmoid(r_b - r_other).

    Args:
        rewards (`Tensor`): `(B, K)`.
        choice (`Tensor`): `(B,)` of int64, the index of the completion that was chosen.
        is_offered (`Tensor`, *optional*): `(B, K)` of bool.

    Returns:
        `Tensor`: `(B,)`.

    Example:
        >>> choice_loss(torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([2]))
        tensor([1.3863])
    """
    return -choice_log_probs(rewards, is_offered).gather(-1, choice[:, None])[:, 0]

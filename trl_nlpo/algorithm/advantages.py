"""Room 3: scores into advantages and returns. Pure tensors; knows neither models nor text."""

from __future__ import annotations

import torch

from ..functional.advantages import bootstrapped, gae, length_adaptive_lam
from ..functional.rewards import kl_per_token, token_rewards
from ..functional.statistics import AllSum, masked_whiten, of_this_process
from ..records import Estimates, Rollout, Scores, without_skipped


@torch.no_grad()
def estimate_advantages(
    rollout: Rollout,
    scores: Scores,
    *,
    kl_coef: float,
    gamma: float,
    lam: float,
    critic_lam: float | None = None,
    lam_alpha: float | None = None,
    positive_threshold: float | None = None,
    kl_estimator: str = "k1",
    whiten_rewards: bool = False,
    all_sum: AllSum = of_this_process,
) -> Estimates:
    """Token rewards with the KL penalty (paper, equation 1), GAE, and whitening over the whole batch.

    With `critic_lam` the value function's targets have a lambda of their own (VC-PPO's decoupled GAE): near 1 they are
    nearly the sums of rewards to come, so that a late reward reaches early tokens, while the policy's advantages keep
    the small variance of a lower lambda.

    Args:
        rollout ([`Rollout`]), scores ([`Scores`]): of the same B completions. Those that `scores` skips are as if they
            had not been sampled.
        kl_coef, gamma, lam, critic_lam, lam_alpha, kl_estimator, whiten_rewards: as in [`NLPOConfig`].
        positive_threshold (`float`, *optional*): completions whose reward is above it are positive; None: none are.
        all_sum: adds up over processes, so that whitening uses the statistics of the whole batch.

    Returns:
        [`Estimates`].
    """
    mask = without_skipped(rollout.completion_mask, scores.skipped)
    kl = torch.where(mask, kl_per_token(rollout.raw_logprobs, rollout.ref_logprobs, kl_estimator), 0.0)
    rewards = token_rewards(scores.scores, kl, kl_coef, mask, scores.dense_rewards)
    if whiten_rewards:
        rewards = masked_whiten(rewards, mask, shift_mean=False, all_sum=all_sum)
    to_come = rewards
    if rollout.final_values is not None:
        to_come = bootstrapped(rewards, rollout.final_values, mask, gamma)
    of_policy = lam if lam_alpha is None else length_adaptive_lam(mask.sum(-1), lam_alpha)
    advantages, returns = gae(to_come, rollout.values, mask, gamma, of_policy)
    if critic_lam is not None or lam_alpha is not None:
        _, returns = gae(to_come, rollout.values, mask, gamma, lam if critic_lam is None else critic_lam)
    advantages = masked_whiten(advantages, mask, all_sum=all_sum)
    return Estimates(
        advantages=advantages,
        returns=returns,
        rewards=rewards,
        kl=kl,
        kl_coef=kl_coef,
        skipped=scores.skipped,
        positive=None if positive_threshold is None else scores.totals > positive_threshold,
    )

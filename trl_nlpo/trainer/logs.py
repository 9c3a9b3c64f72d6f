"""What is logged about an update: TRL's names, GRPO's for rewards and completions, and our own under `nlpo/`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..evaluation.summary import perplexity, sample_row
from ..functional.statistics import explained_variance
from ..records import Estimates, Rollout, Scores, UpdateStats, without_skipped


_LATEST = ("lr", "critic_lr", "episode", "eps")
"""Names of which a log has the last value, not the average."""


def update_metrics(
    rollout: Rollout,
    scores: Scores,
    estimates: Estimates,
    stats: UpdateStats,
    *,
    mask_age: int,
    mask_syncs: int,
    end_token_ids: Sequence[int],
    gather: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, float]:
    """Averages over all completions (or real tokens) of all processes, by the names that are logged.

    Args:
        rollout, scores, estimates, stats: of one update.
        mask_age (`int`): updates between the masking policy's last sync and the rollout.
        mask_syncs (`int`): syncs so far.
        end_token_ids: for `val/num_eos_tokens`.
        gather: stacks rows of all processes.

    Returns:
        `dict[str, float]`; the names are explained in `docs/algorithm.md`.
    """
    table = _per_completion(rollout, scores, estimates, end_token_ids)
    rows = gather(torch.stack(list(table.values()), dim=1))
    columns = dict(zip(table, rows.unbind(1), strict=True))
    mean = {name: float(column.nanmean()) for name, column in columns.items()}
    tokens = float(columns["length"].sum())
    metrics = {
        "objective/kl": mean["kl"],
        "objective/entropy": mean["entropy"],
        "objective/non_score_reward": -estimates.kl_coef * mean["kl"],
        "objective/rlhf_reward": mean["total"] - estimates.kl_coef * mean["kl"],
        "objective/scores": mean["total"],
        "policy/approxkl_avg": stats.approx_kl,
        "policy/clipfrac_avg": stats.policy_clipfrac,
        "policy/entropy_avg": stats.entropy,
        "loss/policy_avg": stats.policy_loss,
        "loss/value_avg": stats.value_loss,
        "val/clipfrac_avg": stats.value_clipfrac,
        "val/explained_variance": explained_variance(
            float(columns["learned"].sum()),
            *(float(columns[name].sum()) for name in ("returns", "return_squares", "errors", "error_squares")),
        ),
        "value/mean": _per_token(columns, "values"),
        "returns/mean": _per_token(columns, "returns"),
        "val/ratio": stats.ratio,
        "val/ratio_var": stats.ratio_variance,
        "val/num_eos_tokens": float(columns["end_tokens"].sum()),
        "grad_norm": stats.grad_norm,
        "reward": mean["total"],
        "reward_std": _std(columns["total"]),
        "completions/mean_length": mean["length"],
        "completions/min_length": float(columns["length"].min()),
        "completions/max_length": float(columns["length"].max()),
        "completions/clipped_ratio": 1.0 - mean["ended"],
        "perplexity": perplexity(float(columns["ref_logprob"].sum()), int(tokens)),
        "nlpo/kl_coef": estimates.kl_coef,
        "nlpo/first_ratio_deviation": stats.first_ratio_deviation,
        "nlpo/mask_size": float(columns["mask_size"].sum()) / tokens,
        "nlpo/mask_mass": float(columns["mask_mass"].sum()) / tokens,
        "nlpo/mask_age": float(mask_age),
        "nlpo/mask_syncs": float(mask_syncs),
        "nlpo/skipped_completions": float(columns["skipped"].sum()),
        "nlpo/skipped_steps": float(stats.num_skipped_steps),
    }
    measured = {
        "critic_grad_norm": stats.critic_grad_norm,
        "loss/anchor_avg": stats.anchor_loss,
        "loss/positive_nll_avg": stats.positive_nll,
        "policy/backtracks": stats.backtracks,
    }
    metrics |= {name: value for name, value in measured.items() if value is not None}
    if "engine_deviation" in columns:
        metrics["nlpo/engine_deviation"] = float(columns["engine_deviation"].sum()) / tokens
    for name in scores.names:
        metrics[f"rewards/{name}/mean"] = mean[f"rewards/{name}"]
        metrics[f"rewards/{name}/std"] = _std(columns[f"rewards/{name}"])
    for name, values in scores.metrics.items():
        # A reward function may call its metric as one of ours is called.
        metrics[f"log_metric/{name}" if name in metrics else name] = sum(values) / len(values)
    return metrics


def _per_completion(
    rollout: Rollout, scores: Scores, estimates: Estimates, end_token_ids: Sequence[int]
) -> dict[str, torch.Tensor]:
    """`(B,)` numbers of each completion."""
    real = rollout.completion_mask
    ends = torch.tensor(list(end_token_ids), dtype=torch.long, device=real.device)
    skipped = torch.zeros_like(rollout.ended) if estimates.skipped is None else estimates.skipped
    table = {
        "total": scores.totals,
        "skipped": skipped,
        "kl": estimates.kl.sum(-1).masked_fill(skipped, float("nan")),
        "entropy": -rollout.raw_logprobs.sum(-1),
        "ref_logprob": rollout.ref_logprobs.sum(-1),
        "length": real.sum(-1),
        "ended": rollout.ended,
        "end_tokens": (torch.isin(rollout.completion_ids, ends) & real).sum(-1),
        "mask_size": _mask_sizes(rollout),
        "mask_mass": _mask_mass(rollout),
    }
    if rollout.engine_logprobs is not None:
        table["engine_deviation"] = (rollout.engine_logprobs - rollout.old_logprobs).abs().sum(-1)
    learned = without_skipped(real, estimates.skipped)
    values, returns = (torch.where(learned, tokens, 0.0).double() for tokens in (rollout.values, estimates.returns))
    sums = {
        "values": values, "returns": returns, "return_squares": returns.square(), "errors": returns - values,
        "error_squares": (returns - values).square(), "learned": learned,
    }  # fmt: skip
    table |= {name: tokens.sum(-1) for name, tokens in sums.items()}
    table |= {f"rewards/{name}": scores.per_function[:, index] for index, name in enumerate(scores.names)}
    return {name: column.double() for name, column in table.items()}


def _per_token(columns: dict[str, torch.Tensor], name: str) -> float:
    """Mean over the tokens that were learned from; NaN where there are none."""
    return float(columns[name].sum() / columns["learned"].sum())


def _mask_sizes(rollout: Rollout) -> torch.Tensor:
    """`(B,)`: allowed tokens, added up over the real positions of each completion."""
    real = rollout.completion_mask
    if rollout.token_sets is None:
        return real.sum(-1) * rollout.vocab_size
    return torch.where(real, rollout.token_sets.sizes, 0).sum(-1)


def _mask_mass(rollout: Rollout) -> torch.Tensor:
    """`(B,)`: the policy's probability of the allowed tokens, added up over the real positions.

    p(token) = p(token | allowed) p(allowed); without a mask everything is allowed, whatever a repetition penalty does.
    """
    real = rollout.completion_mask
    if rollout.token_sets is None:
        return real.sum(-1)
    return torch.where(real, (rollout.raw_logprobs - rollout.old_logprobs).exp(), 0.0).sum(-1)


def _std(values: torch.Tensor) -> float:
    values = values[~values.isnan()]
    return float(values.std()) if len(values) > 1 else 0.0


def completion_rows(rollout: Rollout, scores: Scores, estimates: Estimates) -> list[dict[str, Any]]:
    """One row per completion for tables: prompt, completion, each reward, the score and the KL."""
    kl = estimates.kl.sum(-1).tolist()
    return [sample_row(rollout, scores, index, kl=kl[index]) for index in range(len(rollout))]


def averaged(pending: Sequence[dict[str, float]]) -> dict[str, float]:
    """Metrics of several updates as one log line: averages; learning rates, `episode` and `eps` are the latest.

    Args:
        pending: what `update_metrics` gave for each update since the last log; at least one.
    """
    averages = {}
    for name in dict.fromkeys(name for logs in pending for name in logs):
        values = [logs[name] for logs in pending if name in logs]
        # What could not be measured in one update is averaged over the others.
        values = [value for value in values if not math.isnan(value)] or values
        averages[name] = pending[-1][name] if name in _LATEST else sum(values) / len(values)
    return averages

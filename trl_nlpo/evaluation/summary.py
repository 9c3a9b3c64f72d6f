"""What held-out completions come to: averages, perplexity and diversity. No models, no TRL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..metrics.diversity import distinct, ngram_counts
from ..records import Completions, Scores


@dataclass(frozen=True)
class Evaluation:
    """What a policy does on held-out prompts.

    Attributes:
        metrics (`dict[str, float]`): `reward` and `reward_std` (of the weighted scores); `rewards/<name>/mean` of each
            function; `perplexity` of the completions under the judge (exp of minus the mean log-probability per token,
            temperature 1); `completions/mean_length` (tokens), `completions/eos_ratio`; `distinct_1`, `distinct_2`
            (share of different word n-grams among all). Completions without a score, with `reward_failure="skip"`, are
            left out of the means and counted as `skipped_completions`, which is there only then.
        samples (`list[dict]`): one row per prompt: `prompt`, `completion`, `score` and each reward function's value.
    """

    metrics: dict[str, float]
    samples: list[dict[str, Any]]


def sample_row(completions: Completions, scores: Scores, index: int, **more: Any) -> dict[str, Any]:
    """A completion for people: prompt, completion, each reward, the score and what functions logged beside it."""
    row: dict[str, Any] = {"prompt": completions.batch.prompts[index], "completion": completions.completions[index]}
    taken = {*row, "score", *more}
    for function, name in enumerate(scores.names):
        row[f"rewards/{name}" if name in taken else name] = float(scores.per_function[index, function])
    row |= {"score": float(scores.totals[index]), **more}
    for column, values in scores.extra_columns.items():
        row[f"logged/{column}" if column in row else column] = values[index]
    return row


def summarize(rows: list[dict[str, Any]]) -> Evaluation:
    """Averages over all rows, and their samples."""
    num_tokens = max(sum(row["num_tokens"] for row in rows), 1)
    scores = torch.tensor([row["score"] for row in rows], dtype=torch.float64)
    scored = scores[~scores.isnan()]
    metrics = {
        "reward": float(scores.nanmean()),
        "reward_std": float(scored.std()) if len(scored) > 1 else 0.0,
        "completions/mean_length": num_tokens / len(rows),
        "completions/eos_ratio": sum(row["ended"] for row in rows) / len(rows),
    }
    if len(scored) < len(rows):
        metrics["skipped_completions"] = len(rows) - len(scored)
    for name in rows[0]["rewards"]:
        metrics[f"rewards/{name}/mean"] = float(torch.tensor([row["rewards"][name] for row in rows]).nanmean())
    if rows[0]["judge_logprob"] is not None:
        metrics["perplexity"] = perplexity(sum(row["judge_logprob"] for row in rows), num_tokens)
    texts = [_text(row["sample"]["completion"]) for row in rows]
    metrics["distinct_1"], metrics["distinct_2"] = distinct_ngrams(texts, 1), distinct_ngrams(texts, 2)
    return Evaluation(metrics, [row["sample"] for row in rows])


def perplexity(total_logprob: float, num_tokens: int) -> float:
    """exp(- total log-probability / tokens); infinite where that overflows."""
    exponent = -total_logprob / max(num_tokens, 1)
    return math.exp(exponent) if exponent < 700 else math.inf


def distinct_ngrams(texts: Sequence[str], n: int) -> float:
    """Different word n-grams over all word n-grams of all texts (Li et al. 2016); 0 when there are none.

    Words are what stands between white space, case kept; the metrics distinct1 and distinct2 split as GEM does.
    """
    return distinct(ngram_counts([text.split() for text in texts], n))


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]

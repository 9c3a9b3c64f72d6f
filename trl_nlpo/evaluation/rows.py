"""Completions of held-out prompts, sampled without a mask and scored: a row for each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..algorithm.distribution import MaskSettings, SamplingSettings, raw_logprobs
from ..algorithm.draws import row_draws, seeded
from ..algorithm.generation import sample_completions
from ..algorithm.rollout import Output, joined_completions
from ..algorithm.scoring import check_weights, score_rollout
from ..prompts import PromptDataset, collate_prompts, decoder
from ..records import Completions, Scores
from .summary import sample_row


@torch.no_grad()
def evaluate_rows(
    model: Any,
    prompts: PromptDataset,
    indices: Sequence[int],
    *,
    reward_functions: list[Any],
    args: Any,
    tokenizer: Any,
    judge: Output | None = None,
    trainer_state: Any = None,
) -> list[dict[str, Any]]:
    """Sample a completion for each prompt, without a mask, and score it.

    Args:
        model: the policy, in evaluation mode.
        prompts ([`PromptDataset`])
        indices (`Sequence[int]`): of the prompts to complete; each has random numbers of its own.
        reward_functions (`list`), args ([`NLPOConfig`]), tokenizer
        judge (*optional*): the model that says how likely completions are.
        trainer_state (*optional*): passed to the reward functions.

    Returns:
        One row per prompt, for [`summarize`]: `sample`, `score`, `rewards`, `num_tokens`, `ended`, `judge_logprob`.
    """
    sampling = SamplingSettings.from_config(args, tokenizer, model, for_evaluation=True)
    ends = MaskSettings.from_config(args, tokenizer, model, sampling)
    unmasked = MaskSettings("none", always_allowed=ends.always_allowed)
    weights = check_weights(args.reward_weights, len(reward_functions))
    rows: list[dict[str, Any]] = []
    with seeded(args.seed, next(model.parameters()).device):
        for start in range(0, len(indices), args.per_device_eval_batch_size):
            chosen = indices[start : start + args.per_device_eval_batch_size]
            batch = collate_prompts([prompts[index] for index in chosen])
            draws = row_draws(args.seed, chosen, sampling.max_new_tokens)
            sample = sample_completions(model, batch.prompt_ids, sampling, unmasked, draws=draws)
            completions = joined_completions(batch, [sample], tokenizer.pad_token_id, decoder(tokenizer))
            scores = score_rollout(
                completions,
                reward_functions,
                weights,
                missing_eos_penalty=args.missing_eos_penalty,
                trainer_state=trainer_state,
                failure=args.reward_failure,
                timeout=args.reward_timeout,
            )
            judged = None
            if judge is not None:
                real = sample.sequences.completion_mask
                judged = torch.where(real, raw_logprobs(judge(sample.sequences), sample.sequences, 1.0), 0.0).sum(-1)
            rows += _rows(completions, scores, judged)
    return rows


def _rows(completions: Completions, scores: Scores, judged: torch.Tensor | None) -> list[dict[str, Any]]:
    lengths = completions.completion_mask.sum(-1).tolist()
    return [
        {
            "sample": sample_row(completions, scores, index),
            "score": float(scores.totals[index]),
            "rewards": dict(zip(scores.names, scores.per_function[index].tolist(), strict=True)),
            "num_tokens": lengths[index],
            "ended": bool(completions.ended[index]),
            "judge_logprob": None if judged is None else float(judged[index]),
        }
        for index in range(len(completions))
    ]

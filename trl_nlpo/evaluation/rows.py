"""A policy judged on held-out prompts: completions, rewards, perplexity and diversity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..algorithm.distribution import MaskSettings, SamplingSettings
from ..algorithm.generation import evaluation_mode, row_draws, sample_completions, seeded
from ..algorithm.reward_models import as_reward_functions
from ..algorithm.rollout import Logits, joined_completions
from ..algorithm.scoring import check_weights, score_rollout
from ..errors import UserError
from ..functional.logprobs import token_logprobs
from ..launch.processes import shared_out
from ..metrics.diversity import distinct, ngram_counts
from ..models.inputs import longest_prompt
from ..models.policy_and_value import completion_logits
from ..prompts import PromptDataset, PromptTokenizer, collate_prompts
from ..records import Completions, PromptBatch, Scores


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


def evaluate_policy(
    model: Any,
    tokenizer: Any,
    dataset: Any,
    reward_funcs: Any,
    args: Any,
    judge: Any = None,
    reward_processing_classes: Any = None,
    description: str | None = None,
    share_out: bool = False,
) -> Evaluation:
    """Sample completions for every prompt of `dataset`, without a mask, and score them.

    Args:
        model: a causal language model (or PEFT model).
        tokenizer: the model's.
        dataset: rows with `prompt` or `input_ids`; all other columns reach the reward functions.
        reward_funcs: as for [`NLPOTrainer`].
        args ([`NLPOConfig`]): `eval_generation_kwargs`, `response_length`, `temperature`, `seed`,
            `per_device_eval_batch_size`, `reward_weights`, `missing_eos_penalty` and the prompt settings.
        judge (*optional*): a language model with the same tokenizer that says how likely the completions are.
        reward_processing_classes (*optional*): tokenizers of reward models.
        description (`str`, *optional*): name of the data set in messages.
        share_out (`bool`): with several processes, every one takes a share of the rows, and all must call this.

    Returns:
        [`Evaluation`]; the same for the same seed.
    """
    device = next(model.parameters()).device
    longest = longest_prompt(model, SamplingSettings.from_config(args, tokenizer, for_evaluation=True).max_new_tokens)
    prompts = PromptDataset(dataset, prompt_tokenizer(args, tokenizer), description or "dataset", longest)
    if not len(prompts):
        raise UserError(f"{prompts.name} is empty: there is nothing to evaluate on.")
    functions = as_reward_functions(reward_funcs, reward_processing_classes, device)

    def evaluate(indices: Sequence[int]) -> list[dict[str, Any]]:
        return evaluate_rows(
            model,
            prompts,
            indices,
            reward_functions=functions,
            args=args,
            tokenizer=tokenizer,
            judge_logits=None if judge is None else lambda sequences: completion_logits(judge, sequences),
        )

    with evaluation_mode(model):
        return summarize(shared_out(len(prompts), evaluate) if share_out else evaluate(range(len(prompts))))


def prompt_tokenizer(args: Any, tokenizer: Any) -> PromptTokenizer:
    """The [`PromptTokenizer`] that a configuration asks for."""
    return PromptTokenizer(tokenizer, args.max_prompt_length, args.prompt_truncation_side, args.chat_template_kwargs)


def decoder(tokenizer: Any) -> Callable[[PromptBatch, list[list[int]]], list[Any]]:
    """Completions as reward functions see them: text, or an assistant message for conversational prompts."""

    def decode(batch: PromptBatch, token_ids: list[list[int]]) -> list[Any]:
        texts = tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        return [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(batch.prompts, texts, strict=True)
        ]

    return decode


@torch.no_grad()
def evaluate_rows(
    model: Any,
    prompts: PromptDataset,
    indices: Sequence[int],
    *,
    reward_functions: list[Any],
    args: Any,
    tokenizer: Any,
    judge_logits: Logits | None = None,
    trainer_state: Any = None,
) -> list[dict[str, Any]]:
    """One row per prompt, for [`summarize`]: sample, score, rewards, length, log-probability under the judge."""
    sampling = SamplingSettings.from_config(args, tokenizer, for_evaluation=True)
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
            if judge_logits is not None:
                logprobs = token_logprobs(judge_logits(sample.sequences).float(), sample.sequences.completion_ids)
                judged = torch.where(sample.sequences.completion_mask, logprobs, 0.0).sum(-1)
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

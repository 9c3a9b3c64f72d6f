"""A policy outside of training, evaluated on every prompt of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..algorithm.distribution import SamplingSettings
from ..algorithm.reward_models import as_reward_functions
from ..errors import UserError
from ..launch.processes import shared_out
from ..models.checks import check_ends, check_token_ids
from ..models.inputs import longest_prompt
from ..models.modes import evaluation_mode
from ..models.policy_and_value import completion_logits
from ..prompts import PromptDataset, prompt_tokenizer
from .rows import evaluate_rows
from .summary import Evaluation, summarize


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
    longest = longest_prompt(
        model, SamplingSettings.from_config(args, tokenizer, model, for_evaluation=True).max_new_tokens
    )
    prompts = PromptDataset(dataset, prompt_tokenizer(args, tokenizer, model), description or "dataset", longest)
    if not len(prompts):
        raise UserError(f"{prompts.name} is empty: there is nothing to evaluate on.")
    check_token_ids(prompts.prompt_ids, prompts.name, model, tokenizer)
    check_ends(prompts.prompt_ids, prompts.name, model, tokenizer)
    functions = as_reward_functions(
        reward_funcs,
        reward_processing_classes,
        device,
        chat_template_kwargs=args.chat_template_kwargs,
    )

    def evaluate(indices: Sequence[int]) -> list[dict[str, Any]]:
        return evaluate_rows(
            model,
            prompts,
            indices,
            reward_functions=functions,
            args=args,
            tokenizer=tokenizer,
            judge=None if judge is None else lambda sequences: completion_logits(judge, sequences),
        )

    with evaluation_mode(model):
        return summarize(shared_out(len(prompts), evaluate) if share_out else evaluate(range(len(prompts))))

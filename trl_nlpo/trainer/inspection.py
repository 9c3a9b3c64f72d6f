"""What the trainer looks at before it begins: models, tokens and prompts that were handed over fit one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..algorithm.distribution import SamplingSettings
from ..config import NLPOConfig
from ..models.checks import check_companion, check_separate, check_special_tokens, num_tokens_written
from ..models.policy_and_value import PolicyAndValue, ValueHead
from .prompt_sets import PromptSets


_TOKEN_FIELDS = ("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")


def inspect_models(
    trained: PolicyAndValue,
    ref_model: nn.Module | None,
    reward_functions: Sequence[Any],
    *,
    args: NLPOConfig,
    tokenizer: Any,
    prompt_sets: PromptSets,
) -> None:
    """Look once at all models: vocabularies, contexts, and weights that two of them share.

    Args:
        trained ([`PolicyAndValue`]): policy and value function, ready to be trained.
        ref_model (*optional*): as [`NLPOTrainer`] takes it.
        reward_functions (`list`): as [`as_reward_functions`] gives them; those with a model are looked at.
        args ([`NLPOConfig`]): how completions are sampled.
        tokenizer: the policy's.
        prompt_sets ([`PromptSets`]): the policy knows their tokens.

    Raises:
        UserError: the first thing that does not fit.
    """
    policy = trained.policy
    samplings = [SamplingSettings.from_config(args, tokenizer, policy, for_evaluation=flag) for flag in (False, True)]
    for sampling in samplings:
        ids: dict[str, Sequence[int]] = {"A stop token": sampling.stop_token_ids}
        for name in _TOKEN_FIELDS:
            value = sampling.generation_fields.get(name)
            ids[f"{name} in generation_kwargs"] = [value] if isinstance(value, int) else list(value or [])
        check_special_tokens(policy, tokenizer, ids)
    longest = prompt_sets.longest_prompt + max(sampling.max_new_tokens for sampling in samplings)
    value_model = None if isinstance(trained.value_model, ValueHead) else trained.value_model
    rewards = {f"The reward model {_name(reward)!r}": reward for reward in reward_functions if _model(reward)}
    check_separate(trained, {"ref_model": ref_model, **{name: _model(reward) for name, reward in rewards.items()}})
    num_tokens = num_tokens_written(policy)
    for name, model in (("ref_model", ref_model), ("value_model", value_model)):
        if model is not None:
            check_companion(name, model, policy, longest, num_tokens)
    for name, reward in rewards.items():
        if getattr(reward, "tokenizer", None) is None:
            # A vocabulary may be padded beyond what the tokenizer has, and a policy hardly samples from there.
            check_companion(name, _model(reward), policy, longest, min(num_tokens or len(tokenizer), len(tokenizer)))


def _model(reward: Any) -> nn.Module | None:
    model = getattr(reward, "model", None)
    return model if isinstance(model, nn.Module) else None


def _name(reward: Any) -> str:
    return getattr(reward, "__name__", type(reward).__name__)

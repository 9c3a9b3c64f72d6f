"""`Evaluator`: the policy that is being trained, judged on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..config import NLPOConfig
from ..evaluation.rows import evaluate_rows
from ..evaluation.summary import Evaluation, summarize
from ..launch.processes import shared_out
from ..models.modes import evaluation_mode
from ..models.policy_and_value import PolicyAndValue
from ..models.reference import Reference
from ..prompts import PromptDataset


class Evaluator:
    """Completes held-out prompts without a mask, scores them, and asks the reference how likely they are.

    Args:
        args ([`NLPOConfig`]): how to sample and score.
        tokenizer: the policy's.
        reward_functions (`list`): as [`reward_models.as_reward_functions`] gives them.
        reference ([`Reference`]): the judge of perplexity.
    """

    def __init__(self, args: NLPOConfig, tokenizer: Any, reward_functions: list[Any], reference: Reference):
        self.args, self.tokenizer = args, tokenizer
        self.reward_functions, self.reference = reward_functions, reference

    def __call__(
        self, module: PolicyAndValue, prompts: PromptDataset, trainer_state: Any, limit: int | None = None
    ) -> Evaluation:
        """Every process takes a share of the rows; all must call this, and get the same.

        Args:
            module ([`PolicyAndValue`]): with all its weights, to compute with.
            prompts ([`PromptDataset`]): held out.
            trainer_state: for reward functions.
            limit (`int`, *optional*): only the first so many prompts.
        """

        def evaluated(indices: Sequence[int]) -> list[dict[str, Any]]:
            return evaluate_rows(
                module.policy,
                prompts,
                indices,
                reward_functions=self.reward_functions,
                args=self.args,
                tokenizer=self.tokenizer,
                judge=self.reference.output,
                trainer_state=trainer_state,
            )

        with evaluation_mode(module):
            return summarize(shared_out(min(len(prompts), limit or len(prompts)), evaluated))

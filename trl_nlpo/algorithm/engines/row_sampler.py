"""Sampling for an engine that computes rows in batches of its own making: plain tensors, no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...functional.sequences import completion_lengths, left_pad, mask_from_lengths, right_pad
from ...functional.token_sets import TokenSets
from ...records import TokenRows
from ..actions import Actions, allowed_actions
from ..distribution import MaskSettings, SamplingSettings
from ..generation import Sample


@dataclass(frozen=True)
class Place:
    """Where a row of a rollout is in a step of the engine.

    Attributes:
        index (`int`): in the engine's batch.
        row (`int`): of the rollout.
        is_mask (`bool`): whether these are the masking policy's logits of that row.
        position (`int`): tokens that the completion has already.
    """

    index: int
    row: int
    is_mask: bool
    position: int


@dataclass(frozen=True)
class Choice:
    """A token that was sampled, and what was known at that moment: its set is number `index` of those of the step."""

    token: int
    logprob: float
    sets: TokenSets | None
    index: int
    drift: float | None


class RowSampler:
    """Chooses the tokens of a rollout in whatever batches the engine computes them, and records the sets.

    A token depends on its row's logits and draw alone, so results do not depend on batches. Where the masking policy
    is not the policy, each completion is two rows of the engine, the policy's and the masking policy's; both are left
    the same token as the only one, so they advance alike. A pair of which a step has one row only, or at different
    positions, is `broken` and has to be sampled again.

    Args:
        prompts: B rows of token ids.
        draws (`torch.Tensor` of shape `(B, max_new_tokens)`): what decides the tokens, see [`row_draws`].
        sampling ([`SamplingSettings`]), mask ([`MaskSettings`]): as at the transformers engine.
        in_pairs (`bool`): whether the masking policy's logits come in rows of their own.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        draws: torch.Tensor,
        sampling: SamplingSettings,
        mask: MaskSettings,
        in_pairs: bool,
    ):
        self.prompts, self.draws, self.sampling, self.in_pairs = prompts, draws, sampling, in_pairs
        self.mask = mask if mask.is_active else None
        self.settings = mask
        self.records = self.mask is not None or sampling.restricts_tokens
        self.broken: set[int] = set()
        self.vocab_size = 0
        self._choices: list[dict[int, Choice]] = [{} for _ in prompts]

    def forget(self, rows: Sequence[int]) -> None:
        """Let these rows be sampled from their beginning."""
        for row in rows:
            self._choices[row] = {}
            self.broken.discard(row)

    def step(self, logits: torch.Tensor, places: Sequence[Place]) -> torch.Tensor:
        """Logits `(N, V)` of one step of the engine with all but the chosen token at minus infinity (in place)."""
        masks = {(place.row, place.position): place.index for place in places if place.is_mask}
        policies = [place for place in places if not place.is_mask]
        whole = [place for place in policies if not self.in_pairs or (place.row, place.position) in masks]
        if self.in_pairs:
            met = {(place.row, place.position) for place in policies}
            apart = [place for place in places if (place.row, place.position) not in met & set(masks)]
            self.broken |= {place.row for place in apart}
            # Their rows go on with any token, and are thrown away.
            logits[[place.index for place in apart]] = 0.0
        if not whole:
            return logits
        own = [place.index for place in whole]
        foreign = [masks[place.row, place.position] for place in whole] if self.in_pairs else own
        actions = self._actions(logits[own], logits[foreign], whole)
        draws = self.draws[[place.row for place in whole], [place.position for place in whole]].to(logits.device)
        tokens = actions.drawn(draws)
        self._note(whole, actions, tokens)
        for indices in (own, foreign):
            logits[indices] = torch.full_like(logits[indices], float("-inf")).scatter_(1, tokens, 0.0)
        return logits

    def _actions(self, scores: torch.Tensor, masking_scores: torch.Tensor, places: Sequence[Place]) -> Actions:
        self.vocab_size = scores.shape[-1]
        seen = self._seen(places, scores.device) if self.sampling.repetition_penalty != 1.0 else None
        warpers = self.sampling.logits_warpers(scores.device)
        return allowed_actions(scores, masking_scores, seen, self.sampling, self.mask, warpers)

    def _seen(self, places: Sequence[Place], device: torch.device) -> torch.Tensor:
        """`(n, V)` bool: the tokens of prompt and completion so far."""
        seen = torch.zeros((len(places), self.vocab_size), dtype=torch.bool)
        for index, place in enumerate(places):
            chosen = self._choices[place.row]
            earlier = [chosen[position].token for position in range(place.position)]
            seen[index, [*self.prompts[place.row], *earlier]] = True
        return seen.to(device)

    def _note(self, places: Sequence[Place], actions: Actions, tokens: torch.Tensor) -> None:
        logprobs = actions.logprobs(tokens).tolist()
        sets = actions.token_sets().to("cpu") if self.records else None
        drifts = None if actions.mass_drift is None else actions.mass_drift.tolist()
        for index, (place, token) in enumerate(zip(places, tokens.squeeze(-1).tolist(), strict=True)):
            self._choices[place.row][place.position] = Choice(
                token,
                logprobs[index],
                sets,
                index,
                None if drifts is None else drifts[index],
            )

    def completion(self, row: int) -> list[int]:
        """The tokens of a row up to its first stop token."""
        tokens = [self._choices[row][position].token for position in range(len(self._choices[row]))]
        stops = [position for position, token in enumerate(tokens) if token in self.sampling.stop_token_ids]
        return tokens[: stops[0] + 1] if stops else tokens[: self.sampling.max_new_tokens]

    def sample(self, rows: Sequence[int], device: torch.device) -> Sample:
        """What was sampled for some rows, as one record."""
        completions = [self.completion(row) for row in rows]
        choices = [
            [self._choices[row][position] for position in range(len(tokens))]
            for row, tokens in zip(rows, completions, strict=True)
        ]
        prompt_ids, prompt_mask = left_pad([self.prompts[row] for row in rows], 0)
        stops = self.sampling.stop_token_ids
        ids = right_pad([torch.tensor([tokens]) for tokens in completions], (*stops, 0)[0])
        _, ended = completion_lengths(ids, stops)
        lengths = torch.tensor([len(tokens) for tokens in completions])
        if not stops:
            ends = torch.tensor(self.settings.always_allowed, dtype=torch.long)
            ended = (torch.isin(ids, ends) & mask_from_lengths(lengths, ids.shape[1])).any(-1)
        logprobs = right_pad([torch.tensor([[choice.logprob for choice in row]]) for row in choices], 0.0)
        drift = None
        if self.mask is not None and self.mask.is_anchored:
            drift = right_pad([torch.tensor([[choice.drift for choice in row]]) for row in choices], 0.0).to(device)
        sequences = TokenRows(
            prompt_ids.to(device),
            prompt_mask.to(device),
            ids.to(device),
            mask_from_lengths(lengths, ids.shape[1]).to(device),
            False,
            self._sets(choices).to(device) if self.records else None,
            self.vocab_size,
        )
        return Sample(sequences, ended.to(device), drift, logprobs.to(device))

    def _sets(self, choices: Sequence[Sequence[Choice]]) -> TokenSets:
        """What was allowed at each position of some rows; every token on padding."""
        steps = {id(choice.sets): choice.sets for row in choices for choice in row if choice.sets is not None}
        starts, start = {}, 0
        for key, sets in steps.items():
            starts[key], start = start, start + len(sets.sizes)
        known = TokenSets.concatenated([*steps.values(), TokenSets.everything((1,), self.vocab_size)])
        places = [torch.tensor([[starts[id(choice.sets)] + choice.index for choice in row]]) for row in choices]
        return known[right_pad(places, start)]

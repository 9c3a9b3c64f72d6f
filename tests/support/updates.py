"""Rollouts, estimates and optimizers for tests of an update, on a model that a pencil can follow and on real ones."""

from __future__ import annotations

import contextlib
import dataclasses

import torch

from support import tiny
from trl_nlpo.algorithm.distribution import SamplingSettings, action_logprobs
from trl_nlpo.algorithm.objective import Objective
from trl_nlpo.functional.sequences import left_pad
from trl_nlpo.functional.token_sets import TokenSets
from trl_nlpo.launch.launch import Launch
from trl_nlpo.models.dropout import disable_dropout
from trl_nlpo.models.policy_and_value import PolicyAndValue
from trl_nlpo.records import Estimates, PromptBatch, Rollout


UNIFORM = [[0.25] * 4] * 4
OBJECTIVE = Objective(cliprange=0.2, cliprange_value=0.2, vf_coef=0.1, entropy_coef=0.0, max_grad_norm=0.0)


class OneProcess(Launch):
    """A launch on what it asks of `accelerate.Accelerator`, noting which backward passes were to synchronise."""

    def __init__(self, all_sum=lambda tensor: tensor):
        super().__init__(OneAccelerator())
        self.all_sum = all_sum


class OneAccelerator:
    """What of `accelerate.Accelerator` an update asks for."""

    num_processes = 1

    def __init__(self):
        self.synchronises, self.synchronised = True, []

    @contextlib.contextmanager
    def no_sync(self, model):
        self.synchronises = False
        yield
        self.synchronises = True

    def unscale_gradients(self):
        pass

    def autocast(self):
        return contextlib.nullcontext()

    def backward(self, loss):
        self.synchronised.append(self.synchronises)
        loss.backward()

    def clip_grad_norm_(self, parameters, limit):
        return torch.nn.utils.clip_grad_norm_(parameters, limit)


class NotedSGD(torch.optim.SGD):
    """Keeps the gradient of every step."""

    def __init__(self, module, learning_rate):
        super().__init__(module.parameters(), lr=learning_rate)
        self.module, self.gradients = module, []

    def step(self, closure=None):
        named = self.module.named_parameters()
        self.gradients.append({name: weight.grad.clone() for name, weight in named if weight.grad is not None})
        return super().step(closure)


def make_rollout(prompts, completions, mask=None, vocab_size=4, **tensors) -> Rollout:
    """A rollout of these tokens; what is not given is 0."""
    prompt_ids, prompt_mask = left_pad(prompts, 0)
    width = max(map(len, completions))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in completions])
    real = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in completions])
    zeros = {name: torch.zeros(real.shape) for name in ("old_logprobs", "raw_logprobs", "ref_logprobs", "values")}
    return Rollout(
        batch=PromptBatch(prompts, ["?"] * len(prompts)),
        completions=["?"] * len(prompts),
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        completion_ids=ids,
        completion_mask=real,
        ended=torch.zeros(len(prompts), dtype=torch.bool),
        token_sets=None if mask is None else TokenSets.of_mask(mask),
        vocab_size=vocab_size,
        **{**zeros, **tensors},
    )


def make_estimates(rollout, advantages=None, returns=None) -> Estimates:
    zeros = torch.zeros((advantages if rollout is None else rollout.completion_ids).shape)
    advantages, returns = (zeros if tensor is None else tensor for tensor in (advantages, returns))
    return Estimates(advantages, returns, rewards=zeros, kl=zeros, kl_coef=0.0)


def real_example(family="gpt2", num_rows=8):
    """A rollout of a tiny model with prompts and completions of all lengths, masks, and made-up estimates."""
    generator = torch.Generator().manual_seed(4)

    def tokens(length):
        return torch.randint(2, tiny.VOCAB_SIZE, (length,), generator=generator).tolist()

    prompts = [tokens(1 + row % 5) for row in range(num_rows)]
    completions = [tokens(1 + (3 * row) % 6) for row in range(num_rows)]
    plain = make_rollout(prompts, completions, vocab_size=tiny.VOCAB_SIZE)
    shape, real = plain.completion_mask.shape, plain.completion_mask
    mask = torch.rand(*shape, tiny.VOCAB_SIZE, generator=generator) > 0.4
    mask.scatter_(-1, plain.completion_ids.unsqueeze(-1), True)
    mask |= ~real.unsqueeze(-1)
    plain = dataclasses.replace(
        plain, token_sets=TokenSets.of_mask(mask), is_encoder_decoder=family in tiny.ENCODER_DECODER_FAMILIES
    )
    module = PolicyAndValue(tiny.policy(family))
    disable_dropout(module.policy)
    sampling = SamplingSettings(8, temperature=1.3, repetition_penalty=1.2)
    with torch.no_grad():
        sequences = plain.sequences(torch.arange(num_rows))
        logits, values = module(sequences)
        old_logprobs, _, _ = action_logprobs(logits, sequences, sampling)
    rollout = dataclasses.replace(
        plain, old_logprobs=torch.where(real, old_logprobs, 0.0), values=torch.where(real, values, 0.0)
    )
    advantages, returns = (torch.where(real, torch.randn(shape, generator=generator), 0.0) for _ in range(2))
    return module, rollout, make_estimates(rollout, advantages, returns), sampling


FULL = Objective(cliprange=0.2, cliprange_value=0.2, vf_coef=0.5, entropy_coef=0.1, max_grad_norm=0.0)

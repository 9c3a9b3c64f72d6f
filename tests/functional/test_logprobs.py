"""Log-probabilities and entropies, against `torch.distributions` and against transformers."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from support.slow import slow_except
from trl_nlpo.functional import logprobs
from trl_nlpo.functional.token_sets import TokenSets


def example(masked: bool, dtype=torch.float64):
    torch.manual_seed(1)
    logits = torch.randn(3, 4, 11, dtype=dtype) * 3
    token_ids = torch.randint(0, 11, (3, 4))
    mask = (torch.rand(3, 4, 11) > 0.5).scatter(-1, token_ids.unsqueeze(-1), True) if masked else None
    return logits, token_ids, mask


@pytest.mark.parametrize("masked", [False, True])
def test_log_probabilities_and_entropies_are_those_of_the_masked_softmax(masked):
    logits, token_ids, mask = example(masked)
    ours = logprobs.masked_logprobs_and_entropy(logits, token_ids, mask)
    for row in range(3):
        for place in range(4):
            keep = torch.arange(11) if mask is None else mask[row, place].nonzero().flatten()
            # only the allowed tokens, as if there were no others
            distribution = torch.distributions.Categorical(logits=logits[row, place, keep])
            taken = (keep == token_ids[row, place]).nonzero()[0, 0]
            assert ours[0][row, place].item() == pytest.approx(distribution.log_prob(taken).item())
            assert ours[1][row, place].item() == pytest.approx(distribution.entropy().item())


@pytest.mark.parametrize("masked", [False, True])
def test_their_gradients_are_right(masked):
    logits, token_ids, mask = example(masked)
    assert torch.autograd.gradcheck(
        lambda x: logprobs.masked_logprobs_and_entropy(x, token_ids, mask), (logits.requires_grad_(),)
    )


@pytest.mark.parametrize("masked", slow_except([False, True], True))
@pytest.mark.parametrize("part", [0, 1, slice(2)], ids=["logprobs", "entropy", "both"])
def test_their_second_derivatives_are_right(part, masked):
    logits, token_ids, mask = example(masked)
    assert torch.autograd.gradgradcheck(
        lambda x: logprobs.masked_logprobs_and_entropy(x, token_ids, mask)[part], (logits.requires_grad_(),)
    )


@pytest.mark.parametrize("masked", [False, True])
def test_the_mass_of_the_allowed_tokens_is_their_share_of_the_whole_softmax(masked):
    logits, token_ids, mask = example(masked)
    log_probs, entropies, log_mass = logprobs.masked_logprobs_entropy_and_mass(logits, token_ids, mask)
    share = logits.softmax(-1).masked_fill(~mask, 0.0).sum(-1) if masked else torch.ones(3, 4, dtype=logits.dtype)
    torch.testing.assert_close(log_mass.exp(), share)
    plain = logprobs.masked_logprobs_and_entropy(logits, token_ids, mask)
    assert torch.equal(plain[0], log_probs)
    assert torch.equal(plain[1], entropies)
    # Z p(token) is the unmasked probability
    torch.testing.assert_close(log_mass + log_probs, logprobs.token_logprobs(logits, token_ids))


@pytest.mark.parametrize("part", [2, slice(3)], ids=["mass", "all"])
def test_the_first_and_second_derivatives_of_the_mass_are_right(part):
    logits, token_ids, mask = example(True)
    inputs = (logits[:2, :2].requires_grad_(),)

    def statistics(x):
        return logprobs.masked_logprobs_entropy_and_mass(x, token_ids[:2, :2], mask[:2, :2])[part]

    assert torch.autograd.gradcheck(statistics, inputs)
    assert torch.autograd.gradgradcheck(statistics, inputs)


def test_second_derivatives_by_hand():
    # Tokens with logits 0 and x = log 3, and a forbidden third: p = 3 / 4.
    logits = torch.tensor([[[0.0, math.log(3), 5.0]]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[[True, True, False]]])
    logprob, entropy = logprobs.masked_logprobs_and_entropy(logits, torch.tensor([[1]]), mask)
    expected = {
        logprob: -3 / 16,  # (log p)'' = -p (1 - p)
        entropy: -3 / 16 + math.log(3) * 3 / 32,  # H' = -x p (1 - p), so H'' = -p (1 - p) - x p (1 - p) (1 - 2 p)
    }
    for value, second in expected.items():
        (first,) = torch.autograd.grad(value.sum(), logits, create_graph=True)
        (row,) = torch.autograd.grad(first[0, 0, 1], logits, retain_graph=True)
        # Both depend on the difference of the two logits only.
        assert row[0, 0].tolist() == pytest.approx([-second, second, 0.0])


def test_a_fisher_vector_product_is_that_of_the_softmax():
    logits, token_ids, _ = example(masked=False)
    logits.requires_grad_()
    logprob, entropy = logprobs.masked_logprobs_and_entropy(logits, token_ids)
    (first,) = torch.autograd.grad(logprob.sum() + 0 * entropy.sum(), logits, create_graph=True)
    vector = torch.randn_like(logits)
    (product,) = torch.autograd.grad(first, logits, vector)
    p = logits.detach().softmax(-1)
    # -d2 log p(a) / d logits2 = diag(p) - p p', whichever token is taken
    torch.testing.assert_close(-product, p * vector - p * (p * vector).sum(-1, keepdim=True))


@pytest.mark.parametrize("masked", [False, True])
def test_asking_for_second_derivatives_changes_no_bit_of_the_first(masked):
    logits, token_ids, mask = example(masked, torch.float32)
    logits.requires_grad_()
    gradients = []
    for create_graph in (False, True):
        logprob, entropy = logprobs.masked_logprobs_and_entropy(logits, token_ids, mask)
        loss = (logprob * entropy).sum()
        gradients += torch.autograd.grad(loss, logits, create_graph=create_graph)
    assert torch.equal(*gradients)
    log_p = (logits if mask is None else logits.masked_fill(~mask, -1e9)).log_softmax(-1)
    chosen = log_p.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    (plain,) = torch.autograd.grad(-(chosen * (log_p.exp() * log_p).sum(-1)).sum(), logits)
    torch.testing.assert_close(gradients[0], plain, rtol=1e-5, atol=1e-6)


def test_token_sets_do_the_same():
    logits, token_ids, mask = example(masked=True)
    plain = logprobs.masked_logprobs_and_entropy(logits, token_ids, mask)
    assert all(
        map(torch.equal, plain, logprobs.masked_logprobs_and_entropy(logits, token_ids, TokenSets.of_mask(mask)))
    )


def test_a_forbidden_token_gets_no_gradient():
    logits, token_ids, mask = example(masked=True)
    logits.requires_grad_()
    sum(part.sum() for part in logprobs.masked_logprobs_and_entropy(logits, token_ids, mask)).backward()
    assert logits.grad[~mask].eq(0).all()
    assert torch.isfinite(logits.grad).all()


def test_a_token_outside_the_mask_has_probability_zero():
    mask = torch.tensor([[[True, False]]])
    log_probability, _ = logprobs.masked_logprobs_and_entropy(torch.zeros(1, 1, 2), torch.tensor([[1]]), mask)
    assert log_probability.item() == float("-inf")


def test_rows_computed_in_chunks_are_the_same(monkeypatch):
    logits, token_ids, mask = example(masked=True)
    results = []
    for step in (1, 2, 3):
        monkeypatch.setattr(
            logprobs, "_chunks", lambda x, step=step: [slice(i, i + step) for i in range(0, len(x), step)]
        )
        leaf = logits.clone().requires_grad_()
        values = logprobs.masked_logprobs_and_entropy(leaf, token_ids, mask)
        (values[0].sum() + 2 * values[1].sum()).backward()
        results.append((*values, leaf.grad))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_certainty_has_no_entropy_and_uniformity_has_log_v():
    certain, uniform = torch.tensor([[[50.0, 0.0, 0.0, 0.0]]]), torch.zeros(1, 1, 4)
    entropies = [
        logprobs.masked_logprobs_and_entropy(x, torch.zeros(1, 1, dtype=torch.long))[1] for x in (certain, uniform)
    ]
    assert entropies[0].item() == pytest.approx(0.0, abs=1e-6)
    assert entropies[1].item() == pytest.approx(1.3862944)  # log 4


def test_token_logprobs_equal_a_whole_log_softmax():
    logits, token_ids, _ = example(masked=False)
    expected = logits.log_softmax(-1).gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(logprobs.token_logprobs(logits, token_ids), expected)


def test_the_temperature_divides_and_one_changes_nothing():
    logits = torch.tensor([[1.0, -2.0]])
    assert logprobs.scaled_logits(logits, 0.5).tolist() == [[2.0, -4.0]]
    assert logprobs.scaled_logits(logits, 1.0) is logits
    assert logprobs.scaled_logits(logits.half(), 1.0).dtype is torch.float32


def test_first_occurrences_by_hand():
    prompt = torch.tensor([[9, 2, 3]])
    real = torch.tensor([[False, True, True]])  # the 9 is padding
    completion = torch.tensor([[4, 5, 4]])
    first = logprobs.first_occurrences(prompt, real, completion, 10)[0]
    # in the prompt: -1; 4 stands first at place 0, 5 at 1; everything else nowhere, which is T = 3
    assert first.tolist() == [3, 3, -1, -1, 0, 1, 3, 3, 3, 3]


@pytest.mark.parametrize("penalty", [1.6, 0.7])
def test_the_repetition_penalty_is_that_of_transformers_at_every_position(penalty):
    torch.manual_seed(0)
    prompt, completion = torch.randint(0, 9, (2, 3)), torch.randint(0, 9, (2, 4))
    logits = torch.randn(2, 4, 9)
    first = logprobs.first_occurrences(prompt, torch.ones_like(prompt, dtype=torch.bool), completion, 9)
    seen = first[:, None, :] < torch.arange(4)[None, :, None]
    ours = logprobs.penalize_repetition(logits, seen, penalty)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    for place in range(4):
        so_far = torch.cat([prompt, completion[:, :place]], dim=1)
        torch.testing.assert_close(ours[:, place], processor(so_far, logits[:, place].clone()))

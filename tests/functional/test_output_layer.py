"""Log-probabilities from hidden states, against the logits written out."""

from __future__ import annotations

import pytest
import torch

from trl_nlpo.functional import output_layer
from trl_nlpo.functional.logprobs import masked_logprobs_entropy_and_mass
from trl_nlpo.functional.output_layer import OutputStates, output_logprobs
from trl_nlpo.functional.token_sets import TokenSets


B, T, H, V = 3, 5, 6, 203
TEMPERATURE = 0.7


@pytest.fixture(params=["one chunk", "many chunks"])
def chunks(request, monkeypatch):
    if request.param == "many chunks":
        monkeypatch.setattr(output_layer, "LOGITS_AT_ONCE", 2 * V)


def example(mask: str, dtype=torch.float64, bias: bool = True):
    torch.manual_seed(3)
    hidden = torch.randn(B, T, H, dtype=dtype)
    weight = torch.randn(V, H, dtype=dtype)
    ids = torch.randint(0, V, (B, T))
    real = torch.arange(T) < torch.tensor([5, 3, 1])[:, None]
    # Up to V / 32 = 6 tokens are a small set.
    chance = {"small": 0.02, "large": 0.5, "mixed": torch.tensor([0.01, 0.5, 0.02, 0.01, 0.6])[:, None]}.get(mask)
    allowed = None
    if chance is not None:
        allowed = (torch.rand(B, T, V) < chance).scatter(-1, ids.unsqueeze(-1), True)
    return hidden, weight, torch.randn(V, dtype=dtype) if bias else None, ids, real, allowed


def plain(hidden, weight, bias, ids, real, allowed):
    logits = (hidden @ weight.T + (0 if bias is None else bias)) / TEMPERATURE
    found = masked_logprobs_entropy_and_mass(logits, ids, allowed)
    return [torch.where(real, column, 0.0) for column in found]


def ours(hidden, weight, bias, ids, real, allowed, **options):
    sets = None if allowed is None else TokenSets.of_mask(allowed)
    states = OutputStates(hidden, weight, bias, hidden.dtype)
    return output_logprobs(states, ids, real, sets, TEMPERATURE, with_mass=True, **options)


MASKS = ["none", "small", "large", "mixed"]


@pytest.mark.parametrize("mask", MASKS)
def test_log_probabilities_entropies_and_masses_are_those_of_the_logits(mask, chunks):
    inputs = example(mask)
    for found, expected in zip(ours(*inputs), plain(*inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("trained", ["hidden", "layer", "both"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "recomputed"])
def test_their_gradients_are_those_of_the_logits(mask, trained, kept, chunks, monkeypatch):
    if not kept:
        monkeypatch.setattr(output_layer, "LOGITS_KEPT", 0)
    gradients = []
    for compute in (ours, plain):
        hidden, weight, bias, *rest = example(mask)
        variables = [hidden] * (trained != "layer") + [weight, bias] * (trained != "hidden")
        for variable in variables:
            variable.requires_grad_()
        torch.manual_seed(5)
        loss = sum((torch.randn_like(column) * column).sum() for column in compute(hidden, weight, bias, *rest))
        gradients.append(torch.autograd.grad(loss, variables))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mask", MASKS)
def test_float32_is_as_exact_as_float32(mask):
    inputs = example(mask, torch.float32)
    for found, expected in zip(ours(*inputs), plain(*inputs), strict=True):
        assert found.dtype is torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_half_precision_rounds_logits_as_the_layer_does():
    inputs = example("small", torch.bfloat16)
    exact = ours(*[tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs])
    for found, expected in zip(ours(*inputs), exact, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.1)


def test_what_a_layer_would_compute_under_autocast_is_computed_so_after_it_too():
    hidden = torch.randn(B, T, H)
    layer = torch.nn.Linear(H, V)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states, logits = OutputStates.of_layer(hidden, layer), layer(hidden)
    assert logits.dtype is torch.bfloat16
    assert torch.equal(states.logits(), logits)
    ids, real = torch.zeros(B, T, dtype=torch.long), torch.ones(B, T, dtype=torch.bool)
    found, _, _ = output_logprobs(states, ids, real)
    torch.testing.assert_close(found, logits.float().log_softmax(-1)[..., 0], rtol=1e-5, atol=1e-5)
    assert OutputStates.of_layer(hidden, layer).logits().dtype is torch.float32


@pytest.mark.parametrize("mask", ["small", "large"])
def test_a_token_outside_its_set_has_minus_infinity(mask):
    hidden, weight, bias, ids, real, allowed = example(mask)
    allowed[0, 0] = allowed[0, 0].scatter(0, ids[0, 0], False)
    allowed[0, 0, (ids[0, 0] + 1) % V] = True
    assert ours(hidden, weight, bias, ids, real, allowed)[0][0, 0] == float("-inf")


@pytest.mark.parametrize("mask", MASKS)
def test_entropies_that_nobody_differentiates_have_no_gradient(mask):
    hidden, *rest = example(mask)
    logprobs, entropies, _ = ours(hidden.requires_grad_(), *rest, entropy_gradient=False)
    assert logprobs.requires_grad
    assert not entropies.requires_grad
    torch.testing.assert_close(entropies, plain(hidden, *rest)[1].detach(), rtol=1e-10, atol=1e-10)


def test_a_second_derivative_is_refused_and_not_wrong():
    hidden, *rest = example("small")
    logprobs = ours(hidden.requires_grad_(), *rest)[0]
    (gradient,) = torch.autograd.grad(logprobs.sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(gradient.sum(), hidden)

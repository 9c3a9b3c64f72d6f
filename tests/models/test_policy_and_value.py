"""Logits and values of completion tokens, against one plain forward pass per row without any padding."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

from support import tiny
from trl_nlpo import UserError
from trl_nlpo.models.adapters import VALUE_ADAPTER, adapter_parameters, add_value_adapter, can_hold_several
from trl_nlpo.models.inputs import StepwiseLogits
from trl_nlpo.models.policy_and_value import (
    PolicyAndValue,
    ValueHead,
    completion_hidden_states,
    completion_logits,
    output_layer,
)
from trl_nlpo.records import TokenRows


PROMPTS = [[5], [7, 8, 9, 10], [20, 21]]
COMPLETIONS = [[11, 12, 13], [14], [15, 16]]


def batch(prompts=PROMPTS, completions=COMPLETIONS, apart=False) -> TokenRows:
    """Padded with tokens that must not matter."""
    P, T = max(map(len, prompts)), max(map(len, completions))
    return TokenRows(
        torch.tensor([[33] * (P - len(row)) + row for row in prompts]),
        torch.tensor([[False] * (P - len(row)) + [True] * len(row) for row in prompts]),
        torch.tensor([row + [34] * (T - len(row)) for row in completions]),
        torch.tensor([[True] * len(row) + [False] * (T - len(row)) for row in completions]),
        apart,
    )


def family_batch(family):
    return batch(apart=family in tiny.ENCODER_DECODER_FAMILIES)


@torch.no_grad()
def plain_pass(model, prompt, completion):
    """Logits and last hidden states before each completion token, of one row alone."""
    if model.config.is_encoder_decoder:
        start = model.generation_config.decoder_start_token_id
        output = model(
            input_ids=torch.tensor([prompt]),
            decoder_input_ids=torch.tensor([[start, *completion[:-1]]]),
            output_hidden_states=True,
        )
        return output.logits[0], output.decoder_hidden_states[-1][0]
    output = model(torch.tensor([prompt + completion]), output_hidden_states=True)
    return output.logits[0, len(prompt) - 1 : -1], output.hidden_states[-1][0, len(prompt) - 1 : -1]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_logits_and_values_before_each_token_are_those_of_every_row_alone(family):
    module = PolicyAndValue(tiny.policy(family)).eval()
    with torch.no_grad():
        logits, values = module(family_batch(family))
    assert logits.shape == (3, 3, tiny.VOCAB_SIZE)
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        expected_logits, hidden = plain_pass(module.policy, prompt, completion)
        close(logits[row, : len(completion)], expected_logits)
        with torch.no_grad():
            close(values[row, : len(completion)], module.value_model(hidden).squeeze(-1))


@pytest.mark.parametrize("family", tiny.CAUSAL_FAMILIES)
def test_a_value_model_of_its_own_reads_every_row_as_if_alone(family):
    value_model = tiny.classifier(family)
    module = PolicyAndValue(tiny.policy(family), value_model).eval()
    with torch.no_grad():
        logits, values = module(batch())
        for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            backbone = getattr(value_model, value_model.base_model_prefix)
            hidden = backbone(torch.tensor([prompt + completion])).last_hidden_state[0]
            expected = value_model.score(hidden[len(prompt) - 1 : -1]).squeeze(-1)
            close(values[row, : len(completion)], expected)
            close(logits[row, : len(completion)], plain_pass(module.policy, prompt, completion)[0])


def lora_module(family="llama"):
    base = tiny.policy(family)
    torch.manual_seed(5)
    task = "SEQ_2_SEQ_LM" if family in tiny.ENCODER_DECODER_FAMILIES else "CAUSAL_LM"
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type=task, init_lora_weights=False)
    policy = peft.get_peft_model(base, config)
    add_value_adapter(policy, "default")
    with torch.no_grad():
        for weight in adapter_parameters(policy, VALUE_ADAPTER).values():
            weight.add_(0.1 * torch.randn_like(weight))
    return PolicyAndValue(policy, None, VALUE_ADAPTER).eval()


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_a_value_adapter_computes_the_values_and_the_policys_adapter_the_logits(family):
    module = lora_module(family)
    with torch.no_grad():
        logits, values = module(family_batch(family))
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        close(logits[row, : len(completion)], plain_pass(module.policy, prompt, completion)[0])
        module.policy.set_adapter(VALUE_ADAPTER)
        hidden = plain_pass(module.policy, prompt, completion)[1]
        module.policy.set_adapter("default")
        with torch.no_grad():
            close(values[row, : len(completion)], module.value_model(hidden).squeeze(-1))


def test_the_value_adapter_is_on_for_its_part_only_and_off_after_an_exception():
    module = lora_module()
    flags = {name: weight.requires_grad for name, weight in module.policy.named_parameters()}
    with module.computing("policy"):
        assert module.policy.active_adapter == "default"
    with pytest.raises(ZeroDivisionError), module.computing("value"):
        1 / (module.policy.active_adapter != VALUE_ADAPTER)
    assert module.policy.active_adapter == "default"
    assert {name: weight.requires_grad for name, weight in module.policy.named_parameters()} == flags


MODULES = {
    "head": (lambda: PolicyAndValue(tiny.policy()), ("both",)),
    "value model": (lambda: PolicyAndValue(tiny.policy("llama"), tiny.classifier("llama")), ("policy", "value")),
    "value adapter": (lora_module, ("policy", "value")),
}


@pytest.mark.parametrize("kind", list(MODULES))
def test_the_parts_together_are_the_whole(kind):
    make, parts = MODULES[kind]
    module = make().eval()
    assert module.parts == parts
    assert module.shares_backbone is (kind == "head")
    with torch.no_grad():
        logits, values = module(batch())
        if kind == "head":
            return
        of_policy, none = module(batch(), "policy")
        nothing, of_value = module(batch(), "value")
    assert none is None
    assert nothing is None
    assert torch.equal(of_policy, logits)
    assert torch.equal(of_value, values)


@pytest.mark.parametrize("kind", list(MODULES))
def test_both_losses_reach_their_own_weights(kind):
    module = MODULES[kind][0]().train()
    for part in module.parts:
        with module.computing(part):
            logits, values = module(batch(), part)
            sum(tensor.float().square().sum() for tensor in (logits, values) if tensor is not None).backward()
    trained = {name: weight.grad for name, weight in module.named_parameters() if weight.requires_grad}
    assert not [name for name, gradient in trained.items() if gradient is None]
    assert all(gradient.abs().sum() > 0 for name, gradient in trained.items() if "value_model" in name)


@pytest.mark.parametrize("family", ["gpt2", "opt", "bart"])
def test_leaving_a_pass_before_the_output_layer_gives_the_same_hidden_states(family):
    policy = tiny.policy(family).eval()
    sequences = family_batch(family)
    calls = []
    output_layer(policy).register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        hidden = completion_hidden_states(policy, sequences)
        assert not calls
        for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            close(hidden[row, : len(completion)], plain_pass(policy, prompt, completion)[1])


def test_no_hook_stays_behind_even_after_an_exception():
    policy = tiny.policy().eval()
    module = PolicyAndValue(policy)
    with pytest.raises(IndexError):
        module(batch(prompts=[[99], [1], [1]]))
    module(batch())
    completion_hidden_states(policy, batch())
    assert not output_layer(policy)._forward_pre_hooks


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_logits_step_by_step_with_a_cache_are_those_of_one_pass(family):
    model = tiny.policy(family).eval()
    prompts, completions = [[5], [7, 8, 9, 10]], [[11, 12, 13], [14, 15, 16]]
    sequences = batch(prompts, completions, family in tiny.ENCODER_DECODER_FAMILIES)
    steps = StepwiseLogits(sequences.prompt_ids, sequences.prompt_mask)
    prefix = sequences.prompt_ids
    if model.config.is_encoder_decoder:
        prefix = torch.full((2, 1), model.generation_config.decoder_start_token_id)
    with torch.no_grad():
        for place in range(3):
            ids = torch.cat([prefix, sequences.completion_ids[:, :place]], dim=1)
            logits = steps.next_logits(model, ids)
            for row in range(2):
                close(logits[row], plain_pass(model, prompts[row], completions[row])[0][place])


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_a_new_head_is_small_random_and_as_wide_as_what_the_output_layer_reads(family):
    policy = tiny.policy(family)
    head = PolicyAndValue(policy).value_model
    assert isinstance(head, ValueHead)
    assert head.in_features == output_layer(policy).in_features == 32
    assert head.bias.item() == 0.0
    assert 0.01 < head.weight.std().item() < 0.03
    assert head.weight.dtype is torch.float32
    assert head.weight.requires_grad


def test_a_head_on_a_bfloat16_policy_computes_in_float32():
    module = PolicyAndValue(tiny.policy().to(torch.bfloat16)).eval()
    with torch.no_grad():
        logits, values = module(batch())
    assert (logits.dtype, values.dtype) == (torch.bfloat16, torch.float32)
    assert module.value_model.weight.dtype is torch.float32


class NoScore(nn.Module):
    base_model_prefix = "model"

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("policy", "value_model", "says"),
    [
        ("t5", lambda: tiny.classifier("gpt2"), "cannot be given with an encoder-decoder policy"),
        ("gpt2", NoScore, "value_model is a NoScore, but must have a backbone and a `score` head"),
        ("gpt2", lambda: nn.Linear(1, 1), "value_model is a Linear"),
        ("gpt2", lambda: tiny.policy("gpt2"), "value_model is a GPT2LMHeadModel"),
    ],
)
def test_a_value_model_that_cannot_be_read_is_one_line(policy, value_model, says):
    with pytest.raises(UserError) as caught:
        PolicyAndValue(tiny.policy(policy), value_model())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_model_with_a_larger_vocabulary_is_fine():
    value_model = tiny.classifier("llama")
    value_model.resize_token_embeddings(64)
    PolicyAndValue(tiny.policy("llama"), value_model)


def test_a_backbone_alone_is_no_policy():
    with pytest.raises(UserError, match="LlamaModel is no language model"):
        output_layer(AutoModel.from_config(tiny.CONFIGS["llama"]()))


@pytest.mark.parametrize("width", [1, 2])
def test_the_shortest_batch_works(width):
    module = PolicyAndValue(tiny.policy()).eval()
    sequences = batch([[5]], [[6, 7][:width]])
    with torch.no_grad():
        logits, values = module(sequences)
        close(logits[0], plain_pass(module.policy, [5], [6, 7][:width])[0])
    assert values.shape == (1, width)
    assert completion_logits(module.policy, sequences).shape == (1, width, tiny.VOCAB_SIZE)


def test_a_value_model_with_two_labels_which_is_what_transformers_loads_by_default_is_refused_in_one_line():
    config = tiny.CONFIGS["gpt2"]()
    assert config.num_labels == 2
    with pytest.raises(UserError, match="num_labels"):
        PolicyAndValue(tiny.policy(), AutoModelForSequenceClassification.from_config(config))


def test_a_value_model_with_an_adapter_reads_every_row_as_if_alone():
    base = tiny.classifier("llama")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS", init_lora_weights=False)
    value_model = peft.get_peft_model(base, config)
    module = PolicyAndValue(tiny.policy("llama"), value_model).eval()
    with torch.no_grad():
        _, values = module(batch())
        for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            hidden = base.model(torch.tensor([prompt + completion])).last_hidden_state[0]
            expected = base.score(hidden[len(prompt) - 1 : -1]).squeeze(-1)
            close(values[row, : len(completion)], expected)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_the_value_loss_of_a_head_reaches_the_policy_or_the_head_alone(family):
    for reaches in (True, False):
        module = PolicyAndValue(tiny.policy(family), value_trains_backbone=reaches)
        prompt, completion = torch.tensor([[5, 6]]), torch.tensor([[7, 8, 9]])
        sequences = TokenRows(
            prompt, torch.ones_like(prompt).bool(), completion, torch.ones_like(completion).bool(), family == "t5"
        )
        logits, values = module(sequences)
        values.sum().backward(retain_graph=True)
        assert module.value_model.weight.grad.abs().sum() > 0
        assert any(weight.grad is not None for weight in module.policy.parameters()) is reaches
        logits.sum().backward()
        assert any(weight.grad is not None for weight in module.policy.parameters())


def test_beside_an_adapter_that_trains_biases_there_is_no_room_for_a_second():
    # PEFT: "LoraModel supports only 1 adapter with bias."
    config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", bias="all")
    assert not can_hold_several(peft.get_peft_model(tiny.policy("gpt2"), config))
    assert can_hold_several(lora_module().policy)

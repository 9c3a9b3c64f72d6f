"""Room 1: what is sampled, and what is recorded about it, on a model that a pencil can follow and on real ones."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import peft
import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForCausalLM, Qwen2MoeConfig

from support import markov, tiny
from support.slow import slow_except
from trl_nlpo.algorithm.distribution import MaskSettings, SamplingSettings, action_logprobs
from trl_nlpo.algorithm.draws import seeded
from trl_nlpo.algorithm.generation import sample_completions
from trl_nlpo.algorithm.rollout import collect_rollout
from trl_nlpo.models.adapters import adapter_parameters
from trl_nlpo.models.masking_policy import MaskingPolicy
from trl_nlpo.models.modes import evaluation_mode
from trl_nlpo.models.policy_and_value import PolicyAndValue, completion_logits
from trl_nlpo.records import PromptBatch, TokenRows


EOS = 1
# Probabilities of the next token, one row per last token. No sum of them lies close to the top-p that is used.
TABLE = [
    [0.10, 0.15, 0.25, 0.30, 0.20],
    [0.20, 0.20, 0.20, 0.20, 0.20],
    [0.05, 0.05, 0.47, 0.33, 0.10],
    [0.36, 0.04, 0.10, 0.10, 0.40],
    [0.07, 0.28, 0.28, 0.02, 0.35],
]
REFERENCE = [row[::-1] for row in TABLE]
REFERENCE_POLICY = markov.MarkovModel(REFERENCE)
VALUES = [0.5, -1.0, 2.0, 3.0, -4.0]
PROMPTS = [[2], [3, 4], [0, 2, 3], [4]]
TOP_P = MaskSettings("top_p", top_p=0.6, always_allowed=(EOS,))
NO_MASK = MaskSettings("none", always_allowed=(EOS,))


def collect(
    prompts=PROMPTS,
    sampling=None,
    mask=TOP_P,
    seed=0,
    size=64,
    model=None,
    masking_policy=None,
    first_row=0,
    reference=REFERENCE_POLICY,
    bootstraps=False,
):
    model = model or markov.with_values(markov.MarkovModel(TABLE), VALUES)
    return collect_rollout(
        model,
        PromptBatch(prompts, [str(prompt) for prompt in prompts]),
        reference=lambda sequences: completion_logits(reference, sequences),
        masking_policy=masking_policy or MaskingPolicy(model.policy, None, mask.is_active),
        sampling=sampling or SamplingSettings(6, stop_token_ids=(EOS,)),
        mask=mask,
        seed=seed,
        forward_batch_size=size,
        pad_token_id=0,
        decode=lambda batch, rows: [" ".join(map(str, row)) for row in rows],
        first_row=first_row,
        bootstraps=bootstraps,
    )


def smallest_set(probabilities, top_p=0.6):
    """Likeliest first until the mass exceeds `top_p`; the end token is always in."""
    chosen, mass = {EOS}, 0.0
    for token in sorted(range(len(probabilities)), key=lambda index: (-probabilities[index], index)):
        if mass > top_p:
            break
        chosen.add(token)
        mass += probabilities[token]
    return chosen


def steps(rollout):
    """(row, place, last token, token) of every real token."""
    for row, ids in enumerate(rollout.completion_token_ids):
        before = [rollout.batch.prompt_ids[row][-1], *ids]
        yield from ((row, place, before[place], token) for place, token in enumerate(ids))


def allowed(rollout, row, place):
    return set(rollout.token_mask[row, place].nonzero().flatten().tolist())


def close(tensor, expected):
    assert tensor.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_everything_recorded_about_a_token_is_what_the_pencil_says(size):
    rollout = collect(PROMPTS * 8, size=size)
    for row, place, last, token in steps(rollout):
        inside = smallest_set(TABLE[last])
        assert token in inside
        assert allowed(rollout, row, place) == inside
        mass = sum(TABLE[last][other] for other in inside)
        close(rollout.old_logprobs[row, place], math.log(TABLE[last][token] / mass))
        close(rollout.raw_logprobs[row, place], math.log(TABLE[last][token]))
        close(rollout.ref_logprobs[row, place], math.log(REFERENCE[last][token]))
        close(rollout.values[row, place], VALUES[last])


def test_without_a_mask_nothing_is_recorded_and_old_is_raw():
    rollout = collect(PROMPTS * 8, mask=NO_MASK)
    assert rollout.token_sets is None
    assert torch.equal(rollout.old_logprobs, rollout.raw_logprobs)
    for row, place, last, token in steps(rollout):
        close(rollout.old_logprobs[row, place], math.log(TABLE[last][token]))


def test_the_temperature_shapes_policy_reference_and_mask():
    # at temperature 2 the probabilities are proportional to their square roots
    rollout = collect(PROMPTS * 8, SamplingSettings(6, temperature=2.0, stop_token_ids=(EOS,)))
    flat, flat_reference = (
        [[math.sqrt(p) / sum(map(math.sqrt, row)) for p in row] for row in table] for table in (TABLE, REFERENCE)
    )
    for row, place, last, token in steps(rollout):
        inside = smallest_set(flat[last])
        assert allowed(rollout, row, place) == inside
        mass = sum(flat[last][other] for other in inside)
        close(rollout.old_logprobs[row, place], math.log(flat[last][token] / mass))
        close(rollout.raw_logprobs[row, place], math.log(flat[last][token]))
        close(rollout.ref_logprobs[row, place], math.log(flat_reference[last][token]))


def test_tokens_are_drawn_as_often_as_the_masked_probabilities_say():
    rollout = collect([[2]] * 4000, SamplingSettings(1, stop_token_ids=(EOS,)), size=4000)
    counts = Counter(token for _, _, _, token in steps(rollout))
    # after 2: {2, 3} of 0.47 and 0.33, and the end token of 0.05
    for token, probability in ((2, 0.47 / 0.85), (3, 0.33 / 0.85), (EOS, 0.05 / 0.85)):
        deviation = math.sqrt(probability * (1 - probability) / 4000)
        assert counts[token] / 4000 == pytest.approx(probability, abs=4 * deviation)
    assert set(counts) == {EOS, 2, 3}


def test_a_completion_ends_with_its_stop_token_and_padding_is_zero():
    rollout = collect(PROMPTS * 8, size=5)
    assert 0 < int(rollout.ended.sum()) < len(rollout)
    for row, ids in enumerate(rollout.completion_token_ids):
        assert EOS not in ids[:-1]
        assert rollout.ended[row].item() == (ids[-1] == EOS)
        assert len(ids) == 6 or ids[-1] == EOS
        assert rollout.completions[row] == " ".join(map(str, ids))
    padding = ~rollout.completion_mask
    for tensor in (rollout.completion_ids, rollout.old_logprobs, rollout.raw_logprobs, rollout.values):
        assert tensor[padding].eq(0).all()
    assert rollout.ref_logprobs[padding].eq(0).all()
    assert rollout.token_mask[padding].all()


def test_without_a_stop_token_sampling_goes_on_behind_the_end_token():
    rollout = collect(PROMPTS * 8, SamplingSettings(6))
    assert rollout.completion_mask.all()
    assert any(EOS in ids[:-1] for ids in rollout.completion_token_ids)
    assert rollout.ended.tolist() == [EOS in ids for ids in rollout.completion_token_ids]


def test_masks_come_from_the_masking_policy_until_a_sync_and_then_from_the_policy():
    model = markov.with_values(markov.MarkovModel(TABLE), VALUES)
    masking_policy = MaskingPolicy(model.policy, sync_steps=2)
    model.policy.follow(REFERENCE)
    masking_policy.policy_moved()
    for mask_table in (TABLE, REFERENCE):
        rollout = collect(PROMPTS * 8, model=model, masking_policy=masking_policy)
        for row, place, last, token in steps(rollout):
            inside = smallest_set(mask_table[last])
            assert allowed(rollout, row, place) == inside
            # the probabilities are the policy's in any case
            mass = sum(REFERENCE[last][other] for other in inside)
            close(rollout.old_logprobs[row, place], math.log(REFERENCE[last][token] / mass))
        masking_policy.sync()


def lora_markov(table):
    """The same model as an adapter on a base without any preference: logits = B A x with A the identity."""
    size = len(table)
    config = peft.LoraConfig(r=size, lora_alpha=size, target_modules=["head"], task_type="CAUSAL_LM")
    policy = peft.get_peft_model(markov.MarkovModel([[1.0] * size] * size), config).eval()
    weights = adapter_parameters(policy, "default")
    next(weight for name, weight in weights.items() if "lora_A" in name).data = torch.eye(size)
    return policy, next(weight for name, weight in weights.items() if "lora_B" in name)


@pytest.mark.parametrize("in_one_batch", [False, True])
def test_an_adapter_is_masked_by_its_own_past_whether_in_two_passes_or_in_one_batch(in_one_batch):
    policy, weight = lora_markov(TABLE)
    weight.data = torch.tensor(TABLE).log().T.contiguous()
    masking_policy = MaskingPolicy(policy, None, in_one_batch=in_one_batch)
    weight.data = torch.tensor(REFERENCE).log().T.contiguous()
    masking_policy.policy_moved()
    model = markov.with_values(policy, VALUES)
    rollout = collect(PROMPTS * 500, model=model, masking_policy=masking_policy, size=1000)
    firsts = Counter()
    for row, place, last, token in steps(rollout):
        inside = smallest_set(TABLE[last])
        mass = sum(REFERENCE[last][other] for other in inside)
        if row < 32:
            assert allowed(rollout, row, place) == inside
            close(rollout.old_logprobs[row, place], math.log(REFERENCE[last][token] / mass))
            close(rollout.values[row, place], VALUES[last])
        assert token in inside
        firsts[token] += place == 0 and last == 2
    # after 2 the mask allows {1, 2, 3}, to which the policy gives 0.33, 0.47 and 0.05
    total = sum(firsts.values())
    assert total == 500
    for token, probability in ((1, 0.33 / 0.85), (2, 0.47 / 0.85), (3, 0.05 / 0.85)):
        deviation = math.sqrt(probability * (1 - probability) / total)
        assert firsts[token] / total == pytest.approx(probability, abs=4 * deviation)


def test_a_minimum_length_forbids_the_end_token_and_no_other_even_though_it_is_always_allowed():
    sampling = SamplingSettings(6, stop_token_ids=(EOS,), generation_fields={"min_new_tokens": 3})
    rollout = collect(PROMPTS * 8, sampling)
    assert rollout.completion_mask[:, :4].all()
    assert any(len(ids) == 4 for ids in rollout.completion_token_ids)
    for row, place, last, _ in steps(rollout):
        probabilities = list(TABLE[last])
        if place < 3:
            # the masking policy shares its mass among what is legal
            probabilities[EOS] = 0.0
            probabilities = [probability / sum(probabilities) for probability in probabilities]
            assert allowed(rollout, row, place) == smallest_set(probabilities) - {EOS}
        else:
            assert allowed(rollout, row, place) == smallest_set(probabilities)


@pytest.mark.parametrize(
    ("sampling", "inside"),
    [
        (SamplingSettings(2, warpers={"top_k": 2}), {2, 3}),
        (SamplingSettings(2, warpers={"top_p": 0.85}), {2, 3, 4}),  # 0.47 + 0.33 is too little
        (SamplingSettings(2, warpers={"min_p": 0.5}), {2, 3}),  # at least half of 0.47
        (SamplingSettings(2, generation_fields={"suppress_tokens": [2]}), {0, 1, 3, 4}),
        (SamplingSettings(2, generation_fields={"bad_words_ids": [[3]]}), {0, 1, 2, 4}),
    ],
    ids=["top_k", "top_p", "min_p", "suppress_tokens", "bad_words_ids"],
)
def test_what_else_cuts_the_distribution_is_recorded_as_a_mask(sampling, inside):
    rollout = collect([[2]] * 16, sampling, mask=NO_MASK)
    mass = sum(TABLE[2][token] for token in inside)
    for row in range(16):
        assert allowed(rollout, row, 0) == inside
        token = rollout.completion_ids[row, 0].item()
        assert token in inside
        close(rollout.old_logprobs[row, 0], math.log(TABLE[2][token] / mass))
        close(rollout.raw_logprobs[row, 0], math.log(TABLE[2][token]))


def test_warpers_cut_what_the_mask_has_left():
    # the mask allows {1, 2, 3}; 0.33 and 0.05 of 0.85 are 0.39 and 0.06, and half of 0.55 is 0.28
    rollout = collect([[2]], SamplingSettings(1, warpers={"min_p": 0.5}))
    assert allowed(rollout, 0, 0) == {2, 3}


def test_a_repetition_penalty_enters_old_log_probabilities_but_not_the_kl():
    sampling = SamplingSettings(4, repetition_penalty=3.0)
    rollout = collect([[2, 3], [4]] * 8, sampling, mask=NO_MASK)
    for row, place, last, token in steps(rollout):
        seen = {*rollout.batch.prompt_ids[row], *rollout.completion_token_ids[row][:place]}
        # logits are logarithms of probabilities, so negative: those of seen tokens are multiplied by the penalty
        weights = [p ** (3 if index in seen else 1) for index, p in enumerate(TABLE[last])]
        close(rollout.old_logprobs[row, place], math.log(weights[token] / sum(weights)))
        close(rollout.raw_logprobs[row, place], math.log(TABLE[last][token]))


def test_the_seed_decides_the_completions_and_the_global_random_state_is_left_alone():
    model = markov.with_values(markov.MarkovModel(TABLE), VALUES)
    before = torch.random.get_rng_state()
    first, again, other = (collect(PROMPTS * 8, seed=seed, model=model) for seed in (1, 1, 2))
    assert torch.equal(first.completion_ids, again.completion_ids)
    assert first.completions != other.completions
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_global_random_state_comes_back_after_an_exception():
    before = torch.random.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(1, torch.device("cpu")):
        torch.rand(1).item() / 0
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_in_evaluation_mode_and_its_own_mode_comes_back_after_an_exception(training):
    model = torch.nn.Dropout().train(training)
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        1 / int(model.training)
    assert model.training is training


def test_chunks_of_different_lengths_are_joined_without_changing_a_number():
    # with the likeliest token alone allowed nothing is random: 0 goes on with 0 for ever, 2 with 3, and 3 ends
    table = [[0.9, 0.1, 0.0, 0.0], [0.25] * 4, [0.1, 0.1, 0.2, 0.6], [0.1, 0.7, 0.1, 0.1]]
    table = [[p + 1e-3 for p in row] for row in table]
    mask = MaskSettings("top_k", top_k=1)
    rollouts = []
    for size in (1, 2, 64):
        model = markov.with_values(markov.MarkovModel(table), VALUES[:4])
        rollouts.append(
            collect_rollout(
                model,
                PromptBatch([[3], [2], [3, 3, 0], [2, 2]], ["a", "b", "c", "d"]),
                reference=lambda sequences, model=model: completion_logits(model.policy, sequences),
                masking_policy=MaskingPolicy(model.policy, None),
                sampling=SamplingSettings(4, stop_token_ids=(EOS,)),
                mask=mask,
                seed=0,
                forward_batch_size=size,
                pad_token_id=0,
                decode=lambda batch, rows: rows,
            )
        )
    assert rollouts[0].completions == [[EOS], [3, EOS], [0, 0, 0, 0], [3, EOS]]
    assert rollouts[0].prompt_ids.tolist() == [[0, 0, 3], [0, 0, 2], [3, 3, 0], [0, 2, 2]]
    assert rollouts[0].prompt_mask.sum(-1).tolist() == [1, 1, 3, 2]
    for other in rollouts[1:]:
        for name in ("completion_ids", "completion_mask", "ended", "values", "ref_logprobs", "token_mask"):
            assert torch.equal(getattr(other, name), getattr(rollouts[0], name)), name


LEAKS = {
    "min_p": 0.9, "suppress_tokens": [2, 3], "repetition_penalty": 9.0, "temperature": 0.01, "top_k": 1, "top_p": 0.1,
    "min_new_tokens": 5, "eos_token_id": 3, "forced_eos_token_id": 2, "no_repeat_ngram_size": 1, "do_sample": False,
    "num_beams": 3, "max_length": 3, "bad_words_ids": [[4]],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LEAKS))
def test_a_setting_stored_in_the_model_does_not_leak_into_a_rollout(name):
    plain = collect(PROMPTS * 8)
    model = markov.with_values(markov.MarkovModel(TABLE), VALUES)
    setattr(model.policy.generation_config, name, LEAKS[name])
    leaky = collect(PROMPTS * 8, model=model)
    assert torch.equal(leaky.completion_ids, plain.completion_ids)
    assert torch.equal(leaky.token_mask, plain.token_mask)
    assert getattr(model.policy.generation_config, name) == LEAKS[name]


def test_the_settings_stored_in_the_model_come_back_after_an_exception():
    policy = markov.MarkovModel(TABLE)
    own = policy.generation_config
    with pytest.raises(IndexError):
        sample_completions(policy, [[99]], SamplingSettings(2))
    assert policy.generation_config is own


def moved(family: str, amount: float = 0.3):
    """A model of the family, and its masking policy, from which it has moved away."""
    policy = tiny.policy(family).eval()
    masking_policy = MaskingPolicy(policy, None)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        weight = policy.get_output_embeddings().weight
        weight.add_(amount * weight.std() * torch.randn(weight.shape, generator=generator))
    masking_policy.policy_moved()
    return policy, masking_policy


def logits_alone(model, prompt, completion):
    """Logits that predict the completion: one row, no padding, no cache."""
    with torch.no_grad():
        if not model.config.is_encoder_decoder:
            return model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        start = model.generation_config.decoder_start_token_id
        return model(
            input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *completion[:-1]]])
        ).logits[0]


LEAST = 7
"""Tokens that are allowed in any case: more than top-k gives, and than top-p gives at many places."""


@pytest.mark.parametrize("family", slow_except(tiny.FAMILIES, "llama", "t5"))
@pytest.mark.parametrize("strategy", ["top_p", "top_k"])
def test_masks_of_a_batch_are_those_of_every_row_alone_under_the_masking_policy(family, strategy):
    check_masks(family, strategy, *moved(family))


def moved_adapter(family: str):
    """A LoRA model that computes its masking policy in the same batch, and has moved away from it."""
    base = tiny.policy(family)
    torch.manual_seed(3)
    task = "SEQ_2_SEQ_LM" if family in tiny.ENCODER_DECODER_FAMILIES else "CAUSAL_LM"
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type=task, init_lora_weights=False)
    policy = peft.get_peft_model(base, config).eval()
    masking_policy = MaskingPolicy(policy, None, in_one_batch=True)
    with torch.no_grad():
        for weight in adapter_parameters(policy, "default").values():
            weight.add_(0.05 * torch.randn_like(weight))
    masking_policy.policy_moved()
    return policy, masking_policy


@pytest.mark.parametrize("family", slow_except(tiny.FAMILIES, "t5"))
def test_masks_in_one_batch_with_the_policy_are_those_of_every_row_alone(family):
    check_masks(family, "top_p", *moved_adapter(family))


def check_masks(family, strategy, policy, masking_policy):
    prompts = [[5], [7, 8, 9, 10, 11, 12], [20, 21, 22], [30, 31]]
    mask = MaskSettings(strategy, top_p=0.3, top_k=5, min_tokens=LEAST, always_allowed=(EOS,))
    with seeded(0, torch.device("cpu")):
        sample = sample_completions(policy, prompts, SamplingSettings(6, 0.9), mask, masking_policy)
    rows = sample.sequences.completion_ids.tolist()
    # BART's first and last tokens are forced
    places = range(1, 5) if family == "bart" else range(6)
    differing = 0
    for row, (prompt, completion) in enumerate(zip(prompts, rows, strict=True)):
        policys = logits_alone(policy, prompt, completion) / 0.9
        with masking_policy.model() as masking_model:
            ours = logits_alone(masking_model, prompt, completion) / 0.9
        for place in places:
            expected = reference_mask(ours[place], strategy)
            recorded = set(sample.sequences.token_sets[row, place].mask().nonzero().flatten().tolist())
            assert recorded == expected, (row, place)
            assert completion[place] in recorded
            differing += expected != reference_mask(policys[place], strategy)
    assert differing, "the policy has not moved, so nothing is tested"


def reference_mask(logits, strategy):
    likeliest = sorted(range(len(logits)), key=lambda index: -logits[index].item())
    if strategy == "top_k":
        return {EOS, *likeliest[:LEAST]}
    weights = [math.exp(logit - logits.max().item()) for logit in logits.tolist()]
    probabilities = [weight / sum(weights) for weight in weights]
    return smallest_set(probabilities, 0.3) | set(likeliest[:LEAST])


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_repetition_penalty_while_sampling_is_the_one_computed_afterwards(family):
    # Only the likeliest token under the penalty may be taken, so that what is sampled shows it.
    policy = tiny.policy(family).eval()
    prompts = [[5, 6, 7, 8], [20, 21]]
    sampling = SamplingSettings(8, repetition_penalty=4.0, warpers={"top_k": 1})
    sample = sample_completions(policy, prompts, sampling, NO_MASK)
    for prompt, completion in zip(prompts, sample.sequences.completion_ids.tolist(), strict=True):
        logits = logits_alone(policy, prompt, completion)
        for place, token in enumerate(completion):
            seen = {*(prompt if family == "gpt2" else []), *completion[:place]}
            penalized = [
                (logit / 4 if logit > 0 else logit * 4) if index in seen else logit
                for index, logit in enumerate(logits[place].tolist())
            ]
            assert token == max(range(len(penalized)), key=penalized.__getitem__)


def test_tokens_that_an_encoder_decoder_model_is_made_to_produce_are_the_only_ones_allowed_there():
    policy = tiny.policy("bart").eval()
    sample = sample_completions(policy, [[5, 6], [7]], SamplingSettings(4), NO_MASK)
    assert sample.sequences.is_encoder_decoder
    assert sample.sequences.completion_ids[:, 0].tolist() == [5, 5]
    assert sample.sequences.completion_ids[:, 3].tolist() == [EOS, EOS]
    allowed = sample.sequences.token_sets.mask()
    assert allowed[:, 0].nonzero().tolist() == [[0, 5], [1, 5]]
    assert allowed[:, 3].nonzero().tolist() == [[0, EOS], [1, EOS]]


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_rollout_takes_no_gradient_and_leaves_the_model_in_its_mode(family):
    module = PolicyAndValue(tiny.policy(family)).train()
    rollout = collect_rollout(
        module,
        PromptBatch([[5, 6], [7]], ["a", "b"]),
        reference=lambda sequences: completion_logits(module.policy, sequences),
        masking_policy=MaskingPolicy(module.policy, None),
        sampling=SamplingSettings(3),
        mask=TOP_P,
        seed=0,
        forward_batch_size=2,
        pad_token_id=0,
        decode=lambda batch, rows: rows,
    )
    assert module.training
    assert not any(tensor.requires_grad for tensor in (rollout.old_logprobs, rollout.values, rollout.ref_logprobs))
    assert rollout.is_encoder_decoder is (family == "t5")
    # on the policy's own tokens, the reference being the policy
    torch.testing.assert_close(rollout.raw_logprobs, rollout.ref_logprobs)


@pytest.mark.xfail(
    Version(transformers.__version__) < Version("5.23"),
    reason="`generate` of transformers before 5.23 counts padding as repetition",
    strict=True,
)
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingSettings(3, do_sample=False, repetition_penalty=9.0),
    ],
    ids=["repetition_penalty of greedy search"],
)
def test_padding_is_no_repetition(sampling):
    # 0 is likeliest after 2, and the prompt [2] is padded with zeros beside a longer one.
    policy = markov.MarkovModel([[0.2] * 5, [0.2] * 5, [0.6, 0.05, 0.05, 0.05, 0.25], [0.2] * 5, [0.2] * 5]).eval()
    alone = sample_completions(policy, [[2]], sampling).sequences.completion_ids[0]
    padded = sample_completions(policy, [[2], [2, 3, 2]], sampling).sequences.completion_ids[0]
    assert alone[0] == 0
    assert padded[0] == 0


def test_greedy_search_penalizes_repetition_once():
    # after 2 come 2 and 3 with 0.69 and 0.29: log 0.69 twice, -0.74, is above log 0.29, -1.24; four times it is below
    policy = markov.MarkovModel([[0.2] * 5, [0.2] * 5, [0.01, 0.005, 0.69, 0.29, 0.005], [0.2] * 5, [0.2] * 5]).eval()
    sampling = SamplingSettings(3, do_sample=False, repetition_penalty=2.0)
    assert sample_completions(policy, [[2]], sampling).sequences.completion_ids.tolist() == [[2, 2, 2]]


def test_experts_under_an_adapter_are_sampled_though_peft_cannot_mix_adapters_in_their_batches():
    # Experts get the tokens of all rows in one, so that PEFT cannot tell which row has which adapter.
    torch.manual_seed(0)
    config = Qwen2MoeConfig(
        vocab_size=tiny.VOCAB_SIZE, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, max_position_embeddings=64,
    )  # fmt: skip
    adapter = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    policy = peft.get_peft_model(AutoModelForCausalLM.from_config(config), adapter).eval()
    masking_policy = MaskingPolicy(policy, None, in_one_batch=True)
    masking_policy.policy_moved()
    sample = sample_completions(policy, [[5], [7, 8]], SamplingSettings(3), TOP_P, masking_policy)
    assert sample.sequences.completion_ids.shape == (2, 3)


def test_a_completion_depends_on_the_number_of_its_row_and_not_on_the_rows_beside_it():
    model = markov.with_values(markov.MarkovModel(TABLE), VALUES)
    prompts = PROMPTS * 4
    whole = collect(prompts, seed=1, model=model).completion_token_ids
    assert collect(prompts, seed=1, model=model, size=3).completion_token_ids == whole
    assert collect(prompts[5:9], seed=1, model=model, first_row=5).completion_token_ids == whole[5:9]
    assert collect(prompts[5:9], seed=1, model=model).completion_token_ids != whole[5:9]


OF_ROWS = {
    "no_repeat_ngram_size": 1,
    "min_length": 6,
    "bad_words_ids": [[0, 0, 4]],
    "encoder_no_repeat_ngram_size": 1,
}


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("field", list(OF_ROWS))
def test_what_a_row_may_produce_does_not_depend_on_the_padding_that_a_longer_prompt_brings(field, family):
    policy = tiny.policy(family).eval()
    sampling = SamplingSettings(4, stop_token_ids=(1,), generation_fields={field: OF_ROWS[field]})

    def first_mask(prompts):
        sequences = sample_completions(policy, prompts, sampling, NO_MASK).sequences
        return sequences.token_sets.mask()[0, 0]

    assert torch.equal(first_mask([[7]]), first_mask([[7], [5, 6, 8, 9, 10, 11]]))


def test_a_restriction_of_rows_still_holds_and_counts_prompt_and_completion():
    # two tokens of the prompt and four of the completion make six
    policy = tiny.policy().eval()
    sampling = SamplingSettings(8, stop_token_ids=(1,), generation_fields={"min_length": 6, "no_repeat_ngram_size": 1})
    sample = sample_completions(policy, [[7, 8], [5, 6, 8, 9, 10, 11]], sampling, NO_MASK)
    mask = sample.sequences.token_sets.mask()
    assert mask[0, :, 1].tolist()[:5] == [False, False, False, False, True]
    for row, prompt in zip(sample.sequences.completion_ids.tolist(), ([7, 8], [5, 6, 8, 9, 10, 11]), strict=True):
        produced = row[: row.index(1)] if 1 in row else row
        assert len({*prompt, *produced}) == len(prompt) + len(produced)


def test_beams_of_rows_of_different_length_are_restricted_each_by_its_own_prompt():
    policy = tiny.policy().eval()
    fields = {"num_beams": 3, "no_repeat_ngram_size": 1}
    sampling = SamplingSettings(4, do_sample=False, generation_fields=fields)
    alone = sample_completions(policy, [[7]], sampling).sequences.completion_ids[0]
    beside = sample_completions(policy, [[7], [5, 6, 8, 9, 10, 11]], sampling).sequences.completion_ids[0]
    assert torch.equal(alone, beside)


ANCHORED = dataclasses.replace(TOP_P, is_anchored=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_anchor_is_the_masking_policys_own_mass_of_the_allowed_tokens(temperature):
    other = [row[1:] + row[:1] for row in TABLE]
    model = markov.with_values(markov.MarkovModel(other), VALUES)
    masking_policy = MaskingPolicy(model.policy, None)
    model.policy.follow(TABLE)
    masking_policy.policy_moved()
    sampling = SamplingSettings(6, temperature=temperature, stop_token_ids=(EOS,))
    rollout = collect(PROMPTS * 8, sampling, ANCHORED, size=5, model=model, masking_policy=masking_policy)
    checked = 0
    for row, place, last, _ in steps(rollout):
        weights = [p ** (1 / temperature) for p in other[last]]
        mass = sum(weights[token] for token in allowed(rollout, row, place)) / sum(weights)
        close(rollout.anchor_log_mass[row, place], math.log(mass))
        checked += 1
    assert checked > 20
    assert rollout.anchor_log_mass[~rollout.completion_mask].eq(0).all()


def test_right_after_a_sync_the_anchor_is_where_the_policy_is():
    rollout = collect(PROMPTS * 8, mask=ANCHORED)
    own = rollout.raw_logprobs - rollout.old_logprobs
    torch.testing.assert_close(rollout.anchor_log_mass, own, atol=1e-6, rtol=0)
    assert collect(PROMPTS * 8).anchor_log_mass is None
    assert collect(PROMPTS * 8, mask=NO_MASK).anchor_log_mass is None


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_on_real_models_the_anchor_is_what_a_pass_of_the_masking_policy_says(family, penalty):
    model = PolicyAndValue(tiny.policy(family))
    masking_policy = MaskingPolicy(model.policy, None)
    with torch.no_grad():
        for weight in model.policy.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    masking_policy.policy_moved()
    sampling = SamplingSettings(
        6, stop_token_ids=(EOS,), repetition_penalty=penalty, generation_fields={"min_new_tokens": 2}
    )
    mask = MaskSettings("top_p", top_p=0.8, always_allowed=(EOS,), is_anchored=True)
    with torch.no_grad(), evaluation_mode(model):
        rollout = collect(
            [[5, 9, 4], [7], [12, 3]],
            sampling,
            mask,
            model=model,
            masking_policy=masking_policy,
            reference=model.policy,
        )
        sequences = rollout.sequences(torch.arange(3))
        with masking_policy.model() as masking_model:
            logits = completion_logits(masking_model, sequences)
        _, _, mass = action_logprobs(logits, sequences, sampling, with_mass=True)
        _, _, own = action_logprobs(completion_logits(model.policy, sequences), sequences, sampling, with_mass=True)
    later = rollout.completion_mask & (torch.arange(rollout.completion_mask.shape[1]) >= 2)
    torch.testing.assert_close(rollout.anchor_log_mass[later], mass[later], atol=1e-4, rtol=1e-4)
    # Where the end token was forbidden, what the policy gave it is not held against it: both leave it out.
    early = rollout.completion_mask & ~later
    allowed_end = own.exp() < 1.0
    assert (rollout.anchor_log_mass[early] <= 1e-6).all()
    assert allowed_end[early].any()


@pytest.mark.parametrize("size", [1, 3, 64])
def test_the_value_after_a_completion_that_was_cut_is_recorded(size):
    rollout = collect(PROMPTS * 8, SamplingSettings(4, stop_token_ids=(EOS,)), size=size, bootstraps=True)
    assert 0 < int(rollout.ended.sum()) < len(rollout)
    for row, ids in enumerate(rollout.completion_token_ids):
        close(rollout.final_values[row], 0.0 if rollout.ended[row] else VALUES[ids[-1]])
    plain = collect(PROMPTS * 8, SamplingSettings(4, stop_token_ids=(EOS,)), size=size)
    assert plain.final_values is None
    for name in ("old_logprobs", "raw_logprobs", "ref_logprobs", "values"):
        torch.testing.assert_close(getattr(plain, name), getattr(rollout, name))


# BART is made to end at the limit.
@pytest.mark.parametrize("family", [family for family in tiny.FAMILIES if family != "bart"])
def test_on_real_models_the_value_after_the_last_token_is_that_of_a_longer_row(family):
    model = PolicyAndValue(tiny.policy(family))
    sampling = SamplingSettings(5, stop_token_ids=(EOS,))
    with evaluation_mode(model):
        rollout = collect(
            [[5, 9, 4], [7], [12, 3]], sampling, NO_MASK, model=model, reference=model.policy, bootstraps=True
        )
        for row in (~rollout.ended).nonzero().flatten().tolist():
            longer = TokenRows(
                rollout.prompt_ids[row : row + 1],
                rollout.prompt_mask[row : row + 1],
                torch.cat([rollout.completion_ids[row : row + 1], torch.tensor([[6]])], dim=1),
                torch.ones(1, rollout.completion_ids.shape[1] + 1, dtype=torch.bool),
                rollout.is_encoder_decoder,
            )
            with torch.no_grad():
                _, values = model(longer)
            torch.testing.assert_close(values[0, -1], rollout.final_values[row], atol=1e-4, rtol=1e-4)
    assert not rollout.ended.all()


def test_the_anchor_is_the_same_with_policy_and_mask_in_one_batch():
    policy = peft.get_peft_model(
        tiny.policy("llama"), peft.LoraConfig(target_modules="all-linear", init_lora_weights=False)
    )
    found = []
    for in_one_batch in (False, True):
        model = PolicyAndValue(policy, tiny.classifier("llama"))
        masking_policy = MaskingPolicy(policy, None, in_one_batch=in_one_batch)
        assert masking_policy.in_one_batch is in_one_batch
        before = {name: weight.clone() for name, weight in adapter_parameters(policy, "default").items()}
        with torch.no_grad():
            torch.manual_seed(0)
            for weight in adapter_parameters(policy, "default").values():
                weight.add_(0.1 * torch.randn_like(weight))
            masking_policy.policy_moved()
            with evaluation_mode(model):
                found.append(
                    collect(
                        [[5, 9, 4], [7], [12, 3]],
                        SamplingSettings(6, stop_token_ids=(EOS,)),
                        ANCHORED,
                        model=model,
                        masking_policy=masking_policy,
                        reference=tiny.policy("llama"),
                    )
                )
            for name, weight in adapter_parameters(policy, "default").items():
                weight.copy_(before[name])
    apart, together = found
    assert torch.equal(apart.completion_ids, together.completion_ids)
    torch.testing.assert_close(apart.anchor_log_mass, together.anchor_log_mass, atol=1e-4, rtol=1e-4)
    own = apart.raw_logprobs - apart.old_logprobs
    assert (apart.anchor_log_mass - own).abs().max() > 0.01

"""What may shape a rollout, what may not, and the one function from logits to log-probabilities of actions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from support import tiny
from trl_nlpo import NLPOConfig, UserError
from trl_nlpo.algorithm.distribution import MaskSettings, SamplingSettings, action_logprobs
from trl_nlpo.functional.token_sets import TokenSets
from trl_nlpo.records import TokenRows


def config(**changes):
    return NLPOConfig(
        output_dir="unused", report_to="none", use_cpu=True, **{"stop_token": "eos", "response_length": 9, **changes}
    )


def settings(for_evaluation=False, tokenizer=None, **changes):
    return SamplingSettings.from_config(
        config(**changes), tokenizer or tiny.tokenizer(), for_evaluation=for_evaluation
    )


def test_without_generation_kwargs_lengths_and_temperature_are_the_configurations():
    assert settings(temperature=0.6) == SamplingSettings(9, 0.6, (1,))


def test_generation_kwargs_go_before_the_configuration():
    kwargs = {"max_new_tokens": 4, "temperature": 1.5, "eos_token_id": [7, 8], "repetition_penalty": 1.2}
    assert settings(generation_kwargs=kwargs) == SamplingSettings(4, 1.5, (7, 8), repetition_penalty=1.2)
    assert settings(generation_kwargs={"eos_token_id": 0}).stop_token_ids == (0,)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"stop_token": "eos"}, (1,)), ({"stop_token": None, "stop_token_id": 0}, (0,)), ({"stop_token": None}, ())],
    ids=["eos", "id", "none"],
)
def test_stop_tokens(changes, expected):
    assert settings(**changes).stop_token_ids == expected


@pytest.mark.parametrize(("ends", "expected"), [([2, 7], (1, 2, 7)), (2, (1, 2)), ([1, 40, -1], (1,)), (None, (1,))])
def test_end_tokens_of_the_model_stop_too_unless_its_vocabulary_lacks_them(ends, expected):
    policy = SimpleNamespace(
        config=SimpleNamespace(vocab_size=40), generation_config=SimpleNamespace(eos_token_id=ends)
    )
    found = SamplingSettings.from_config(config(), tiny.tokenizer(), policy)
    assert found.stop_token_ids == expected


@pytest.mark.parametrize(
    ("is_encoder_decoder", "num_tokens", "raised"), [(False, 5, False), (False, 6, True), (True, 3, True)]
)
def test_a_growing_wish_to_end_counts_the_tokens_of_the_completion(is_encoder_decoder, num_tokens, raised):
    decay = {"exponential_decay_length_penalty": (2, 1.5)}
    found = settings(for_evaluation=True, eval_generation_kwargs={"do_sample": False, **decay})
    processors = found.row_processors(torch.tensor([[5, 6, 7]]), is_encoder_decoder)
    scores = torch.ones(1, 9)
    ids = torch.full((1, num_tokens), 4)
    assert (processors(ids, scores.clone())[0, 1] > scores[0, 1]) == raised


def test_a_tokenizer_without_an_end_token_cannot_stop_at_it():
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="the tokenizer has no eos_token"):
        settings(tokenizer=tokenizer)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"min_p": 0.05}, {"suppress_tokens": [3, 4]}, {"min_new_tokens": 5}, {"top_k": 50}, {"top_p": 0.9},
        {"typical_p": 0.9}, {"epsilon_cutoff": 0.1}, {"eta_cutoff": 0.1}, {"no_repeat_ngram_size": 3},
        {"bad_words_ids": [[4]]}, {"forced_eos_token_id": 1}, {"begin_suppress_tokens": [1]}, {"min_length": 4},
    ],
    ids=str,
)  # fmt: skip
def test_what_cuts_the_distribution_is_accepted_and_known_to_restrict_it(kwargs):
    assert settings(generation_kwargs=kwargs).restricts_tokens


@pytest.mark.parametrize(
    "kwargs",
    [
        {}, {"top_k": 0}, {"top_k": None}, {"top_p": 1.0}, {"min_p": 0.0}, {"typical_p": 1.0}, {"epsilon_cutoff": 0.0},
        {"suppress_tokens": None}, {"use_cache": False}, {"repetition_penalty": 1.3}, {"num_beams": 1},
        {"guidance_scale": None}, {"do_sample": True}, {"num_return_sequences": 1},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_switched_off_restricts_nothing(kwargs):
    assert not settings(generation_kwargs=kwargs).restricts_tokens


@pytest.mark.parametrize(
    ("field", "nearest"),
    [("topk", "top_k"), ("temprature", "temperature"), ("max_new_token", "max_new_tokens"), ("minp", "min_p")],
)
@pytest.mark.parametrize("name", ["generation_kwargs", "eval_generation_kwargs"])
def test_an_unknown_field_names_the_nearest(name, field, nearest):
    with pytest.raises(UserError) as caught:
        settings(for_evaluation=name == "eval_generation_kwargs", **{name: {field: 1}})
    assert str(caught.value) == f"{name} has the unknown field {field!r}, did you mean {nearest!r}?"


def test_an_unknown_field_like_no_other_says_where_to_look():
    with pytest.raises(UserError, match=r"'qqqqqqqq': see transformers\.GenerationConfig"):
        settings(generation_kwargs={"qqqqqqqq": 1})


FORBIDDEN = {
    "guidance_scale": 2.0, "sequence_bias": {(3,): 1.0}, "exponential_decay_length_penalty": (3, 1.5),
    "encoder_repetition_penalty": 1.5, "stop_strings": ["w1"], "penalty_alpha": 0.6, "prompt_lookup_num_tokens": 3,
    "max_time": 2.0, "watermarking_config": {"bias": 2.0}, "do_sample": False, "num_beams": 4,
}  # fmt: skip


@pytest.mark.parametrize("field", list(FORBIDDEN))
def test_what_the_update_could_not_follow_is_refused_in_rollouts_in_one_line(field):
    with pytest.raises(UserError) as caught:
        settings(generation_kwargs={field: FORBIDDEN[field]})
    assert field in str(caught.value)
    assert "eval_generation_kwargs" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", list(FORBIDDEN))
def test_the_same_is_allowed_in_evaluation(field):
    kwargs = {field: FORBIDDEN[field]}
    assert settings(for_evaluation=True, eval_generation_kwargs=kwargs).do_sample is (field != "do_sample")


def test_evaluation_samples_as_rollouts_do_unless_told_otherwise():
    changes = {"generation_kwargs": {"top_k": 5, "max_new_tokens": 3}, "temperature": 0.6}
    assert settings(for_evaluation=True, **changes) == settings(**changes)
    greedy = settings(for_evaluation=True, eval_generation_kwargs={"do_sample": False, "num_beams": 4}, **changes)
    # given settings replace those of rollouts, all of them
    assert greedy == SamplingSettings(9, 0.6, (1,), do_sample=False, generation_fields={"num_beams": 4})
    assert settings(for_evaluation=True, eval_generation_kwargs={}, **changes) == SamplingSettings(9, 0.6, (1,))


def test_the_dictionary_given_is_not_changed():
    kwargs = {"top_k": 5, "max_new_tokens": 3, "min_new_tokens": 1}
    settings(generation_kwargs=kwargs)
    assert kwargs == {"top_k": 5, "max_new_tokens": 3, "min_new_tokens": 1}


def test_sampling_leaves_nothing_but_restrictions_and_lengths_to_generate():
    subject = settings(
        generation_kwargs={"top_k": 5, "temperature": 0.3, "min_new_tokens": 2, "repetition_penalty": 2.0}
    )
    left = subject.generation_config(pad_token_id=0, forced_tokens={"forced_bos_token_id": 5})
    # One token is left to it, which it takes.
    assert not left.do_sample
    assert (left.temperature, left.top_k, left.top_p) == (None, None, None)
    assert left.repetition_penalty in (None, 1.0)
    assert (left.max_new_tokens, left.min_new_tokens, left.eos_token_id, left.pad_token_id) == (9, 2, [1], 0)
    assert left.forced_bos_token_id == 5


def test_greedy_evaluation_leaves_everything_to_generate():
    kwargs = {"do_sample": False, "num_beams": 4, "repetition_penalty": 2.0, "length_penalty": 0.5}
    left = settings(for_evaluation=True, eval_generation_kwargs=kwargs).generation_config(0, {})
    assert (left.do_sample, left.num_beams, left.repetition_penalty, left.length_penalty) == (False, 4, 2.0, 0.5)


def test_beams_that_are_sampled_are_left_to_generate_with_temperature_and_warpers():
    kwargs = {"num_beams": 2, "temperature": 0.3, "top_k": 5, "min_p": 0.1, "repetition_penalty": 2.0}
    subject = settings(for_evaluation=True, eval_generation_kwargs=kwargs)
    assert subject.is_left_to_generate
    left = subject.generation_config(0, {})
    assert {name: getattr(left, name) for name in kwargs} == kwargs
    assert left.do_sample is True


def test_own_forced_tokens_go_before_the_models():
    subject = settings(generation_kwargs={"forced_bos_token_id": 6})
    assert subject.generation_config(0, {"forced_bos_token_id": 5}).forced_bos_token_id == 6


def test_warpers_are_those_of_transformers_in_the_order_of_generate():
    subject = settings(generation_kwargs={"min_p": 0.1, "top_p": 0.8, "top_k": 4})
    warpers = subject.logits_warpers(torch.device("cpu"))
    assert [type(warper) for warper in warpers] == [TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper]
    assert (warpers[0].top_k, warpers[1].top_p, warpers[2].min_p) == (4, 0.8, 0.1)


@pytest.mark.parametrize("kwargs", [{"typical_p": 0.7}, {"epsilon_cutoff": 0.02}, {"eta_cutoff": 0.03}], ids=str)
def test_other_warpers_get_their_value(kwargs):
    (warper,) = settings(generation_kwargs=kwargs).logits_warpers(torch.device("cpu"))
    ((name, value),) = kwargs.items()
    argument = {"typical_p": "mass", "epsilon_cutoff": "epsilon", "eta_cutoff": "epsilon"}[name]
    assert float(getattr(warper, argument)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("strategy", "top_p", "active"),
    [("top_p", 0.9, True), ("top_p", 1.0, False), ("top_k", 1.0, True), ("none", 0.5, False)],
)
def test_top_p_of_one_and_no_strategy_mask_nothing(strategy, top_p, active):
    assert MaskSettings(strategy, top_p=top_p).is_active is active


class Policy:
    """All that mask settings look at."""

    def __init__(self, eos_token_id):
        self.generation_config = GenerationConfig(eos_token_id=eos_token_id)


@pytest.mark.parametrize(
    ("policy", "changes", "expected"),
    [
        (object(), {}, (1,)),
        (Policy(None), {}, (1,)),
        (Policy(7), {}, (1, 7)),
        (Policy([8, 7]), {"stop_token": None, "stop_token_id": 5}, (1, 5, 7, 8)),
        (Policy(7), {"generation_kwargs": {"eos_token_id": 9}}, (1, 7, 9)),
    ],
)
def test_stop_tokens_and_the_end_tokens_of_model_and_tokenizer_stay_legal(policy, changes, expected):
    args = config(mask_strategy="top_k", mask_top_k=5, mask_min_tokens=3, mask_top_p=0.4, **changes)
    sampling = SamplingSettings.from_config(args, tiny.tokenizer())
    assert MaskSettings.from_config(args, tiny.tokenizer(), policy, sampling) == MaskSettings(
        "top_k", 0.4, 5, 3, expected, is_anchored=True
    )


def sequences(mask=None, is_encoder_decoder=False):
    # prompt: a padding 9 and then 2, 3; completion: 4, 2, 4
    return TokenRows(
        torch.tensor([[9, 2, 3]]),
        torch.tensor([[False, True, True]]),
        torch.tensor([[4, 2, 4]]),
        torch.ones(1, 3, dtype=torch.bool),
        is_encoder_decoder,
        None if mask is None else TokenSets.of_mask(mask),
        10,
    )


def test_log_probabilities_are_those_under_temperature_and_mask():
    torch.manual_seed(2)
    logits, mask = torch.randn(1, 3, 10), torch.rand(1, 3, 10) > 0.4
    mask[0, [0, 1, 2], [4, 2, 4]] = True
    actual, entropies, _ = action_logprobs(logits, sequences(mask), SamplingSettings(3, temperature=0.5))
    for place, token in enumerate([4, 2, 4]):
        inside = mask[0, place].nonzero().flatten()
        weights = torch.exp(2 * logits[0, place])
        probabilities = weights[inside] / weights[inside].sum()
        assert actual[0, place].exp().item() == pytest.approx((weights[token] / weights[inside].sum()).item())
        assert entropies[0, place].item() == pytest.approx(-(probabilities * probabilities.log()).sum().item())


@pytest.mark.parametrize(("is_encoder_decoder", "in_prompt"), [(False, {2, 3}), (True, set())])
def test_a_repetition_penalty_goes_before_the_temperature_and_knows_what_has_been_seen(is_encoder_decoder, in_prompt):
    torch.manual_seed(3)
    logits = torch.randn(1, 3, 10)
    subject = SamplingSettings(3, temperature=0.5, repetition_penalty=1.8)
    actual, _, _ = action_logprobs(logits, sequences(is_encoder_decoder=is_encoder_decoder), subject)
    # seen before each place: the prompt (not its padding, and not what an encoder reads) and the completion so far
    for place, (token, so_far) in enumerate([(4, set()), (2, {4}), (4, {4, 2})]):
        penalized = [
            (logit / 1.8 if logit > 0 else logit * 1.8) if index in in_prompt | so_far else logit
            for index, logit in enumerate(logits[0, place].tolist())
        ]
        expected = torch.tensor(penalized).div(0.5).log_softmax(-1)[token]
        assert actual[0, place].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_time", 1.0), ("penalty_alpha", 1.0), ("prompt_lookup_num_tokens", 1), ("assistant_early_exit", 1)],
)
def test_a_forbidden_field_is_refused_also_when_its_value_happens_to_be_one(field, value):
    with pytest.raises(UserError, match=field):
        settings(generation_kwargs={field: value})


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_in_generation_kwargs_must_be_positive_as_in_the_configuration(temperature):
    with pytest.raises(UserError, match="temperature"):
        settings(generation_kwargs={"temperature": temperature})


def test_a_pad_token_in_generation_kwargs_does_not_collide_with_ours():
    subject = settings(generation_kwargs={"pad_token_id": 0})
    assert subject.generation_config(pad_token_id=1, forced_tokens={}).max_new_tokens == 9


def test_a_ban_on_repeating_the_encoders_input_restricts_tokens():
    # `generate` sets these tokens to minus infinity, so the mask has to be recorded.
    assert settings(generation_kwargs={"encoder_no_repeat_ngram_size": 2}).restricts_tokens


@pytest.mark.parametrize("field", ["return_dict_in_generate", "token_healing"])
def test_a_field_that_changes_what_generate_returns_or_reads_is_refused(field):
    with pytest.raises(UserError, match=field):
        settings(generation_kwargs={field: True})


def test_several_completions_a_prompt_are_refused_in_evaluation_too():
    # otherwise `zip() argument 2 is longer than argument 1` in the first evaluation
    with pytest.raises(UserError, match="num_return_sequences"):
        settings(for_evaluation=True, eval_generation_kwargs={"num_return_sequences": 2})

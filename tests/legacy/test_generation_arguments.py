"""Arguments of `generate` as old scripts write them."""

from __future__ import annotations

import pytest

from support import tiny
from trl_nlpo.errors import UserError
from trl_nlpo.legacy.generation_arguments import sampling_settings


def test_the_old_values_for_off_are_off():
    arguments = {"min_length": -1, "top_k": 0.0, "top_p": 1.0, "do_sample": True, "eos_token_id": -1}
    found = sampling_settings({**arguments, "max_new_tokens": 7, "pad_token_id": 1}, tiny.policy(), 3)
    assert (found.warpers, found.stop_token_ids, found.generation_fields) == ({}, (), {})
    assert (found.max_new_tokens, found.temperature, found.do_sample) == (7, 1.0, True)
    assert sampling_settings({**arguments, "eos_token_id": 100_000}, tiny.policy(), 3).stop_token_ids == ()


def test_end_tokens_and_greed_are_the_models_where_nothing_is_said():
    policy = tiny.policy()
    assert sampling_settings({}, policy, 3).stop_token_ids == (1,)
    assert not sampling_settings({}, policy, 3).do_sample
    policy.generation_config.do_sample = True
    policy.generation_config.top_k = 5
    assert sampling_settings({}, policy, 3).do_sample
    assert sampling_settings({}, policy, 3).warpers == {}


def test_a_length_of_rows_counts_prompts_or_the_start_token():
    assert sampling_settings({}, tiny.policy(), 3).max_new_tokens == 17
    assert sampling_settings({"max_length": 8}, tiny.policy("t5"), 3).max_new_tokens == 7
    with pytest.raises(UserError, match="max_length is 8, but the longest prompt has 8 tokens already"):
        sampling_settings({"max_length": 8}, tiny.policy(), 8)


@pytest.mark.parametrize("arguments", [{"sequence_bias": {(1,): 2.0}}, {"stop_strings": "x"}, {"top_pp": 0.5}])
def test_what_an_update_could_not_account_for_is_refused(arguments):
    with pytest.raises(UserError):
        sampling_settings({"do_sample": True, **arguments}, tiny.policy(), 3)

"""Which keys change the model that reinforcement starts from."""

from __future__ import annotations

import pytest

from trl_nlpo.recipes.stages_of_keys import decide_the_start


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("supervised_learning_rate", True), ("max_train_samples", True), ("hidden_size", True), ("lora_r", True),
        ("dataset_name", True), ("seed", True), ("prompt_template", True), ("max_prompt_length", True),
        ("gamma", False), ("mask_top_p", False), ("critic_lam", False), ("learning_rate", False), ("rewards", False),
        ("max_steps", False), ("metrics", False), ("eval_generation_kwargs", False), ("disable_dropout", False),
        ("max_test_samples", False), ("temperature", False), ("response_length", False),
    ],
)  # fmt: skip
def test_keys_of_data_model_and_supervised_stage_do(key, expected):
    assert decide_the_start([key]) is expected
    assert decide_the_start(["gamma", key]) is expected


def test_no_key_decides_nothing():
    assert decide_the_start([]) is False

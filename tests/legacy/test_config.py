"""`PPOConfig` of the `.step()` loop: old names, old defaults, refusals with what to write."""

from __future__ import annotations

import dataclasses

import pytest
from transformers import HfArgumentParser

from trl_nlpo.errors import UserError
from trl_nlpo.legacy import PPOConfig


def test_the_defaults_of_what_decides_numbers_are_the_old_ones():
    expected = {
        "seed": 0, "learning_rate": 1.41e-5, "adap_kl_ctrl": True, "init_kl_coef": 0.2, "kl_penalty": "kl",
        "target": 6.0, "horizon": 10000.0, "gamma": 1.0, "lam": 0.95, "cliprange": 0.2, "cliprange_value": 0.2,
        "vf_coef": 0.1, "batch_size": 128, "mini_batch_size": 128, "gradient_accumulation_steps": 1, "ppo_epochs": 4,
        "max_grad_norm": None, "early_stopping": False, "target_kl": 1.0, "use_score_scaling": False,
        "use_score_norm": False, "score_clip": None, "whiten_rewards": False, "mask_strategy": "none",
    }  # fmt: skip
    assert {name: getattr(PPOConfig(), name) for name in expected} == expected


def test_the_sizes_that_old_scripts_read_are_filled_in():
    config = PPOConfig(batch_size=16, mini_batch_size=2, gradient_accumulation_steps=4, steps=33)
    assert (config.backward_batch_size, config.global_batch_size, config.total_ppo_epochs) == (8, 16, 3)


def test_a_command_line_is_read():
    (config,) = HfArgumentParser(PPOConfig).parse_args_into_dataclasses(
        ["--batch_size", "4", "--mini_batch_size", "2", "--project_kwargs", '{"logging_dir": "x"}']
    )
    assert config.to_dict()["project_kwargs/logging_dir"] == "x"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_penalty": "full"}, "kl_penalty is 'full', but must be 'kl' or 'k3'"),
        ({"batch_size": 10, "mini_batch_size": 4}, "batch_size is 10, but must be a multiple of"),
        ({"ratio_threshold": 10.0}, r"PPOConfig has no 'ratio_threshold': use is_truncation"),
        ({"forward_batch_size": 4}, "use mini_batch_size"),
        ({"kl_coef": 0.1}, "use init_kl_coef"),
        ({"leraning_rate": 0.1}, "did you mean 'learning_rate'"),
        ({"gamma": 2.0}, r"gamma is 2.0, but must be a number in \[0, 1\]"),
        ({"use_score_norm": True}, "has no effect without use_score_scaling"),
        ({"mask_strategy": "top_k"}, "mask_top_k is None"),
        ({"tracker_kwargs": "{"}, "tracker_kwargs is not valid JSON"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_write(settings, message):
    with pytest.raises(UserError, match=message):
        PPOConfig(**settings)


def test_every_setting_has_a_help_text():
    assert all(item.metadata.get("help") for item in dataclasses.fields(PPOConfig) if item.init)

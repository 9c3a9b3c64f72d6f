"""`NLPOConfig`: defaults, what it refuses, and settings that come as text."""

from __future__ import annotations

import dataclasses
import re

import pytest
from transformers import HfArgumentParser

from trl_nlpo import NLPOConfig, UserError
from trl_nlpo._trl import HAS_PPO, PPOConfig
from trl_nlpo.config import described_fields


def config(tmp_path, **changes):
    return NLPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **changes)


def test_the_defaults_are_the_papers_and_ppos(tmp_path):
    subject = config(tmp_path)
    assert (subject.mask_strategy, subject.mask_top_p, subject.mask_min_tokens, subject.mask_sync_steps) == (
        "top_p", 0.9, 1, 20,
    )  # fmt: skip
    assert (subject.gamma, subject.lam, subject.kl_coef, subject.cliprange, subject.cliprange_value) == (
        0.95, 0.95, 0.05, 0.2, 0.2,
    )  # fmt: skip
    assert (subject.vf_coef, subject.num_ppo_epochs, subject.num_mini_batches, subject.temperature) == (0.1, 4, 1, 0.7)
    assert (subject.kl_target, subject.entropy_coef, subject.remove_unused_columns) == (None, 0.0, False)
    assert subject.bf16 is False


def test_it_is_a_ppo_config_with_all_of_its_fields(tmp_path):
    assert isinstance(config(tmp_path), PPOConfig)
    assert {field.name for field in dataclasses.fields(PPOConfig)} <= {
        field.name for field in dataclasses.fields(NLPOConfig)
    }


def test_a_field_is_described_once_in_its_help_which_the_docstring_repeats():
    described = {item.name: item.metadata["help"] for item in described_fields(NLPOConfig)}
    inherited = {field.name for field in dataclasses.fields(PPOConfig)}
    assert {field.name for field in dataclasses.fields(NLPOConfig)} - inherited <= set(described)
    # white space may be a line break
    text = " ".join(NLPOConfig.__doc__.split())
    for name, meaning in described.items():
        assert re.search(rf" {name} \(`[^`]+`, \*optional\*[^)]*\): {re.escape(meaning.replace('%%', '%'))} ", text), (
            name
        )


def test_the_docstring_says_types_and_defaults():
    lines = NLPOConfig.__doc__.splitlines()
    assert "    mask_top_p (`float`, *optional*, defaults to `0.9`):" in lines
    assert '    mask_strategy (`Literal["top_p", "top_k", "none"]`, *optional*, defaults to `"top_p"`):' in lines
    assert "    mask_top_k (`int`, *optional*):" in lines
    assert max(map(len, lines)) < 120


def test_where_trl_has_no_ppo_any_more_our_ppo_config_has_its_fields():
    # As `trl.experimental.ppo.PPOConfig` of TRL 1.0.0 and 1.12.0 defines them.
    theirs = {
        "dataset_num_proc", "num_mini_batches", "total_episodes", "local_rollout_forward_batch_size",
        "num_sample_generations", "response_length", "stop_token", "stop_token_id", "temperature",
        "missing_eos_penalty", "sft_model_path", "world_size", "num_total_batches", "micro_batch_size",
        "local_batch_size", "batch_size", "local_mini_batch_size", "mini_batch_size", "reward_model_path",
        "model_adapter_name", "ref_adapter_name", "num_ppo_epochs", "whiten_rewards", "kl_coef", "kl_estimator",
        "cliprange", "vf_coef", "cliprange_value", "gamma", "lam", "ds3_gather_for_generation",
    }  # fmt: skip
    assert theirs <= {field.name for field in dataclasses.fields(PPOConfig)}
    assert PPOConfig.__module__.startswith("trl.") == HAS_PPO


BAD = [
    ("mask_top_p", 0.0), ("mask_top_p", 1.01), ("mask_top_p", float("nan")), ("mask_strategy", "top-p"),
    ("mask_min_tokens", 0), ("mask_sync_steps", 0), ("gamma", 1.5), ("gamma", -0.1), ("lam", 1.1), ("lam", -0.1),
    ("temperature", 0.0), ("temperature", -1.0), ("response_length", 0), ("num_ppo_epochs", 0),
    ("num_mini_batches", 0), ("kl_target", 0.0), ("kl_horizon", 0), ("kl_estimator", "k2"), ("stop_token", "EOS"),
    ("max_steps", 0), ("max_steps", -2), ("num_train_epochs", 0), ("total_episodes", 0),
    ("gradient_accumulation_steps", 0), ("prompt_truncation_side", "middle"), ("max_prompt_length", 0),
    ("critic_lam", 1.1), ("critic_lam", -0.1), ("cliprange_high", -0.1), ("dual_clip", 1.0),
    ("dual_clip", float("inf")), ("is_truncation", [0.2]), ("is_truncation", [1.5, 4.0]),
    ("is_truncation", [0.2, 0.9]),
    ("generation_kwargs", "{top_k: 5}"),
    ("generation_kwargs", "[1]"), ("eval_generation_kwargs", "3"), ("chat_template_kwargs", "null!"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name}={value}" for name, value in BAD])
def test_a_bad_value_is_one_line_that_names_the_setting(tmp_path, name, value):
    with pytest.raises(UserError) as caught:
        config(tmp_path, **{name: value})
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"mask_top_p": 1.0}, {"gamma": 0.0}, {"lam": 1.0}, {"mask_sync_steps": None}, {"mask_sync_steps": 1},
        {"mask_strategy": "top_k", "mask_top_k": 1}, {"stop_token": "eos"}, {"stop_token_id": 0}, {"kl_target": 1e-3},
        {"generation_kwargs": {}}, {"max_prompt_length": 1}, {"critic_lam": 1.0}, {"is_truncation": [0.0, 1.1]},
        {"cliprange_high": float("inf")}, {"dual_clip": 1.01},
    ],
    ids=str,
)  # fmt: skip
def test_values_on_the_border_are_fine(tmp_path, changes):
    subject = config(tmp_path, **changes)
    assert {name: getattr(subject, name) for name in changes} == changes


@pytest.mark.parametrize("top_k", [None, 0, -1])
def test_top_k_masks_need_a_k(tmp_path, top_k):
    with pytest.raises(UserError, match=r"mask_top_k is .*, but must be a positive integer"):
        config(tmp_path, mask_strategy="top_k", mask_top_k=top_k)


@pytest.mark.parametrize("token_id", [0, 7])
def test_two_ways_to_stop_are_one_too_many(tmp_path, token_id):
    with pytest.raises(UserError, match="unset when stop_token_id is set"):
        config(tmp_path, stop_token="eos", stop_token_id=token_id)


@pytest.mark.parametrize("name", ["generation_kwargs", "eval_generation_kwargs", "chat_template_kwargs"])
def test_dictionaries_may_be_json(tmp_path, name):
    assert getattr(config(tmp_path, **{name: '{"top_k": 50, "x": [1]}'}), name) == {"top_k": 50, "x": [1]}


def test_the_best_model_is_the_one_with_the_largest_reward_unless_said_otherwise(tmp_path):
    saved = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    subject = config(tmp_path, **saved)
    assert (subject.metric_for_best_model, subject.greater_is_better) == ("reward", True)
    other = config(tmp_path, **saved, metric_for_best_model="perplexity", greater_is_better=False)
    assert (other.metric_for_best_model, other.greater_is_better) == ("perplexity", False)
    assert config(tmp_path).metric_for_best_model is None


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "greedy"])
def test_a_scheduler_that_follows_evaluations_lowers_the_rate_when_what_is_better_stops(tmp_path, name):
    follows = {"eval_strategy": "steps", "lr_scheduler_type": name}
    subject = config(tmp_path, **follows)
    assert (subject.metric_for_best_model, subject.lr_scheduler_kwargs) == ("reward", {"mode": "max"})
    lower = config(tmp_path, **follows, metric_for_best_model="perplexity", greater_is_better=False)
    assert lower.lr_scheduler_kwargs == {"mode": "min"}
    own = config(tmp_path, **follows, lr_scheduler_kwargs={"mode": "min", "patience": 3})
    assert own.lr_scheduler_kwargs == {"mode": "min", "patience": 3}
    assert "mode" not in (config(tmp_path).lr_scheduler_kwargs or {})


def test_every_setting_can_be_given_on_a_command_line(tmp_path):
    words = [
        "--output_dir", str(tmp_path), "--use_cpu", "true", "--mask_strategy", "top_k", "--mask_top_k", "7",
        "--generation_kwargs", '{"min_new_tokens": 2}', "--reward_weights", "0.5", "2", "--mask_sync_steps", "3",
    ]  # fmt: skip
    (subject,) = HfArgumentParser(NLPOConfig).parse_args_into_dataclasses(words)
    assert (subject.mask_top_k, subject.mask_sync_steps, subject.reward_weights) == (7, 3, [0.5, 2.0])
    assert subject.generation_kwargs == {"min_new_tokens": 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("local_rollout_forward_batch_size", 0),  # otherwise `range() arg 3 must not be zero` in the first rollout
        ("cliprange", -0.1),
        ("cliprange_value", -0.1),
        ("per_device_eval_batch_size", 0),
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_training(tmp_path, name, value):
    with pytest.raises(UserError, match=name):
        config(tmp_path, **{name: value})


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["learning_rate", "kl_coef", "temperature", "vf_coef", "weight_decay"])
def test_a_setting_that_is_no_finite_number_is_refused(tmp_path, name, value):
    with pytest.raises(UserError, match=f"{name} is {value}, but must be"):
        NLPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **{name: value})


def test_infinity_is_no_limit_where_there_may_be_one(tmp_path):
    args = NLPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", cliprange_value=float("inf"))
    assert args.cliprange_value == float("inf")

"""Settings of `TrainingArguments` and `PPOConfig`: each works, or it is said that it does not."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
from transformers import TrainingArguments

from trl_nlpo import NLPOConfig, UserError
from trl_nlpo._trl import PPOConfig
from trl_nlpo.config.inherited_settings import ALWAYS_SO, FOR_SCRIPTS, REFUSED, WITHOUT_EFFECT, WORKING
from trl_nlpo.trainer.setup import as_nlpo_config


INSTALLED = {field.name for cls in (TrainingArguments, PPOConfig) for field in dataclasses.fields(cls)}
OTHER_VALUES = {
    "train_sampling_strategy": "sequential", "group_by_length": True, "torch_compile_backend": "inductor",
    "torch_compile_mode": "default", "liger_kernel_config": {"rope": True}, "optim_target_modules": ["attn"],
    "parallelism_config": {"tp_size": 2}, "debug": "underflow_overflow", "neftune_noise_alpha": 5.0,
    "label_smoothing_factor": 0.1, "mp_parameters": "x", "torchdynamo": "eager", "dataloader_prefetch_factor": 2,
    "dataloader_multiprocessing_context": "spawn", "length_column_name": "n", "include_for_metrics": ["inputs"],
    "label_names": ["labels"], "past_index": 0, "include_num_input_tokens_seen": "all", "ray_scope": "all",
    "ds3_gather_for_generation": False, "eval_do_concat_batches": False, "skip_memory_metrics": False,
    "dataloader_num_workers": 2, "eval_accumulation_steps": 2, "torch_empty_cache_steps": 2, "dataset_num_proc": 2,
}  # fmt: skip


def config(tmp_path, **changes):
    return NLPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **changes)


def test_every_setting_of_the_installed_version_is_in_the_table_once():
    kinds = [WORKING, ALWAYS_SO, FOR_SCRIPTS, set(REFUSED), set(WITHOUT_EFFECT)]
    known = [name for kind in kinds for name in kind]
    assert sorted(INSTALLED - set(known)) == []
    assert len(known) == len(set(known))


@pytest.mark.parametrize("name", sorted(INSTALLED & set(REFUSED)))
def test_what_this_trainer_does_not_do_is_refused_in_a_line_that_says_what_to_do(tmp_path, name):
    with pytest.raises(UserError, match=f"^{name} is .*, but ") as caught:
        config(tmp_path, **{name: OTHER_VALUES.get(name, True)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(INSTALLED & set(WITHOUT_EFFECT)))
def test_what_has_nothing_to_act_on_is_said_to_have_no_effect(tmp_path, name):
    changes = {name: OTHER_VALUES.get(name, True)}
    if name == "dataloader_prefetch_factor":
        changes["dataloader_num_workers"] = 1  # transformers asks for it
    with pytest.warns(UserWarning, match="which has no effect: ") as said:
        config(tmp_path, **changes)
    assert [line for line in map(str, (warning.message for warning in said)) if line.startswith(f"{name} is ")]


def test_defaults_are_silent_in_every_way_of_writing_them(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        config(tmp_path)
        config(tmp_path, include_num_input_tokens_seen=False, debug="", label_smoothing_factor=0, batch_size=None)
        dataclasses.replace(config(tmp_path), seed=3)


def test_a_ppo_config_of_trl_is_taken_with_its_own_defaults(tmp_path):
    ppo = PPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", bf16=False)
    assert as_nlpo_config(ppo).remove_unused_columns is False
    ppo = PPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", bf16=False, label_smoothing_factor=0.1)
    with pytest.raises(UserError, match="label_smoothing_factor"):
        as_nlpo_config(ppo)

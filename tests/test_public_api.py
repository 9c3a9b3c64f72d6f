"""What the package promises by name."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import trl_nlpo
from support import tiny
from trl_nlpo import NLPOConfig, NLPOTrainer


def test_the_package_exports_exactly_this():
    assert trl_nlpo.__all__ == ["NLPOConfig", "NLPOTrainer", "UserError", "__version__"]
    assert all(hasattr(trl_nlpo, name) for name in trl_nlpo.__all__)
    assert trl_nlpo.trainer.NLPOTrainer is trl_nlpo.NLPOTrainer


@pytest.mark.parametrize("module", ["functional", "metrics", "rewards", "tasks", "trainer", "errors"])
def test_documented_modules_keep_their_place(module):
    importlib.import_module(f"trl_nlpo.{module}")


def test_every_public_attribute_of_a_trainer_is_there(tmp_path):
    subject = NLPOTrainer(
        args=NLPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", per_device_train_batch_size=4),
        processing_class=tiny.tokenizer(),
        model=tiny.policy(),
        reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(),
    )
    promised = (
        "eval_prompts", "gathered_weights", "generate_completions", "is_peft_model", "kl_coef", "mask_settings",
        "masking_policy", "model_adapter_name", "null_ref_context", "num_updates_done", "objective", "plan",
        "policy_and_value", "policy_model", "prompts", "ref_adapter_name", "ref_model", "reference",
        "resumes_by_force", "reward_functions", "reward_weights", "run", "sampling", "save_checkpoint",
        "trained_adapter", "value_model",
    )  # fmt: skip
    assert not [name for name in promised if not hasattr(subject, name)]


def test_importing_the_package_is_cheap():
    code = "import sys, trl_nlpo; assert not {'torch', 'transformers', 'trl'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_constructor_takes_trls_arguments_in_trls_order():
    parameters = list(inspect.signature(NLPOTrainer.__init__).parameters)[1:]
    assert parameters[:12] == [
        "args", "processing_class", "model", "ref_model", "reward_model", "train_dataset", "value_model",
        "data_collator", "eval_dataset", "optimizers", "callbacks", "peft_config",
    ]  # fmt: skip


def test_every_setting_has_a_help_text():
    own = [name for name in NLPOConfig.__annotations__ if name in NLPOConfig.__dataclass_fields__]
    assert len(own) >= 20
    assert all(NLPOConfig.__dataclass_fields__[name].metadata["help"] for name in own)


def test_every_setting_is_in_the_docstring():
    documented = inspect.getdoc(NLPOConfig)
    own = [name for name in NLPOConfig.__annotations__ if name in NLPOConfig.__dataclass_fields__]
    assert not [name for name in own if f"{name} (`" not in documented and f"`{name}`" not in documented]


def test_the_rooms_are_open():
    rooms = (
        "collect_rollout", "score_rollout", "estimate_advantages", "update_policy", "adapt_kl_coef",
        "sync_masking_policy",
    )  # fmt: skip
    assert all(inspect.getdoc(getattr(NLPOTrainer, name)) for name in rooms)

"""What the package promises by name."""

from __future__ import annotations

import inspect
import subprocess
import sys

import trl_nlpo
from trl_nlpo import NLPOConfig, NLPOTrainer


def test_all_names_what_there_is():
    assert all(hasattr(trl_nlpo, name) for name in trl_nlpo.__all__)


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

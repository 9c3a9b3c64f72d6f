"""The tables for people who come from another trainer name what is there, on both sides."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import transformers
import trl

from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo._trl import PPOConfig as TrlPPOConfig
from trl_nlpo.config.names_elsewhere import ARGUMENTS, SETTINGS
from trl_nlpo.errors import UserError
from trl_nlpo.legacy import PPOConfig as StepConfig
from trl_nlpo.legacy import PPOTrainer as StepTrainer
from trl_nlpo.legacy.config import WITHOUT_COUNTERPART


ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")


def names_in(cell):
    return re.findall(r"`(\w+)`", cell)


def table(header):
    """Names in the first column -> the second column of the table with this header."""
    rows = re.search(rf"^\| {re.escape(header)} \| here \|\n\|---\|---\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)[1]
    cells = [line.strip("|").split(" | ") for line in rows.splitlines()]
    return {name: there for here, there in cells for name in names_in(here)}


def own_fields(config):
    inherited = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    return {field.name for field in dataclasses.fields(config)} - inherited


def parameters(function):
    return set(inspect.signature(function).parameters) - {"self"}


OURS = {field.name for field in dataclasses.fields(NLPOConfig)}


def test_every_argument_and_setting_of_trls_ppo_is_in_its_table_and_here():
    settings = table("setting")
    assert set(settings) <= OURS
    assert own_fields(TrlPPOConfig) <= set(settings)
    first = re.search(r"^\| argument \| here \|\n\|---\|---\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)[1]
    arguments = [name for line in first.splitlines() for name in names_in(line.strip("|").split(" | ")[0])]
    assert set(arguments) == parameters(NLPOTrainer.__init__) - {"reward_funcs", "reward_processing_classes"}


@pytest.mark.skipif(not hasattr(trl.GRPOConfig, "use_adaptive_entropy"), reason="the table is of TRL 1.16")
def test_every_setting_of_grpo_is_in_its_table_or_refused():
    settings = table("of `GRPOConfig`")
    assert set(settings) <= own_fields(trl.GRPOConfig)
    same = {name for name in own_fields(trl.GRPOConfig) if name in OURS}
    assert same <= set(settings)
    for name in same:
        assert "the same" in settings[name], name
    # What has another name says the same as the error that names it.
    for name in set(settings) & set(SETTINGS):
        assert name not in OURS
    for name, there in settings.items():
        if there != "the same":
            assert set(names_in(there)) <= OURS, name


def test_what_the_tables_call_refused_is_refused():
    for name in set(table("of `GRPOConfig`")) - OURS:
        with pytest.raises(UserError, match=f"NLPOConfig has no '{name}'"):
            NLPOConfig(output_dir="unused", **{name: 1})
    arguments = table("of `GRPOTrainer`")
    assert set(arguments) == parameters(trl.GRPOTrainer.__init__)
    for name, there in arguments.items():
        assert (name in parameters(NLPOTrainer.__init__)) == there.startswith("the same"), name
        if there.startswith("refused"):
            assert name in ARGUMENTS


def test_the_old_loops_settings_are_all_there_or_refused_with_a_remedy():
    settings = table("setting of its `PPOConfig`")
    fields = {field.name for field in dataclasses.fields(StepConfig)}
    # As many as the class of TRL 0.11 has.
    assert len(settings) == 49
    for name, there in settings.items():
        assert (name in fields) != (there.startswith("refused") and name in WITHOUT_COUNTERPART), name


def test_the_old_loops_trainer_has_what_its_tables_say():
    members = table("method or attribute")
    tree = ast.parse((ROOT / "trl_nlpo" / "legacy" / "ppo_trainer.py").read_text(encoding="utf-8"))
    attributes = {
        node.attr for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }  # fmt: skip
    for name, there in members.items():
        assert (hasattr(StepTrainer, name) or name in attributes) == there.startswith("the same"), name
    last = TEXT.split("What there was of the trainer:")[1]
    rows = re.search(r"((?:^\| `.*\n)+)", last, re.MULTILINE)[1].splitlines()
    named = {name for row in rows for name in names_in(row.strip("|").split(" | ")[0])}
    assert named == parameters(StepTrainer.__init__)

"""Pushes from a script, to a Hub on this machine: what arrives, and what is said when it does not take them."""

from __future__ import annotations

import json
import logging
import os
import re

import huggingface_hub.constants
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from support import tiny
from support.loopback_hub import TOKEN
from support.trainers import DEFAULTS
from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.errors import NotPushedError, UserError
from trl_nlpo.storage.checkpoint_folder import damage


@pytest.fixture
def hub(loopback_hub, monkeypatch):
    """Nobody waits between two attempts."""
    monkeypatch.setattr("huggingface_hub.utils._http._DEFAULT_RETRY_ON_EXCEPTIONS", (), raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return loopback_hub


def trainer(folder, model=None, lora=None, name="out", **arguments):
    keys = {**DEFAULTS, "total_episodes": 8, "push_to_hub": True, "hub_model_id": "me/words", "hub_token": TOKEN}
    return NLPOTrainer(
        args=NLPOConfig(output_dir=str(folder / name), **{**keys, **arguments}),
        processing_class=tiny.tokenizer(),
        model=tiny.policy() if model is None else model,
        reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(),
        peft_config=lora,
    )


def test_saving_pushes_the_model_and_a_second_push_is_a_second_commit(hub, tmp_path):
    subject = trainer(tmp_path)
    subject.train()
    subject.save_model()
    assert [message for _, message in hub.repositories["me/words"].commits] == ["Model save"]
    commit = subject.push_to_hub("again", dataset_name="me/rows")
    assert commit.oid
    assert [message for _, message in hub.repositories["me/words"].commits] == ["Model save", "again"]
    files = hub.files("me/words")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "training_args.bin"} <= set(files)
    assert files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert not (tmp_path / "out" / "_upload").exists()
    assert "[me/rows](https://huggingface.co/datasets/me/rows)" in files["README.md"].decode()


def test_a_model_saved_elsewhere_is_pushed_too(hub, tmp_path):
    subject = trainer(tmp_path)
    subject.save_model(str(tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / "model.safetensors").is_file()
    assert "model.safetensors" in hub.files("me/words")


@pytest.mark.parametrize(
    ("strategy", "under"),
    [("every_save", None), ("checkpoint", "last-checkpoint"), ("all_checkpoints", "checkpoint-2")],
)
def test_saves_are_pushed_beside_the_training(hub, tmp_path, strategy, under):
    lora = LoraConfig(r=2, target_modules=["c_attn"])
    subject = trainer(
        tmp_path, lora=lora, hub_strategy=strategy, hub_always_push=True, save_strategy="steps", save_steps=1,
        save_total_limit=1, total_episodes=16,
    )  # fmt: skip
    subject.train()
    files = hub.files("me/words")
    saved = (tmp_path / "out" / "checkpoint-2" / "adapter_model.safetensors").read_bytes()
    assert files["adapter_model.safetensors"] == saved
    assert "optimizer.pt" not in files
    assert "README.md" in files
    if under is not None:
        complete = tmp_path / "resumed" / "checkpoint-2"
        for path, content in files.items():
            if path.startswith(f"{under}/"):
                target = complete / path.removeprefix(f"{under}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        assert damage(complete) is None
        again = trainer(tmp_path, lora=lora, push_to_hub=False, total_episodes=24)
        again.train(resume_from_checkpoint=str(complete))
        assert again.state.global_step == 3


def test_at_the_end_only_means_no_push_at_saves(hub, tmp_path):
    trainer(tmp_path, hub_strategy="end", save_strategy="steps", save_steps=1).train()
    assert hub.repositories["me/words"].commits == []


def test_a_branch_is_made_and_private_is_private(hub, tmp_path):
    subject = trainer(tmp_path, hub_revision="draft", hub_private_repo=True)
    subject.push_to_hub()
    assert hub.repositories["me/words"].private
    assert hub.files("me/words") == {}
    assert "model.safetensors" in hub.files("me/words", "draft")
    assert 'from_pretrained("me/words", revision="draft")' in hub.files("me/words", "draft")["README.md"].decode()


def test_an_adapter_with_a_name_of_its_own_is_loaded_as_its_card_says(hub, tmp_path):
    folder = tiny.saved(tiny.policy(), tiny.tokenizer(), tmp_path / "base")
    from peft import get_peft_model

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=2, target_modules=["c_attn"]), adapter_name="mine"
    )
    subject = trainer(
        tmp_path, model=model, model_adapter_name="mine", learning_rate=1e-2, push_to_hub=False, hub_model_id=None
    )
    subject.train()
    subject.save_model()
    code = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("prompt =")[0]
    scope: dict = {}
    exec(code, scope)
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        torch.testing.assert_close(scope["model"](ids).logits, subject.policy_model(ids).logits)


REFUSALS = [(401, "hf auth login"), (403, "write access"), (429, "no more requests"), (500, "error of its own"),
            (503, "error of its own"), (0, "Error")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("status", "words"), REFUSALS)
@pytest.mark.parametrize("call", ["repos/create", "preupload", "objects/batch", "commit/main"])
def test_a_hub_that_refuses_is_one_line_and_the_model_is_whole(hub, tmp_path, caplog, call, status, words):
    subject = trainer(tmp_path)
    subject.train()
    hub.refusals = [(call, status)]
    if call == "repos/create":
        # As if it had refused from the start.
        subject.hub.repo_id = None
        hub.repositories.clear()
    with pytest.raises(NotPushedError, match=words) as caught:
        subject.save_model()
    line = str(caught.value)
    assert "\n" not in line
    assert TOKEN not in line
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out") is not None
    # By hand, what the line says is enough.
    folder = re.search(r"hf upload me/words (\S+) \.$", line)[1]
    assert {"README.md", "config.json", "model.safetensors"} <= set(os.listdir(folder))
    hub.refusals = []
    subject.push_to_hub()
    assert "model.safetensors" in hub.files("me/words")


def test_a_hub_that_refuses_at_the_start_or_at_a_save_stops_no_run(hub, tmp_path, caplog):
    hub.refusals = [("POST", 503)]
    with caplog.at_level(logging.WARNING):
        subject = trainer(tmp_path, save_strategy="steps", save_steps=1)
        assert "The Hub cannot take the model for now: it has an error of its own (503)." in caplog.text
        subject.train()
    assert "checkpoint-1 was not pushed to the Hub: it has an error of its own (503)." in caplog.text
    hub.refusals = [("commit", 403)]
    with caplog.at_level(logging.WARNING):
        subject.train()
    assert "A push of me/words failed: the token may not write there (403)" in caplog.text
    hub.refusals = []
    subject.push_to_hub()
    assert "model.safetensors" in hub.files("me/words")


def test_no_hub_at_all_is_one_line_too(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    subject = trainer(tmp_path)
    with pytest.raises(NotPushedError, match="HF_HUB_OFFLINE is set"):
        subject.push_to_hub()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NotPushedError, match=r"ConnectError|ConnectionError"):
        trainer(tmp_path).push_to_hub()


@pytest.mark.parametrize("name", ["me/not a name", "a/b/c", "-dash", "me/x.git", "x" * 97])
def test_a_name_that_cannot_be_one_is_refused_before_anything_else(tmp_path, name):
    with pytest.raises(UserError, match=r"hub_model_id is .* cannot be called so: write owner/name"):
        trainer(tmp_path, hub_model_id=name)


def test_a_folder_whose_name_cannot_be_a_repositorys_is_refused(tmp_path):
    with pytest.raises(UserError, match="without hub_model_id, the name of output_dir is taken"):
        trainer(tmp_path / "my run", name="", hub_model_id=None)


def test_a_base_in_a_folder_of_this_machine_is_said_and_can_be_pushed(hub, tmp_path, caplog):
    folder = tiny.saved(tiny.policy(), tiny.tokenizer(), tmp_path / "base")
    subject = trainer(
        tmp_path, AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=2, target_modules=["c_attn"])
    )
    with caplog.at_level(logging.WARNING):
        subject.push_to_hub()
    assert "elsewhere it cannot be loaded" in caplog.text
    subject.hub.base = tmp_path / "base"
    subject.push_to_hub()
    config = json.loads(hub.files("me/words")["adapter_config.json"])
    assert config["base_model_name_or_path"] == "me/words-base"
    assert config["revision"] in hub.repositories["me/words-base"].snapshots
    assert {"README.md", "config.json"} <= set(hub.repositories["me/words-base"].snapshots[config["revision"]])
    # The run's own stays as it was.
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == folder

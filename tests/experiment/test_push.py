"""Runs that are finished are pushed by a command of its own, to a Hub on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.loopback_hub import TOKEN, LoopbackHub
from support.small_runs import TINY


RUN_AND_PUSH = "import sys, time; time.sleep = lambda s: print('slept', s); from trl_nlpo.cli import main; main()"


def push(hub, home, folder, *words, token=TOKEN):
    """`trl-nlpo push` in a fresh process that does not really wait."""
    return subprocess.run(
        [sys.executable, "-c", RUN_AND_PUSH, "push", str(folder), *words],
        cwd=home, env=hub.environment(home / "home", token=token), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An adapter's run after a supervised stage, made by the command line, with no Hub in sight."""
    folder = tmp_path_factory.mktemp("finished")
    lora = {"use_peft": True, "lora_r": 2, "lora_alpha": 4, "lora_target_modules": "all-linear"}
    keys = {**TINY, **lora, "env": {"JUDGE_PASSWD": "Zmark7-env-Zq"}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(keys))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "trl_nlpo", "run", "tiny.yaml"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    return folder / "runs" / "tiny"


@pytest.mark.slow
def test_a_finished_run_is_pushed_with_all_that_belongs_to_it(finished, tmp_path):
    # Moved since, as to another machine: the base that the adapter names is not there any more.
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    config = json.loads((moved / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/somewhere/else/supervised"
    (moved / "adapter_config.json").write_text(json.dumps(config))
    with LoopbackHub() as hub:
        done = push(hub, tmp_path, moved, "--hub_model_id", "me/pushed", "--private")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"The run is at {hub.endpoint}/me/pushed"
        files = hub.files("me/pushed")
        assert {"adapter_model.safetensors", "README.md", "recipe.yaml", "results.json", "learning_curve.png"} <= {
            *files
        }
        assert "value_model/value_model.safetensors" in files
        assert not [path for path in files if path.startswith(("supervised", "_", "checkpoint"))]
        assert hub.repositories["me/pushed"].private
        assert hub.repositories["me/pushed-base"].private
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/pushed-base"
        card = files["README.md"].decode()
        assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "me/pushed-base"
        assert str(finished) not in card
        assert str(tmp_path) not in card
        assert not re.search(rb"Zmark7|" + TOKEN.encode(), hub.everything())
        code = re.search(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)[1]
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=tmp_path, env=hub.environment(tmp_path / "other"), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.slow
def test_a_hub_with_errors_of_its_own_is_waited_for(finished, tmp_path):
    with LoopbackHub() as hub:
        hub.refusals = [("commit/main", 503)]
        hub.passing_refusals = 2
        done = push(hub, tmp_path, finished, "--hub_model_id", "me/pushed")
        assert done.returncode == 0, done.stderr
        assert "adapter_model.safetensors" in hub.files("me/pushed")
        assert "error of its own (503). Trying again in 1 s." in done.stderr


@pytest.mark.slow
def test_a_hub_that_stays_broken_is_a_line_with_what_to_run(finished, tmp_path):
    with LoopbackHub() as hub:
        hub.refusals = [("repos/create", 500)]
        done = push(hub, tmp_path, finished, "--hub_model_id", "me/pushed")
        assert done.returncode == 3
        last = done.stderr.splitlines()[-1]
        assert "error of its own (500)" in last
        assert last.endswith(f"run: trl-nlpo push {finished} --hub_model_id me/pushed")
        assert "slept 16.0" in done.stdout
        hub.refusals = [("commit/main", 403)]
        done = push(hub, tmp_path, finished, "--hub_model_id", "me/pushed")
        assert done.returncode == 3
        assert "slept" not in done.stdout
        assert "&& hf upload me/pushed " in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_what_cannot_be_pushed_is_a_line(finished, tmp_path):
    def unmade(name, *files):
        folder = tmp_path / name
        folder.mkdir()
        for file in files:
            shutil.copy(finished / file, folder)
        return folder

    wanted = ("--hub_model_id", "me/pushed")
    lost = unmade("lost", "recipe.yaml", "results.json", "_card.json", "adapter_config.json")
    config = json.loads((lost / "adapter_config.json").read_text())
    (lost / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/gone/base"}))
    cases = [
        (tmp_path / "nowhere", wanted, TOKEN, "is not there"),
        (unmade("empty"), wanted, TOKEN, "is no run"),
        (unmade("unfinished", "recipe.yaml", "results.json"), wanted, TOKEN, "has no reinforced model (none yet)"),
        (unmade("old", "recipe.yaml", "results.json", "adapter_config.json"), wanted, TOKEN, "has no _card.json"),
        (lost, wanted, TOKEN, "names /gone/base as its base model, which is not there"),
        (finished, (), TOKEN, "--hub_model_id is missing"),
        (finished, ("--hub_model_id", "a/b/c"), TOKEN, "cannot be called so: write owner/name"),
        (finished, wanted, None, "there is no token"),
    ]
    with LoopbackHub() as hub:
        for folder, words, token, says in cases:
            done = push(hub, tmp_path, folder, *words, token=token)
            assert (done.returncode, says in done.stderr) == (2, True), (says, done.stderr)
            assert len(done.stderr.splitlines()) == 1
        assert hub.repositories == {}

"""Secrets in every place that can carry one, and a look into every file, upload and line for them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from support.loopback_hub import TOKEN, LoopbackHub
from support.small_runs import TINY


MARKS = {
    place: f"Zmark7-{place}-Zq" for place in ("key", "pat", "proxy", "passwd", "option", "nested", "wandb", "changed")
}

REWARDS = """
import os


def judged(completions, api_key=None, headers=None, **kwargs):
    assert api_key.startswith("Zmark7") and headers["Authorization"]
    print("judging with", api_key, os.environ["DB_PASSWD"])
    return [float(len(completion)) for completion in completions]


def failing(completions, api_key=None, **kwargs):
    raise ConnectionError(f"401 for https://me:{os.environ['DB_PASSWD']}@judge/v1?api_key={api_key}")


def broken(completions, trainer_state=None, api_key=None, **kwargs):
    if trainer_state is not None:
        raise SystemError(f"no answer for {api_key}")
    return [1.0 for _ in completions]
"""


def recipe(folder, name, function="judged", **keys):
    options = {"api_key": MARKS["key"], "headers": {"Authorization": f"Bearer {MARKS['nested']}"}}
    content = {
        **TINY, "algorithm": "nlpo", "max_steps": 1, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 1,
        "hidden_size": 16, "rewards": [{"name": f"my_rewards.{function}", **options}],
        "env": {"SERVICE_PAT": MARKS["pat"], "HTTP_PROXY_OF_JUDGE": f"http://me:{MARKS['proxy']}@proxy:80"},
        "run_name": f"run of https://me:{MARKS['option']}@tracker", "log_completions": True, **keys,
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path.name


def leaks(text: bytes) -> list[str]:
    return [mark for mark in (*MARKS.values(), TOKEN) if mark.encode() in text]


@pytest.fixture
def command(tmp_path):
    with LoopbackHub() as hub:
        environment = hub.environment(tmp_path / "home", token=None)
        environment |= {"DB_PASSWD": MARKS["passwd"], "WANDB_API_KEY": MARKS["wandb"], "COLUMNS": "200"}
        (tmp_path / "my_rewards.py").write_text(REWARDS)

        def call(*words):
            done = subprocess.run(
                [sys.executable, "-m", "trl_nlpo", *words],
                cwd=tmp_path, env=environment, capture_output=True, timeout=300,
            )  # fmt: skip
            said = done.stdout + done.stderr
            assert not leaks(said), said.decode()[-3000:]
            return done.returncode, said.decode()

        call.hub = hub
        yield call
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        given = [path for path in files if path.parent == tmp_path or tmp_path / "home" in path.parents]
        written = set(files) - set(given)
        assert written
        assert not {str(path): found for path in written if (found := leaks(path.read_bytes()))}
        assert not leaks(hub.everything())


@pytest.mark.slow
def test_a_run_that_is_pushed_and_resumed_writes_and_prints_no_secret(command, tmp_path):
    push = ("--push_to_hub", "true", "--hub_model_id", "me/x", "--hub_token", TOKEN, "--hub_strategy", "checkpoint")
    name = recipe(tmp_path, "judged")
    code, said = command("run", name, "--dry-run", *push)
    assert code == 0
    assert "my_rewards.judged" in said
    code, said = command("run", name, *push)
    assert code == 0, said
    assert "last-checkpoint/training_args.bin" in command.hub.files("me/x")
    assert "judging with <hidden> <hidden>" in said

    # Refusals: a run that is resumed with another recipe, and a mistake in what is secret.
    again = recipe(tmp_path, "judged", hidden_size=16, learning_rate=0.5)
    code, said = command("run", again, "--resume", *push)
    assert (code, "learning_rate: 3" in said) == (2, True)
    assert "api_key" not in said
    changed = yaml.safe_load((tmp_path / again).read_text()) | {"learning_rate": 3e-6, "env": f"MY_PAT={MARKS['pat']}"}
    (tmp_path / again).write_text(yaml.safe_dump(changed))
    assert command("run", again, *push)[0] == 2
    assert command("run", name, "--hub_token", TOKEN, MARKS["changed"])[0] == 2


@pytest.mark.slow
def test_rewards_that_fail_with_a_secret_in_their_message_do_not_tell_it(command, tmp_path):
    code, said = command("run", recipe(tmp_path, "fails", "failing"))
    assert code == 2
    assert "raised ConnectionError: 401 for https://me:<hidden>@judge/v1?api_key=<hidden>" in said


@pytest.mark.slow
def test_a_grid_writes_and_prints_no_secret(command, tmp_path):
    for name, function in (("good", "judged"), ("bad", "broken")):
        recipe(tmp_path, name, function)
    words = ("grue", "--tasks", "good.yaml,bad.yaml", "--algorithms", "nlpo", "--seeds", "1", "--out", "grid")
    code, said = command(*words, "--hub_token", TOKEN)
    assert code == 2, said
    assert "--hub_token '<hidden>'" in (tmp_path / "grid" / "leaderboard.md").read_text()
    # Another token is the same grid.
    code, said = command(*words, "--hub_token", f"{TOKEN}2")
    assert "done before" in said
    assert command("grue", "--tasks", "good.yaml", "--algorithms", f"nlpo[hub_token={TOKEN}]")[0] == 2


@pytest.mark.slow
def test_a_run_that_the_hub_does_not_take_is_finished_and_ends_with_3(command, tmp_path):
    command.hub.refusals = [("commit", 403)]
    push = ("--push_to_hub", "--hub_model_id", "me/x", "--hub_token", TOKEN)
    code, said = command("run", recipe(tmp_path, "judged"), *push)
    assert code == 3
    last = said.strip().splitlines()[-1]
    assert last.startswith("trl-nlpo: The model was not pushed to the Hub: the token may not write there (403)")
    assert last.endswith(f"hf upload me/x {tmp_path}/runs/judged/_upload/0 .")
    assert "held-out prompts" in said
    assert "AutoModelForCausalLM.from_pretrained(" in said
    assert "Traceback" not in said
    assert (tmp_path / "runs" / "judged" / "model.safetensors").is_file()
    # Resumed, it has nothing to do but to push.
    command.hub.refusals = []
    code, said = command("run", "judged.yaml", *push, "--resume")
    assert code == 0
    assert "model.safetensors" in command.hub.files("me/x")
    assert command("run", "judged.yaml", "--push_to_hub", "--hub_model_id", "a/b/c", "--dry-run")[0] == 2

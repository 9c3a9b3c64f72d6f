"""The demo of a run, served by the command line in a process of its own and asked through Gradio's client."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from support.small_runs import TINY


ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {
    **os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}  # fmt: skip

pytest.importorskip("gradio")
client = pytest.importorskip("gradio_client")


def command(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "trl_nlpo", *map(str, words)],
        cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def make_run(folder, **keys):
    rewards = ["grammatical", {"name": "rougeL", "weight": 2}]
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "rewards": rewards, **keys}))
    ran = command("run", "tiny.yaml", cwd=folder)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return folder / "runs" / "tiny"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is evaluated greedily, so that the same prompt has the same completion again."""
    return make_run(
        tmp_path_factory.mktemp("run"), eval_generation_kwargs={"do_sample": False}, prompt_template="Well: {prompt}",
        learning_rate=1e-2,
    )  # fmt: skip


@contextlib.contextmanager
def served(folder, cwd):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "trl_nlpo", "demo", str(folder), "--port", str(port)],
        cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                break
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        yield client.Client(f"http://127.0.0.1:{port}/", verbose=False)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_both_models_answer_as_they_did_in_the_runs_evaluation(finished, tmp_path):
    row = json.loads((finished / "samples.jsonl").read_text().splitlines()[0])
    typed = row["prompt"].removeprefix("Well: ")
    assert typed != row["prompt"]
    # From elsewhere: nothing is looked for beside the working directory.
    with served(finished, tmp_path) as page:
        before, before_rewards, after, after_rewards, notes = page.predict(typed, "", 0, api_name="/complete")
        assert before == row["supervised"]["completion"]
        assert after == row["supervised+nlpo"]["completion"]
        assert f"grammatical: {row['supervised+nlpo']['grammatical']:.3f}" in after_rewards
        # What compares with references has none.
        assert "rougeL: none" in before_rewards
        assert "score: none" in before_rewards
        assert "rougeL" in notes
        *_, rewards, notes = page.predict(typed, f"something else\n{after}", 0, api_name="/complete")
        assert "rougeL: 1.000" in rewards
        assert "score: 2.000" in rewards or "score: 3.000" in rewards
        assert notes == ""
        with pytest.raises(client.exceptions.AppError, match="the prompt is empty"):
            page.predict(" ", "", 0, api_name="/complete")


@pytest.mark.slow
def test_an_adapter_without_a_supervised_stage_is_compared_with_its_start(finished, tmp_path):
    start = finished / "supervised"
    lora = {"use_peft": True, "lora_r": 2, "lora_alpha": 4, "lora_target_modules": "all-linear"}
    run = make_run(
        tmp_path, **lora, algorithm="nlpo", model_name_or_path=str(start), rewards=["grammatical"],
        eval_generation_kwargs={"do_sample": False}, learning_rate=1e-1,
    )  # fmt: skip
    row = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    with served(run, tmp_path) as page:
        before, _, after, _, _ = page.predict(row["prompt"], "", 0, api_name="/complete")
    assert (before, after) == (row["zero-shot"]["completion"], row["nlpo"]["completion"])


@pytest.mark.slow
def test_what_cannot_be_shown_is_a_line(finished, tmp_path):
    empty, unfinished, bare = tmp_path / "empty", tmp_path / "unfinished", tmp_path / "bare"
    empty.mkdir()
    unfinished.mkdir()
    shutil.copy(finished / "recipe.yaml", unfinished)
    shutil.copytree(finished, bare, ignore=shutil.ignore_patterns("supervised"))
    cases = [
        ((tmp_path / "nowhere",), "is not there"), ((empty,), "is no run"),
        ((unfinished,), "has no reinforced model yet"), ((bare,), "the supervised model of the run, is not there"),
        ((finished, "--host", "0.0.0.0"), "needs a token"),
    ]  # fmt: skip
    for words, says in cases:
        done = command("demo", *words, cwd=tmp_path)
        assert (done.returncode, says in done.stderr) == (2, True), (says, done.stderr)
        assert len(done.stderr.splitlines()) == 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = command("demo", finished, "--port", taken.getsockname()[1], cwd=tmp_path)
    assert (done.returncode, "cannot be used" in done.stderr) == (2, True), done.stderr

"""A reward model that learns from choices while the policy trains, through the command line."""

from __future__ import annotations

import fnmatch
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import set_seed

from support.commands import run_cli
from support.small_runs import TINY, lines, stages
from trl_nlpo.collection.arguments import CollectionArguments
from trl_nlpo.collection.askers import Files
from trl_nlpo.collection.labels import Labels
from trl_nlpo.collection.online import Collection, LearnedReward, random_state_kept
from trl_nlpo.errors import UserError
from trl_nlpo.human_study.study import Study
from trl_nlpo.recipes.overrides import words_of
from trl_nlpo.reward_training.comparisons import Comparison
from trl_nlpo.reward_training.reward_model import RewardModelArguments, hold_out


ROOT = Path(__file__).parent.parent.parent
SETTINGS = {
    "num_labels": 40, "initial_labels": 16, "retrainings": 2, "num_completions": 3, "noise": 0.2, "held_out": 0.3,
    "reward_learning_rate": 1e-3, "max_steps": 6, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "no",
    "rewards": "letters.length",
}  # fmt: skip
LETTERS = """
def length(completions, **columns):
    return [float(len(text)) for text in completions]
"""


def words(out, **keys):
    given = {**SETTINGS, **keys, "output_dir": out}
    return ["tiny.yaml", *(word for key, value in given.items() for word in (f"--{key}", str(value)))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "letters.py").write_text(LETTERS)
    return tmp_path


def start(folder, *more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "trl_nlpo", "collect", *more],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_that_is_killed_in_a_round_ends_like_one_that_is_not(folder):
    whole = start(folder, *words("whole"))
    output, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, output
    assert "Choices are in whole/labels.sqlite" in output
    history = lines(folder / "whole" / "collection.jsonl")
    assert [row["labels"] for row in history] == [16, 28, 40]
    assert [row["update"] for row in history] == [0, 1, 3]
    # Every reward model has the scale of the first policy's completions, also the last one.
    items = {item.id: item for item in Labels(folder / "whole" / "labels.sqlite").items(0)}
    first = [Comparison(item.prompt, item.completions, 0, item.id) for item in items.values()]
    arguments = RewardModelArguments(data="", out="", held_out=SETTINGS["held_out"], seed=42)
    known = [(c.completions, c.prompt) for c in hold_out(first, arguments)["train"]]
    reward = LearnedReward()
    reward.load(folder / "whole" / "reward_models" / "0002")
    values = [reward([prompt] * len(texts), texts) for texts, prompt in known]
    numbers = torch.tensor([value for row in values for value in row])
    assert float(numbers.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(numbers.std(correction=0)) == pytest.approx(1.0, abs=1e-3)
    # The table reports the recipe's rewards, not what was trained on.
    assert "length" in json.dumps(stages(folder / "whole")["supervised+nlpo"])

    broken = start(folder, *words("broken"))
    log = folder / "broken" / "collection.jsonl"
    deadline = time.time() + 120
    while not (log.is_file() and len(log.read_text().splitlines()) >= 2) and time.time() < deadline:
        time.sleep(0.05)
    broken.send_signal(signal.SIGKILL)
    broken.communicate()
    before = len(Labels(folder / "broken" / "labels.sqlite").choices())
    assert before >= 28
    resumed = start(folder, *words("broken"), "--resume")
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, output
    first, second = (load_file(folder / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    answers = [
        [
            (item.prompt, item.completions, choice)
            for item, _, choice in Labels(folder / name / "labels.sqlite").choices()
        ]
        for name in ("whole", "broken")
    ]
    assert len(answers[0]) == 40
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_people_may_answer_by_files_while_the_run_is_stopped(folder, monkeypatch, capsys):
    files = words("run", asker="files", noise=0.0, retrainings=0, initial_labels=20, num_labels=20, max_steps=1)
    waiting = start(folder, *files)
    questions = folder / "run" / "questions" / "questions-0.jsonl"
    deadline = time.time() + 120
    while not questions.is_file() and time.time() < deadline:
        time.sleep(0.05)
    waiting.send_signal(signal.SIGKILL)
    waiting.communicate()
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    assert len(rows) == 20
    assert all(len(row["completions"]) == 3 for row in rows)
    answers = questions.with_name("answers-0.jsonl")
    answers.write_text("".join(json.dumps({"item": row["item"], "choice": 1}) + "\n" for row in rows[:-1]))
    code, _, err = run_cli(monkeypatch, capsys, "collect", *files, "--resume")
    assert code == 2
    assert "has no answer to 1 of" in err
    answers.write_text(json.dumps({"item": rows[-1]["item"], "choice": 0}) + "\n")
    code, _, err = run_cli(monkeypatch, capsys, "collect", *files, "--resume")
    assert code == 0, err
    choices = [choice for _, _, choice in Labels(folder / "run" / "labels.sqlite").choices()]
    assert choices == [1] * 19 + [0]
    assert (folder / "run" / "reward_models" / "0000" / "model.safetensors").is_file()
    # Other settings than its own, and a second run in its place.
    code, _, err = run_cli(
        monkeypatch, capsys, "collect", *files, "--num_labels", "30", "--initial_labels", "30", "--resume"
    )
    assert code == 2
    assert "initial_labels: 20 -> 30" in err
    code, _, err = run_cli(monkeypatch, capsys, "collect", *files)
    assert code == 2
    assert "run holds the labels of an earlier run" in err
    # A mistake in the recipe costs nothing that was asked, and neither does a run in its place.
    code, _, err = run_cli(monkeypatch, capsys, "collect", *files, "--overwrite", "--dataset_name", "nowhere.jsonl")
    assert code == 2
    assert len(Labels(folder / "run" / "labels.sqlite").choices()) == 20
    other = words("run", retrainings=0, initial_labels=6, num_labels=6, max_steps=1)
    code, _, err = run_cli(monkeypatch, capsys, "collect", *other, "--overwrite")
    assert code == 0, err
    assert len(Labels(folder / "run" / "labels-1.sqlite").choices()) == 20
    assert len(Labels(folder / "run" / "labels.sqlite").choices()) == 6
    assert (folder / "run" / "questions-1" / "answers-0.jsonl").is_file()


@pytest.mark.slow
def test_people_may_choose_on_the_page_of_the_run(folder):
    pytest.importorskip("gradio")
    numbers = {"num_labels": 8, "initial_labels": 4, "retrainings": 1, "held_out": 0.4, "max_steps": 2}
    run = start(folder, *words("run", asker="people", noise=0.0, **numbers))
    deadline, answered = time.time() + 200, 0
    while run.poll() is None and time.time() < deadline:
        for path in (folder / "run" / "questions").glob("round-*/study.json"):
            study = Study(path.parent)
            if (question := study.next_question("ann")) is not None:
                study.answer("ann", question.shown, 0)
                answered += 1
        time.sleep(0.02)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 0, output
    assert "people can judge at http://127.0.0.1:" in output
    choices = Labels(folder / "run" / "labels.sqlite").choices()
    assert len(choices) == answered == 8
    assert {annotator for _, annotator, _ in choices} == {"ann"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"noise": 2}, "noise is 2.0, but must be from 0 to 1"),
        ({"num_completions": 1}, "num_completions is 1, but a choice needs two or more"),
        ({"initial_labels": 50}, "initial_labels is 50, but must be from 1 to num_labels (40)"),
        ({"retrainings": 0}, "without retraining all labels come first"),
        ({"initial_labels": 40}, "with it some must be left for later"),
        ({"asker": "nobody"}, "asker is 'nobody'"),
        ({"asker": "files"}, "noise is the judge's"),
        ({"asker": "people", "noise": 0.0, "host": "0.0.0.0"}, "serving on 0.0.0.0 needs a token"),
        ({"algorithm": "supervised"}, "has no reinforcement, which would need a reward"),
        ({"rewards": "./judge"}, "asker judge needs plain reward functions"),
        ({"num_label": 3}, "unknown key 'num_label'"),
    ],
)
def test_settings_that_cannot_be_are_one_line(folder, monkeypatch, capsys, more, message):
    code, _, err = run_cli(monkeypatch, capsys, "collect", *words("run", **more))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (folder / "run").exists()


class Hub:
    left_out = ("_*",)


class TrainerOfHub:
    hub = Hub()


def collection(folder, **settings):
    return Collection(folder, CollectionArguments(**settings), 0, Files(folder, print), print)


def test_labels_of_another_run_are_kept_aside_whoever_was_killed_when(tmp_path):
    trainer = TrainerOfHub()
    collection(tmp_path, num_labels=8).attach(trainer, "start", "first run")
    Labels(tmp_path / "labels.sqlite").add_items(0, 0, [{"prompt": "p", "completions": ["a", "b"], "columns": {}}])
    (tmp_path / "reward_models" / "0000").mkdir(parents=True)
    # The same run, resumed: everything is there.
    collection(tmp_path, num_labels=8, reward_epochs=2).attach(trainer, "start", "first run")
    assert len(Labels(tmp_path / "labels.sqlite").items()) == 1
    assert (tmp_path / "reward_models" / "0000").is_dir()
    # With other questions it would be another run.
    with pytest.raises(UserError, match=r"other settings \(num_labels: 8 -> 9\)"):
        collection(tmp_path, num_labels=9).attach(trainer, "start", "first run")
    # One in its place, which was killed before it came so far, and is resumed.
    collection(tmp_path, num_labels=9).attach(trainer, "start", "second run")
    assert not (tmp_path / "labels.sqlite").exists()
    assert not (tmp_path / "reward_models").exists()
    assert len(Labels(tmp_path / "labels-1.sqlite").items()) == 1


def test_training_a_reward_model_leaves_no_trace_in_random_numbers():
    def draws():
        return random.random(), np.random.rand(), float(torch.rand(()))

    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    with random_state_kept():
        set_seed(7)
        draws()
    after = draws()
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    assert after == draws()


def test_what_people_said_is_not_pushed_to_the_hub(tmp_path):
    trainer = TrainerOfHub()
    collection(tmp_path).attach(trainer, "start", "run")
    names = ("labels.sqlite", "labels.sqlite-wal", "labels-1.sqlite", "questions", "questions-1", "collection.json",
             "collection.jsonl")  # fmt: skip
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in trainer.hub.left_out) for name in names)


def test_keys_of_the_collection_are_told_from_those_of_the_recipe():
    given = ["--noise", "0.1", "--rewards", "a", "b", "--num-labels=5", "--seed", "1"]
    assert words_of(CollectionArguments, given) == (
        ["--noise", "0.1", "--num-labels=5"],
        ["--rewards", "a", "b", "--seed", "1"],
    )


def test_several_processes_are_refused(folder, monkeypatch, capsys):
    from trl_nlpo.collection.online import run_collection

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="collect runs in one process"):
        run_collection(None, CollectionArguments(), print, False, False)

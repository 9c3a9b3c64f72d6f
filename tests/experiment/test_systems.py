"""Models, adapters and predictions, scored on a task."""

from __future__ import annotations

import json

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSeq2SeqLM,
)

from support.commands import run_cli
from support.data_files import predictions
from support.small_runs import SMALL, stages, train_small
from trl_nlpo.data.splits import load_splits
from trl_nlpo.experiment.experiment import run_experiment
from trl_nlpo.experiment.systems import evaluate_on_task
from trl_nlpo.recipes.recipe import load_recipe
from trl_nlpo.rewards import get_reward


@pytest.fixture
def trained(working_directory, capsys):
    return train_small()


@pytest.mark.slow
def test_a_model_is_scored_on_a_task_as_its_own_run_scored_it(trained):
    model, expected = trained
    found = evaluate_on_task(str(model), "commongen", SMALL)
    assert found.metrics["reward"] == pytest.approx(expected["reward"])
    assert found.metrics["metrics/rouge1"] == pytest.approx(expected["metrics/rouge1"])
    assert set(found.samples[0]["metrics"]) >= {"rouge", "concept_coverage"}


@pytest.mark.slow
def test_an_adapter_is_scored_by_the_recipe_that_trains_adapters(trained, working_directory):
    model, expected = trained
    adapter = LoraConfig(target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")
    get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(model), adapter).save_pretrained("adapter")
    recipe = yaml.safe_load((working_directory / "run" / "recipe.yaml").read_text())
    (working_directory / "own.yaml").write_text(yaml.safe_dump({**recipe, "use_peft": True}))
    found = evaluate_on_task("adapter", "own.yaml")
    # a new adapter changes nothing
    assert found.metrics["reward"] == pytest.approx(expected["reward"])


@pytest.mark.slow
def test_predictions_of_another_system_are_scored_by_order_or_prompt(trained, working_directory):
    run = [json.loads(line) for line in (working_directory / "run" / "samples.jsonl").read_text().splitlines()]
    expected = trained[1]
    rows = [{"prompt": row["prompt"], "prediction": row["supervised"]["completion"]} for row in run]
    by_prompt = evaluate_on_task(predictions(working_directory / "p.jsonl", rows[::-1]), "commongen", SMALL)
    in_order = [{"completion": row["prediction"]} for row in rows]
    by_order = evaluate_on_task(predictions(working_directory / "o.jsonl", in_order), "commongen", SMALL)
    for found in (by_prompt, by_order):
        assert found.metrics["metrics/rouge1"] == pytest.approx(expected["metrics/rouge1"])
        assert found.metrics["reward"] == pytest.approx(expected["reward"])


def test_predictions_are_found_by_messages(working_directory):
    (working_directory / "counting.py").write_text(
        "def last_word(completions):\n    return [float(row[-1]['content'].split()[-1]) for row in completions]\n"
    )
    messages = [[{"role": "user", "content": f"count to {n}"}] for n in range(10)]
    rows = [{"prompt": prompt, "references": ["a"]} for prompt in messages]
    for split in ("train", "test"):
        predictions(working_directory / f"{split}.jsonl", rows)
    (working_directory / "own.yaml").write_text("dataset_name: .\nrewards: [counting.last_word]\nmetrics: [rouge1]\n")
    # the keys of a message in another order
    given = [
        {"prompt": [{"content": prompt[0]["content"], "role": "user"}], "prediction": f"a {n}"}
        for n, prompt in enumerate(messages)
    ]
    found = evaluate_on_task(predictions(working_directory / "p.jsonl", given[::-1]), "own.yaml")
    assert found.unavailable == {}
    assert found.metrics == {"reward": 4.5, "rewards/last_word/mean": 4.5, "metrics/rouge1": pytest.approx(2 / 3)}
    assert [row["completion"][0]["content"] for row in found.samples] == [f"a {n}" for n in range(10)]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("per_token", "it gives a reward per token, and predictions are texts"),
        ("nothing", "returned NoneType, but must return a list"),
        ("too_few", "returned 1 values for 8 completions"),
        ("not_finite", "returned nan for sample 7"),
        ("not_a_number", "returned 'good' for sample 7"),
    ],
)
def test_a_reward_that_returns_no_numbers_is_named_and_no_reward_is_made_up(
    name, reason, working_directory, monkeypatch, capsys
):
    (working_directory / "wrong.py").write_text(
        "def per_token(completions):\n    return [[1.0, 2.0] for text in completions]\n"
        "def nothing(completions):\n    return None\n"
        "def too_few(completions):\n    return [1.0]\n"
        "def not_finite(completions):\n    return [1.0] * 7 + [float('nan')]\n"
        "def not_a_number(completions):\n    return [1.0] * 7 + ['good']\n"
    )
    path = predictions(working_directory / "p.jsonl", [{"prediction": "a dog runs"}] * 8)
    keys = ["--rewards", f"wrong.{name}", "--metrics", "[]"]
    found = evaluate_on_task(path, "commongen", [*SMALL, *keys])
    assert found.metrics == {}
    assert reason in found.unavailable[name]
    code, out, _ = run_cli(monkeypatch, capsys, "evaluate", path, "--task", "commongen", *SMALL, *keys)
    assert code == 0
    assert out.startswith(f"without {name}: ")


def test_rewards_of_predictions_are_called_as_in_training(working_directory):
    (working_directory / "own.py").write_text(
        "async def words(completions):\n    return [float(len(text.split())) for text in completions]\n"
        "def half(completions, concepts):\n    return [None if i % 2 else 1.0 for i, _ in enumerate(concepts)]\n"
        "def of_tokens(completion_ids, **kwargs):\n    return [0.0 for ids in completion_ids]\n"
    )
    path = predictions(working_directory / "p.jsonl", [{"prediction": "a dog runs"}] * 8)
    rewards = '["own.words", {"name": "own.half", "weight": 2.0}, "own.of_tokens", "folder/classifier"]'
    found = evaluate_on_task(path, "commongen", [*SMALL, "--rewards", rewards])
    assert found.metrics["rewards/words/mean"] == 3.0
    assert found.metrics["rewards/half/mean"] == 1.0
    # a row that a function does not apply to earns nothing by it, as in training: 3 + 2 * 1 / 2
    assert found.metrics["reward"] == 4.0
    assert set(found.unavailable) >= {"of_tokens", "folder/classifier"}


@pytest.mark.filterwarnings("error:.*document frequencies.*")
def test_document_frequencies_of_a_reward_are_the_train_splits_here_too(working_directory):
    path = predictions(working_directory / "p.jsonl", [{"prediction": "A dog eats a cake in the park."}] * 8)
    found = evaluate_on_task(path, "commongen", [*SMALL, "--rewards", "cider"])
    splits = load_splits(load_recipe("commongen", SMALL).arguments)
    expected = get_reward("cider", document_frequencies=[list(row) for row in splits.train["references"]])(
        completions=["A dog eats a cake in the park."] * 8, references=list(splits.test["references"])
    )
    assert found.metrics["reward"] == pytest.approx(sum(expected) / 8)
    assert found.metrics["reward"] > 0


def test_the_samples_of_a_run_are_predictions_of_each_of_its_stages(working_directory, monkeypatch, capsys):
    folder = run_experiment(load_recipe("commongen", [*SMALL, "--algorithm", "supervised", "--output_dir", "run"]))
    path, expected = folder / "samples.jsonl", stages(folder)
    for keys, stage in (([], "supervised"), (["--stage", "zero-shot"], "zero-shot")):
        out = working_directory / f"{stage}.json"
        words = ["evaluate", path, "--task", "commongen", "--out", out, *keys, *SMALL]
        capsys.readouterr()
        code, _, error = run_cli(monkeypatch, capsys, *words)
        assert (code, error) == (0, "")
        found = json.loads(out.read_text())["metrics"]
        for name in ("reward", "metrics/rouge1", "metrics/cider", "metrics/concept_coverage"):
            assert found[name] == pytest.approx(expected[stage][name]), name
    code, _, error = run_cli(monkeypatch, capsys, *words[: -len(SMALL) - 2], "--stage", "supervise", *SMALL)
    assert code == 2
    assert "has no stage 'supervise', did you mean 'supervised'? it has: zero-shot, supervised" in error.lower()
    plain = predictions(working_directory / "p.jsonl", [{"prediction": "a"}] * 8)
    code, _, error = run_cli(monkeypatch, capsys, "evaluate", plain, "--task", "commongen", "--stage", "ppo", *SMALL)
    assert code == 2
    assert "leave out --stage" in error

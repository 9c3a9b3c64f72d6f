"""Every task's recipe from file to table at `--preset tiny`, and what is done with the model afterwards."""

from __future__ import annotations

import json

import pytest
import yaml
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSeq2SeqLM

from trl_nlpo.cli import main
from trl_nlpo.data.splits import load_splits
from trl_nlpo.errors import UserError
from trl_nlpo.experiment.experiment import run_experiment
from trl_nlpo.experiment.predictions import matched_predictions
from trl_nlpo.experiment.systems import evaluate_on_task
from trl_nlpo.recipes.recipe import load_recipe
from trl_nlpo.reward_training.classifier import ClassifierArguments, train_classifier
from trl_nlpo.rewards import get_reward
from trl_nlpo.tasks import task_names


SMALL = [
    "--preset", "tiny", "--max_steps", "2", "--eval_steps", "2", "--max_train_samples", "64",
    "--max_eval_samples", "8", "--supervised_num_train_epochs", "1", "--per_device_train_batch_size", "8",
    "--hidden_size", "32", "--vocab_size", "400",
]  # fmt: skip


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(folder):
    return json.loads((folder / "results.json").read_text())["stages"]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["supervised+ppo", "supervised+nlpo"])
@pytest.mark.parametrize("name", task_names())
def test_every_recipe_runs_at_the_size_of_a_laptop(name, algorithm, capsys):
    folder = run_experiment(load_recipe(name, [*SMALL, "--algorithm", algorithm]))
    stages = results(folder)
    assert list(stages) == ["zero-shot", "supervised", algorithm]
    for metrics in stages.values():
        assert metrics["metrics/distinct1"] > 0
        assert metrics["metrics/rouge1"] >= 0 if name != "imdb" else True
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert "diversity" in rows[0][algorithm]["metrics"]


@pytest.fixture
def trained(working_directory, capsys):
    """A tiny model of CommonGen's miniature, and the numbers that its run gave."""
    folder = run_experiment(load_recipe("commongen", [*SMALL, "--algorithm", "supervised", "--output_dir", "run"]))
    return folder / "supervised", results(folder)["supervised"]


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


def predictions(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


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


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prediction": "a"}], "has 1 predictions, but the test split has 8 prompts"),
        ([{"text": "a"}], "row 1: a row needs the text of a `prediction`"),
        ([{"prompt": "x", "prediction": "a"}], "no prediction for 8 prompts of the test split, such as 'generate"),
        ([{"prompt": "x", "prediction": "a"}, {"prediction": "a"}], "the key 'prompt', but not every row has it"),
        ([{"id": n, "prediction": "a"} for n in range(8)], "the key 'id', but the test split has none"),
        ([], "is empty"),
    ],
)
def test_predictions_that_do_not_fit_are_a_users_mistake(rows, message, working_directory):
    with pytest.raises(UserError, match=message):
        evaluate_on_task(predictions(working_directory / "p.jsonl", rows), "commongen", SMALL)


def test_a_prompt_that_is_there_twice_gets_its_predictions_in_the_order_of_the_file(tmp_path):
    test = Dataset.from_list([{"prompt": "x"}, {"prompt": "y"}, {"prompt": "x"}])
    rows = [{"prompt": prompt, "prediction": text} for prompt, text in (("y", "one"), ("x", "two"), ("x", "three"))]
    predictions(tmp_path / "p.jsonl", rows)
    assert matched_predictions(tmp_path / "p.jsonl", test) == ["two", "one", "three"]
    predictions(tmp_path / "short.jsonl", rows[:2])
    with pytest.raises(UserError, match=r"the prompt 'x' in 1 rows, the test split .* in 2: give a prediction"):
        matched_predictions(tmp_path / "short.jsonl", test)


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


def run_cli(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["trl-nlpo", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


@pytest.mark.slow
def test_the_commands_evaluate_tasks_and_grue(trained, working_directory, monkeypatch, capsys):
    code, out, _ = run_cli(
        monkeypatch, capsys, "evaluate", trained[0], "--task", "commongen", "--out", "e.json", *SMALL
    )
    assert code == 0
    assert "metrics/rouge1" in out
    assert json.loads((working_directory / "e.json").read_text())["metrics"]["reward"] >= 0
    code, out, _ = run_cli(monkeypatch, capsys, "tasks")
    assert [line.split()[0] for line in out.splitlines()] == task_names()
    arguments = ["--tasks", "commongen,commongen", "--algorithms", "supervised,supervised+nlpo,supervised+nlpo"]
    code, out, _ = run_cli(monkeypatch, capsys, "grue", *arguments, "--seeds", "1", "--out", "g", *SMALL)
    assert code == 0
    assert "[2/2] commongen, supervised+nlpo, seed 0 ..." in out
    assert "| supervised+nlpo |" in out
    assert (working_directory / "g" / "leaderboard.json").is_file()


def test_a_task_that_is_not_there_is_one_line(monkeypatch, capsys):
    code, _, error = run_cli(monkeypatch, capsys, "grue", "--tasks", "comongen")
    assert code == 2
    assert error.count("\n") == 1
    assert "did you mean 'commongen'" in error


def labelled(folder, split, number):
    rows = [
        {"text": f"it was {word} indeed {n}", "label": label}
        for n in range(number)
        for word, label in (("good", "positive"), ("bad", "negative"))
    ]
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
def test_a_classifier_of_labelled_rows_is_a_reward(working_directory):
    labelled(working_directory, "train", 40)
    labelled(working_directory, "test", 5)
    accuracy = train_classifier(
        ClassifierArguments(data=".", out="judge", text="{text}", epochs=8, vocab_size=300, learning_rate=5e-3)
    )
    assert accuracy == {"test": 1.0}
    reward = get_reward("classifier", model="judge", label="positive", include_prompt=False)
    good, bad = reward(completions=["it was good indeed 3", "it was bad indeed 3"], prompts=["", ""])
    assert good > 0.8
    assert bad < 0.2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"text": "{body}"}, "has no column 'body'; it has: text, label"),
        ({"label": "stars"}, "has no column 'stars'"),
        ({"data": "nowhere"}, "nowhere is not there"),
    ],
)
def test_a_classifier_without_its_columns_is_a_users_mistake(keys, message, working_directory):
    labelled(working_directory, "train", 2)
    with pytest.raises(UserError, match=message):
        train_classifier(ClassifierArguments(**{"data": ".", "out": "judge", "text": "{text}", **keys}))

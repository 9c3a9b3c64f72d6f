"""A reward model of people's choices, trained, saved, loaded and used."""

from __future__ import annotations

import json
import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from support import tiny
from support.commands import run_cli
from trl_nlpo.algorithm.reward_models import as_reward_functions
from trl_nlpo.errors import UserError
from trl_nlpo.metrics.classifier import SequenceClassifier
from trl_nlpo.records import Completions
from trl_nlpo.reward_training.choice_trainer import ChoiceCollator
from trl_nlpo.reward_training.comparisons import Comparison
from trl_nlpo.reward_training.recipe import arguments_of
from trl_nlpo.reward_training.reward_model import (
    RewardModelArguments,
    hold_out,
    last_layer,
    read_splits,
    rewards_of,
    standardize,
    starting_point,
    train_reward_model,
)


WORDS = [f"w{index}" for index in range(20)]


def write_choices(folder, number=40, k=3, seed=0, split="train"):
    """Of k completions the one with most `w5` is chosen."""
    generator, rows = random.Random(seed), []
    for index in range(number):
        completions = [" ".join(generator.choices(WORDS[:8], k=5)) for _ in range(k)]
        counts = [text.split().count("w5") for text in completions]
        rows.append({"prompt": f"w{index % 30}", "completions": completions, "choice": counts.index(max(counts))})
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def reader_of(folder):
    return SequenceClassifier(str(folder), "reward model")


def scores(folder, prompts, completions):
    """What `reward_funcs` of a trainer would give."""

    class Batch:
        pass

    batch = Batch()
    batch.prompts = prompts
    (reward,) = as_reward_functions([str(folder)])
    rollout = Completions.__new__(Completions)
    object.__setattr__(rollout, "batch", batch)
    object.__setattr__(rollout, "completions", completions)
    return reward.score_completions(rollout)


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_a_policy_becomes_a_reward_model_that_is_loaded_and_used(family, k, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = write_choices(tmp_path, 60, k)
    tiny.saved(tiny.policy(family), tiny.tokenizer(), tmp_path / "policy")
    words = ["--model", "policy", "--learning_rate", "3e-3", "--epochs", "2", "--out", "judge"]
    capsys.readouterr()
    code, out, err = run_cli(monkeypatch, capsys, "train-reward", "train.jsonl", *words)
    assert (code, err) == (0, "")
    assert "validation: the choice is its favourite in" in out
    assert out.endswith("Use it as a reward: {name: ./judge}\n")
    record = json.loads((tmp_path / "judge" / "reward_model.json").read_text())
    assert record["splits"]["validation"]["chance"] == pytest.approx(1 / k)
    # A plain sequence classifier, whole.
    model, loading = AutoModelForSequenceClassification.from_pretrained("judge", output_loading_info=True)
    assert model.config.num_labels == 1
    assert not loading["missing_keys"]
    # Mean 0 and variance 1 over the completions that it was trained on, in the one way in which it is used.
    train = read_splits(RewardModelArguments(data="train.jsonl", out="judge"))["train"]
    kept = {row["prompt"] for row in rows} & {comparison.prompt for comparison in train}
    pairs = [(row["prompt"], text) for row in rows if row["prompt"] in kept for text in row["completions"]]
    values = torch.tensor(scores("./judge", *map(list, zip(*pairs, strict=True))))
    assert float(values.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(values.std(correction=0)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
def test_an_adapter_is_merged_and_the_model_is_plain(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_choices(tmp_path)
    base = tiny.saved(tiny.policy("llama"), tiny.tokenizer(), tmp_path / "base")
    policy = tiny.policy("llama")
    policy.name_or_path = base
    adapter = get_peft_model(policy, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    adapter.peft_config["default"].base_model_name_or_path = base
    tiny.saved(adapter, tiny.tokenizer(), tmp_path / "policy")
    words = ["--model", "policy", "--use_peft", "--learning_rate", "3e-3", "--out", "judge"]
    capsys.readouterr()
    code, _, err = run_cli(monkeypatch, capsys, "train-reward", "train.jsonl", *words)
    assert (code, err) == (0, "")
    assert not (tmp_path / "judge" / "adapter_config.json").exists()
    _, loading = AutoModelForSequenceClassification.from_pretrained("judge", output_loading_info=True)
    assert not loading["missing_keys"]


def test_an_adapter_of_a_policy_is_the_start_with_its_weights(tmp_path):
    base = tiny.saved(tiny.policy("llama"), tiny.tokenizer(), tmp_path / "base")
    adapter = get_peft_model(tiny.policy("llama"), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)).eval()
    adapter.peft_config["default"].base_model_name_or_path = base
    tiny.saved(adapter, tiny.tokenizer(), tmp_path / "policy")
    arguments = RewardModelArguments(data="", out="", model=str(tmp_path / "policy"))
    _, model = starting_point(arguments, [])
    ids = torch.tensor([[5, 6, 7]])
    expected = adapter.base_model.model.model(ids).last_hidden_state
    torch.testing.assert_close(model.eval().model(ids).last_hidden_state, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
def test_normalized_rewards_have_mean_0_and_variance_1_and_the_same_order(family):
    tokenizer, model = tiny.tokenizer(), tiny.classifier(family).eval()
    if model.config.is_encoder_decoder:
        from trl_nlpo.reward_training.reward_model import _end_texts

        _end_texts(tokenizer)
    reader = SequenceClassifier(model, "reward model", tokenizer)
    comparisons = [Comparison("w1", ("w5 w6", "w7", "w5 w5"), 2, 0), Comparison("w2", ("w9", "w5"), 1, 1)]
    before = torch.tensor([value for row in rewards_of(reader, comparisons) for value in row])
    scale = standardize(model, reader, comparisons)
    after = torch.tensor([value for row in rewards_of(reader, comparisons) for value in row])
    assert scale["mean"] == pytest.approx(float(before.mean()), abs=1e-6)
    torch.testing.assert_close(after, (before - before.mean()) / before.std(correction=0), atol=1e-3, rtol=1e-3)
    assert (last_layer(model).bias is None) == (family == "gpt2")


def test_a_model_that_gives_everything_one_reward_is_refused():
    model = tiny.classifier("gpt2").eval()
    torch.nn.init.zeros_(model.score.weight)
    reader = SequenceClassifier(model, "reward model", tiny.tokenizer())
    with pytest.raises(UserError, match="has learned nothing"):
        standardize(model, reader, [Comparison("w1", ("w2", "w3"), 0, 0)])


def test_a_batch_holds_all_completions_of_a_row_together_with_the_chosen_one_first():
    rows = [{"chosen_ids": [5, 6], "other_ids": [[7], [8, 9, 10]]}, {"chosen_ids": [11], "other_ids": [[12]]}]
    batch = ChoiceCollator(0)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 0], [7, 0, 0], [8, 9, 10], [11, 0, 0], [12, 0, 0]]
    assert batch["attention_mask"].sum(-1).tolist() == [2, 1, 3, 1, 1]
    assert batch["num_completions"].tolist() == [3, 2]


def test_prompts_are_held_out_whole_and_more_data_moves_none(tmp_path):
    write_choices(tmp_path, 60)
    arguments = RewardModelArguments(data=str(tmp_path), out="", held_out=0.3)
    splits = read_splits(arguments)
    held_out = {comparison.prompt for comparison in splits["validation"]}
    assert not held_out & {comparison.prompt for comparison in splits["train"]}
    write_choices(tmp_path, 90, seed=1)
    assert held_out == {comparison.prompt for comparison in read_splits(arguments)["validation"]}


@pytest.mark.parametrize("seed", range(20))
def test_of_few_prompts_one_is_held_out_and_one_is_not(seed):
    few = [Comparison(f"w{n}", ("w1", "w2"), 0, n) for n in range(3)]
    splits = hold_out(few, RewardModelArguments(data="", out="", seed=seed))
    assert splits["train"]
    assert splits["validation"]
    with pytest.raises(UserError, match=r"^all choices are of one prompt"):
        hold_out(few[:1], RewardModelArguments(data="", out="", seed=seed))


def test_a_reward_model_as_the_start_gets_a_new_last_layer_and_no_offset(tmp_path):
    judge = tiny.classifier("gpt2")
    judge.config.reward_offset = 7.0
    folder = tiny.saved(judge, tiny.tokenizer(), tmp_path / "judge")
    _, model = starting_point(RewardModelArguments(data="", out="", model=folder), [])
    assert model.config.reward_offset == 0.0
    assert not torch.equal(model.score.weight, judge.score.weight)
    torch.testing.assert_close(model.transformer.wte.weight, judge.transformer.wte.weight)


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 4])
def test_what_people_choose_gets_the_higher_reward(k, tmp_path):
    write_choices(tmp_path, 400, k)
    arguments = RewardModelArguments(
        data=str(tmp_path / "train.jsonl"), out=str(tmp_path / "judge"), epochs=8, learning_rate=3e-3, vocab_size=400
    )
    result = train_reward_model(arguments)["validation"]
    assert result.accuracy_interval[0] > result.chance
    assert result.log_loss < result.log_loss_of_chance
    good, bad = scores(tmp_path / "judge", ["w1", "w1"], ["w5 w5 w5 w5 w5", "w1 w2 w3 w4 w6"])
    assert good > bad


def test_a_validation_split_is_taken_as_it_is(tmp_path):
    write_choices(tmp_path, 6)
    write_choices(tmp_path, 4, seed=2, split="validation")
    splits = read_splits(RewardModelArguments(data=str(tmp_path), out=""))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 6, "validation": 4}


def test_a_recipe_gives_the_keys_and_the_command_line_overrides_them(tmp_path):
    made = arguments_of("commongen", ["--data", "d", "--epochs", "3"], "judge")
    assert (made.data, made.epochs, made.batch_size, made.use_peft) == ("d", 3.0, 8, True)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("commongem", [], "is no file or folder.*commongen"),
        ("missing.yaml", [], "missing.yaml' is not there"),
        ("commongen", [], "names no data: give --data FOLDER"),
        (".", ["--epoch", "3"], "unknown key 'epoch'.*epochs"),
        (".", ["--kind", "pair"], "kind is 'pair'"),
        (".", ["--held_out", "1"], "held_out is 1.0, but must be between 0 and 1"),
        (".", ["--batch_size", "0"], "batch_size is 0, but must be positive"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(name, words, message):
    with pytest.raises(UserError, match=message):
        arguments_of(name, words, "judge")


def test_labels_are_the_classifiers_case(tmp_path):
    made = arguments_of(str(tmp_path), ["--kind", "labels", "--batch_size", "8", "--text", "{text}"], "judge")
    assert type(made).__name__ == "ClassifierArguments"
    assert made.batch_size == 8


def test_data_without_preferences_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 1}\n')
    code, _, err = run_cli(monkeypatch, capsys, "train-reward", tmp_path, "--out", tmp_path / "judge")
    assert code == 2
    assert err.count("\n") == 1
    assert "which are no preferences" in err


@pytest.mark.slow
def test_the_grpo_of_trl_trains_on_it(tmp_path, monkeypatch, capsys):
    from trl import GRPOConfig, GRPOTrainer

    monkeypatch.chdir(tmp_path)
    write_choices(tmp_path, 30, 2)
    policy = tiny.saved(tiny.policy("gpt2"), tiny.tokenizer(), tmp_path / "policy")
    code, _, err = run_cli(
        monkeypatch,
        capsys,
        "train-reward",
        "train.jsonl",
        "--model",
        policy,
        "--learning_rate",
        "3e-3",
        "--out",
        "judge",
    )
    assert code == 0, err
    args = GRPOConfig(
        output_dir="grpo", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=4,
        report_to="none", use_cpu=True, bf16=False, disable_tqdm=True, gradient_checkpointing=False, logging_steps=1,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=tiny.policy("gpt2"), reward_funcs="judge", args=args, train_dataset=tiny.prompts(4),
        processing_class=tiny.tokenizer(),
    )  # fmt: skip
    trainer.train()
    assert any("rewards/judge/mean" in row for row in trainer.state.log_history)

"""A recipe from its file to a finished run folder, in miniature."""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from support.small_runs import assert_is_what_was_evaluated, lines, stages, tiny
from trl_nlpo.errors import UserError
from trl_nlpo.experiment import experiment
from trl_nlpo.experiment.experiment import run_experiment
from trl_nlpo.experiment.summary import load_command
from trl_nlpo.recipes.recipe import load_recipe
from trl_nlpo.storage.run_folder import RunFolder


def test_a_complete_run_leaves_model_recipe_metrics_results_and_samples(capsys):
    folder = run_experiment(tiny())
    printed = capsys.readouterr().out
    names = ["zero-shot", "supervised", "supervised+nlpo"]
    assert list(stages(folder)) == names
    for metrics in stages(folder).values():
        assert metrics["reward"] == pytest.approx(
            metrics["rewards/grammatical/mean"] + 2 * metrics["rewards/pleasant_sentence/mean"]
        )
        assert metrics["perplexity"] > 1

    samples = lines(folder / "samples.jsonl")
    assert len(samples) == 6
    assert list(samples[0]) == ["prompt", *names]
    assert {"completion", "score", "grammatical", "pleasant_sentence"} <= set(samples[0]["supervised+nlpo"])

    metrics = lines(folder / "metrics.jsonl")
    assert {line["stage"] for line in metrics} == set(names)
    trained = [line for line in metrics if line["stage"] == "supervised+nlpo"]
    assert [line["step"] for line in trained if "reward" in line] == [1, 2]
    assert [line["step"] for line in trained if "eval_reward" in line] == [1, 2]

    for name in names:
        assert name in printed
    assert str(folder) in printed
    command = next(line.strip() for line in printed.splitlines() if "from_pretrained" in line)
    scope: dict = {}
    exec(command, scope)
    assert scope["model"].config.vocab_size <= 300


def test_all_processes_have_looked_at_the_folder_before_one_takes_it(monkeypatch):
    seen = []

    @contextmanager
    def together():
        yield
        seen.append("all are here")

    monkeypatch.setattr(experiment, "failing_together", together)
    for name in ("check_before_start", "lock_on", "_run_in_folder"):
        monkeypatch.setattr(experiment, name, lambda *_, name=name: (seen.append(name), nullcontext())[1])
    run_experiment(tiny())
    assert seen == ["check_before_start", "all are here", "lock_on", "all are here", "_run_in_folder"]


@pytest.mark.slow
def test_the_final_model_is_a_plain_one_that_differs_from_the_supervised(capsys):
    folder = run_experiment(tiny())
    supervised = AutoModelForCausalLM.from_pretrained(folder / "supervised")
    final = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("On Sunday")["input_ids"]) == "On Sunday"
    assert_is_what_was_evaluated(supervised, folder, "supervised")
    assert_is_what_was_evaluated(final, folder, "supervised+nlpo")
    assert any(not torch.equal(a, b) for a, b in zip(supervised.parameters(), final.parameters(), strict=True))


@pytest.mark.slow
def test_the_resolved_recipe_reproduces_the_run(capsys):
    first = run_experiment(tiny())
    before = stages(first)
    again = run_experiment(load_recipe(first / "recipe.yaml"), overwrite=True)
    assert again == first
    for stage, metrics in stages(again).items():
        assert metrics["reward"] == before[stage]["reward"]
        assert metrics["perplexity"] == pytest.approx(before[stage]["perplexity"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "names", "model"),
    [
        ("zero_shot", ["zero-shot"], None),
        pytest.param("supervised", ["zero-shot", "supervised"], "supervised", marks=pytest.mark.slow),
        ("ppo", ["zero-shot", "ppo"], "."),
    ],
)
def test_each_algorithm_has_its_stages(capsys, algorithm, names, model):
    folder = run_experiment(tiny(algorithm=algorithm, max_steps=1))
    assert list(stages(folder)) == names
    if model is not None:
        assert AutoModelForCausalLM.from_pretrained(folder / model) is not None
    assert not (folder / "model.safetensors").exists() or algorithm == "ppo"


@pytest.mark.slow
def test_an_adapter_is_trained_on_the_supervised_model_and_loads_with_peft(capsys):
    folder = run_experiment(
        tiny(use_peft=True, lora_r=2, lora_alpha=4, lora_target_modules=["c_attn"], max_steps=1, learning_rate=1e-2)
    )
    assert (folder / "adapter_model.safetensors").is_file()
    command = next(line.strip() for line in capsys.readouterr().out.splitlines() if "from_pretrained" in line)
    assert "AutoPeftModelForCausalLM" in command
    scope: dict = {}
    exec(command, scope)
    assert_is_what_was_evaluated(scope["model"], folder, "supervised+nlpo")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model_name_or_path": "./nowhere"}, "model_name_or_path './nowhere' is not there"),
        ({"rewards": ["rougel"]}, "did you mean 'rougeL'"),
        ({"dataset_name": "./nothing.jsonl"}, "is not there"),
        ({"hidden_size": 15}, "hidden_size is 15"),
    ],
)
def test_what_cannot_work_is_a_users_mistake(capsys, keys, message):
    with pytest.raises(UserError, match=message):
        run_experiment(tiny(**keys))


@pytest.mark.slow
def test_an_encoder_decoder_model_is_reinforced_and_the_line_that_loads_it_fits(t5, capsys):
    folder = run_experiment(tiny(algorithm="nlpo", model_name_or_path=t5, max_steps=1))
    assert "AutoModelForSeq2SeqLM" in load_command(folder)
    assert list(stages(folder)) == ["zero-shot", "nlpo"]


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_an_adapter_on_a_quantized_base_learns_by_a_recipe(llama, bits, capsys):
    pytest.importorskip("bitsandbytes")
    keys = {"model_name_or_path": llama, "use_peft": True, "lora_target_modules": "all-linear", bits: True}
    folder = run_experiment(tiny(algorithm="nlpo", optim="paged_adamw_8bit", learning_rate=1e-2, **keys))
    assert (folder / "adapter_config.json").is_file()
    changed = [weight for name, weight in load_file(folder / "adapter_model.safetensors").items() if "lora_B" in name]
    assert changed
    assert all(weight.abs().sum() > 0 for weight in changed)


def test_a_prompt_too_long_for_the_model_is_known_before_anything_is_trained(capsys):
    with pytest.raises(UserError, match="the train split row 0 has a prompt of"):
        run_experiment(tiny(max_position_embeddings=16))


def test_results_of_a_stage_are_on_disk_at_once_and_infinity_is_null(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.log("supervised", 3, {"loss": math.inf, "epoch": 1.5})
    (line,) = lines(tmp_path / "run" / "metrics.jsonl")
    assert (line["stage"], line["step"], line["loss"], line["epoch"]) == ("supervised", 3, None, 1.5)
    folder.add_result("zero-shot", {"reward": 0.5}, [{"prompt": "p", "completion": "c", "score": 0.5}], 0.0)
    folder.add_result("supervised", {"reward": 0.7}, [{"prompt": "p", "completion": "d", "score": 0.7}], 2.0)
    assert lines(tmp_path / "run" / "samples.jsonl") == [
        {
            "prompt": "p",
            "zero-shot": {"completion": "c", "score": 0.5},
            "supervised": {"completion": "d", "score": 0.7},
        }
    ]
    assert stages(tmp_path / "run")["supervised"] == {"reward": 0.7, "seconds": 2.0}
    assert list(RunFolder(tmp_path / "run", resume=True).results) == ["zero-shot", "supervised"]
    assert RunFolder(tmp_path / "run", overwrite=True).results == {}
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.fixture
def no_bars():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def test_a_run_leaves_the_output_of_other_libraries_as_it_was(no_bars, capsys):
    verbosity = logging.get_verbosity()
    run_experiment(tiny(algorithm="zero_shot"))
    assert not logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == verbosity

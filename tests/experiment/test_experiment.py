"""A recipe from its file to a finished run folder, in miniature."""

from __future__ import annotations

import json
import math

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, T5Config, T5ForConditionalGeneration, TrainerCallback

from support.slow import slow_except
from trl_nlpo.data.splits import load_splits
from trl_nlpo.errors import UserError
from trl_nlpo.evaluation.policy import evaluate_policy
from trl_nlpo.experiment import experiment
from trl_nlpo.experiment.experiment import run_experiment
from trl_nlpo.experiment.starting_model import starting_model
from trl_nlpo.experiment.summary import load_command
from trl_nlpo.models.from_scratch import build_model, train_tokenizer
from trl_nlpo.recipes.recipe import load_recipe
from trl_nlpo.storage.run_folder import RunFolder


TINY = {
    "algorithm": "supervised+nlpo",
    "dataset_name": "quickstart",
    "max_train_samples": 32,
    "max_eval_samples": 6,
    "rewards": ["grammatical", {"name": "pleasant_sentence", "weight": 2}],
    "model_type": "gpt2",
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 192,
    "supervised_num_train_epochs": 1,
    "supervised_learning_rate": 1e-3,
    "supervised_batch_size": 8,
    "response_length": 8,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 6,
    "gradient_accumulation_steps": 1,
    "num_ppo_epochs": 1,
    "max_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "use_cpu": True,
    "bf16": False,
}


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny(**keys):
    with open("tiny.yaml", "w") as file:
        yaml.safe_dump({**TINY, **keys}, file)
    return load_recipe("tiny.yaml")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def stages(folder):
    return json.loads((folder / "results.json").read_text())["stages"]


def assert_is_what_was_evaluated(model, folder, stage):
    """The saved model gives the completions of `samples.jsonl`."""
    recipe, tokenizer = load_recipe("tiny.yaml"), AutoTokenizer.from_pretrained(folder)
    test = load_splits(recipe.arguments, recipe.training.seed).test
    found = evaluate_policy(model, tokenizer, test, recipe.arguments.reward_functions(), recipe.training)
    expected = [sample[stage]["completion"] for sample in lines(folder / "samples.jsonl")]
    assert [sample["completion"] for sample in found.samples] == expected


def test_a_whole_run_leaves_model_recipe_metrics_results_and_samples(capsys):
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
    again = run_experiment(load_recipe(first / "recipe.yaml"))
    assert again == first
    for stage, metrics in stages(again).items():
        assert metrics["reward"] == before[stage]["reward"]
        assert metrics["perplexity"] == pytest.approx(before[stage]["perplexity"], rel=1e-4)


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
def test_a_failure_keeps_what_earlier_stages_earned(monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise UserError("the trainer refuses")

    monkeypatch.setattr(experiment, "NLPOTrainer", fail)
    with pytest.raises(UserError, match="refuses"):
        run_experiment(tiny())
    folder = load_recipe("tiny.yaml").training.output_dir
    from pathlib import Path

    folder = Path(folder)
    assert list(stages(folder)) == ["zero-shot", "supervised"]
    assert AutoModelForCausalLM.from_pretrained(folder / "supervised") is not None
    assert (folder / "recipe.yaml").is_file()
    assert "What was finished is in" in capsys.readouterr().out


@pytest.mark.slow
def test_a_resumed_run_does_not_train_the_supervised_model_again(monkeypatch, capsys):
    real = experiment.NLPOTrainer

    def fail(*args, **kwargs):
        raise UserError("the trainer refuses")

    monkeypatch.setattr(experiment, "NLPOTrainer", fail)
    with pytest.raises(UserError, match="refuses"):
        run_experiment(tiny())
    monkeypatch.setattr(experiment, "NLPOTrainer", real)
    monkeypatch.setattr(experiment, "train_supervised", fail)
    folder = run_experiment(tiny(resume_from_checkpoint="true"))
    assert list(stages(folder)) == ["zero-shot", "supervised", "supervised+nlpo"]


@pytest.mark.slow
def test_a_run_that_died_before_the_judge_was_heard_on_zero_shot_asks_it(monkeypatch, capsys):
    real, calls = experiment._evaluate, []

    def die(run, stage, *args, **kwargs):
        calls.append(stage)
        if len(calls) == 3:
            raise SystemExit
        real(run, stage, *args, **kwargs)

    monkeypatch.setattr(experiment, "_evaluate", die)
    with pytest.raises(SystemExit):
        run_experiment(tiny(algorithm="supervised"))
    monkeypatch.setattr(experiment, "_evaluate", real)
    folder = run_experiment(tiny(algorithm="supervised", resume_from_checkpoint="true"))
    assert calls == ["zero-shot", "supervised", "zero-shot"]
    assert all("perplexity" in stage for stage in stages(folder).values())


def test_a_damaged_checkpoint_is_said_and_the_one_before_used(monkeypatch, capsys):
    keys = {"algorithm": "nlpo", "save_steps": 1, "save_total_limit": 2}
    folder = run_experiment(tiny(**keys))
    before = (folder / "model.safetensors").read_bytes()
    (folder / "checkpoint-2" / "optimizer.pt").write_bytes(b"")
    capsys.readouterr()
    run_experiment(tiny(**keys, resume_from_checkpoint="true"))
    assert "checkpoint-2 is damaged (optimizer.pt has 0 bytes" in capsys.readouterr().out
    assert (folder / "model.safetensors").read_bytes() == before
    assert [line["step"] for line in lines(folder / "metrics.jsonl") if "reward" in line] == [1, 2]


def test_an_interrupted_run_goes_on_from_its_checkpoint(monkeypatch, capsys):
    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise KeyboardInterrupt

    real = experiment.MetricsLog
    keys = {"max_steps": 4, "save_steps": 1, "eval_strategy": "no"}
    monkeypatch.setattr(
        experiment, "MetricsLog", lambda folder, stage: Interrupt() if "nlpo" in stage else real(folder, stage)
    )
    with pytest.raises(KeyboardInterrupt):
        run_experiment(tiny(**keys))
    monkeypatch.setattr(experiment, "MetricsLog", real)
    folder = run_experiment(tiny(**keys, resume_from_checkpoint="true"))
    steps = [line["step"] for line in lines(folder / "metrics.jsonl") if "reward" in line]
    assert steps == [2, 3, 4]
    assert list(stages(folder)) == ["zero-shot", "supervised", "supervised+nlpo"]


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


@pytest.mark.slow
def test_a_model_and_tokenizer_can_come_from_a_folder(capsys):
    first = run_experiment(tiny(algorithm="supervised"))
    folder = run_experiment(
        tiny(algorithm="nlpo", model_name_or_path=str(first / "supervised"), output_dir="second", max_steps=1)
    )
    assert stages(folder)["zero-shot"]["reward"] == stages(first)["supervised"]["reward"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model_name_or_path": "./nowhere"}, "model_name_or_path './nowhere' cannot be loaded"),
        ({"rewards": ["rougel"]}, "did you mean 'rougeL'"),
        ({"dataset_name": "./nothing.jsonl"}, "is not there"),
        ({"hidden_size": 15}, "hidden_size is 15"),
    ],
)
def test_what_cannot_work_is_a_users_mistake(capsys, keys, message):
    with pytest.raises(UserError, match=message):
        run_experiment(tiny(**keys))


@pytest.fixture
def t5(tmp_path):
    tokenizer = train_tokenizer(["On Sunday the dog went to the river"], 300)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    ids = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes, **ids)).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    return str(tmp_path / "t5")


def test_an_encoder_decoder_model_is_reinforced_and_the_line_that_loads_it_fits(t5, capsys):
    folder = run_experiment(tiny(algorithm="nlpo", model_name_or_path=t5, max_steps=1))
    assert "AutoModelForSeq2SeqLM" in load_command(folder)
    assert list(stages(folder)) == ["zero-shot", "nlpo"]


@pytest.mark.parametrize("use_peft", slow_except([False, True], False))
@pytest.mark.slow
def test_an_encoder_decoder_model_is_supervised_and_then_reinforced(t5, capsys, use_peft):
    keys = {"lora_target_modules": ["q", "v"], "lora_task_type": "SEQ_2_SEQ_LM"} if use_peft else {}
    folder = run_experiment(
        tiny(algorithm="supervised+nlpo", model_name_or_path=t5, max_steps=1, use_peft=use_peft, **keys)
    )
    assert list(stages(folder)) == ["zero-shot", "supervised", "supervised+nlpo"]
    assert (folder / "adapter_config.json").is_file() is use_peft
    weights = [T5ForConditionalGeneration.from_pretrained(path).parameters() for path in (t5, folder / "supervised")]
    assert not all(map(torch.equal, *weights))


@pytest.fixture
def llama(working_directory):
    """A small model of whole blocks of 64, as quantization wants them, with its tokenizer."""
    tokenizer = train_tokenizer(["On Sunday my aunt went to the river and met a dog."] * 2, 300)
    torch.manual_seed(0)
    build_model(tokenizer, "llama", 128, 1, 4, 192).save_pretrained("base")
    tokenizer.save_pretrained("base")
    return "base"


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
@pytest.mark.slow
def test_an_adapter_on_a_quantized_base_learns_by_a_recipe(llama, bits, capsys):
    pytest.importorskip("bitsandbytes")
    keys = {"model_name_or_path": llama, "use_peft": True, "lora_target_modules": "all-linear", bits: True}
    folder = run_experiment(tiny(algorithm="nlpo", optim="paged_adamw_8bit", learning_rate=1e-2, **keys))
    assert (folder / "adapter_config.json").is_file()
    changed = [weight for name, weight in load_file(folder / "adapter_model.safetensors").items() if "lora_B" in name]
    assert changed
    assert all(weight.abs().sum() > 0 for weight in changed)


@pytest.mark.slow
def test_an_adapter_in_a_folder_is_trained_further(llama, capsys):
    keys = {"model_name_or_path": llama, "use_peft": True, "lora_target_modules": "all-linear"}
    first = run_experiment(tiny(algorithm="nlpo", **keys))
    second = run_experiment(tiny(algorithm="nlpo", model_name_or_path=str(first), output_dir="second"))
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)
    with pytest.raises(UserError, match="is an adapter, which is trained further as it is: leave out use_peft"):
        run_experiment(tiny(algorithm="nlpo", model_name_or_path=str(first), use_peft=True, output_dir="third"))


@pytest.mark.parametrize("other", [{"hidden_size": 64}, {"model_type": "gpt2"}], ids=["size", "layers"])
@pytest.mark.slow
def test_an_adapter_of_another_base_is_a_users_mistake(llama, other, capsys):
    keys = {"model_name_or_path": llama, "use_peft": True, "lora_target_modules": ["q_proj"]}
    folder = run_experiment(tiny(algorithm="nlpo", **keys))
    sizes = {"model_type": "llama", "hidden_size": 128, **other}
    build_model(
        AutoTokenizer.from_pretrained(llama), sizes["model_type"], sizes["hidden_size"], 1, 4, 192
    ).save_pretrained(llama)
    with pytest.raises(UserError, match="does not fit the base model 'base': it was trained on another one") as caught:
        run_experiment(tiny(algorithm="nlpo", model_name_or_path=str(folder), output_dir="other"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_supervised_model_of_another_run_is_where_reinforcement_starts_and_is_loaded_once(monkeypatch, capsys):
    supervised = run_experiment(tiny(algorithm="supervised", output_dir="first")) / "supervised"
    loaded = []
    monkeypatch.setattr(
        experiment, "starting_model", lambda *given: loaded.append(given[2:]) or starting_model(*given)
    )
    folder = run_experiment(tiny(algorithm="supervised+ppo", supervised_model=str(supervised), output_dir="second"))
    assert list(stages(folder)) == ["supervised+ppo"]
    assert loaded == [(supervised,)]
    assert str(supervised) in capsys.readouterr().out.replace("\n", "")


def test_layers_that_an_adapter_does_not_find_are_a_users_mistake(capsys):
    with pytest.raises(UserError, match=r"lora_target_modules .* matches no layer"):
        run_experiment(tiny(algorithm="supervised+nlpo", use_peft=True, lora_target_modules=["nowhere"]))


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
    assert RunFolder(tmp_path / "run").results == {}
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_run_is_not_resumed_with_another_seed_and_its_recipe_stays_unless_forced(capsys):
    folder = run_experiment(tiny())
    before = (folder / "recipe.yaml").read_text()
    other = tiny(seed=7, resume_from_checkpoint="true")
    with pytest.raises(UserError, match="seed: 42 -> 7"):
        run_experiment(other)
    assert (folder / "recipe.yaml").read_text() == before
    run_experiment(other, force=True)
    assert "seed: 7" in (folder / "recipe.yaml").read_text()


@pytest.mark.slow
def test_a_run_that_died_early_is_not_gone_on_with_from_the_checkpoints_of_one_before_it(monkeypatch, capsys):
    folder = run_experiment(tiny(save_steps=1))
    assert (folder / "checkpoint-1").is_dir()
    real = experiment.NLPOTrainer

    class Dies(real):
        def collect_rollout(self, prompts):
            raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "NLPOTrainer", Dies)
    other = {"learning_rate": 1e-6, "kl_coef": 5.0, "save_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        run_experiment(tiny(**other))
    taken = []

    class Counts(real):
        def update_policy(self, rollout, estimates):
            taken.append(self.kl_coef)
            return super().update_policy(rollout, estimates)

    monkeypatch.setattr(experiment, "NLPOTrainer", Counts)
    run_experiment(tiny(resume_from_checkpoint="true", **other))
    assert taken == [5.0] * tiny().training.max_steps


@pytest.mark.slow
def test_a_recipe_says_nothing_of_how_its_run_was_gone_on_with(capsys):
    folder = run_experiment(tiny())
    before = (folder / "recipe.yaml").read_text()
    run_experiment(tiny(resume_from_checkpoint="true"))
    assert (folder / "recipe.yaml").read_text() == before

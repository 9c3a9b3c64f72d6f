"""A recipe's run that ended early and is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import (
    AutoModelForCausalLM,
    TrainerCallback,
)

from support.small_runs import lines, stages, tiny
from trl_nlpo.errors import UserError
from trl_nlpo.experiment import experiment
from trl_nlpo.experiment.experiment import run_experiment
from trl_nlpo.recipes.recipe import load_recipe


@pytest.mark.slow
def test_a_failure_keeps_the_results_of_finished_stages(monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise UserError("the trainer refuses")

    monkeypatch.setattr(experiment, "NLPOTrainer", fail)
    with pytest.raises(UserError, match="refuses"):
        run_experiment(tiny())
    folder = load_recipe("tiny.yaml").training.output_dir

    folder = Path(folder)
    assert list(stages(folder)) == ["zero-shot", "supervised"]
    assert AutoModelForCausalLM.from_pretrained(folder / "supervised") is not None
    assert (folder / "recipe.yaml").is_file()
    assert "Finished stages are in" in capsys.readouterr().out


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
        if stage == "zero-shot":
            raise SystemExit
        real(run, stage, *args, **kwargs)

    monkeypatch.setattr(experiment, "_evaluate", die)
    with pytest.raises(SystemExit):
        run_experiment(tiny(algorithm="supervised"))
    monkeypatch.setattr(experiment, "_evaluate", real)
    folder = run_experiment(tiny(algorithm="supervised", resume_from_checkpoint="true"))
    assert calls == ["supervised", "zero-shot"]
    assert list(stages(folder)) == ["zero-shot", "supervised"]
    assert all("perplexity" in stage for stage in stages(folder).values())


@pytest.mark.slow
def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(monkeypatch, capsys):
    keys = {"algorithm": "nlpo", "save_steps": 1, "save_total_limit": 2}
    folder = run_experiment(tiny(**keys))
    before = (folder / "model.safetensors").read_bytes()
    (folder / "checkpoint-2" / "optimizer.pt").write_bytes(b"")
    capsys.readouterr()
    run_experiment(tiny(**keys, resume_from_checkpoint="true"))
    assert "checkpoint-2 is damaged (optimizer.pt has 0 bytes" in capsys.readouterr().out
    assert (folder / "model.safetensors").read_bytes() == before
    assert [line["step"] for line in lines(folder / "metrics.jsonl") if "reward" in line] == [1, 2]


@pytest.mark.slow
def test_an_interrupted_run_resumes_from_its_checkpoint(monkeypatch, capsys):
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
def test_a_run_that_died_early_is_not_resumed_from_the_checkpoints_of_one_before_it(monkeypatch, capsys):
    folder = run_experiment(tiny(save_steps=1))
    assert (folder / "checkpoint-1").is_dir()
    real = experiment.NLPOTrainer

    class Dies(real):
        def collect_rollout(self, prompts):
            raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "NLPOTrainer", Dies)
    other = {"learning_rate": 1e-6, "kl_coef": 5.0, "save_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        run_experiment(tiny(**other), overwrite=True)
    taken = []

    class Counts(real):
        def update_policy(self, rollout, estimates):
            taken.append(self.kl_coef)
            return super().update_policy(rollout, estimates)

    monkeypatch.setattr(experiment, "NLPOTrainer", Counts)
    run_experiment(tiny(resume_from_checkpoint="true", **other))
    assert taken == [5.0] * tiny().training.max_steps


@pytest.mark.parametrize(
    ("keys", "options", "says"),
    [
        ({}, {}, "holds an earlier run"),
        ({"model_name_or_path": "./nowhere"}, {"overwrite": True}, "is not there"),
        ({"model_name_or_path": "broken"}, {"overwrite": True}, "cannot be loaded"),
        ({"dataset_name": "./nothing.jsonl"}, {"overwrite": True}, "is not there"),
        ({"per_device_train_batch_size": 64}, {"overwrite": True}, "train_dataset has 32 rows"),
        ({"report_to": "dvclive"}, {"overwrite": True}, "report_to has 'dvclive'"),
        ({"learning_rate": -1.0}, {"overwrite": True}, "Invalid learning rate"),
        ({"rewards": ["no_module.reward"]}, {"overwrite": True}, "there is no module"),
        ({"judge_model": "./nowhere"}, {"overwrite": True}, "judge_model './nowhere' is not there"),
    ],
)
def test_a_second_start_that_cannot_work_leaves_the_finished_run_as_it_is(capsys, keys, options, says):
    folder = Path("runs/tiny")
    folder.mkdir(parents=True)
    for name in ("results.json", "metrics.jsonl", "samples.jsonl"):
        (folder / name).write_text('{"stages": {"nlpo": {"reward": 1.0}}}\n')
    Path("broken").mkdir()
    Path("broken/config.json").write_text("{")
    with pytest.raises(UserError, match=says):
        run_experiment(tiny(algorithm="nlpo", **keys), **options)
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "results.json", "samples.jsonl"]


def test_a_run_is_refused_where_another_process_writes(capsys):
    folder = Path("runs/tiny")
    folder.mkdir(parents=True)
    (folder / "_lock.json").write_text('{"host": "elsewhere", "pid": 7}')
    with pytest.raises(UserError, match="process 7 on elsewhere is writing a run there"):
        run_experiment(tiny(resume_from_checkpoint="true"))


@pytest.mark.slow
def test_a_recipe_does_not_say_that_its_run_was_resumed(capsys):
    folder = run_experiment(tiny())
    before = (folder / "recipe.yaml").read_text()
    run_experiment(tiny(resume_from_checkpoint="true"))
    assert (folder / "recipe.yaml").read_text() == before

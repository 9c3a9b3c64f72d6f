"""What a run does when rewards, numbers, memory or the disk fail: in one line, with its work saved."""

from __future__ import annotations

import errno
import json
import math
import os

import pytest
import torch
from safetensors import SafetensorError
from transformers import Trainer

from support import tiny
from support.resumable import assert_equal_ends, trainer
from trl_nlpo import UserError
from trl_nlpo.algorithm import update
from trl_nlpo.errors import DiskFullError, OutOfMemoryError, RewardError, TrainingStoppedError
from trl_nlpo.storage import files as disk
from trl_nlpo.trainer.guard import is_out_of_memory


def logs(subject, name):
    return [entry[name] for entry in subject.state.log_history if name in entry]


class TestRewards:
    def test_skipped_completions_are_counted_and_the_others_are_learned_from(self, tmp_path):
        def flaky(completions, **kwargs):
            return [math.nan, None, *tiny.length_reward(completions)[2:]]

        subject = trainer(tmp_path, flaky, reward_failure="skip", logging_steps=2)
        before = [parameter.clone() for parameter in subject.policy_model.parameters()]
        subject.train()
        assert logs(subject, "nlpo/skipped_completions") == [2.0, 2.0]
        assert all(math.isfinite(reward) for reward in logs(subject, "reward"))
        assert not all(map(torch.equal, before, subject.policy_model.parameters()))

    def test_the_kl_controller_counts_only_what_is_learned_from(self, tmp_path):
        subject = trainer(tmp_path, lambda completions, **kwargs: [None, *[1.0] * 3], reward_failure="skip")
        rollout = subject.collect_rollout(list(tiny.prompts(4)["prompt"]))
        estimates = subject.estimate_advantages(rollout, subject.score_rollout(rollout))
        kl = float(estimates.kl.sum()) / 3
        error = min(max((kl - 1.0) / 1.0, -0.2), 0.2)
        assert subject.adapt_kl_coef(estimates) == pytest.approx(0.05 * (1 + 0.1 * error))

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_an_update_without_any_reward_changes_nothing_but_the_count(self, tmp_path):
        def down(completions, trainer_state, **kwargs):
            if trainer_state.global_step == 1:
                raise ConnectionError("the service is down")
            return tiny.length_reward(completions)

        subject = trainer(tmp_path, down, reward_failure="skip")
        subject.train()
        assert logs(subject, "nlpo/skipped_completions") == [0.0, 4.0, 0.0, 0.0]
        assert logs(subject, "nlpo/skipped_steps") == [0.0, 4.0, 0.0, 0.0]
        assert [math.isnan(reward) for reward in logs(subject, "reward")] == [False, True, False, False]
        loss = logs(subject, "loss/policy_avg")
        assert subject.run.policy_loss_sum == pytest.approx(loss[0] + loss[2] + loss[3])

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_a_reward_that_stays_away_ends_the_run(self, tmp_path):
        def down(completions, **kwargs):
            raise ConnectionError("the service is down")

        # 4 steps an update
        with pytest.raises(TrainingStoppedError, match=r"The last 12 optimizer steps were skipped .*checkpoint-3"):
            trainer(tmp_path, down, reward_failure="skip", save_steps=50, max_skipped_steps=10).train()
        assert (tmp_path / "checkpoint-3").is_dir()

    def test_evaluations_skip_and_count_too(self, tmp_path):
        def flaky(completions, **kwargs):
            return [math.inf, *[2.0] * (len(completions) - 1)]

        subject = trainer(tmp_path, flaky, reward_failure="skip", eval_strategy="no", per_device_eval_batch_size=3)
        metrics = subject.evaluate()
        assert (metrics["eval_reward"], metrics["eval_reward_std"], metrics["eval_skipped_completions"]) == (2, 0, 1)

    @pytest.mark.slow
    def test_a_hanging_reward_ends_the_run_with_a_checkpoint(self, tmp_path):
        import threading

        release = threading.Event()

        def hangs(completions, trainer_state, **kwargs):
            if trainer_state.global_step == 2:
                release.wait()
            return tiny.length_reward(completions)

        with pytest.raises(RewardError, match="'hangs' did not return within 1 seconds"):
            trainer(tmp_path, hangs, reward_timeout=1.0, save_steps=50).train()
        release.set()
        assert (tmp_path / "checkpoint-2").is_dir()

    @pytest.mark.parametrize(
        ("name", "value"), [("reward_failure", "ignore"), ("reward_timeout", 0.0), ("max_skipped_steps", 0)]
    )
    def test_settings_that_make_no_sense_are_refused(self, tmp_path, name, value):
        with pytest.raises(UserError, match=name):
            trainer(tmp_path, **{name: value})


class TestNumbers:
    def nan_advantages(self, monkeypatch, subject, updates):
        real = subject.estimate_advantages

        def estimate(rollout, scores):
            estimates = real(rollout, scores)
            if subject.state.global_step in updates:
                estimates.advantages[:] = math.nan
            return estimates

        monkeypatch.setattr(subject, "estimate_advantages", estimate)

    def test_a_step_that_is_not_finite_is_skipped_and_logged(self, tmp_path, monkeypatch):
        subject = trainer(tmp_path, tiny.length_reward)
        self.nan_advantages(monkeypatch, subject, {1})
        subject.train()
        assert logs(subject, "nlpo/skipped_steps") == [0.0, 4.0, 0.0, 0.0]
        assert all(parameter.isfinite().all() for parameter in subject.model.parameters())
        assert subject.run.skipped_steps_in_a_row == 0

    def test_too_many_in_a_row_end_the_run_with_a_checkpoint_and_one_line(self, tmp_path, monkeypatch):
        subject = trainer(tmp_path, tiny.length_reward, max_skipped_steps=8, save_steps=50)
        self.nan_advantages(monkeypatch, subject, {1, 2, 3})
        with pytest.raises(TrainingStoppedError, match="lower learning_rate") as stop:
            subject.train()
        assert "\n" not in str(stop.value)
        assert f"resume from {tmp_path / 'checkpoint-3'} with --resume" in str(stop.value)
        state = json.loads((tmp_path / "checkpoint-3" / "nlpo_state.json").read_text())
        assert state["run"]["skipped_steps_in_a_row"] == 8

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # all of its steps are skipped
    def test_without_a_limit_it_goes_on(self, tmp_path, monkeypatch):
        subject = trainer(tmp_path, tiny.length_reward, max_skipped_steps=None, num_ppo_epochs=4)
        self.nan_advantages(monkeypatch, subject, {0, 1, 2, 3})
        assert subject.train().global_step == 4


class TestMemory:
    @pytest.mark.parametrize(
        "error",
        [
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
        ],
    )
    def test_out_of_memory_names_what_to_lower_and_keeps_the_checkpoint(self, tmp_path, monkeypatch, error):
        real, calls = update.update_policy, []

        def fail(*args, **kwargs):
            calls.append(1)
            if len(calls) == 3:
                raise error
            return real(*args, **kwargs)

        monkeypatch.setattr(update, "update_policy", fail)
        with pytest.raises(OutOfMemoryError) as caught:
            trainer(tmp_path, tiny.length_reward, save_steps=50).train()
        said = str(caught.value)
        assert isinstance(caught.value, UserError)
        assert said.startswith("Out of memory in update 3: lower per_device_train_batch_size (4;")
        for name in ("local_rollout_forward_batch_size (64)", "gradient_checkpointing", "response_length (5)"):
            assert name in said
        assert f"resume from {tmp_path / 'checkpoint-2'}" in said
        assert "\n" not in said
        assert caught.value.__cause__ is error

    def test_other_errors_are_not_taken_for_it(self):
        assert not is_out_of_memory(RuntimeError("size mismatch"))


class TestDisk:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            # as torch.save 2.13 puts it on a tmpfs of 900 kB
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 168448 vs 168340"),
        ],
    )
    def test_a_full_disk_leaves_the_last_checkpoint_and_says_what_is_needed_and_free(
        self, tmp_path, monkeypatch, error
    ):
        unbroken = trainer(tmp_path / "unbroken", tiny.length_reward)
        unbroken.train()

        def fail(self, folder):
            if self.state.global_step == 3:
                raise error
            return real(self, folder)

        real = Trainer._save_optimizer_and_scheduler
        free, measured = type("Usage", (), {"free": 123_456}), disk._bytes_in
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_save_optimizer_and_scheduler", fail)
            patch.setattr(disk.shutil, "disk_usage", lambda folder: free)
            patch.setattr(disk, "_bytes_in", lambda folder: 0 if folder.name == "_unfinished" else measured(folder))
            with pytest.raises(DiskFullError) as caught:
                trainer(tmp_path / "full", tiny.length_reward, save_total_limit=1).train()
        said = str(caught.value)
        size = sum(path.stat().st_size for path in (tmp_path / "full" / "checkpoint-2").rglob("*") if path.is_file())
        assert f"a checkpoint of about {round(size / 1000)} kB" in said
        assert "123 kB are free" in said
        assert "checkpoint-2 is complete" in said
        assert "\n" not in said
        assert sorted(os.listdir(tmp_path / "full")) == ["README.md", "_card.json", "checkpoint-2"]
        resumed = trainer(tmp_path / "full", tiny.length_reward)
        resumed.train(resume_from_checkpoint=True)
        assert_equal_ends(unbroken, resumed)

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.EIO, "Input/output error"),
            RuntimeError("[enforce fail at inline_container.cc:672] unexpected"),
        ],
    )
    def test_another_error_while_saving_stays_itself(self, tmp_path, monkeypatch, error):
        def fail(self, folder):
            raise error

        monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10**9}))
        monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", fail)
        with pytest.raises(type(error), match=r"Input/output error|inline_container"):
            trainer(tmp_path, tiny.length_reward).train()
        assert not (tmp_path / "_unfinished").exists()

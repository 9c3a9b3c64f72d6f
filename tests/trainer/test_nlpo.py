"""The trainer as its users meet it: drop-in for TRL's PPO, rewards, evaluation, saving, resuming, bad input."""

from __future__ import annotations

import json
import os

import huggingface_hub
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    EarlyStoppingCallback,
    SchedulerType,
    TrainerCallback,
)

from support import tiny
from support.slow import slow_except
from trl_nlpo import NLPOConfig, NLPOTrainer, UserError
from trl_nlpo._trl import HAS_PPO
from trl_nlpo.errors import RewardError
from trl_nlpo.trainer import watches


QUICK = {
    "per_device_train_batch_size": 8, "num_ppo_epochs": 1, "response_length": 6, "stop_token": "eos",
    "learning_rate": 1e-3, "total_episodes": 32, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
    "num_sample_generations": 0, "use_cpu": True,
}  # fmt: skip

TRL_METRICS = {
    "eps", "objective/kl", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward",
    "objective/scores", "policy/approxkl_avg", "policy/clipfrac_avg", "policy/entropy_avg", "loss/policy_avg",
    "loss/value_avg", "val/clipfrac_avg", "val/ratio", "val/ratio_var", "val/num_eos_tokens", "lr", "episode",
}  # fmt: skip


def trainer(tmp_path, rewards=tiny.length_reward, train=None, callbacks=None, **settings) -> NLPOTrainer:
    names = ("eval_dataset", "peft_config", "reward_processing_classes", "model", "ref_model", "processing_class")
    keywords = {name: settings.pop(name) for name in names if name in settings}
    return NLPOTrainer(
        args=NLPOConfig(output_dir=str(tmp_path), **{**QUICK, **settings}),
        train_dataset=tiny.prompts() if train is None else train,
        reward_funcs=rewards,
        callbacks=callbacks,
        **{"processing_class": tiny.tokenizer(), "model": tiny.policy(), **keywords},
    )


def tokenized(num_rows: int, tokenizer) -> Dataset:
    """As TRL's PPO wants it."""
    rows = tiny.prompts(num_rows)
    return rows.map(lambda row: tokenizer(text=row["prompt"]), remove_columns=["prompt", "number"])


class TestDropIn:
    """A script written for `trl.experimental.ppo`, with the two class names replaced."""

    def ppo_trainer(self, tmp_path, **settings):
        tokenizer = tiny.tokenizer()
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        self.policy, self.value_model = tiny.policy("qwen2"), tiny.classifier("qwen2")
        self.before = [
            {name: weight.clone() for name, weight in model.named_parameters()}
            for model in (self.policy, self.value_model)
        ]
        args = NLPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=4, per_device_eval_batch_size=2,
            num_ppo_epochs=2, response_length=6, report_to="none",
        )  # fmt: skip
        dataset = tokenized(9, tokenizer)
        return NLPOTrainer(
            args=args,
            processing_class=tokenizer,
            model=self.policy,
            ref_model=None if "peft_config" in settings else tiny.policy("qwen2"),
            reward_model=tiny.classifier("qwen2", seed=2),
            value_model=self.value_model,
            train_dataset=dataset,
            eval_dataset=dataset.select(range(2)),
            **settings,
        )

    def moved(self, model, before):
        return any(
            not torch.equal(before[name], weight) for name, weight in model.named_parameters() if name in before
        )

    @pytest.mark.slow
    def test_a_ppo_script_trains_policy_and_value_model(self, tmp_path):
        subject = self.ppo_trainer(tmp_path)
        subject.train()
        assert self.moved(subject.model.policy, self.before[0])
        assert self.moved(subject.model.value_model, self.before[1])

    @pytest.mark.slow
    def test_a_ppo_script_with_an_adapter_trains_it(self, tmp_path):
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(r=4, lora_alpha=16, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM")
        subject = self.ppo_trainer(tmp_path, peft_config=config)
        subject.train()
        adapter = [weight for name, weight in subject.model.policy.named_parameters() if "lora_B" in name]
        assert adapter
        assert all(weight.abs().max() > 0 for weight in adapter)
        assert self.moved(subject.model.value_model, self.before[1])
        assert not self.moved(subject.model.policy.get_base_model(), self.before[0])

    def test_the_metrics_of_trl_are_logged_under_their_names_at_every_update(self, tmp_path):
        subject = self.ppo_trainer(tmp_path)
        subject.train()
        logs = [entry for entry in subject.state.log_history if "objective/kl" in entry]
        assert [entry["step"] for entry in logs] == list(range(1, subject.args.num_total_batches + 1))
        assert set(logs[-1]) >= TRL_METRICS
        assert logs[-1]["episode"] == subject.args.num_total_batches * 4

    def test_arguments_may_be_positional_in_trls_order(self, tmp_path):
        tokenizer = tiny.tokenizer()
        subject = NLPOTrainer(
            NLPOConfig(output_dir=str(tmp_path), **QUICK), tokenizer, tiny.policy(), tiny.policy(),
            tiny.classifier(seed=2), tokenized(8, tokenizer), tiny.classifier(), None, tokenized(2, tokenizer),
        )  # fmt: skip
        assert subject.train().global_step == 4

    def test_the_batch_sizes_are_written_where_trl_writes_them(self, tmp_path):
        args = trainer(tmp_path, gradient_accumulation_steps=2, num_mini_batches=4).args
        sizes = (args.batch_size, args.local_batch_size, args.mini_batch_size, args.micro_batch_size, args.world_size)
        assert sizes == (16, 16, 4, 8, 1)
        assert args.num_total_batches == 2

    def test_completions_are_printed_from_the_evaluation_set(self, tmp_path, capsys):
        subject = self.ppo_trainer(tmp_path)
        subject.generate_completions(sampling=True)
        assert "completion" in capsys.readouterr().out

    def test_the_base_classes_are_trls_where_it_has_them(self, tmp_path):
        if not HAS_PPO:
            pytest.skip("this TRL has no PPO any more")
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        assert issubclass(NLPOTrainer, PPOTrainer)
        assert issubclass(NLPOConfig, PPOConfig)
        subject = NLPOTrainer(
            args=PPOConfig(output_dir=str(tmp_path), **QUICK),
            processing_class=tiny.tokenizer(),
            model=tiny.policy(),
            reward_funcs=tiny.length_reward,
            train_dataset=tiny.prompts(),
        )
        assert subject.args.gamma == 1.0
        assert subject.train().global_step == 4

    def test_a_collator_of_ones_own_is_used_and_its_padding_taken_off(self, tmp_path):
        from transformers import DataCollatorWithPadding

        tokenizer = tiny.tokenizer()
        collator = DataCollatorWithPadding(tokenizer, padding="max_length", max_length=9)
        subject = NLPOTrainer(
            NLPOConfig(output_dir=str(tmp_path), **QUICK), tokenizer, tiny.policy(), None, tiny.classifier(),
            tokenized(8, tokenizer), data_collator=collator,
        )  # fmt: skip
        assert subject.prompts.prompt_ids == tokenized(8, tokenizer)["input_ids"][:]


class TestRewards:
    def test_all_columns_reach_the_reward_function_by_name(self, tmp_path):
        seen = {}

        def reward(prompts, completions, completion_ids, number, trainer_state, **kwargs):
            seen.update(prompts=prompts, ids=completion_ids, number=number, step=trainer_state.global_step, **kwargs)
            return [0.5] * len(completions)

        trainer(tmp_path, reward, total_episodes=8).train()
        rows = {row["number"]: row["prompt"] for row in tiny.prompts()}
        assert [rows[number] for number in seen["number"]] == seen["prompts"]
        assert all(1 <= len(ids) <= 6 for ids in seen["ids"])
        assert "input_ids" not in seen
        assert seen["step"] == 0

    def test_functions_models_coroutines_and_token_rewards_work_together(self, tmp_path):
        async def counting(completions, **kwargs):
            return [float(len(completion)) for completion in completions]

        def per_token(completion_ids, **kwargs):
            return [[0.25] * len(ids) for ids in completion_ids]

        def sometimes(completions, **kwargs):
            return [None if index % 2 else 1.0 for index in range(len(completions))]

        rewards = [tiny.length_reward, counting, per_token, sometimes, tiny.classifier()]
        subject = trainer(tmp_path, rewards, reward_weights=[1.0, 0.5, 2.0, 1.0, 0.0])
        rollout = subject.collect_rollout(["w1 w2", "w3"])
        scores = subject.score_rollout(rollout)
        lengths = rollout.completion_mask.sum(-1)
        assert scores.names[:4] == ["length_reward", "counting", "per_token", "sometimes"]
        words = torch.tensor([float(len(text.split())) for text in rollout.completions])
        characters = torch.tensor([float(len(text)) for text in rollout.completions])
        torch.testing.assert_close(scores.scores, words + 0.5 * characters + torch.tensor([1.0, 0.0]))
        torch.testing.assert_close(scores.dense_rewards, 0.5 * rollout.completion_mask.float())
        torch.testing.assert_close(scores.totals, scores.scores + 0.5 * lengths)
        subject.train()
        assert "rewards/per_token/mean" in subject.state.log_history[-1]

    @pytest.mark.slow
    def test_the_same_function_is_called_alike_by_trls_grpo_trainer(self, tmp_path):
        from trl import GRPOConfig, GRPOTrainer

        calls = {}

        def reward(prompts, completions, completion_ids, number, trainer_state, **kwargs):
            calls[where] = {
                "prompts": type(prompts[0]), "completions": type(completions[0]), "ids": type(completion_ids[0][0]),
                "number": type(number[0]), "state": hasattr(trainer_state, "global_step"),
            }  # fmt: skip
            return [float(len(ids)) for ids in completion_ids]

        where = "nlpo"
        trainer(tmp_path / "nlpo", reward, total_episodes=8).train()
        where = "grpo"
        GRPOTrainer(
            model=tiny.policy("qwen2"),
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=str(tmp_path / "grpo"), per_device_train_batch_size=4, num_generations=2, max_steps=1,
                max_completion_length=4, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
                gradient_checkpointing=False,
            ),
            train_dataset=tiny.prompts(),
            processing_class=tiny.tokenizer(),
        ).train()  # fmt: skip
        assert calls["nlpo"] == calls["grpo"]

    def test_conversational_prompts_give_messages_to_the_reward_function(self, tmp_path):
        tokenizer = tiny.tokenizer()
        tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}w9"
        seen = {}

        def reward(prompts, completions, **kwargs):
            seen.update(prompt=prompts[0], completion=completions[0])
            return [1.0] * len(prompts)

        rows = [{"prompt": [{"role": "user", "content": f"w{index} w2"}]} for index in range(8)]
        trainer(tmp_path, reward, Dataset.from_list(rows), processing_class=tokenizer, total_episodes=8).train()
        assert seen["prompt"][0]["role"] == "user"
        assert seen["completion"][0]["role"] == "assistant"

    def test_the_score_of_a_model_does_not_depend_on_padding(self, tmp_path):
        subject = trainer(tmp_path, tiny.classifier("llama", seed=3))
        together = subject.collect_rollout(["w1 w2 w3 w4 w5", "w6"])
        scores = subject.score_rollout(together).scores
        for row, prompt in enumerate(together.batch.prompt_ids):
            ids = torch.tensor([prompt + together.completion_token_ids[row]])
            model = subject.reward_functions[0].model
            with torch.no_grad():
                expected = model.score(model.model(input_ids=ids)[0])[0, -1, 0]
            assert scores[row].item() == pytest.approx(expected.item(), abs=1e-5)

    def test_a_model_with_another_tokenizer_reads_text(self, tmp_path):
        other = tiny.tokenizer()
        subject = trainer(tmp_path, [tiny.classifier()], reward_processing_classes=[other])
        rollout = subject.collect_rollout(["w1 w2"])
        assert torch.isfinite(subject.score_rollout(rollout).scores).all()

    @pytest.mark.parametrize(
        ("returned", "says"),
        [
            ([1.0], "returned 1 values for 8 completions"),
            ([float("nan")] * 8, "returned nan for sample 0"),
            (["good"] * 8, "returned 'good' for sample 0, which is str, not a number"),
            ("good", "returned str"),
            (3.0, "returned float"),
            ([[1.0]] * 7 + [[1.0] * 99], "token rewards for sample"),
        ],
        ids=["count", "nan", "string", "text", "scalar", "tokens"],
    )
    def test_a_bad_return_value_is_one_line_that_names_function_and_sample(self, tmp_path, returned, says):
        def judge(completions, **kwargs):
            return returned

        with pytest.raises(RewardError, match="'judge'") as caught:
            trainer(tmp_path, judge).train()
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_an_exception_in_a_reward_function_keeps_the_run_and_names_the_function(self, tmp_path):
        def fragile(completions, trainer_state, **kwargs):
            if trainer_state.global_step == 2:
                raise KeyError("gold")
            return [1.0] * len(completions)

        subject = trainer(tmp_path, fragile, save_strategy="steps", save_steps=100)
        with pytest.raises(RewardError, match="'fragile' raised KeyError"):
            subject.train()
        assert (tmp_path / "checkpoint-2" / "model.safetensors").is_file()


class TestEvaluation:
    def test_evaluation_runs_when_asked_and_logs_with_its_prefix(self, tmp_path):
        subject = trainer(
            tmp_path, eval_dataset=tiny.prompts(5, seed=3), eval_strategy="steps", eval_steps=2, eval_on_start=True
        )
        subject.train()
        logs = [entry for entry in subject.state.log_history if "eval_reward" in entry]
        assert [entry["step"] for entry in logs] == [0, 2, 4]
        assert {"eval_perplexity", "eval_rewards/length_reward/mean", "eval_completions/mean_length"} <= set(logs[0])

    def test_the_whole_evaluation_set_is_used_also_where_batches_do_not_divide_it(self, tmp_path):
        seen = []

        def reward(prompts, **kwargs):
            seen.extend(prompts)
            return [0.0] * len(prompts)

        subject = trainer(tmp_path, reward, eval_dataset=tiny.prompts(5, seed=3), per_device_eval_batch_size=2)
        subject.evaluate()
        assert seen == tiny.prompts(5, seed=3)["prompt"][:]

    def test_the_loader_of_held_out_prompts_gives_each_once_and_in_order(self, tmp_path):
        subject = trainer(tmp_path, eval_dataset={"a": tiny.prompts(5), "b": tiny.prompts(3)})
        for name, size in ((None, 5), ("b", 3)):
            batches = list(subject.get_eval_dataloader(name))
            assert [number for batch in batches for number in batch.columns["number"]] == list(range(size))
        assert [len(batch) for batch in subject.get_eval_dataloader(tiny.prompts(9))] == [8, 1]

    def test_several_evaluation_sets_are_told_apart(self, tmp_path):
        subject = trainer(tmp_path, eval_dataset={"near": tiny.prompts(3), "far": tiny.prompts(3, seed=9)})
        assert {"eval_near_reward", "eval_far_reward"} <= set(subject.evaluate())

    @pytest.mark.slow
    def test_the_best_model_is_loaded_at_the_end(self, tmp_path):
        def fading(completions, trainer_state, **kwargs):
            return [float(-trainer_state.global_step)] * len(completions)

        subject = trainer(
            tmp_path, fading, eval_dataset=tiny.prompts(3), eval_strategy="steps", eval_steps=1, save_strategy="steps",
            save_steps=1, load_best_model_at_end=True,
        )  # fmt: skip
        subject.train()
        assert subject.state.best_model_checkpoint.endswith("checkpoint-1")
        best = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-1")
        assert all(map(torch.equal, best.parameters(), subject.policy_model.parameters()))
        value = load_file(tmp_path / "checkpoint-1" / "value_model" / "value_model.safetensors")
        last = load_file(tmp_path / "checkpoint-4" / "value_model" / "value_model.safetensors")
        own = subject.value_model.state_dict()
        assert all(torch.equal(own[name], value[name]) for name in own)
        assert any(not torch.equal(own[name], last[name]) for name in own)

    @pytest.mark.slow
    def test_early_stopping_stops(self, tmp_path):
        def fading(completions, trainer_state, **kwargs):
            return [float(-trainer_state.global_step)] * len(completions)

        subject = trainer(
            tmp_path, fading, eval_dataset=tiny.prompts(3), eval_strategy="steps", eval_steps=1, save_strategy="steps",
            save_steps=1, load_best_model_at_end=True, total_episodes=80, callbacks=[EarlyStoppingCallback(2)],
        )  # fmt: skip
        assert subject.train().global_step == 3


class TestSavingAndResuming:
    def test_a_saved_policy_is_a_plain_model_and_the_value_model_lies_beside_it(self, tmp_path):
        subject = trainer(tmp_path)
        subject.train()
        subject.save_model(str(tmp_path / "final"))
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
        assert all(map(torch.equal, loaded.parameters(), subject.policy_model.parameters()))
        assert (tmp_path / "final" / "value_model" / "value_model.safetensors").is_file()
        assert (tmp_path / "final" / "tokenizer.json").is_file()

    def test_a_saved_value_model_of_its_own_loads_by_itself(self, tmp_path):
        subject = NLPOTrainer(
            args=NLPOConfig(output_dir=str(tmp_path), **QUICK), processing_class=tiny.tokenizer(), model=tiny.policy(),
            value_model=tiny.classifier("llama"), reward_funcs=tiny.length_reward, train_dataset=tiny.prompts(),
        )  # fmt: skip
        subject.save_model(str(tmp_path / "final"))
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "final" / "value_model")
        assert all(map(torch.equal, loaded.parameters(), subject.model.value_model.parameters()))

    @pytest.mark.slow
    def test_a_saved_adapter_loads_onto_its_base_and_gives_the_same_logits(self, tmp_path):
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear")
        subject = trainer(tmp_path, model=tiny.policy("llama"), peft_config=config)
        subject.train()
        subject.save_model(str(tmp_path / "final"))
        assert not (tmp_path / "final" / "model.safetensors").exists()
        loaded = peft.PeftModel.from_pretrained(tiny.policy("llama"), tmp_path / "final").eval()
        tokens = torch.arange(3, 12)[None]
        with torch.no_grad():
            torch.testing.assert_close(loaded(tokens).logits, subject.policy_model.eval()(tokens).logits)

    def test_old_checkpoints_are_rotated_away(self, tmp_path):
        trainer(tmp_path, save_strategy="steps", save_steps=1, save_total_limit=2).train()
        assert sorted(os.listdir(tmp_path)) == ["README.md", "_card.json", "checkpoint-3", "checkpoint-4"]

    @pytest.mark.parametrize("kind", slow_except(["plain", "tied embeddings", "adapter", "encoder-decoder"], "plain"))
    def test_a_resumed_run_ends_where_the_unbroken_one_does(self, tmp_path, kind):
        peft = pytest.importorskip("peft")
        settings = {
            "save_strategy": "steps",
            "save_steps": 1,
            "mask_sync_steps": 2,
            "kl_target": 1.0,
            "kl_horizon": 80,
        }

        def fresh():
            adapter = peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear")
            shape = tiny.CONFIGS["gpt2"]()
            shape.tie_word_embeddings = True
            torch.manual_seed(0)
            model = {
                "tied embeddings": lambda: AutoModelForCausalLM.from_config(shape),
                "encoder-decoder": lambda: tiny.policy("t5"),
            }.get(kind, lambda: tiny.policy("llama"))()
            return trainer(tmp_path, model=model, peft_config=adapter if kind == "adapter" else None, **settings)

        unbroken = fresh()
        unbroken.train()
        for step in (1, 2, 3):
            resumed = fresh()
            resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
            ends = [subject.policy_and_value.state_dict() for subject in (unbroken, resumed)]
            assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
            assert resumed.kl_coef == unbroken.kl_coef
            assert [entry["step"] for entry in resumed.state.log_history] == [1, 2, 3, 4]

    @pytest.mark.slow
    def test_true_resumes_from_the_newest_checkpoint(self, tmp_path):
        trainer(tmp_path, save_strategy="steps", save_steps=1).train()
        again = trainer(tmp_path, save_strategy="no")
        again.train(resume_from_checkpoint=True)
        assert again.state.global_step == 4

    def test_a_checkpoint_says_how_old_the_mask_is(self, tmp_path):
        trainer(tmp_path, save_strategy="steps", save_steps=3, mask_sync_steps=2).train()
        state = json.loads((tmp_path / "checkpoint-3" / "nlpo_state.json").read_text())
        assert state["masking_policy"] == {"age": 1, "num_syncs": 1}

    def test_pushing_to_the_hub_uploads_the_policy_the_tokenizer_and_a_card(self, tmp_path, monkeypatch):
        uploaded = {}

        class Commit:
            commit_url = "https://example.invalid/commit"

        def upload_folder(*args, repo_id, folder_path, **kwargs):
            uploaded[repo_id] = sorted(os.listdir(folder_path))
            return Commit()

        created = type("Repository", (), {"repo_id": "somebody/words"})()
        calls = {"create_repo": lambda *args, **kwargs: created, "upload_folder": upload_folder}
        for name, call in calls.items():
            monkeypatch.setattr(huggingface_hub.HfApi, name, call)
            # transformers 4 imports them as functions.
            monkeypatch.setattr(f"transformers.trainer.{name}", call, raising=False)
        subject = trainer(tmp_path, hub_model_id="words")
        subject.train()
        subject.push_to_hub()
        assert {"README.md", "model.safetensors", "tokenizer.json", "value_model"} <= set(uploaded["somebody/words"])
        assert "2210.01241" in (tmp_path / "README.md").read_text()

    def test_an_optimizer_that_forgets_the_value_head_is_refused(self, tmp_path):
        policy = tiny.policy()
        with pytest.raises(UserError, match="does not train the value head"):
            NLPOTrainer(
                args=NLPOConfig(output_dir=str(tmp_path), **QUICK), processing_class=tiny.tokenizer(), model=policy,
                reward_funcs=tiny.length_reward, train_dataset=tiny.prompts(),
                optimizers=(torch.optim.SGD(policy.parameters(), lr=0.1), None),
            )  # fmt: skip

    @pytest.mark.parametrize(("slope", "rate"), [(0.0, 5e-4), (1.0, 1e-3), (-1.0, 5e-4)])
    def test_a_plateau_scheduler_lowers_the_rate_unless_rewards_rise(self, tmp_path, slope, rate):
        def judge(completions, trainer_state, **kwargs):
            return [slope * trainer_state.global_step] * len(completions)

        subject = trainer(
            tmp_path, judge, eval_dataset=tiny.prompts(3), eval_strategy="steps", eval_steps=1,
            lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs={"patience": 1, "factor": 0.5},
        )  # fmt: skip
        subject.train()
        assert subject.state.log_history[-2]["lr"] == pytest.approx(rate)

    def test_a_greedy_scheduler_is_stepped_by_evaluations(self, tmp_path):
        if "greedy" not in [kind.value for kind in SchedulerType]:
            pytest.skip("this transformers has no such scheduler")
        subject = trainer(tmp_path, eval_dataset=tiny.prompts(3), eval_strategy="steps", eval_steps=1,
                          lr_scheduler_type="greedy")  # fmt: skip
        subject.train()
        assert subject.lr_scheduler.last_epoch == subject.state.global_step

    def test_callbacks_hear_of_every_step(self, tmp_path):
        heard = []

        class Listener(TrainerCallback):
            def on_train_begin(self, args, state, control, **kwargs):
                heard.append("begin")

            def on_step_begin(self, args, state, control, **kwargs):
                heard.append("step")

            def on_epoch_end(self, args, state, control, **kwargs):
                heard.append("epoch")

            def on_train_end(self, args, state, control, **kwargs):
                heard.append("end")

        trainer(tmp_path, callbacks=[Listener()]).train()
        assert heard == ["begin", "step", "step", "epoch", "step", "step", "epoch", "end"]


class TestSettings:
    def test_the_kl_coefficient_moves_towards_its_target(self, tmp_path):
        subject = trainer(tmp_path, kl_target=1000.0, kl_coef=0.5)
        subject.train()
        # KL is far below the target, so the error is clipped to -0.2: 0.5 * 0.98 ** 4
        assert subject.kl_coef == pytest.approx(0.5 * 0.98**4)
        logged = [entry["nlpo/kl_coef"] for entry in subject.state.log_history if "nlpo/kl_coef" in entry]
        assert logged == [pytest.approx(0.5 * 0.98**n) for n in range(4)]

    def test_a_fixed_kl_coefficient_stays(self, tmp_path):
        subject = trainer(tmp_path)
        subject.train()
        assert subject.kl_coef == 0.05

    @pytest.mark.slow
    def test_logs_in_between_are_averaged(self, tmp_path):
        every, other = (trainer(tmp_path, logging_steps=steps) for steps in (1, 2))
        every.train()
        other.train()
        singles = [entry["reward"] for entry in every.state.log_history if "reward" in entry]
        pairs = [entry["reward"] for entry in other.state.log_history if "reward" in entry]
        assert pairs == [pytest.approx((singles[0] + singles[1]) / 2), pytest.approx((singles[2] + singles[3]) / 2)]

    def test_max_steps_ends_a_run(self, tmp_path):
        assert trainer(tmp_path, max_steps=3).train().global_step == 3

    @pytest.mark.slow
    def test_gradient_checkpointing_changes_nothing_but_memory(self, tmp_path):
        weights = []
        for enabled in (False, True):
            subject = trainer(tmp_path, model=tiny.policy("llama"), gradient_checkpointing=enabled)
            subject.train()
            weights.append(torch.cat([parameter.flatten() for parameter in subject.policy_model.parameters()]))
        torch.testing.assert_close(*weights)

    def test_bfloat16_really_computes_in_it(self, tmp_path, monkeypatch):
        # transformers 4 tells accelerate by this variable, and leaves it set for every later trainer.
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        subject = trainer(tmp_path, bf16=True)
        subject.train()
        assert subject.accelerator.mixed_precision == "bf16"
        assert next(subject.policy_model.parameters()).dtype is torch.float32

    @pytest.mark.slow
    def test_the_entropy_bonus_raises_the_entropy(self, tmp_path):
        entropies = []
        for coefficient in (0.0, 1.0):
            subject = trainer(
                tmp_path, lambda completions, **kwargs: [0.0] * len(completions), entropy_coef=coefficient,
                total_episodes=64, kl_coef=0.0,
            )  # fmt: skip
            subject.train()
            entropies.append(subject.state.log_history[-1]["policy/entropy_avg"])
        assert entropies[1] > entropies[0] + 0.1

    @pytest.mark.slow
    def test_probability_that_leaks_out_of_an_old_mask_is_warned_about_once(self, tmp_path, monkeypatch):
        said = []
        monkeypatch.setattr(watches.logger, "warning", said.append)
        settings = {"mask_top_p": 0.5, "mask_sync_steps": None, "total_episodes": 80}
        trainer(tmp_path, learning_rate=1e-6, **settings).train()
        assert not said
        trainer(tmp_path, learning_rate=0.1, **settings).train()
        assert len(said) == 1
        assert "of a mask that held more than 0.50" in said[0]

    def test_completions_are_kept_when_asked(self, tmp_path):
        trainer(tmp_path, log_completions=True, num_completions_to_print=1, total_episodes=8).train()
        rows = (tmp_path / "completions" / "completions_00001.jsonl").read_text().splitlines()
        assert len(rows) == 8
        assert {"step", "prompt", "completion", "length_reward", "score", "kl"} <= set(json.loads(rows[0]))


class TestBadInput:
    """One line each, before any training."""

    def refused(self, tmp_path, says, *args, **kwargs):
        with pytest.raises(UserError) as caught:
            trainer(tmp_path, *args, **kwargs)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_an_empty_data_set(self, tmp_path):
        self.refused(tmp_path, "train_dataset is empty", train=Dataset.from_list([]))

    @pytest.mark.parametrize("name", ["loss", "eval_rewards/length_rewards/mean"])
    def test_a_best_metric_that_no_evaluation_has(self, tmp_path, name):
        self.refused(tmp_path, "metric_for_best_model: an evaluation has no", metric_for_best_model=name)

    @pytest.mark.parametrize("name", ["perplexity", "eval_reward", "rewards/length_reward/mean"])
    def test_a_best_metric_that_every_evaluation_has_is_taken(self, tmp_path, name):
        assert trainer(tmp_path, metric_for_best_model=name).args.metric_for_best_model == name

    def test_a_data_set_smaller_than_a_batch(self, tmp_path):
        self.refused(tmp_path, "train_dataset has 3 rows, but one update takes 8", train=tiny.prompts(3))

    def test_a_data_set_without_prompts(self, tmp_path):
        self.refused(tmp_path, "needs a column 'prompt'", train=Dataset.from_list([{"text": "w1"}] * 8))

    def test_an_empty_prompt(self, tmp_path):
        rows = [{"prompt": "w1"}, {"prompt": ""}] * 4
        tokenizer = tiny.tokenizer()
        tokenizer.eos_token = None
        says = "row 1 has an empty prompt, and the tokenizer has neither a BOS nor an EOS token"
        with pytest.raises(UserError, match=says):
            NLPOTrainer(
                args=NLPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True),
                processing_class=tokenizer,
                model=tiny.policy(),
                reward_funcs=tiny.length_reward,
                train_dataset=Dataset.from_list(rows),
            )

    def test_a_prompt_longer_than_the_context(self, tmp_path):
        rows = [{"prompt": "w1"}, {"prompt": "w2 " * 60}] * 4
        self.refused(tmp_path, "row 1 has a prompt of 60 tokens", train=Dataset.from_list(rows))

    def test_a_long_prompt_that_is_cut_is_fine(self, tmp_path):
        rows = Dataset.from_list([{"prompt": "w2 " * 60 + "w5"}] * 8)
        assert trainer(tmp_path, train=rows, max_prompt_length=3).prompts.prompt_ids[0] == [5, 5, 8]

    def test_a_completion_that_fills_the_context(self, tmp_path):
        self.refused(tmp_path, "lower response_length", response_length=64)

    def test_a_tokenizer_without_a_pad_token(self, tmp_path):
        tokenizer = tiny.tokenizer()
        tokenizer.pad_token = None
        self.refused(tmp_path, "no pad token", processing_class=tokenizer)

    def test_no_reward(self, tmp_path):
        self.refused(tmp_path, "No reward", rewards=None)

    def test_the_wrong_number_of_weights(self, tmp_path):
        self.refused(tmp_path, "reward_weights has 2 values for 1", reward_weights=[1.0, 2.0])

    def test_the_policy_as_its_own_reference(self, tmp_path):
        model = tiny.policy()
        self.refused(tmp_path, "cannot be the same object", model=model, ref_model=model)

    def test_batches_that_cannot_be_cut(self, tmp_path):
        self.refused(tmp_path, "num_mini_batches is 3", num_mini_batches=3)

    def test_a_generation_setting_that_the_update_could_not_follow(self, tmp_path):
        self.refused(tmp_path, "guidance_scale cannot be used in rollouts", generation_kwargs={"guidance_scale": 2.0})

    def test_an_unknown_generation_setting_names_the_nearest(self, tmp_path):
        self.refused(tmp_path, "did you mean 'top_k'", generation_kwargs={"topk": 5})

    def test_a_checkpoint_that_is_not_there(self, tmp_path):
        with pytest.raises(UserError, match="no checkpoint to resume from"):
            trainer(tmp_path).train(resume_from_checkpoint=True)

    def test_nothing_to_evaluate_on(self, tmp_path):
        with pytest.raises(UserError, match="pass eval_dataset"):
            trainer(tmp_path).evaluate()

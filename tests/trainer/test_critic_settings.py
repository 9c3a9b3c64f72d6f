"""Settings of the critic and of the ratio's limits, from configuration and command line to what is learned."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig

from support import tiny
from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.errors import UserError
from trl_nlpo.recipes.recipe import load_recipe
from trl_nlpo.trainer.optimizer_settings import set_critic_rate


def trainer(tmp_path, **settings) -> NLPOTrainer:
    given = {name: settings.pop(name) for name in ("peft_config", "optimizers", "model") if name in settings}
    settings = {"save_strategy": "no", **settings}
    args = NLPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_ppo_epochs=2, response_length=6, stop_token="eos",
        learning_rate=1e-2, max_steps=2, report_to="none", disable_tqdm=True, use_cpu=True,
        num_sample_generations=0, **settings,
    )  # fmt: skip
    return NLPOTrainer(
        args=args, processing_class=tiny.tokenizer(), reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(), **{"model": tiny.policy(), **given},
    )  # fmt: skip


def weights_after(tmp_path, **settings):
    subject = trainer(tmp_path, **settings)
    subject.train()
    return torch.cat([weight.detach().flatten() for weight in subject.policy_model.parameters()]), subject


def test_a_lambda_of_one_gives_the_critic_sums_of_rewards_and_leaves_the_advantages_alone(tmp_path):
    one, both = (trainer(tmp_path, lam=0.0, gamma=1.0, **more) for more in ({}, {"critic_lam": 1.0}))
    rollout = one.collect_rollout(list(tiny.prompts(4)["prompt"]))
    scores = one.score_rollout(rollout)
    plain, apart = one.estimate_advantages(rollout, scores), both.estimate_advantages(rollout, scores)
    assert torch.equal(plain.advantages, apart.advantages)
    to_come = apart.rewards.flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(apart.returns, torch.where(rollout.completion_mask, to_come, 0.0))
    assert not torch.allclose(plain.returns, apart.returns)


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        # Limits that nothing reaches change no weight ...
        ({"cliprange_high": 0.2}, True),
        ({"dual_clip": 1e6}, True),
        ({"is_truncation": [0.0, 1e6]}, True),
        ({"critic_lam": 0.95}, True),
        ({"bootstrap_at_length_limit": False}, True),
        ({"normalize_rewards": False}, True),
        ({"positive_nll_coef": 0.1, "positive_nll_threshold": 1e6}, True),
        ({"mask_anchor_coef": 0.0, "mask_strategy": "none"}, True),
        # ... and others do.
        ({"bootstrap_at_length_limit": True}, False),
        ({"lam_alpha": 0.3}, False),
        ({"positive_nll_coef": 0.1, "positive_nll_threshold": 0.5}, False),
        ({"mask_anchor_coef": 0.0}, False),
        ({"normalize_returns": True}, False),
        ({"critic_max_grad_norm": 1e-3}, False),
        ({"cliprange_high": 10.0}, False),
        ({"is_truncation": [0.999, 1.001]}, False),
        ({"critic_lam": 0.0}, False),
    ],
)
def test_each_setting_does_something_and_only_where_its_limit_is_reached(tmp_path, settings, same):
    mask = {"mask_strategy": settings.pop("mask_strategy", "top_p")}
    plain, _ = weights_after(tmp_path, **mask)
    other, subject = weights_after(tmp_path, **mask, **settings)
    assert torch.equal(plain, other) is same
    assert all(math.isfinite(line["value/mean"]) for line in subject.state.log_history if "value/mean" in line)


def critic_and_policy(subject):
    """Their learning rates, as the optimizer has them; each weight is in one group."""
    critic = {id(weight) for weight in subject.policy_and_value.critic_parameters()}
    groups = subject.optimizer.param_groups
    weights = [id(weight) for group in groups for weight in group["params"]]
    assert len(weights) == len(set(weights)) == sum(w.requires_grad for w in subject.policy_and_value.parameters())
    rates = {is_critic: set() for is_critic in (True, False)}
    for group in groups:
        for weight in group["params"]:
            rates[id(weight) in critic].add(group["lr"])
    return rates[True], rates[False]


@pytest.mark.parametrize("peft", [False, True])
def test_the_critic_has_its_own_learning_rate_on_the_same_schedule(tmp_path, peft):
    adapter = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM") if peft else None
    subject = trainer(tmp_path, critic_learning_rate=4e-2, lr_scheduler_type="linear", peft_config=adapter)
    assert critic_and_policy(subject) == ({4e-2}, {1e-2})
    subject.train()
    logged = [(line["lr"], line["critic_lr"]) for line in subject.state.log_history if "critic_lr" in line]
    assert logged == [(1e-2, 4e-2), (5e-3, 2e-2)]


def test_the_same_rate_for_both_changes_no_weight(tmp_path):
    plain, _ = weights_after(tmp_path)
    apart, _ = weights_after(tmp_path, critic_learning_rate=1e-2)
    assert torch.equal(plain, apart)


def test_a_run_with_two_rates_resumes_to_the_same_weights(tmp_path):
    keys = {"critic_learning_rate": 4e-2, "save_strategy": "steps", "save_steps": 1, "value_trains_backbone": False}
    _, subject = weights_after(tmp_path / "whole", **keys)
    again = trainer(tmp_path / "whole", **keys)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    for ours, theirs in zip(again.model.parameters(), subject.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_rate_for_an_optimizer_that_is_given_or_has_no_groups_is_one_line(tmp_path):
    policy = tiny.policy()
    given = torch.optim.SGD(policy.parameters(), lr=0.1)
    with pytest.raises(UserError, match="critic_learning_rate has no effect on an optimizer that is given"):
        trainer(tmp_path, critic_learning_rate=1e-3, model=policy, optimizers=(given, None))
    with pytest.raises(UserError, match="critic_learning_rate cannot be set with the optimizer SGD"):
        set_critic_rate(given, torch.nn.Linear(2, 1).parameters(), 1e-3)


def test_pairs_of_numbers_come_from_the_command_line_too():
    recipe = load_recipe("quickstart", ["--is_truncation", "0.2", "4.0", "--critic_lam", "1.0", "--use_cpu", "true"])
    assert recipe.training.is_truncation == [0.2, 4.0]
    assert recipe.training.critic_lam == 1.0


def lora():
    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def policy_weights(subject):
    critic = {id(weight) for weight in subject.policy_and_value.critic_parameters()}
    return [weight.detach().clone() for weight in subject.policy_model.parameters() if id(weight) not in critic]


def critic_weights(subject):
    return [weight.detach().clone() for weight in subject.policy_and_value.critic_parameters()]


def equal(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


KINDS = {
    "a head that trains the backbone later": {},
    "a head alone": {"value_trains_backbone": False},
    "an adapter": {"peft": True},
    "a model of its own": {"value_model": True},
}


def of_kind(tmp_path, kind, **settings):
    options = dict(KINDS[kind])
    given = {}
    if "value_model_folder" in settings:
        settings["value_model"] = settings.pop("value_model_folder")
        options.pop("value_model", None)
    if options.pop("peft", False):
        given["peft_config"] = lora()
    if options.pop("value_model", False):
        given["critic"] = tiny.classifier()
    return trainer_with(tmp_path, **given, **options, **settings)


def trainer_with(tmp_path, critic=None, reward=tiny.length_reward, peft_config=None, policy=None, **settings):
    args = NLPOConfig(
        output_dir=str(tmp_path),
        **{
            "per_device_train_batch_size": 8, "num_ppo_epochs": 2, "response_length": 6, "stop_token": "eos",
            "learning_rate": 1e-2, "max_steps": 3, "report_to": "none", "disable_tqdm": True, "use_cpu": True,
            "num_sample_generations": 0, "save_strategy": "no", **settings,
        },
    )  # fmt: skip
    return NLPOTrainer(
        args=args, processing_class=tiny.tokenizer(), model=policy or tiny.policy(), reward_funcs=reward,
        train_dataset=tiny.prompts(), value_model=critic, peft_config=peft_config,
    )  # fmt: skip


class TestWarmUp:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_critic_learns_and_the_policy_the_mask_and_beta_stay(self, tmp_path, kind):
        subject = of_kind(tmp_path, kind, critic_warmup_steps=2, kl_target=1.0, mask_sync_steps=1, weight_decay=0.1)
        policy, critic = policy_weights(subject), critic_weights(subject)
        for _ in range(2):
            rollout = subject.collect_rollout(list(tiny.prompts(8)["prompt"]))
            estimates = subject.estimate_advantages(rollout, subject.score_rollout(rollout))
            stats = subject.update_policy(rollout, estimates)
            subject.adapt_kl_coef(estimates)
            assert subject.sync_masking_policy() is False
            assert math.isnan(stats.policy_loss)
            assert stats.value_loss > 0
        assert equal(policy_weights(subject), policy)
        assert not any(map(torch.equal, critic_weights(subject)[:1], critic[:1]))
        assert subject.kl_coef == 0.05
        assert subject.masking_policy.is_current
        rollout = subject.collect_rollout(list(tiny.prompts(8)["prompt"]))
        stats = subject.update_policy(rollout, subject.estimate_advantages(rollout, subject.score_rollout(rollout)))
        assert math.isfinite(stats.policy_loss)
        assert not equal(policy_weights(subject), policy)
        assert subject.sync_masking_policy() is True

    def test_a_run_resumes_out_of_it_to_the_same_weights_and_says_nothing_of_a_standstill(self, tmp_path, caplog):
        keys = {
            "critic_warmup_steps": 2, "max_steps": 4, "save_strategy": "steps", "save_steps": 1,
            "value_trains_backbone": False, "critic_updates_per_step": 2, "critic_max_grad_norm": 0.5,
            "normalize_returns": True, "normalize_rewards": True, "mask_anchor_coef": 1.0,
        }  # fmt: skip
        whole = trainer_with(tmp_path, **keys)
        whole.train()
        assert "No weight of the policy moved" not in caplog.text
        again = trainer_with(tmp_path, **keys)
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
        assert equal(policy_weights(again), policy_weights(whole))
        assert equal(critic_weights(again), critic_weights(whole))
        assert again.policy_and_value.returns_scale == whole.policy_and_value.returns_scale
        assert again.run.reward_moments == whole.run.reward_moments
        assert math.isfinite(whole.run.mean_policy_loss)

    def test_logs_have_no_loss_of_the_policy_in_it_and_the_critics_norm(self, tmp_path):
        subject = trainer_with(tmp_path, critic_warmup_steps=1, value_trains_backbone=False, critic_max_grad_norm=1.0)
        subject.train()
        first, second = (line for line in subject.state.log_history[:2])
        assert math.isnan(first["loss/policy_avg"])
        assert math.isfinite(second["loss/policy_avg"])
        assert math.isfinite(second["grad_norm"])
        assert all(line["critic_grad_norm"] > 0 for line in (first, second))


class TestUnits:
    def test_tenfold_rewards_make_the_same_critic_in_tenfold_units(self, tmp_path):
        found = []
        for factor in (1.0, 10.0):
            subject = trainer_with(
                tmp_path,
                reward=lambda completions, factor=factor, **_: [factor * len(c.split()) for c in completions],
                normalize_returns=True,
                kl_coef=0.0,
                cliprange_value=float("inf"),
                value_trains_backbone=False,
                # Of one policy, whose completions are the same in both runs.
                critic_warmup_steps=3,
                max_steps=4,
            )
            subject.train()
            log = [line for line in subject.state.log_history if "loss/value_avg" in line]
            found.append((log, subject.policy_and_value.returns_scale, critic_weights(subject)))
        (one, scale, critic), (ten, scale_of_ten, critic_of_ten) = found
        assert scale_of_ten == pytest.approx(10 * scale, rel=1e-2)
        # The first values are of a head with random weights, the same small numbers in both runs.
        for ours, theirs in zip(one[:3], ten, strict=False):
            assert theirs["loss/value_avg"] == pytest.approx(ours["loss/value_avg"], rel=0.05)
            assert theirs["critic_grad_norm"] == pytest.approx(ours["critic_grad_norm"], rel=0.05)
        for ours, theirs in zip(critic, critic_of_ten, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0.05, atol=5e-3)

    def test_each_reward_counts_in_standard_deviations_of_its_own(self, tmp_path):
        def large(completions, **_):
            return [1000.0 * len(completion.split()) for completion in completions]

        def other(completions, **_):
            return [float(completion.count("w1")) for completion in completions]

        subject = trainer_with(tmp_path, reward=[large, other], normalize_rewards=True, reward_weights=[1.0, 2.0])
        rollout = subject.collect_rollout(list(tiny.prompts(8)["prompt"]))
        scores = subject.score_rollout(rollout)
        deviations = scores.per_function.double().std(0, correction=0)
        expected = (scores.per_function.double() / deviations) @ torch.tensor([1.0, 2.0]).double()
        torch.testing.assert_close(scores.scores.double(), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scores.totals, scores.per_function @ torch.tensor([1.0, 2.0]))
        # They count for the run when its update is done.
        assert subject.run.reward_moments == {}
        subject.update_policy(rollout, subject.estimate_advantages(rollout, scores))
        assert set(subject.run.reward_moments) == {"large", "other"}


class TestASavedCritic:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("place", ["", "value_model", "checkpoint-3"])
    def test_another_run_starts_from_it_with_a_fresh_optimizer(self, tmp_path, kind, place):
        first = of_kind(tmp_path / "first", kind, normalize_returns=True, save_strategy="steps", save_steps=3)
        first.train()
        first.save_model()
        second = of_kind(tmp_path / "second", kind, value_model_folder=str(tmp_path / "first" / place))
        assert equal(critic_weights(second), critic_weights(first))
        assert second.policy_and_value.returns_scale == first.policy_and_value.returns_scale
        assert second.optimizer.state_dict()["state"] == {}
        second.train()
        assert not equal(critic_weights(second), critic_weights(first))

    def test_a_sequence_classifier_is_one_too(self, tmp_path):
        judge = tiny.classifier(seed=5)
        judge.save_pretrained(tmp_path / "judge")
        subject = trainer_with(tmp_path, value_model=str(tmp_path / "judge"))
        assert torch.equal(subject.value_model.score.weight, judge.score.weight)
        assert all(weight.requires_grad for weight in subject.value_model.parameters())

    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (lambda path: str(path / "nowhere"), "holds no value function"),
            (lambda path: str(path), "holds no value function"),
            (lambda path: tiny.saved(tiny.policy(), tiny.tokenizer(), path / "lm"), "lacks 1 weights"),
        ],
    )
    def test_what_is_none_is_one_line(self, tmp_path, make, says):
        with pytest.raises(UserError, match=says) as caught:
            trainer_with(tmp_path, value_model=make(tmp_path))
        assert "\n" not in str(caught.value)

    def test_another_kind_or_size_or_two_of_them_is_one_line(self, tmp_path):
        of_kind(tmp_path / "adapter", "an adapter").save_model()
        of_kind(tmp_path / "head", "a head alone").save_model()
        with pytest.raises(
            UserError, match="is another kind of value function than this run's, which is a head on the"
        ):
            trainer_with(tmp_path, value_model=str(tmp_path / "adapter"))
        with pytest.raises(UserError, match="which is a head on an adapter"):
            trainer_with(tmp_path, value_model=str(tmp_path / "head"), peft_config=lora())
        with pytest.raises(UserError, match="given to the trainer and in its arguments"):
            trainer_with(tmp_path, value_model=str(tmp_path / "head"), critic=tiny.classifier())
        with pytest.raises(UserError, match="does not fit this policy"):
            trainer_with(tmp_path, value_model=str(tmp_path / "head"), policy=tiny.wide_policy())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"critic_updates_per_step": 2}, "critic_updates_per_step is 2, but the value function's loss trains the"),
        ({"policy_update": "trust_region"}, "policy_update is 'trust_region', but the value function's loss trains"),
        ({"critic_warmup_steps": 3}, "critic_warmup_steps is 3 and max_steps 3: the policy would never move"),
        (
            {"critic_warmup_steps": 6, "max_steps": -1, "total_episodes": 40},
            "critic_warmup_steps is 6, but the run has 5 updates",
        ),
        ({"positive_nll_coef": 0.1}, "positive_nll_threshold is not set"),
        ({"positive_nll_threshold": 0.1}, "has no effect without positive_nll_coef"),
        ({"lam_alpha": 0.1}, "with which lambda is 0 for every completion of at most 6 tokens"),
        ({"lam_alpha": -1.0}, "lam_alpha is -1.0, but must be greater than 0"),
        ({"critic_updates_per_step": 0}, "critic_updates_per_step is 0, but must be at least 1"),
        ({"mask_anchor_coef": -1.0}, "mask_anchor_coef is -1.0, but must be 0 or more"),
        ({"policy_update": "trust_region", "dual_clip": 3.0}, "have no effect on 'trust_region'"),
        ({"policy_update": "trust_region", "gradient_checkpointing": True}, "needs second derivatives"),
        ({"policy_update": "natural"}, "must be 'clipped' or 'trust_region'"),
        ({"trpo_kl": 0.0}, "trpo_kl is 0.0, but must be greater than 0"),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(tmp_path, settings, says):
    with pytest.raises(UserError) as caught:
        trainer_with(tmp_path, **settings)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", ["critic_warmup_steps", "critic_updates_per_step", "critic_max_grad_norm"])
def test_a_launch_that_steps_all_weights_at_once_refuses_what_trains_parts_alone(tmp_path, setting, monkeypatch):
    monkeypatch.setattr("trl_nlpo.launch.launch.Launch.trains_parts_alone", False)
    with pytest.raises(UserError, match=f"{setting} is 2.*, but .* trains policy and value function in one step"):
        trainer_with(tmp_path, value_trains_backbone=False, **{setting: 2})


class TestTrustRegion:
    KEYS = {"policy_update": "trust_region", "value_trains_backbone": False, "trpo_cg_steps": 4}  # noqa: RUF012

    def test_a_run_resumes_to_the_same_weights_and_says_how_far_it_went(self, tmp_path):
        keys = {**self.KEYS, "save_strategy": "steps", "save_steps": 1}
        whole = trainer_with(tmp_path, **keys)
        whole.train()
        again = trainer_with(tmp_path, **keys)
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
        assert equal(policy_weights(again), policy_weights(whole))
        assert equal(critic_weights(again), critic_weights(whole))
        for line in whole.state.log_history[:3]:
            assert 0 < line["policy/approxkl_avg"] <= 0.01
            assert 0 <= line["policy/backtracks"] < 10
            assert line["nlpo/first_ratio_deviation"] < 1e-4

    @pytest.mark.parametrize("kind", ["an adapter", "a model of its own"])
    def test_it_trains_what_the_clipped_objective_trains(self, tmp_path, kind):
        keys = {key: value for key, value in self.KEYS.items() if key != "value_trains_backbone"}
        subject = of_kind(tmp_path, kind, **keys)
        policy, critic = policy_weights(subject), critic_weights(subject)
        subject.train()
        assert not equal(policy_weights(subject), policy)
        assert not equal(critic_weights(subject), critic)

    def test_the_saved_model_has_tensors_of_its_own(self, tmp_path):
        subject = trainer_with(tmp_path, **self.KEYS)
        subject.train()
        subject.save_model()
        assert (tmp_path / "model.safetensors").stat().st_size < 10_000_000

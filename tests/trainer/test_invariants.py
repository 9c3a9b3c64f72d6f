"""What must hold in every run, on every family of models; each is a real bug seen in a peer."""

from __future__ import annotations

import copy

import pytest
import torch

from support import tiny
from support.slow import slow_except
from support.trainers import DEFAULTS, count_calls, one_update, reference_top_p
from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.functional.logprobs import scaled_logits
from trl_nlpo.functional.output_layer import OutputStates
from trl_nlpo.models.modes import evaluation_mode
from trl_nlpo.models.policy_and_value import completion_logits
from trl_nlpo.records import TokenRows


def trainer(tmp_path, family="gpt2", pad_is_eos=True, own_value_model=False, **settings) -> NLPOTrainer:
    """A trainer of a tiny random model."""
    policy = settings.pop("policy", None) or tiny.policy(family)
    return NLPOTrainer(
        args=NLPOConfig(output_dir=str(tmp_path), **{**DEFAULTS, **settings}),
        processing_class=tiny.tokenizer(pad_is_eos=pad_is_eos),
        model=policy,
        reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(),
        value_model=tiny.classifier(family) if own_value_model else None,
    )


@pytest.mark.parametrize("own_value_model", slow_except([False, True], False))
@pytest.mark.parametrize("pad_is_eos", slow_except([False, True], True))
@pytest.mark.parametrize("family", slow_except(tiny.FAMILIES + tiny.MORE_ENCODER_DECODER_FAMILIES, "gpt2", "t5"))
def test_the_ratio_is_one_in_the_first_minibatch_after_any_rollout(tmp_path, family, pad_is_eos, own_value_model):
    if own_value_model and family not in tiny.CAUSAL_FAMILIES:
        pytest.skip("the value function of an encoder-decoder model is a head")
    subject = trainer(tmp_path, family, pad_is_eos, own_value_model, seed=2)
    early_ends = 0
    for _ in range(3):  # with a fresh mask, an old one, and after a sync
        rollout, stats = one_update(subject)
        assert stats.first_ratio_deviation < 1e-4
        assert rollout.token_mask is not None
        assert stats.approx_kl > 1e-6  # the update did move the policy, so the ratio is not 1 by being idle
        subject.sync_masking_policy()
        prompt_lengths, lengths = rollout.prompt_mask.sum(-1), rollout.completion_mask.sum(-1)
        assert prompt_lengths.min() < prompt_lengths.max()
        early_ends += int((lengths < 8).sum())
    assert early_ends


@pytest.mark.parametrize(
    "generation_kwargs",
    slow_except([
        {"min_p": 0.02}, {"suppress_tokens": [5, 6, 7]}, {"top_k": 7}, {"top_p": 0.7}, {"min_new_tokens": 4},
        {"repetition_penalty": 1.7}, {"typical_p": 0.8}, {"no_repeat_ngram_size": 1}, {"epsilon_cutoff": 0.02},
        {"temperature": 1.7, "top_k": 9, "repetition_penalty": 0.6},
    ], {"suppress_tokens": [5, 6, 7]}, {"temperature": 1.7, "top_k": 9, "repetition_penalty": 0.6}),
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("strategy", slow_except(["none", "top_p"], "top_p"))
def test_the_ratio_is_one_whatever_else_shapes_the_sampling(tmp_path, generation_kwargs, strategy):
    subject = trainer(tmp_path, generation_kwargs=generation_kwargs, mask_strategy=strategy)
    for _ in range(2):
        _, stats = one_update(subject)
        assert stats.first_ratio_deviation < 1e-4


@pytest.mark.parametrize("family", slow_except(tiny.FAMILIES, "gpt2"))
def test_settings_stored_in_the_model_do_not_leak_into_rollouts(tmp_path, family):
    plain, leaky = trainer(tmp_path, family), trainer(tmp_path, family)
    settings = leaky.policy_model.generation_config
    settings.min_p, settings.suppress_tokens, settings.repetition_penalty = 0.5, list(range(3, 30)), 3.0
    batch = next(iter(plain.get_train_dataloader()))
    assert torch.equal(plain.collect_rollout(batch).completion_ids, leaky.collect_rollout(batch).completion_ids)
    assert leaky.policy_model.generation_config.min_p == 0.5


@pytest.mark.parametrize("family", slow_except(tiny.FAMILIES, "llama"))
def test_every_sampled_token_lies_in_its_mask_and_the_end_token_stays_legal(tmp_path, family):
    subject = trainer(tmp_path, family)
    for _ in range(3):
        rollout, _ = one_update(subject)
        mask = rollout.token_mask
        chosen = mask.gather(-1, rollout.completion_ids.unsqueeze(-1)).squeeze(-1)
        assert chosen[rollout.completion_mask].all()
        free = rollout.completion_mask.clone()
        free[:, 0] &= family != "bart"  # whose first token is forced
        assert mask[free][:, 1].all()
        assert not mask[rollout.completion_mask].all()
        assert torch.isfinite(rollout.old_logprobs).all()


@pytest.mark.parametrize("family", slow_except(tiny.FAMILIES, "t5"))
def test_masks_are_the_top_p_sets_of_the_masking_policy_before_and_after_a_sync(tmp_path, family):
    subject = trainer(tmp_path, family, learning_rate=1e-2)
    one_update(subject)
    for force_sync in (False, True):
        subject.sync_masking_policy(force=force_sync)
        rollout = subject.collect_rollout(next(iter(subject.get_train_dataloader())))
        with subject.masking_policy.model() as masking_model, torch.no_grad():
            logits = completion_logits(masking_model, rollout.sequences(torch.arange(len(rollout))))
        expected = reference_top_p(scaled_logits(logits, 0.8), 0.6)
        expected[..., 1] = True
        chosen_freely = rollout.completion_mask.clone()
        if family == "bart":  # whose first and last tokens are forced
            chosen_freely[:, [0, -1]] = False
        agreement = (rollout.token_mask == expected).float()[chosen_freely].mean()
        assert agreement > 0.999  # a token whose mass sits on the bound may fall to either side by rounding


@pytest.mark.parametrize("family", slow_except(tiny.FAMILIES, "gpt2"))
def test_the_masking_policy_stands_still_between_syncs_and_equals_the_policy_after_one(tmp_path, family):
    subject = trainer(tmp_path, family, mask_sync_steps=2)
    before = subject.masking_policy.state_dict()
    one_update(subject)
    assert not subject.sync_masking_policy()
    assert all(torch.equal(before[name], weight) for name, weight in subject.masking_policy.state_dict().items())
    one_update(subject)
    assert subject.sync_masking_policy()
    policy = dict(subject.policy_model.named_parameters())
    after = subject.masking_policy.state_dict()
    assert all(torch.equal(policy[name], weight) for name, weight in after.items())
    assert any(not torch.equal(before[name], weight) for name, weight in after.items())
    with subject.masking_policy.model() as masking_model:
        assert not any(parameter.requires_grad for parameter in masking_model.parameters())


def test_the_masking_policy_is_never_synced_without_a_number_of_steps(tmp_path):
    subject = trainer(tmp_path, mask_sync_steps=None)
    before = subject.masking_policy.state_dict()
    subject.train()
    assert subject.masking_policy.num_syncs == 0
    assert all(torch.equal(before[name], weight) for name, weight in subject.masking_policy.state_dict().items())


@pytest.mark.parametrize("family", slow_except(tiny.FAMILIES, "gpt2"))
def test_with_top_p_one_nlpo_is_ppo_bit_for_bit(tmp_path, family):
    weights = []
    for settings in ({"mask_top_p": 1.0}, {"mask_strategy": "none"}):
        subject = trainer(tmp_path, family, **settings)
        subject.train()
        weights.append(subject.policy_and_value.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_mask_that_allows_everything_equals_no_mask(tmp_path):
    # top_k of the whole vocabulary goes through the masking code, which p = 1 skips.
    subject = trainer(tmp_path, mask_strategy="top_k", mask_top_k=tiny.VOCAB_SIZE)
    plain = trainer(tmp_path, mask_strategy="none")
    batch = next(iter(plain.get_train_dataloader()))
    masked, unmasked = subject.collect_rollout(batch), plain.collect_rollout(batch)
    assert masked.token_mask.all()
    assert torch.equal(masked.completion_ids, unmasked.completion_ids)
    assert torch.equal(masked.old_logprobs, unmasked.old_logprobs)


@pytest.mark.parametrize("family", slow_except(tiny.FAMILIES + tiny.MORE_ENCODER_DECODER_FAMILIES, "gpt2", "t5"))
def test_padding_changes_no_log_probability_and_no_value(tmp_path, family):
    subject = trainer(tmp_path, family)
    rollout = subject.collect_rollout(next(iter(subject.get_train_dataloader())))
    model = subject.policy_and_value
    for row in range(len(rollout)):
        alone = rollout.sequences(torch.tensor([row]))
        padded = TokenRows(
            torch.nn.functional.pad(alone.prompt_ids, (3, 0), value=40),
            torch.nn.functional.pad(alone.prompt_mask, (3, 0), value=False),
            torch.nn.functional.pad(alone.completion_ids, (0, 2), value=40),
            torch.nn.functional.pad(alone.completion_mask, (0, 2), value=False),
        )
        with torch.no_grad(), evaluation_mode(model):
            (output, values), (padded_output, padded_values) = model(alone), model(padded)
        logits = [of.logits() if isinstance(of, OutputStates) else of for of in (output, padded_output)]
        torch.testing.assert_close(logits[1][:, : alone.width], logits[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(padded_values[:, : alone.width], values, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(rollout.values[row, : alone.width], values[0], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_number_of_optimizer_steps_is_as_configured_on_every_batch_of_every_pass(tmp_path):
    # 16 prompts, batches of 8: every second batch ends a pass, where accelerate forces a synchronisation.
    subject = trainer(tmp_path, num_mini_batches=4, num_ppo_epochs=3, total_episodes=32)
    for batch in subject.get_train_dataloader():
        _, stats = one_update(subject, batch)
        assert stats.num_optimizer_steps == 12


def test_a_single_batch_data_set_takes_all_its_steps_too(tmp_path):
    subject = NLPOTrainer(
        args=NLPOConfig(output_dir=str(tmp_path), **{**DEFAULTS, "num_mini_batches": 1}),
        processing_class=tiny.tokenizer(),
        model=tiny.policy(),
        reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(8),
    )
    steps = count_calls(subject.optimizer.optimizer, "step")
    subject.train()
    assert steps.calls == 3 * 2  # 24 episodes in batches of 8, 2 epochs of 1 minibatch


@pytest.mark.parametrize("num_mini_batches", slow_except([1, 2], 2))
def test_microbatches_change_neither_weights_nor_statistics(tmp_path, num_mini_batches):
    results = []
    # In float64: Adam divides by the size of a gradient, and where that is next to nothing its rounding is a step.
    for size, accumulation in ((8, 1), (2, 4), (1, 8)):
        subject = trainer(
            tmp_path,
            policy=tiny.policy().double(),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            num_mini_batches=num_mini_batches,
            temperature=1.3,
        )
        _, stats = one_update(subject)
        results.append((subject.policy_and_value.state_dict(), stats))
    (weights, stats), *others = results
    for other_weights, other_stats in others:
        assert other_stats.policy_loss == pytest.approx(stats.policy_loss, abs=1e-5)
        assert other_stats.grad_norm == pytest.approx(stats.grad_norm, rel=1e-4)
        assert other_stats.entropy == pytest.approx(stats.entropy, rel=1e-5)
        for name in weights:
            torch.testing.assert_close(other_weights[name], weights[name], atol=2e-5, rtol=1e-3)


def test_gradients_are_clipped_to_the_configured_norm(tmp_path):
    subject = trainer(tmp_path, max_grad_norm=1e-3, num_ppo_epochs=1, num_mini_batches=1)
    norms = []
    optimizer = subject.optimizer.optimizer
    original = optimizer.step

    def step(*args, **kwargs):
        gradients = [p.grad for p in subject.model.parameters() if p.grad is not None]
        norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
        return original(*args, **kwargs)

    optimizer.step = step
    _, stats = one_update(subject)
    assert stats.grad_norm > 1e-2
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(tmp_path):
    runs = []
    for seed in (1, 1, 2):
        subject = trainer(tmp_path, policy=tiny.policy(), seed=seed)
        torch.rand(seed + len(runs))  # what others draw from the global random state must not matter
        subject.train()
        runs.append(torch.cat([parameter.flatten() for parameter in subject.policy_model.parameters()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.slow
def test_evaluating_in_between_does_not_change_the_run(tmp_path):
    weights = []
    for strategy in ("no", "steps"):
        subject = NLPOTrainer(
            args=NLPOConfig(output_dir=str(tmp_path), **DEFAULTS, eval_strategy=strategy, eval_steps=1),
            processing_class=tiny.tokenizer(),
            model=tiny.policy(),
            reward_funcs=tiny.length_reward,
            train_dataset=tiny.prompts(),
            eval_dataset=tiny.prompts(4, seed=5),
        )
        subject.train()
        weights.append(torch.cat([parameter.flatten() for parameter in subject.policy_model.parameters()]))
    assert torch.equal(*weights)


def test_token_rewards_add_up_to_the_score_less_the_kl_penalty(tmp_path):
    subject = trainer(tmp_path, kl_coef=0.3)
    one_update(subject)
    rollout = subject.collect_rollout(next(iter(subject.get_train_dataloader())))
    scores = subject.score_rollout(rollout)
    estimates = subject.estimate_advantages(rollout, scores)
    kl = ((rollout.raw_logprobs - rollout.ref_logprobs) * rollout.completion_mask).sum(-1)
    torch.testing.assert_close(estimates.rewards.sum(-1), scores.scores - 0.3 * kl, atol=1e-4, rtol=1e-4)
    assert kl.abs().max() > 1e-3


def test_the_kl_penalty_uses_unmasked_log_probabilities_of_policy_and_reference(tmp_path):
    subject = trainer(tmp_path)
    one_update(subject)
    rollout = subject.collect_rollout(next(iter(subject.get_train_dataloader())))
    sequences = rollout.sequences(torch.arange(len(rollout)))
    for model, logprobs in ((subject.policy_model, rollout.raw_logprobs), (subject.ref_model, rollout.ref_logprobs)):
        with torch.no_grad():
            everything = (completion_logits(model, sequences) / 0.8).log_softmax(-1)
        expected = everything.gather(-1, rollout.completion_ids.unsqueeze(-1)).squeeze(-1)
        real = rollout.completion_mask
        torch.testing.assert_close(logprobs[real], expected[real], atol=1e-5, rtol=1e-5)
    assert (rollout.old_logprobs > rollout.raw_logprobs + 1e-3)[real].any()


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.ENCODER_DECODER_FAMILIES)
def test_an_encoder_runs_once_per_rollout_and_once_per_scoring_pass(tmp_path, family):
    subject = trainer(tmp_path, family, gradient_accumulation_steps=1)
    one_update(subject)
    calls = {}
    with subject.masking_policy.model() as masking_model:
        models = {"policy": subject.policy_model, "reference": subject.ref_model, "mask": masking_model}
    for name, model in models.items():
        calls[name] = count_calls(model.get_encoder(), "forward")
    batch = next(iter(subject.get_train_dataloader()))
    rollout = subject.collect_rollout(batch)
    # Sampling and scoring with the policy, stepping with the masking policy, scoring with the reference.
    assert {name: counter.calls for name, counter in calls.items()} == {"policy": 2, "reference": 1, "mask": 1}
    estimates = subject.estimate_advantages(rollout, subject.score_rollout(rollout))
    subject.update_policy(rollout, estimates)
    assert calls["policy"].calls == 2 + 2 * 2  # two epochs of two minibatches


def test_forced_tokens_of_an_encoder_decoder_model_are_produced(tmp_path):
    subject = trainer(tmp_path, "bart", mask_strategy="none")
    rollout = subject.collect_rollout(next(iter(subject.get_train_dataloader())))
    assert rollout.completion_ids[:, 0].eq(5).all()
    assert rollout.ended.all()
    assert rollout.old_logprobs[:, 0].eq(0).all()


def test_a_pad_token_outside_the_embedding_is_never_shown_to_a_model(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    assert tokenizer.pad_token_id == tiny.VOCAB_SIZE
    subject = NLPOTrainer(
        args=NLPOConfig(output_dir=str(tmp_path), **DEFAULTS),
        processing_class=tokenizer,
        model=tiny.policy(),
        reward_model=tiny.classifier(seed=3),
        value_model=tiny.classifier(),
        train_dataset=tiny.prompts(),
    )
    rollout, stats = one_update(subject)
    assert stats.first_ratio_deviation < 1e-4
    assert rollout.completion_ids[~rollout.completion_mask].eq(tiny.VOCAB_SIZE).all()


def test_the_models_given_are_not_trained_where_they_are_references(tmp_path):
    reference = tiny.policy(seed=4)
    before = copy.deepcopy(reference.state_dict())
    subject = NLPOTrainer(
        args=NLPOConfig(output_dir=str(tmp_path), **DEFAULTS),
        processing_class=tiny.tokenizer(),
        model=tiny.policy(),
        ref_model=reference,
        reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(),
    )
    subject.train()
    assert all(torch.equal(before[name], weight) for name, weight in reference.state_dict().items())

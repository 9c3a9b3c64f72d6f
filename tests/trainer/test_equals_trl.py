"""With no mask, gamma 1 and no clipping, the objective is that of TRL's PPO: its own code runs on the same rollout."""

from __future__ import annotations

import pytest
import torch

from support import tiny
from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo._trl import HAS_PPO
from trl_nlpo.models.dropout import disable_dropout


pytestmark = pytest.mark.skipif(not HAS_PPO, reason="this TRL has no PPO any more")

# One backward per update, no accumulation: there TRL takes the steps it promises and averages what it logs rightly.
# All completions have full length, as TRL puts scores and values on one padding position where there is padding.
SETTINGS = {
    "per_device_train_batch_size": 8, "num_ppo_epochs": 1, "num_mini_batches": 1, "response_length": 7,
    "learning_rate": 0.0, "total_episodes": 8, "report_to": "none", "save_strategy": "no", "temperature": 0.9,
    "num_sample_generations": 0, "use_cpu": True, "bf16": False, "gamma": 1.0, "lam": 0.9, "kl_coef": 0.2,
    "cliprange": 1e9, "cliprange_value": 1e9, "disable_tqdm": True, "gradient_checkpointing": False,
}  # fmt: skip


def models():
    """TRL leaves Llama's attention dropout on; the comparison needs it off on both sides."""
    models = {
        "model": tiny.policy("llama"),
        "ref_model": tiny.policy("llama", seed=7, scale=5.0),
        "reward_model": tiny.classifier("llama", seed=2),
        "value_model": tiny.classifier("llama", seed=3),
    }
    for model in models.values():
        disable_dropout(model)
    return models


def dataset(tokenizer):
    return tiny.prompts(8).map(lambda row: tokenizer(text=row["prompt"]), remove_columns=["prompt", "number"])


@pytest.mark.parametrize("kl_estimator", ["k1", "k3"])
@pytest.mark.parametrize("whiten_rewards", [False, True])
def test_advantages_losses_and_gradients_equal_trls_on_the_same_rollout(
    tmp_path, monkeypatch, kl_estimator, whiten_rewards
):
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    settings = {**SETTINGS, "kl_estimator": kl_estimator, "whiten_rewards": whiten_rewards}
    # A sampled pad token would be a token to us and padding to TRL, so the pad token is one that is never sampled.
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    ours = NLPOTrainer(
        args=NLPOConfig(output_dir=str(tmp_path / "ours"), mask_strategy="none", **settings),
        processing_class=tokenizer, train_dataset=dataset(tokenizer), **models(),
    )  # fmt: skip
    batch = next(iter(ours.get_train_dataloader()))
    rollout = ours.collect_rollout(batch)
    scores = ours.score_rollout(rollout)
    estimates = ours.estimate_advantages(rollout, scores)

    theirs = PPOTrainer(
        args=PPOConfig(output_dir=str(tmp_path / "theirs"), **settings),
        processing_class=tokenizer, train_dataset=dataset(tokenizer), eval_dataset=dataset(tokenizer), **models(),
    )  # fmt: skip
    recorded = record_trl(monkeypatch, ppo_trainer, theirs, rollout)
    theirs.train()

    expected = recorded["advantages"]
    torch.testing.assert_close(estimates.advantages, expected, atol=2e-5, rtol=1e-4)

    gradients = {}
    our_step(ours, gradients)
    stats = ours.update_policy(rollout, estimates)
    logs = theirs.state.log_history[-1]
    assert stats.policy_loss == pytest.approx(logs["loss/policy_avg"], abs=1e-5)
    assert stats.value_loss == pytest.approx(logs["loss/value_avg"], rel=1e-4)
    assert stats.entropy == pytest.approx(logs["policy/entropy_avg"], rel=1e-4)
    assert scores.scores.mean().item() == pytest.approx(logs["objective/scores"], rel=1e-4)
    assert estimates.kl.sum(-1).mean().item() == pytest.approx(logs["objective/kl"], rel=1e-4)
    assert set(gradients) == set(recorded["gradients"])
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, recorded["gradients"][name], atol=2e-5, rtol=1e-3)


def record_trl(monkeypatch, module, trainer, rollout):
    """Make TRL's trainer use our completions, and note its whitened advantages and unclipped gradients."""
    recorded = {}
    queries = rollout.prompt_ids.masked_fill(~rollout.prompt_mask, trainer.processing_class.pad_token_id)
    sequences = torch.cat([queries, rollout.completion_ids], dim=1)

    def same_completions(model, given, batch_size, pad_token_id, generation_config):
        order = [(queries == row[-queries.shape[1] :]).all(-1).nonzero()[0, 0] for row in given]
        rows = sequences[torch.stack(order)]
        recorded["order"] = torch.stack(order)
        with torch.no_grad():
            logits = module.forward(model, rows, pad_token_id).logits[:, queries.shape[1] - 1 : -1]
        return rows, logits / generation_config.temperature

    whiten = module.masked_whiten

    def noted_whiten(values, mask, shift_mean=True):
        whitened = whiten(values, mask, shift_mean)
        if shift_mean:
            recorded["advantages"] = torch.empty_like(whitened).index_copy(0, recorded["order"], whitened)
        return whitened

    monkeypatch.setattr(module, "batch_generation", same_completions)
    monkeypatch.setattr(module, "masked_whiten", noted_whiten)
    step = trainer.optimizer.optimizer.step

    def noted_step(*args, **kwargs):
        recorded["gradients"] = own_gradients(trainer.model)
        return step(*args, **kwargs)

    trainer.optimizer.optimizer.step = noted_step
    return recorded


def own_gradients(model):
    """Gradients by name. TRL builds the backbone of the value model into its wrapper twice, under two names."""
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not name.startswith("critic_backbone")
    }


def our_step(trainer, gradients):
    """Note the gradients before they are clipped."""
    trainer.objective = type(trainer.objective)(**{**vars(trainer.objective), "max_grad_norm": 0.0})
    step = trainer.optimizer.optimizer.step

    def noted_step(*args, **kwargs):
        gradients.update(own_gradients(trainer.model))
        return step(*args, **kwargs)

    trainer.optimizer.optimizer.step = noted_step

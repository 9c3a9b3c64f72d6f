"""Our rewards, unchanged, in TRL's own trainers."""

from __future__ import annotations

import pytest
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from support import tiny
from trl_nlpo.rewards import get_reward


def rows():
    prompts = tiny.prompts(8)["prompt"]
    return Dataset.from_list(
        [{"prompt": prompt, "references": ["w1 w2", "w3"], "concepts": ["w5", "w6"]} for prompt in prompts]
    )


@pytest.fixture
def rewards(tmp_path):
    model = tiny.bert(AutoModelForSequenceClassification, num_labels=2)
    folder = tiny.saved(model, tiny.wordpiece_tokenizer(), tmp_path / "classifier")
    return [
        get_reward("classifier", model=folder, label=1, device="cpu"),
        get_reward("distinct1"),
        get_reward("rougeL"),
        get_reward("concept_coverage"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["GRPO", "RLOO"])
def test_a_trainer_of_trl_takes_a_step_on_metrics_as_rewards(algorithm, rewards, tmp_path):
    import trl

    args = getattr(trl, f"{algorithm}Config")(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        max_steps=1,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        bf16=False,
    )
    trainer = getattr(trl, f"{algorithm}Trainer")(
        # RLOO loads the reference model from the folder that the policy came from.
        model=tiny.saved(tiny.policy(), tiny.tokenizer(), tmp_path / "policy"),
        reward_funcs=rewards,
        args=args,
        train_dataset=rows(),
        processing_class=tiny.tokenizer(),
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    for name in ("classifier", "distinct1", "rougeL", "concept_coverage"):
        assert 0.0 <= logged[f"rewards/{name}/mean"] <= 1.0
    assert logged["rewards/distinct1/mean"] > 0
    assert logged["reward"] == pytest.approx(
        sum(logged[f"rewards/{name}/mean"] for name in ("classifier", "distinct1", "rougeL", "concept_coverage")),
        abs=1e-4,
    )

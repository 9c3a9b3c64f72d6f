"""The `.step()` loop beside the last TRL that had it, where `TRL_0_11_PYTHON` names a Python that has it.

Such an environment: `pip install trl==0.11.4 "transformers<4.46" "accelerate<1.3" "peft<0.14" "datasets<4"
"pyarrow<20" "numpy<2" rich`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from support import old_loop, tiny
from trl_nlpo import legacy


PYTHON = os.environ.get("TRL_0_11_PYTHON")
SETTINGS = {
    "batch_size": 4, "mini_batch_size": 4, "ppo_epochs": 3, "init_kl_coef": 0.3, "gamma": 0.9, "lam": 0.8,
    "cliprange": 0.1, "cliprange_value": 0.1, "vf_coef": 0.2, "seed": 3,
}  # fmt: skip
STEPS = [
    {
        "queries": [[5, 6, 7], [8, 9, 10], [4, 4, 4], [11, 3, 5]],
        "responses": [[3, 9, 4, 12], [7, 7, 5, 2], [10, 3, 3, 8], [6, 12, 9, 5]],
        "scores": [1.0, -0.5, 0.25, 2.0],
    },
    {
        "queries": [[9, 6, 2], [5], [7, 4, 3, 3, 8], [12, 3]],
        "responses": [[5, 9, 2, 11], [3, 7], [10, 4, 3], [6, 9, 9, 4, 6, 3]],
        "scores": [0.5, 1.5, -2.0, 0.0],
    },
]
SAME = [
    "objective/kl", "objective/kl_coef", "ppo/mean_non_score_reward", "ppo/mean_scores",
    "ppo/std_scores", "ppo/loss/policy", "ppo/loss/value", "ppo/loss/total", "ppo/policy/entropy",
    "ppo/policy/approxkl", "ppo/policy/policykl", "ppo/policy/clipfrac", "ppo/returns/mean", "ppo/returns/var",
    "ppo/val/vpred", "ppo/val/error", "ppo/val/mean", "ppo/val/var", "ppo/val/var_explained",
]  # fmt: skip


def case(folder, steps, **settings):
    """A folder with the same models and rows for either."""
    tiny.saved(tiny.policy("gpt2"), tiny.tokenizer(), folder / "model")
    tiny.saved(tiny.policy("gpt2", seed=4), tiny.tokenizer(), folder / "reference")
    torch.manual_seed(1)
    head = legacy.AutoModelForCausalLMWithValueHead.from_pretrained(str(folder / "model")).v_head
    torch.save([torch.randn_like(parameter) / 4 for parameter in head.parameters()], folder / "head.pt")
    (folder / "case.json").write_text(
        json.dumps({"settings": {**SETTINGS, **settings}, "steps": steps, "names": SAME, "learning_rate": 0.05})
    )
    return folder


@pytest.mark.skipif(PYTHON is None, reason="TRL_0_11_PYTHON names no Python that has TRL 0.11")
@pytest.mark.filterwarnings("ignore:trl_nlpo.legacy.PPOTrainer is for scripts:FutureWarning")
@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, STEPS),
        # It whitens the padding of shorter rows too, which is not 0 afterwards and leaks into their last tokens.
        ({"adap_kl_ctrl": False, "whiten_rewards": True}, STEPS[:1] * 2),
        # It ends the first step with an AttributeError where scores are scaled.
        ({"score_clip": 0.8, "early_stopping": True, "target_kl": 1e-4, "ppo_epochs": 6}, STEPS),
    ],
    ids=["defaults", "fixed coefficient, whitened rewards", "clipped scores, early stopping"],
)
def test_statistics_and_weights_are_those_of_the_original(tmp_path, settings, steps):
    folders = [case(tmp_path / name, steps, **settings) for name in ("ours", "theirs")]
    old_loop.run(folders[0], legacy)
    script = Path(old_loop.__file__)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([PYTHON, str(script), str(folders[1])], check=True, env=environment, timeout=300)
    ours, theirs = (torch.load(folder / "found.pt") for folder in folders)
    for mine, original in zip(ours["steps"], theirs["steps"], strict=True):
        assert mine == {name: pytest.approx(value, rel=2e-4, abs=2e-6) for name, value in original.items()}
    assert ours["kl_coef"] == pytest.approx(theirs["kl_coef"], rel=1e-6)
    for mine, original in zip(ours["weights"], theirs["weights"], strict=True):
        torch.testing.assert_close(mine, original, rtol=1e-3, atol=2e-6)

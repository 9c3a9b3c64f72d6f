"""What one process does of what several do together, and what is refused before training."""

from __future__ import annotations

import pytest
import torch

from support import tiny
from trl_nlpo import NLPOConfig, NLPOTrainer, UserError
from trl_nlpo.errors import RewardError
from trl_nlpo.launch.exits import say_once
from trl_nlpo.launch.kinds import check_launch
from trl_nlpo.launch.processes import failing_together, of_all, shared_out, start_equal


def test_one_process_computes_all_rows_in_order():
    assert shared_out(3, lambda indices: [index * 10 for index in indices]) == [0, 10, 20]
    assert shared_out(0, lambda indices: list(indices)) == []
    assert of_all(["a"]) == ["a"]


def test_one_process_fails_with_its_own_error():
    error = RewardError("mine")
    with pytest.raises(RewardError) as caught, failing_together():
        raise error
    assert caught.value is error


def test_one_process_keeps_its_weights():
    layer = torch.nn.Linear(2, 2)
    before = layer.weight.clone()
    start_equal(layer)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize(("rank", "said"), [("0", ["x"]), ("1", [])])
def test_without_a_store_of_the_launcher_the_first_process_speaks(monkeypatch, rank, said):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    heard = []
    say_once(lambda: heard.append("x"))
    assert heard == said


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_PARALLELISM_CONFIG", "ACCELERATE_USE_MEGATRON_LM"])
def test_models_in_pieces_are_refused_in_a_line_before_training(tmp_path, monkeypatch, variable):
    args = NLPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    check_launch(args)
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError, match="is not supported") as caught:
        NLPOTrainer(
            args=args,
            processing_class=tiny.tokenizer(),
            model=tiny.policy(),
            reward_funcs=tiny.length_reward,
            train_dataset=tiny.prompts(),
        )
    assert "\n" not in str(caught.value)

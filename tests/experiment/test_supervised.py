"""The supervised stage of a recipe."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    T5ForConditionalGeneration,
)

from support.small_runs import stages, tiny
from trl_nlpo.errors import UserError
from trl_nlpo.experiment.experiment import run_experiment


@pytest.mark.slow
@pytest.mark.parametrize("use_peft", [False, True])
def test_an_encoder_decoder_model_is_supervised_and_then_reinforced(t5, capsys, use_peft):
    keys = {"lora_target_modules": ["q", "v"], "lora_task_type": "SEQ_2_SEQ_LM"} if use_peft else {}
    folder = run_experiment(
        tiny(algorithm="supervised+nlpo", model_name_or_path=t5, max_steps=1, use_peft=use_peft, **keys)
    )
    assert list(stages(folder)) == ["zero-shot", "supervised", "supervised+nlpo"]
    assert (folder / "adapter_config.json").is_file() is use_peft
    weights = [T5ForConditionalGeneration.from_pretrained(path).parameters() for path in (t5, folder / "supervised")]
    assert not all(map(torch.equal, *weights))


def test_layers_that_an_adapter_does_not_find_are_a_users_mistake(capsys):
    with pytest.raises(UserError, match=r"lora_target_modules .* matches no layer"):
        run_experiment(tiny(algorithm="supervised+nlpo", use_peft=True, lora_target_modules=["nowhere"]))

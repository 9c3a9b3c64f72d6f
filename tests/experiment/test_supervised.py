"""The supervised stage of a recipe."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, T5ForConditionalGeneration

from support.small_runs import lines, stages, tiny
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


@pytest.mark.slow
def test_the_stage_has_its_own_schedule_and_decay(capsys):
    keys = {"algorithm": "supervised", "supervised_batch_size": 2}
    plain = run_experiment(tiny(**keys, output_dir="plain"))
    kept = run_experiment(tiny(**keys, output_dir="kept", supervised_lr_scheduler_type="constant"))
    shrunk = run_experiment(tiny(**keys, output_dir="shrunk", supervised_weight_decay=100.0))
    # The tenth of 16 steps: nine sixteenths of the way down from 1e-3, or still there.
    rates = [[line["learning_rate"] for line in lines(where / "metrics.jsonl") if "learning_rate" in line]
             for where in (plain, kept)]  # fmt: skip
    assert rates == [[pytest.approx(1e-3 * (1 - 9 / 16))], [pytest.approx(1e-3)]]
    norms = [_norm(where / "supervised") for where in (plain, shrunk)]
    assert norms[1] < 0.7 * norms[0]


def _norm(folder):
    return float(AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight.detach().norm())

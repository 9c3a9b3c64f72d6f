"""The model that a recipe starts from: a folder, an adapter, another run's."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
)

from support.small_runs import stages, tiny
from trl_nlpo.errors import UserError
from trl_nlpo.experiment import experiment
from trl_nlpo.experiment.experiment import run_experiment
from trl_nlpo.experiment.starting_model import starting_model
from trl_nlpo.models.from_scratch import build_model


def test_a_model_and_tokenizer_can_come_from_a_folder(capsys):
    first = run_experiment(tiny(algorithm="supervised"))
    folder = run_experiment(
        tiny(algorithm="nlpo", model_name_or_path=str(first / "supervised"), output_dir="second", max_steps=1)
    )
    assert stages(folder)["zero-shot"]["reward"] == stages(first)["supervised"]["reward"]


def test_an_adapter_in_a_folder_is_trained_further(llama, capsys):
    keys = {"model_name_or_path": llama, "use_peft": True, "lora_target_modules": "all-linear"}
    first = run_experiment(tiny(algorithm="nlpo", **keys))
    second = run_experiment(tiny(algorithm="nlpo", model_name_or_path=str(first), output_dir="second"))
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)
    with pytest.raises(UserError, match="is an adapter, which is trained further as it is: remove use_peft"):
        run_experiment(tiny(algorithm="nlpo", model_name_or_path=str(first), use_peft=True, output_dir="third"))


@pytest.mark.parametrize("other", [{"hidden_size": 64}, {"model_type": "gpt2"}], ids=["size", "layers"])
def test_an_adapter_of_another_base_is_a_users_mistake(llama, other, capsys):
    keys = {"model_name_or_path": llama, "use_peft": True, "lora_target_modules": ["q_proj"]}
    folder = run_experiment(tiny(algorithm="nlpo", **keys))
    sizes = {"model_type": "llama", "hidden_size": 128, **other}
    build_model(
        AutoTokenizer.from_pretrained(llama), sizes["model_type"], sizes["hidden_size"], 1, 4, 192
    ).save_pretrained(llama)
    with pytest.raises(
        UserError, match=r"does not fit the base model '.*base': it was trained on another one"
    ) as caught:
        run_experiment(tiny(algorithm="nlpo", model_name_or_path=str(folder), output_dir="other"))
    assert "\n" not in str(caught.value)


def test_a_supervised_model_of_another_run_is_where_reinforcement_starts_and_is_loaded_once(monkeypatch, capsys):
    supervised = run_experiment(tiny(algorithm="supervised", output_dir="first")) / "supervised"
    loaded = []
    monkeypatch.setattr(
        experiment, "starting_model", lambda *given: loaded.append(given[2:]) or starting_model(*given)
    )
    folder = run_experiment(tiny(algorithm="supervised+ppo", supervised_model=str(supervised), output_dir="second"))
    assert list(stages(folder)) == ["supervised+ppo"]
    assert loaded == [(supervised,)]
    assert str(supervised) in capsys.readouterr().out.replace("\n", "")

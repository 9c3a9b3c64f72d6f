"""The model that a recipe starts from: a folder, an adapter, another run's."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
)

from support.small_runs import stages, tiny
from trl_nlpo.errors import UserError
from trl_nlpo.experiment import experiment
from trl_nlpo.experiment.experiment import run_experiment
from trl_nlpo.experiment.starting_model import starting_model
from trl_nlpo.models.from_scratch import build_model


@pytest.mark.slow
def test_a_model_and_tokenizer_can_come_from_a_folder(capsys):
    first = run_experiment(tiny(algorithm="supervised"))
    folder = run_experiment(
        tiny(algorithm="nlpo", model_name_or_path=str(first / "supervised"), output_dir="second", max_steps=1)
    )
    assert stages(folder)["zero-shot"]["reward"] == stages(first)["supervised"]["reward"]


@pytest.mark.slow
def test_an_adapter_in_a_folder_is_trained_further(llama, capsys):
    keys = {"model_name_or_path": llama, "use_peft": True, "lora_target_modules": "all-linear"}
    first = run_experiment(tiny(algorithm="nlpo", **keys))
    second = run_experiment(tiny(algorithm="nlpo", model_name_or_path=str(first), output_dir="second"))
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)
    with pytest.raises(UserError, match="is an adapter, which is trained further as it is: remove use_peft"):
        run_experiment(tiny(algorithm="nlpo", model_name_or_path=str(first), use_peft=True, output_dir="third"))


@pytest.mark.slow
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


@pytest.mark.slow
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


def damaged(folder, change):
    """The weights in a folder, changed."""
    weights = load_file(f"{folder}/model.safetensors")
    save_file(change(weights), f"{folder}/model.safetensors", metadata={"format": "pt"})


DAMAGES = {
    "a layer is missing": (
        lambda weights: {name: w for name, w in weights.items() if ".mlp." not in name},
        "lacks 3 weights of a LlamaForCausalLM",
    ),
    "of another size": (lambda weights: {name: w[..., :64].contiguous() for name, w in weights.items()}, "cannot be"),
    "a head of a classifier": (
        lambda weights: {**weights, "score.weight": torch.zeros(1, 128)},
        "is no language model: it has the head of a classifier",
    ),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_folder_that_does_not_hold_the_model_is_refused_in_a_line(llama, damage):
    change, message = DAMAGES[damage]
    damaged(llama, change)
    with pytest.raises(UserError, match=message) as caught:
        starting_model(tiny(algorithm="nlpo", model_name_or_path=llama))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_off_is_refused_in_a_line(llama):
    with open(f"{llama}/model.safetensors", "r+b") as file:
        file.truncate(2000)
    with pytest.raises(UserError, match="cannot be loaded"):
        starting_model(tiny(algorithm="nlpo", model_name_or_path=llama))


def test_weights_without_a_place_are_said(llama, caplog):
    damaged(llama, lambda weights: {**weights, "model.layers.7.mlp.up_proj.weight": torch.zeros(2, 2)})
    starting_model(tiny(algorithm="nlpo", model_name_or_path=llama))
    assert "1 weights have no place in a LlamaForCausalLM and are left out (model.layers.7.mlp" in caplog.text


def test_an_adapter_that_lacks_weights_is_refused_in_a_line(llama, capsys):
    keys = {"model_name_or_path": llama, "use_peft": True, "lora_target_modules": "all-linear"}
    folder = run_experiment(tiny(algorithm="nlpo", **keys))
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: w for name, w in weights.items() if "q_proj" not in name}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not hold all of its weights"):
        starting_model(tiny(algorithm="nlpo", model_name_or_path=str(folder)))

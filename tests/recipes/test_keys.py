"""Keys of a recipe: each value has the type of its key, and a mistake is one line that names file and key."""

from __future__ import annotations

import pytest

from support.recipe_files import message, recipe_file
from trl_nlpo.recipes.recipe import load_recipe


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", 1, 1.0),
        ("max_steps", "20", 20),
        ("bf16", "false", False),
        ("eval_strategy", False, "no"),
        ("kl_target", None, None),
        ("kl_target", "none", None),
        ("mask_sync_steps", "null", None),
        ("generation_kwargs", '{"top_k": 50}', {"top_k": 50}),
        ("generation_kwargs", {"top_k": 50}, {"top_k": 50}),
        ("mask_strategy", "none", "none"),
        ("run_name", 7, "7"),
    ],
)
def test_values_are_read_as_the_type_of_their_key(tmp_path, key, given, value):
    assert getattr(load_recipe(recipe_file(tmp_path, **{key: given})).training, key) == value


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"learnin_rate": 1}, ["own.yaml, line 4: unknown key 'learnin_rate', did you mean 'learning_rate'?"]),
        ({"zzzz": 1}, ["unknown key 'zzzz'"]),
        ({"metrics": [{"name": "bleu", "weight": 2.0}]}, ["metrics: 'bleu' has a weight, but metrics are"]),
        ({"learning_rate": "fast"}, ["learning_rate is 'fast', but must be a number"]),
        ({"max_steps": 1.5}, ["max_steps is 1.5, but must be a whole number"]),
        ({"seed": True}, ["seed is True, but must be a whole number"]),
        ({"use_peft": "perhaps"}, ["use_peft is 'perhaps', but must be true or false"]),
        ({"algorithm": "sarsa"}, ["algorithm is 'sarsa', but must be one of 'zero_shot'", "'supervised+nlpo'"]),
        ({"mask_strategy": "top_q"}, ["mask_strategy is 'top_q', but must be one of 'top_p', 'top_k', 'none'"]),
        ({"eval_strategy": "often"}, ["eval_strategy is 'often', but must be one of 'no', 'steps', 'epoch'"]),
        ({"optim": "adamv"}, ["optim is 'adamv', but must be one of ", " names (did you mean 'ada"]),
        ({"dtype": "float8"}, ["dtype is 'float8', but must be one of 'auto', 'bfloat16'"]),
        ({"mask_top_p": 2.0}, ["own.yaml, line 4: mask_top_p is 2.0, but must be a number in (0, 1]"]),
        ({"generation_kwargs": "{top_k: 50"}, ["generation_kwargs is not valid JSON"]),
        ({"reward_weights": [1.0]}, ["'reward_weights' is not a key of a recipe; set rewards: [{name"]),
        ({"batch_size": 8}, ["'batch_size' is not a key of a recipe; set per_device_train_batch_size"]),
        ({"rewards": None}, ["rewards is missing: name at least one of", "concept_coverage"]),
        ({"rewards": [{"weight": 1}]}, ["rewards has the entry {'weight': 1}"]),
        ({"rewards": [{"name": "rougeL", "weight": "big"}]}, ["the weight of 'rougeL' is 'big'"]),
        ({"dataset_name": None}, ["dataset_name is missing"]),
        ({"max_train_samples": 0}, ["max_train_samples is 0, but must be positive"]),
        ({"supervised_weight_decay": -1.0}, ["supervised_weight_decay is -1.0, but must not be negative"]),
        ({"dropout": 1.0}, ["dropout is 1.0, but must be 0 or more and below 1"]),
        ({"dropout": -0.1}, ["dropout is -0.1, but must be 0 or more and below 1"]),
        ({"supervised_lr_scheduler_type": "cosin"}, ["supervised_lr_scheduler_type is 'cosin'", "'cosine'"]),
        ({"env": ["A=1"]}, ["env must be a mapping"]),
        ({"use_peft": True}, ["use_peft", "model_name_or_path"]),
        ({"load_in_8bit": True, "load_in_4bit": True}, ["8 bit and 4 bit"]),
    ],
)
def test_a_wrong_key_or_value_is_one_line_that_names_file_and_key(tmp_path, keys, parts):
    text = message(recipe_file(tmp_path, **keys))
    assert "own.yaml" in text
    for part in parts:
        assert part in text

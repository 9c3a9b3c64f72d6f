"""What follows from an algorithm's name, algorithm by algorithm."""

from __future__ import annotations

from math import inf

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.recipes.algorithms import ALGORITHMS, SUPERVISED, ZERO_SHOT, Algorithm
from trl_nlpo.recipes.arguments import RecipeArguments


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("zero_shot", ("zero-shot",)),
        ("supervised", ("zero-shot", "supervised")),
        ("ppo", ("zero-shot", "ppo")),
        ("nlpo", ("zero-shot", "nlpo")),
        ("supervised+ppo", ("zero-shot", "supervised", "supervised+ppo")),
        ("supervised+nlpo", ("zero-shot", "supervised", "supervised+nlpo")),
        ("a2c", ("zero-shot", "a2c")),
        ("supervised+trpo", ("zero-shot", "supervised", "supervised+trpo")),
    ],
)
def test_an_algorithm_has_its_stages_in_their_order(name, stages):
    algorithm = Algorithm.parse(name)
    assert algorithm.stages == stages
    assert algorithm.last_stage == stages[-1]
    assert algorithm.trains is (name != "zero_shot")
    assert algorithm.supervised is ("supervised" in stages)
    assert algorithm.reinforces is (name not in ("zero_shot", "supervised"))


NO_MASK = {"mask_strategy": "none"}


@pytest.mark.parametrize(
    ("name", "settings", "baseline", "start"),
    [
        ("zero_shot", {}, "zero_shot", ZERO_SHOT),
        ("supervised", {}, "supervised", SUPERVISED),
        ("ppo", {"mask_strategy": "none"}, "ppo", ZERO_SHOT),
        ("nlpo", {}, "ppo", ZERO_SHOT),
        ("supervised+ppo", {"mask_strategy": "none"}, "supervised+ppo", SUPERVISED),
        ("supervised+nlpo", {}, "supervised+ppo", SUPERVISED),
        ("a2c", {**NO_MASK, "num_ppo_epochs": 1, "num_mini_batches": 1, "cliprange_value": inf}, "ppo", ZERO_SHOT),
        (
            "supervised+trpo",
            {**NO_MASK, "policy_update": "trust_region", "value_trains_backbone": False},
            "supervised+ppo",
            SUPERVISED,
        ),
    ],
)
def test_nlpo_is_ppo_with_a_mask_and_the_others_are_ppo_with_other_settings(name, settings, baseline, start):
    algorithm = Algorithm.parse(name)
    assert algorithm.settings == settings
    assert algorithm.baseline is Algorithm.parse(baseline)
    assert algorithm.start is start


def test_an_unknown_name_is_answered_with_the_nearest_and_all():
    with pytest.raises(UserError) as caught:
        Algorithm.parse("supervized+nlpo")
    assert str(caught.value) == (
        "unknown algorithm 'supervized+nlpo', did you mean 'supervised+nlpo'? Take one of zero_shot, supervised, ppo, "
        "nlpo, a2c, trpo, supervised+ppo, supervised+nlpo, supervised+a2c, supervised+trpo."
    )


def test_the_help_of_the_key_names_every_algorithm():
    text = RecipeArguments.__dataclass_fields__["algorithm"].metadata["help"]
    assert [name for name in ALGORITHMS if f"'{name}'" not in text] == []

"""Axes of an ablation: how they are written, and the cells that they make."""

from __future__ import annotations

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.grid.axes import STUDIES, Axis, axes_of, combinations, grid_of, split_values, study
from trl_nlpo.grid.cells import paths_of


TINY = ("--preset", "tiny")


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_values_are_split_at_commas_outside_of_brackets_and_braces():
    assert split_values('0.5, null,{"top_k": 5, "min_p": 0.1},[0.2, 4]') == [
        "0.5", "null", '{"top_k": 5, "min_p": 0.1}', "[0.2, 4]",
    ]  # fmt: skip


def test_the_recipes_own_value_is_the_base_if_it_is_among_them():
    gamma, top_p, steps = axes_of(
        "commongen", ["gamma=0.5,0.95,1.0", "--mask-top-p=0.5,0.7", "mask_sync_steps=null,2"], TINY
    )
    assert gamma == Axis("gamma", ("0.5", "0.95", "1.0"), "0.95")
    assert top_p == Axis("mask_top_p", ("0.5", "0.7"), "0.5")
    assert steps.base == "2"


@pytest.mark.parametrize(
    ("over", "base"),
    [
        ("lam=0.9,0.95,1.0", "0.95"),
        ("cliprange=0.1,0.2,0.3", "0.2"),
        ("max_grad_norm=1.0,0.50", "0.50"),
        ("learning_rate=1e-3,1e-4", "1e-4"),
        ("gamma=1,0.95", "0.95"),
        ("disable_dropout=false,true", "true"),
        ("generation_kwargs={top_k: 5},null", "null"),
        ("lam=0.5,0.6", "0.5"),
    ],
)
def test_the_recipes_own_value_is_found_however_it_is_written_and_also_where_it_is_a_default(over, base):
    (axis,) = axes_of("commongen", [over], TINY)
    assert axis.base == base


def test_values_that_are_too_long_to_name_a_folder_are_refused_before_anything_runs(tmp_path):
    long = [f"[{', '.join(f'reward_number_{n}_{m}' for m in range(12))}]" for n in range(2)]
    axes = axes_of("commongen", [f"rewards={','.join(long)}"], ("--dataset_name", "miniature"))
    with pytest.raises(UserError, match="are too long to name a folder"):
        grid_of("commongen", axes, 1, tmp_path, ())


@pytest.mark.parametrize(
    ("overs", "says"),
    [
        (["gamma"], "write a key and two values at least"),
        (["gamma=0.5"], "write a key and two values at least"),
        (["gamma=0.5,0.5"], "write a key and two values at least"),
        (["seed=0,1"], "--seeds is for that"),
        (["output_dir=a,b"], "each cell has its own"),
        (["gamma=0.5,1.0", "gamma=0.9,0.95"], "the key is given twice"),
        (["preset=tiny,null"], "the key is given twice"),
        (["hub_token=a,b"], "its values name folders and rows"),
    ],
)
def test_what_is_no_axis_is_one_line(overs, says):
    with pytest.raises(UserError, match=says):
        axes_of("commongen", overs, TINY)


def test_every_combination_is_a_cell_of_every_seed_and_shares_the_seeds_supervised_model(tmp_path):
    axes = axes_of("commongen", ["gamma=0.5,1.0", "mask_top_p=0.5,0.9"], TINY)
    grid = grid_of("commongen", axes, 2, tmp_path, TINY)
    assert len(combinations(axes)) == len(grid.variants) == 4
    assert grid.variants[1].label == "supervised+nlpo[gamma=0.5,mask_top_p=0.9]"
    cells = grid.cells()
    assert len(cells) == 2 * (1 + 4)
    for cell in cells[1:5]:
        assert f"--supervised_model {cells[0].folder / 'supervised'}" in " ".join(paths_of(grid, cell))


def test_a_key_that_changes_the_supervised_model_gives_each_cell_its_own(tmp_path):
    axes = axes_of("commongen", ["max_train_samples=100,200"], TINY)
    grid = grid_of("commongen", axes, 2, tmp_path, TINY)
    assert [cell.variant.label for cell in grid.cells()] == [variant.label for variant in grid.variants] * 2
    for cell in grid.cells():
        assert "--supervised_model" not in paths_of(grid, cell)
        assert "--judge_model" not in paths_of(grid, cell)


def test_the_algorithm_can_be_an_axis(tmp_path):
    axes = axes_of("commongen", ["algorithm=supervised+ppo,supervised+trpo", "gamma=0.9,1.0"], TINY)
    grid = grid_of("commongen", axes, 1, tmp_path, TINY)
    assert [variant.label for variant in grid.variants] == [
        "supervised+ppo[gamma=0.9]", "supervised+ppo[gamma=1.0]", "supervised+trpo[gamma=0.9]",
        "supervised+trpo[gamma=1.0]",
    ]  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_made_of_axes_of_a_recipe(name, tmp_path):
    axes = axes_of("commongen", study(name), TINY)
    grid = grid_of("commongen", axes, 1, tmp_path, TINY)
    assert len(grid.variants) >= 2


def test_an_unknown_study_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="unknown study 'gama', did you mean 'gamma'"):
        study("gama")

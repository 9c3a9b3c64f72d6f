"""The grid: order, resuming, failures."""

from __future__ import annotations

import json

import pytest

from support.grids import VARIANTS, FakeRun
from support.grids import made_up_grid as grid
from trl_nlpo.errors import Terminated, UserError
from trl_nlpo.grid import grid as grids
from trl_nlpo.grid.cells import Grid, Variant, known_recipes, known_variants, parse_seeds, parse_variant, split_names
from trl_nlpo.grid.grid import run_grid
from trl_nlpo.grid.leaderboard import write_leaderboard
from trl_nlpo.recipes.algorithms import Algorithm


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_are_split_at_commas_outside_of_brackets():
    assert split_names("ppo, nlpo[a=1,b=2],zero_shot") == ["ppo", "nlpo[a=1,b=2]", "zero_shot"]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("3", (0, 1, 2)), ("2:5", (2, 3, 4)), ("0,3,7", (0, 3, 7)), ("7:8", (7,)), ("0,4:6,5", (0, 4, 5)),
        (" 1 , 2 ", (1, 2)),
    ],
)  # fmt: skip
def test_seeds_are_a_number_of_them_ranges_or_a_list(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "", "-1", "5:2", "2:2", "1.5", "two", "1,,2", ":3", "3:"])
def test_seeds_that_are_none_are_one_line(text):
    with pytest.raises(UserError, match="write how many"):
        parse_seeds(text)


def test_a_range_of_seeds_runs_those_and_no_others(tmp_path):
    run, said = FakeRun(), []
    subject = Grid(("commongen",), (parse_variant("ppo"),), parse_seeds("2:4"), tmp_path / "grid")
    assert run_grid(subject, run, said.append) == []
    assert [recipe.training.seed for recipe in run.recipes] == [2, 3]
    assert said == ["[1/2] commongen, ppo, seed 2 ...", "[2/2] commongen, ppo, seed 3 ..."]


def test_an_algorithm_may_have_keys_of_its_own():
    assert parse_variant("ppo") == Variant("ppo", Algorithm.parse("ppo"))
    made = parse_variant("nlpo[mask_sync_steps=null,gamma=1.0]")
    assert made.algorithm.name == "nlpo"
    assert made.overrides == ("--mask_sync_steps", "null", "--gamma", "1.0")


def test_an_algorithm_or_recipe_that_is_named_twice_counts_once(tmp_path):
    assert [variant.label for variant in known_variants(["nlpo", "ppo", "nlpo"])] == ["nlpo", "ppo"]
    (tmp_path / "own.yaml").write_text("")
    assert known_recipes(["own.yaml", "imdb", str(tmp_path / "own.yaml"), "imdb"]) == ("own.yaml", "imdb")


def test_two_recipes_of_one_name_are_refused_as_they_would_share_a_folder(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my.yaml").write_text("")
    with pytest.raises(UserError, match=r"'a/my\.yaml' and 'b/my\.yaml' would both be 'my' in folder and table"):
        known_recipes(["a/my.yaml", "b/my.yaml"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nlpoo", "unknown algorithm 'nlpoo', did you mean 'nlpo'"),
        ("nlpo[gamma]", "write keys of its own as nlpo"),
        ("nlpo[gamma=1", "write keys of its own as nlpo"),
    ],
)
def test_a_wrong_algorithm_is_one_line(text, message):
    with pytest.raises(UserError, match=message):
        parse_variant(text)


def test_the_supervised_model_is_trained_first_and_once_per_seed_and_judges_all(tmp_path):
    run = FakeRun()
    assert run_grid(grid(tmp_path), run, lambda line: None) == []
    algorithms = [recipe.arguments.algorithm for recipe in run.recipes]
    assert algorithms == ["supervised", "zero_shot", "supervised+ppo", "supervised+nlpo"] * 2
    assert [recipe.training.seed for recipe in run.recipes] == [0] * 4 + [1] * 4
    supervised = str(tmp_path / "grid" / "commongen" / "supervised" / "seed-1" / "supervised")
    assert run.recipes[4].arguments.judge_model is None
    assert [recipe.arguments.judge_model for recipe in run.recipes[5:]] == [supervised] * 3
    assert [recipe.arguments.supervised_model for recipe in run.recipes[5:]] == [None, supervised, supervised]
    assert run.recipes[-1].training.mask_sync_steps is None


def test_a_supervised_run_with_keys_of_its_own_is_trained_and_not_taken_from_the_plain_one(tmp_path):
    run = FakeRun()
    variant = parse_variant("supervised[supervised_learning_rate=0.5]")
    assert run_grid(Grid(("commongen",), (variant,), 1, tmp_path / "grid"), run, lambda line: None) == []
    plain, own = run.recipes
    assert own.arguments.supervised_learning_rate == 0.5
    assert own.arguments.supervised_model is None
    assert own.arguments.judge_model == str(tmp_path / "grid/commongen/supervised/seed-0/supervised")
    assert plain.arguments.judge_model is None


def test_a_run_whose_keys_change_the_supervised_model_trains_its_own(tmp_path):
    run = FakeRun()
    variants = tuple(
        map(parse_variant, ["supervised+nlpo[supervised_learning_rate=0.5]", "supervised+nlpo[gamma=1.0]"])
    )
    assert run_grid(Grid(("commongen",), variants, 1, tmp_path / "grid"), run, lambda line: None) == []
    shared, own, taking = run.recipes
    assert shared.arguments.algorithm == "supervised"
    assert (own.arguments.supervised_model, own.arguments.judge_model) == (None, None)
    assert own.arguments.supervised_learning_rate == 0.5
    assert taking.arguments.supervised_model == str(tmp_path / "grid/commongen/supervised/seed-0/supervised")


def test_a_grid_goes_on_where_it_stopped(tmp_path):
    stopped = FakeRun(fails=["supervised+nlpo"], error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid(tmp_path), stopped, lambda line: None)
    again = FakeRun()
    assert run_grid(grid(tmp_path), again, lambda line: None) == []
    assert len(stopped.recipes) - 1 + len(again.recipes) == 8


@pytest.mark.slow
@pytest.mark.parametrize("error", [UserError, ZeroDivisionError])
def test_a_cell_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path, error):
    said = []
    failed = run_grid(grid(tmp_path), FakeRun(fails=["supervised+ppo"], error=error), said.append)
    assert [(cell.variant.label, cell.seed) for cell in failed] == [("supervised+ppo", 0), ("supervised+ppo", 1)]
    assert sum("failed" in line and "out of luck" in line for line in said) == 2
    assert (failed[0].folder / "traceback.txt").is_file() is (error is ZeroDivisionError)
    board = write_leaderboard(grid(tmp_path), "command").read_text()
    assert "## Failed" in board
    run = FakeRun()
    assert run_grid(grid(tmp_path), run, said.append) == []
    assert len(run.recipes) == 2


def test_a_cell_that_was_stopped_is_resumed_and_one_that_never_began_or_was_edited_begins_anew(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("task: commongen\ngamma: 0.9\n")
    subject = Grid(("own.yaml",), (parse_variant("ppo"),), 1, tmp_path / "grid")
    with pytest.raises(KeyboardInterrupt):
        run_grid(subject, FakeRun(fails=["ppo"], error=KeyboardInterrupt), lambda line: None)
    again = FakeRun(fails=["ppo"])
    run_grid(subject, again, lambda line: None)
    assert again.recipes[0].arguments.resume_from_checkpoint is True
    assert again.overwrites == [False]
    file.write_text("task: commongen\ngamma: 0.8\n")
    edited = FakeRun()
    run_grid(subject, edited, lambda line: None)
    assert edited.recipes[0].arguments.resume_from_checkpoint is None
    assert edited.overwrites == [True]


def test_a_stopped_cell_says_that_the_same_command_goes_on(tmp_path):
    stopped = FakeRun(fails=["ppo"], error=Terminated)
    stopped.says = "stopped after update 3; resume from x with --resume."
    with pytest.raises(Terminated, match=r"stopped after update 3 of .*; the same command goes on from there"):
        run_grid(Grid(("commongen",), (parse_variant("ppo"),), 1, tmp_path / "g"), stopped, lambda line: None)


def test_a_cell_that_another_command_has_is_left_to_it(tmp_path):
    subject = Grid(("commongen",), tuple(map(parse_variant, ("ppo", "nlpo"))), 1, tmp_path / "grid")
    taken = subject.cells()[0].folder
    taken.mkdir(parents=True)
    (taken / "_lock.json").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    run, said = FakeRun(), []
    assert run_grid(subject, run, said.append) == []
    assert [recipe.arguments.algorithm for recipe in run.recipes] == ["nlpo"]
    lock = taken / "_lock.json"
    assert said[0] == (
        "[1/2] commongen, ppo, seed 0: another command has it (process 1 on elsewhere; if that has ended, delete "
        f"{lock})."
    )
    assert said[-1].startswith("1 cells are being run by other commands")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--seed", "5"), "--seed: each cell of a grid has its own: give --seeds"),
        (("--output_dir", "elsewhere"), "--output_dir: each cell of a grid has its own: give --out"),
        (("--supervised_model", "x"), "--supervised_model: .* its supervised cell trains it"),
        (("--zero_shot_results", "x"), "--zero_shot_results: .* first cell of its seed"),
        (("--push_to_hub", "true"), "push_to_hub: the cells of a grid would overwrite one another"),
    ],
)
def test_keys_that_a_grid_gives_to_its_cells_are_refused_and_not_passed_over(tmp_path, words, says):
    subject = Grid(("commongen",), (parse_variant("supervised+ppo"),), 1, tmp_path / "grid", words)
    run = FakeRun()
    with pytest.raises(UserError, match=says):
        run_grid(subject, run, lambda line: None)
    assert run.recipes == []
    assert not (tmp_path / "grid").exists()


@pytest.mark.parametrize("where", ["recipe", "command line"])
def test_a_judge_of_ones_own_is_kept(tmp_path, where):
    file = tmp_path / "own.yaml"
    file.write_text("task: commongen\n" + ("judge_model: mine\n" if where == "recipe" else ""))
    words = () if where == "recipe" else ("--judge_model", "mine")
    subject = Grid((str(file),), (parse_variant("supervised+ppo"),), 1, tmp_path / "grid", words)
    run = FakeRun()
    run_grid(subject, run, lambda line: None)
    assert {recipe.arguments.judge_model for recipe in run.recipes} == {"mine"}


def test_a_supervised_model_in_the_recipe_is_refused_where_a_grid_trains_its_own(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("task: commongen\nsupervised_model: runs/before/supervised\n")
    subject = Grid((str(file),), (parse_variant("supervised+ppo"),), 1, tmp_path / "grid")
    says = r"supervised model of their own seed\. Leave it out; or, .* give that as model_name_or_path"
    with pytest.raises(UserError, match=says):
        run_grid(subject, FakeRun(), lambda line: None)


def test_cells_wait_for_a_supervised_model_that_another_command_trains(tmp_path, monkeypatch):
    subject = Grid(("commongen",), (parse_variant("supervised+ppo"),), 1, tmp_path / "grid")
    supervised = subject.cells()[0].folder
    supervised.mkdir(parents=True)
    (supervised / "_lock.json").write_text(json.dumps({"host": "elsewhere", "pid": 1}))

    def the_other_ends(seconds):
        (supervised / "_lock.json").unlink(missing_ok=True)
        (supervised / "cell.json").write_text('{"status": "done", "metrics": {}}')

    monkeypatch.setattr(grids.time, "sleep", the_other_ends)
    run, said = FakeRun(), []
    assert run_grid(subject, run, said.append) == []
    assert [recipe.arguments.algorithm for recipe in run.recipes] == ["supervised+ppo"]
    assert said[1].startswith("Waiting for supervised models")


def test_other_keys_in_the_same_folder_and_wrong_keys_are_refused_before_anything_runs(tmp_path):
    run_grid(grid(tmp_path), FakeRun(), lambda line: None)
    run = FakeRun()
    with pytest.raises(UserError, match="holds a grid that ran with --preset tiny"):
        run_grid(grid(tmp_path, overrides=("--preset", "tiny", "--gamma", "1.0")), run, lambda line: None)
    with pytest.raises(UserError, match="unknown key 'gama', did you mean 'gamma'"):
        run_grid(Grid(("imdb",), VARIANTS, 1, tmp_path / "other", ("--gama", "1")), run, lambda line: None)
    assert run.recipes == []
    assert not (tmp_path / "other").exists()


def test_a_cell_whose_recipe_was_edited_since_is_refused_with_what_to_do(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("task: commongen\ngamma: 0.9\n")
    subject = grid(tmp_path, recipes=("own.yaml",), seeds=1)
    run_grid(subject, FakeRun(), lambda line: None)
    run = FakeRun()
    file.write_text("# the same, with a comment\ngamma: 0.9\ntask: commongen\n")
    assert run_grid(subject, run, lambda line: None) == []
    file.write_text("task: commongen\ngamma: 0.8\n")
    with pytest.raises(UserError, match=r"another recipe than 'own\.yaml' is now .* delete .*/grid/own to run"):
        run_grid(subject, run, lambda line: None)
    assert run.recipes == []


def test_a_recipe_may_be_edited_where_its_cell_has_yet_to_run(tmp_path):
    file = tmp_path / "own.yaml"
    subject = Grid(("own.yaml",), (parse_variant("ppo"),), 1, tmp_path / "grid")
    file.write_text("task: commongen\ngamma: 0.9\n")
    assert run_grid(subject, FakeRun(fails=["ppo"]), lambda line: None) != []
    file.write_text("task: commongen\ngamma: 0.8\n")
    run = FakeRun()
    assert run_grid(subject, run, lambda line: None) == []
    assert run.recipes[0].training.gamma == 0.8

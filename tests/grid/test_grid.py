"""The grid: order, going on, failures; and the leaderboard that comes of it."""

from __future__ import annotations

import csv
import json

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.grid import leaderboard
from trl_nlpo.grid.grid import Grid, Variant, known_recipes, known_variants, parse_variant, run_grid, split_names
from trl_nlpo.grid.leaderboard import write_leaderboard
from trl_nlpo.recipes.algorithms import Algorithm


VARIANTS = tuple(map(parse_variant, ["zero_shot", "supervised+ppo", "supervised+nlpo[mask_sync_steps=null]"]))


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


class FakeRun:
    """Writes what `run_experiment` would; a run of an algorithm can be made to fail."""

    def __init__(self, fails=(), error=UserError):
        self.recipes, self.fails, self.error = [], fails, error

    def __call__(self, recipe):
        self.recipes.append(recipe)
        if recipe.arguments.algorithm in self.fails:
            raise self.error("out of luck")
        folder = recipe.training.output_dir
        stage = recipe.arguments.algorithm.replace("zero_shot", "zero-shot")
        better = 0.2 * recipe.arguments.algorithm.endswith("nlpo") + 0.1 * recipe.training.seed
        import pathlib

        path = pathlib.Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        metrics = {"reward": 0.5 + better, "perplexity": 9.0 + better, "metrics/ter": 80.0, "metrics/unique1": 5.0}
        metrics["metrics/bleu"] = 0.0
        (path / "results.json").write_text(json.dumps({"stages": {stage: metrics}}))
        rows = [{"prompt": str(n), stage: {"score": n + better}} for n in range(6)]
        (path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        lines = [{"stage": stage, "step": n, "reward": 0.1 * n} for n in (1, 2)]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def grid(tmp_path, recipes=("commongen",), seeds=2, overrides=("--preset", "tiny")):
    return Grid(recipes, VARIANTS, seeds, tmp_path / "grid", overrides)


def test_names_are_split_at_commas_outside_of_brackets():
    assert split_names("ppo, nlpo[a=1,b=2],zero_shot") == ["ppo", "nlpo[a=1,b=2]", "zero_shot"]


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


@pytest.mark.slow
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


def test_a_grid_goes_on_where_it_stopped(tmp_path):
    stopped = FakeRun(fails=["supervised+nlpo"], error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid(tmp_path), stopped, lambda line: None)
    again = FakeRun()
    assert run_grid(grid(tmp_path), again, lambda line: None) == []
    assert len(stopped.recipes) - 1 + len(again.recipes) == 8


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


def board_of(subject):
    write_leaderboard(subject, "command")
    return json.loads((subject.folder / "leaderboard.json").read_text())


def edit_samples(folder, edit):
    for path in folder.glob("commongen/*/seed-*/samples.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        edited = [edit(path.parent, number, row) for number, row in enumerate(rows)]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in edited), encoding="utf-8")


@pytest.mark.slow
def test_line_separators_inside_of_a_text_end_no_row(tmp_path):
    subject = grid(tmp_path)
    run_grid(subject, FakeRun(), lambda line: None)
    expected = board_of(subject)
    edit_samples(subject.folder, lambda folder, number, row: {**row, "prompt": "a\u2028b\u2029c\u0085d"})
    assert board_of(subject) == expected


@pytest.mark.slow
def test_prompts_without_a_score_are_left_out_of_comparisons(tmp_path):
    def skip(folder, number, row):
        """No score of the first prompts in a PPO run, of the last in the other, and of any in zero-shot."""
        algorithm, seed = folder.parent.name, folder.name
        if algorithm == "zero_shot" or (algorithm, seed, number) in [
            ("supervised+ppo", "seed-0", 0),
            ("supervised+ppo", "seed-0", 1),
            ("supervised+ppo", "seed-1", 5),
        ]:
            row[algorithm.replace("zero_shot", "zero-shot")]["score"] = None
        return row

    variants = (*VARIANTS, *map(parse_variant, ["nlpo", "ppo"]))
    subject = Grid(("commongen",), variants, 2, tmp_path / "grid")
    run_grid(subject, FakeRun(), lambda line: None)
    edit_samples(subject.folder, skip)
    compared = {(entry["first"], entry["second"]): entry for entry in board_of(subject)["comparisons"]["commongen"]}
    nlpo = compared["supervised+nlpo[mask_sync_steps=null]", "supervised+ppo"]
    assert nlpo["num_prompts"] == 3
    assert nlpo["difference"] == pytest.approx(0.2)
    assert compared["nlpo", "ppo"]["num_prompts"] == 6
    # with no prompt left there is nothing to compare
    assert ("nlpo", "zero_shot") not in compared


def test_a_metric_that_the_first_seed_could_not_measure_is_averaged_over_the_others():
    averages = leaderboard._averages([{"reward": 1.0}, {"reward": 2.0, "bleu": 0.5}])
    assert averages["reward"]["mean"] == 1.5
    assert (averages["bleu"]["mean"], averages["bleu"]["seeds"]) == (0.5, 1)


def test_a_leaderboard_has_means_deviations_the_best_in_bold_comparisons_and_curves(tmp_path):
    subject = grid(tmp_path, recipes=("commongen", "imdb"))
    run_grid(subject, FakeRun(), lambda line: None)
    text = write_leaderboard(subject, "trl-nlpo grue").read_text()
    board = json.loads((tmp_path / "grid" / "leaderboard.json").read_text())
    assert list(board["tasks"]) == ["commongen", "imdb"]
    rows = board["tasks"]["imdb"]
    # in the order asked for, the supervised one that others needed at the end
    assert list(rows) == ["zero_shot", "supervised+ppo", "supervised+nlpo[mask_sync_steps=null]", "supervised"]
    # 0.5 and 0.6: the mean 0.55, the sample's deviation sqrt(2 * 0.05^2) = 0.0707
    assert rows["zero_shot"]["reward"] == {
        "mean": pytest.approx(0.55),
        "std": pytest.approx(0.0707, abs=1e-4),
        "seeds": 2,
    }
    line = next(line for line in text.splitlines() if line.startswith("| supervised+nlpo["))
    # the highest reward is bold, the lowest perplexity is elsewhere, and of unique words more is not better
    # and what is the same everywhere is nobody's best
    cells = ["**0.750 ± 0.071**", "0.0000 ± 0.0000", "80.0 ± 0.0", "5.000 ± 0.000", "9.250 ± 0.071 |"]
    assert line.split(" | ")[1:] == cells
    assert "reward ↑" in text
    assert "perplexity ↓" in text
    compared = {(entry["first"], entry["second"]): entry for entry in board["comparisons"]["imdb"]}
    nlpo = "supervised+nlpo[mask_sync_steps=null]"
    assert set(compared) == {("supervised+ppo", "supervised"), (nlpo, "supervised"), (nlpo, "supervised+ppo")}
    assert compared[nlpo, "supervised+ppo"]["difference"] == pytest.approx(0.2)
    with open(tmp_path / "grid" / "learning_curves.csv") as file:
        curves = list(csv.DictReader(file))
    assert len(curves) == 2 * 8 * 2
    assert (curves[1]["task"], curves[1]["update"], curves[1]["reward"]) == ("commongen", "2", "0.2")

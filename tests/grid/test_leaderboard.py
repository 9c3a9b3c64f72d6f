"""The leaderboard: means, directions, comparisons, and what is said of cells that are damaged."""

from __future__ import annotations

import csv
import json

import pytest
import yaml

from support.grids import VARIANTS, FakeRun
from support.grids import made_up_grid as grid
from trl_nlpo.errors import UserError
from trl_nlpo.experiment.experiment import run_experiment
from trl_nlpo.grid import leaderboard, tables
from trl_nlpo.grid.cells import Grid, parse_variant
from trl_nlpo.grid.grid import run_grid
from trl_nlpo.grid.leaderboard import write_leaderboard
from trl_nlpo.grid.tables import as_csv, as_latex, as_markdown
from trl_nlpo.storage.results import RunResults


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
    averages = leaderboard.averages([{"reward": 1.0}, {"reward": 2.0, "bleu": 0.5}])
    assert averages["reward"]["mean"] == 1.5
    assert (averages["bleu"]["mean"], averages["bleu"]["seeds"]) == (0.5, 1)


@pytest.mark.slow
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
    assert "judge's perplexity ↓" in text
    assert "low" not in rows["zero_shot"]["reward"]
    compared = {(entry["first"], entry["second"]): entry for entry in board["comparisons"]["imdb"]}
    nlpo = "supervised+nlpo[mask_sync_steps=null]"
    assert set(compared) == {("supervised+ppo", "supervised"), (nlpo, "supervised"), (nlpo, "supervised+ppo")}
    assert compared[nlpo, "supervised+ppo"]["difference"] == pytest.approx(0.2)


def rewrite_results(subject, edit):
    for cell in subject.cells():
        path = cell.folder / "results.json"
        results = json.loads(path.read_text())
        edit(cell, results)
        path.write_text(json.dumps(results))
        (cell.folder / "cell.json").write_text(
            json.dumps({"status": "done", "metrics": results["stages"][cell.stage]})
        )


def row_of(text, label):
    """The cells of a row by the titles of their columns."""
    titles, row = (
        next(line for line in text.splitlines() if line.startswith(start)) for start in ("| | ", f"| {label} | ")
    )
    return dict(zip(titles.split(" | ")[1:], row.removesuffix(" |").split(" | ")[1:], strict=False))


def test_a_metric_of_the_users_is_bold_where_it_says_that_it_is_better(tmp_path):
    subject = Grid(("commongen",), tuple(map(parse_variant, ["ppo", "nlpo"])), 1, tmp_path / "grid")
    run_grid(subject, FakeRun(), lambda line: None)

    def edit(cell, results):
        results["stages"][cell.stage] |= {
            "metrics/wer": 0.2 if cell.variant.label == "nlpo" else 0.9,
            "metrics/accuracy": 0.2 if cell.variant.label == "nlpo" else 0.9,
            "metrics/words": 2.0 if cell.variant.label == "nlpo" else 9.0,
        }
        results["better"] = {"metrics/wer": "lower", "metrics/accuracy": "higher", "metrics/words": None}

    rewrite_results(subject, edit)
    text = write_leaderboard(subject, "command").read_text()
    ppo, nlpo = row_of(text, "ppo"), row_of(text, "nlpo")
    assert (ppo["wer ↓"], nlpo["wer ↓"]) == ("0.900", "**0.200**")
    assert (ppo["accuracy ↑"], nlpo["accuracy ↑"]) == ("**0.900**", "0.200")
    assert (ppo["words"], nlpo["words"]) == ("9.000", "2.000")


def test_runs_of_earlier_versions_recorded_nothing_so_names_decide_and_unknown_ones_are_no_contest(tmp_path):
    subject = Grid(("commongen",), tuple(map(parse_variant, ["ppo", "nlpo"])), 1, tmp_path / "grid")
    run_grid(subject, FakeRun(), lambda line: None)

    def edit(cell, results):
        value = 20.0 if cell.variant.label == "nlpo" else 30.0
        results["stages"][cell.stage] |= {"metrics/ter": value, "metrics/wer": value, "metrics/bleu": value}

    rewrite_results(subject, edit)
    text = write_leaderboard(subject, "command").read_text()
    ppo, nlpo = row_of(text, "ppo"), row_of(text, "nlpo")
    assert (ppo["ter ↓"], nlpo["ter ↓"]) == ("30.0", "**20.0**")
    assert (ppo["bleu ↑"], nlpo["bleu ↑"]) == ("**30.0**", "20.0")
    assert (ppo["wer"], nlpo["wer"]) == ("30.0", "20.0")


def test_a_reward_that_is_also_a_metric_has_one_column_unless_it_is_turned_around(tmp_path):
    names = ["rewards/bleu/mean", "metrics/bleu", "rewards/ter/mean", "metrics/ter"]
    rows = {"nlpo": {name: {"mean": 1.0, "std": 0.0, "seeds": 1} for name in names}}
    better = dict.fromkeys(names, "higher") | {"metrics/ter": "lower"}
    assert tables.table(rows, better, {})[0] == "| | reward ter ↑ | bleu ↑ | ter ↓ |"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.json", None, r"nlpo/seed-0 has no results\.json"),
        ("results.json", "{", r"results\.json is damaged"),
        ("samples.jsonl", "{", r"samples\.jsonl, line 1: not valid JSON"),
        ("cell.json", "", r"cell\.json is damaged .*: delete .*seed-0 to run the cell again"),
    ],
)
def test_a_finished_cell_whose_files_are_damaged_is_named_in_one_line(tmp_path, name, content, message):
    subject = Grid(("commongen",), (parse_variant("nlpo"),), 1, tmp_path / "grid")
    run_grid(subject, FakeRun(), lambda line: None)
    path = tmp_path / "grid" / "commongen" / "nlpo" / "seed-0" / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        write_leaderboard(subject, "command")
    assert "\n" not in str(caught.value)


OWN = """
from trl_nlpo.metrics.base import Metric

class Errors(Metric):
    name = "wer"
    better = "lower"

    def __init__(self, scale):
        self.scale = scale

    def score(self, predictions, **columns):
        return [self.scale * len(text) for text in predictions]
"""
REAL = {
    "dataset_name": "quickstart",
    "max_train_samples": 16,
    "max_eval_samples": 4,
    "max_test_samples": 4,
    "rewards": ["grammatical", {"name": "own_errors.Errors", "scale": 0.5}],
    "metrics": ["ter", "mean_length", {"name": "own_errors.Errors", "scale": 2.0}],
    "model_type": "gpt2",
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 192,
    "response_length": 4,
    "per_device_eval_batch_size": 4,
    "use_cpu": True,
    "bf16": False,
}


def test_a_run_records_which_way_its_columns_are_better_and_the_leaderboard_reads_it(tmp_path):
    (tmp_path / "own_errors.py").write_text(OWN)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(REAL))
    subject = Grid(("own.yaml",), (parse_variant("zero_shot"),), 1, tmp_path / "grid")
    assert run_grid(subject, run_experiment, lambda line: None) == []
    better = RunResults.read(subject.cells()[0].folder).better
    assert {column: way for column, way in better.items() if way is not None} == {
        "reward": "higher",
        "rewards/grammatical/mean": "higher",
        "rewards/wer/mean": "higher",
        "perplexity": "lower",
        "metrics/ter": "lower",
        "metrics/wer": "lower",
    }
    assert {"reward_std", "completions/mean_length", "metrics/mean_length"} <= set(better)
    header = next(line for line in write_leaderboard(subject, "command").read_text().splitlines() if "wer" in line)
    assert header == (
        "| | reward ↑ | reward grammatical ↑ | reward wer ↑ | mean_length | ter ↓ | wer ↓ | judge's perplexity ↓ | "
        "tokens |"
    )


def test_nothing_in_a_name_or_an_error_is_markup_of_the_leaderboard():
    entry = {"mean": 0.5, "std": 0.0, "seeds": 1}
    comparison = {"first": "nlpo|x", "second": "ppo", "difference": 0.1, "low": 0.0, "high": 0.2}
    comparison |= {"score": "score", "p_value": 0.5, "p_adjusted": 0.5}
    text = as_markdown({
        "command": "trl-nlpo grue --out `a`",
        "versions": {},
        "seeds": 1,
        "tasks": {"my*task*": {"nlpo|x": {"rewards/a|b/mean": entry}}},
        "better": {"my*task*": {"rewards/a|b/mean": "higher"}},
        "comparisons": {"my*task*": [comparison]},
        "failed": {"runs/`x`": "first\n| second <img src=x> \x1b[2J"},
    })  # fmt: skip
    assert r"## my\*task\*" in text
    assert r"| | reward a\|b ↑ |" in text
    assert r"| nlpo\|x | " in text
    assert r"| nlpo\|x - ppo | reward | +0.100 |" in text
    assert "`` trl-nlpo grue --out `a` ``" in text
    assert r"- `` runs/`x` ``: first \| second \<img src=x\> \\x1b[2J" in text
    assert "\x1b" not in text


def finished(tmp_path, edit_rows):
    """A grid of PPO and NLPO with two seeds whose rows have scores of metrics."""
    subject = Grid(("commongen",), tuple(map(parse_variant, ["ppo", "nlpo"])), 2, tmp_path / "grid")
    run_grid(subject, FakeRun(), lambda line: None)
    edit_samples(subject.folder, edit_rows)
    return subject


def with_meteor(folder, number, row):
    better = 0.25 if folder.parent.name == "nlpo" else 0.0
    row[folder.parent.name]["metrics"] = {"meteor": number / 10 + better, "wer": None if number else 1.0}
    return row


def test_every_metric_with_scores_of_rows_is_compared_and_all_are_one_family(tmp_path):
    board = board_of(finished(tmp_path, with_meteor))
    compared = {entry["score"]: entry for entry in board["comparisons"]["commongen"]}
    assert list(compared) == ["score", "metrics/meteor", "metrics/wer"]
    assert compared["metrics/meteor"]["difference"] == pytest.approx(0.25)
    assert compared["metrics/wer"]["num_prompts"] == 1
    assert all(entry["p_adjusted"] >= entry["p_value"] for entry in compared.values())


def test_a_column_that_is_the_mean_of_its_rows_has_an_interval_and_another_has_none(tmp_path):
    subject = finished(tmp_path, with_meteor)

    def edit(cell, results):
        mean = 0.25 + (0.25 if cell.variant.label == "nlpo" else 0.0)
        results["stages"][cell.stage] |= {"metrics/meteor": mean, "metrics/wer": 7.0}

    rewrite_results(subject, edit)
    board = board_of(subject)
    row = board["tasks"]["commongen"]["nlpo"]
    assert row["metrics/meteor"]["low"] < 0.5 < row["metrics/meteor"]["high"]
    assert "low" not in row["metrics/wer"]
    lines = as_markdown(board).splitlines()
    start = lines.index("95 % intervals over prompts, scores averaged over seeds:")
    assert lines[start + 2] == "| | meteor |"


def test_an_algorithm_without_all_of_its_seeds_is_marked_wherever_it_stands(tmp_path):
    subject = finished(tmp_path, with_meteor)
    next(cell for cell in subject.cells() if (cell.variant.label, cell.seed) == ("nlpo", 1)).folder.joinpath(
        "cell.json"
    ).write_text('{"status": "failed", "error": "out of luck"}')
    board = board_of(subject)
    text = (subject.folder / "leaderboard.md").read_text()
    assert r"| nlpo\* (1 of 2 seeds) | " in text
    assert r"\* Not all of the 2 seeds are there." in text
    assert "| ppo | " in text
    assert board["runs"]["commongen"] == {"ppo": 2, "nlpo": 1}
    assert "nlpo* (1 of 2 seeds) & " in (subject.folder / "leaderboard.tex").read_text()


def test_where_a_seed_is_missing_scores_are_paired_by_seed_and_row(tmp_path):
    # As where the seed decides the data: scores of seed 1 are ten times those of seed 0, for both alike.
    def edit(folder, number, row):
        label, seed = folder.parent.name, int(folder.name[-1])
        row[label]["score"] = number * 10.0**seed + (0.5 if label == "nlpo" else 0.0)
        return row

    subject = finished(tmp_path, edit)
    (both,) = board_of(subject)["comparisons"]["commongen"]
    assert (both["difference"], both["seeds"]) == (pytest.approx(0.5), 2)
    (subject.folder / "commongen" / "ppo" / "seed-1" / "cell.json").unlink()
    (left,) = board_of(subject)["comparisons"]["commongen"]
    assert (left["difference"], left["seeds"], left["num_prompts"]) == (pytest.approx(0.5), 1, 6)
    assert left["low"] == left["high"] == pytest.approx(0.5)
    (subject.folder / "commongen" / "nlpo" / "seed-0" / "cell.json").unlink()
    # Without a seed in common there is nothing to pair.
    assert board_of(subject)["comparisons"]["commongen"] == []


def test_the_same_numbers_are_in_csv_and_latex(tmp_path):
    subject = finished(tmp_path, with_meteor)
    board = board_of(subject)
    rows = list(csv.DictReader((subject.folder / "leaderboard.csv").read_text().splitlines()))
    reward = next(row for row in rows if (row["algorithm"], row["column"], row["against"]) == ("nlpo", "reward", ""))
    assert float(reward["mean"]) == board["tasks"]["commongen"]["nlpo"]["reward"]["mean"]
    assert reward["better"] == "higher"
    against = next(row for row in rows if row["against"] == "ppo" and row["column"] == "metrics/meteor")
    assert float(against["mean"]) == pytest.approx(0.25)
    latex = (subject.folder / "leaderboard.tex").read_text()
    assert r"\textbf{0.750 $\pm$ 0.071}" in latex
    assert r"judge's perplexity $\downarrow$" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1


def test_nothing_in_a_name_is_a_command_of_latex():
    entry = {"mean": 0.5, "std": 0.0, "seeds": 1}
    board = {
        "seeds": 1,
        "tasks": {"a_b": {r"nlpo[x=\input{y}]": {"metrics/50%_&": entry}}},
        "better": {"a_b": {"metrics/50%_&": None}},
        "comparisons": {"a_b": []},
    }
    text = as_latex(board)
    assert r"nlpo[x=\textbackslash{}input\{y\}]" in text
    assert r"50\%\_\&" in text
    assert r"\caption{a\_b." in text
    assert len(list(csv.DictReader(as_csv(board).splitlines()))) == 1

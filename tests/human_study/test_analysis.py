"""A study's report, through the command line."""

from __future__ import annotations

import json
import random
import sys

import pytest

from support.commands import run_cli


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, rows):
    (folder / "judgements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def simulated(seed=0):
    """Two people and two systems; `nlpo` is one point better, and each person errs by up to one."""
    chance, rows = random.Random(seed), []
    for prompt in range(30):
        truth = chance.choice([2, 3])
        for system, more in (("supervised", 0), ("nlpo", 1)):
            for annotator in ("ann", "bob"):
                value = truth + more + chance.choice([0, 0, 1])
                item = f"{prompt}-{system}"
                rows.append({"item": item, "prompt": prompt, "annotator": annotator, "system": system,
                             "criterion": "quality", "rating": value})  # fmt: skip
        choice = 1 if chance.random() < 0.8 else 0
        rows.append({"item": f"pair{prompt}", "annotator": "ann", "systems": ["supervised", "nlpo"], "choice": choice})
    return rows


def test_the_report_has_every_part(folder, monkeypatch, capsys):
    write(folder, simulated())
    code, out, err = run_cli(monkeypatch, capsys, "study", "analyse", "judgements.jsonl", "--out", "report")
    assert (code, err) == (0, "")
    record = json.loads((folder / "report" / "analysis.json").read_text())
    quality = record["ratings"]["quality"]
    assert quality["means"]["nlpo"]["value"] > quality["means"]["supervised"]["value"] + 0.5
    assert quality["variance"]["p_value"] < 0.01
    assert quality["differences"][0]["high"] < 0
    assert 0 < quality["agreement"]["alpha"]["ordinal"]["value"] < 1
    assert record["choices"]["best"]["strengths"]["supervised"]["value"] < 0
    assert record["annotators"]["ann"]["judgements"] == 90
    for part in ("## Ratings: quality", "Tukey's test", "Krippendorff's alpha", "## Choices: best", "## Annotators"):
        assert part in out


def test_ratings_are_correlated_with_the_metrics_of_the_run(folder, monkeypatch, capsys):
    write(folder, simulated())
    samples = [
        {"prompt": str(n), **{stage: {"completion": "x", "reward": None, "metrics": {"length": n + more}}
                              for stage, more in (("supervised", 0), ("nlpo", 50))}}
        for n in range(30)
    ]  # fmt: skip
    (folder / "run").mkdir()
    (folder / "run" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    code, out, err = run_cli(monkeypatch, capsys, "study", "analyse", "judgements.jsonl", "--run", "run")
    assert code == 0, err
    found = json.loads((folder / "analysis.json").read_text())["ratings"]["quality"]["correlations"]
    assert set(found) == {"length"}
    assert found["length"]["spearman"] > 0.3
    assert found["length"]["items"] == 60
    assert "| length |" in out


def test_gold_and_repeats_are_about_the_people(folder, monkeypatch, capsys):
    rows = simulated()
    rows += [
        {"item": "gold", "annotator": "ann", "system": "gold", "criterion": "quality", "rating": 5, "gold": 5},
        {"item": "gold", "annotator": "bob", "system": "gold", "criterion": "quality", "rating": 1, "gold": 5},
        {**rows[0], "is_repeat": True},
    ]
    write(folder, rows)
    code, _, err = run_cli(monkeypatch, capsys, "study", "analyse", "judgements.jsonl")
    assert code == 0, err
    record = json.loads((folder / "analysis.json").read_text())
    assert [record["annotators"][name]["gold"] for name in ("ann", "bob")] == [1.0, 0.0]
    assert record["annotators"]["ann"]["repeats"] == 1.0
    assert "gold" not in record["ratings"]["quality"]["means"]


def test_the_items_that_people_disagree_about_come_first(folder, monkeypatch, capsys):
    rows = [
        {"item": item, "annotator": person, "system": "nlpo", "rating": rating}
        for item, both in (("alike", (3, 3)), ("apart", (1, 5)), ("near", (2, 3)))
        for person, rating in zip(("ann", "bob"), both, strict=True)
    ]
    rows += [
        {"item": item, "annotator": person, "systems": ["a", "b"], "choice": choice}
        for item, said in (("same", (0, 0, 0)), ("split", (0, 1, None)))
        for person, choice in zip(("ann", "bob", "cid"), said, strict=True)
    ]
    write(folder, rows)
    code, out, err = run_cli(monkeypatch, capsys, "study", "analyse", "judgements.jsonl")
    assert code == 0, err
    record = json.loads((folder / "analysis.json").read_text())
    rated, chosen = record["ratings"]["rating"]["items"], record["choices"]["best"]["items"]
    assert [(item["item"], item["said"]) for item in rated] == [
        ("apart (nlpo)", "1, 5"), ("near (nlpo)", "2, 3"), ("alike (nlpo)", "3, 3"),
    ]  # fmt: skip
    assert rated[0]["spread"] == pytest.approx(8**0.5)
    assert [(item["item"], item["votes"]) for item in chosen] == [
        ("split", {"a": 1, "b": 1, "tie": 1}), ("same", {"a": 3}),
    ]  # fmt: skip
    assert "| apart (nlpo) | 1, 5 | 2.828 | 2 |" in out


def test_the_page_needs_nothing_else_and_obeys_no_html(folder, monkeypatch, capsys):
    evil = '<img src=x onerror="alert(1)">'
    rows = [{**row, "system": evil} if row.get("system") == "nlpo" else row for row in simulated()]
    rows = [{**row, "systems": [evil, "$\\sqrt{"]} if "systems" in row else row for row in rows]
    write(folder, rows)
    code, _, err = run_cli(monkeypatch, capsys, "study", "analyse", "judgements.jsonl")
    assert code == 0, err
    page = (folder / "analysis.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<table>") == 5
    assert "<table><thead>" in page.replace("\n", "")


def test_the_page_has_its_pictures_inside(folder, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    write(folder, simulated())
    assert run_cli(monkeypatch, capsys, "study", "analyse", "judgements.jsonl")[0] == 0
    page = (folder / "analysis.html").read_text()
    assert page.count('<img src="data:image/png;base64,iVBOR') == 2
    assert "![Mean ratings: quality](ratings-1.png)" in (folder / "analysis.md").read_text()
    assert (folder / "ratings-1.png").is_file()
    assert (folder / "choices-1.png").is_file()


def test_without_matplotlib_the_report_has_tables_only(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write(folder, simulated())
    code, out, err = run_cli(monkeypatch, capsys, "study", "analyse", "judgements.jsonl")
    assert code == 0, err
    assert "![" not in out
    assert not list(folder.glob("*.png"))


def test_one_judge_alone_agrees_with_nobody_and_that_is_a_dash(folder, monkeypatch, capsys):
    write(folder, [row for row in simulated() if row["annotator"] == "ann"])
    code, out, err = run_cli(monkeypatch, capsys, "study", "analyse", "judgements.jsonl")
    assert code == 0, err
    assert "Agreement over 0 of 60 items" in out
    assert "ordinal - (- to -)" in out


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"annotator": "a"}, "row 1 has no 'item'"),
        ({"item": 1}, "row 1 has no 'annotator'"),
        ({"item": 1, "annotator": "a"}, "has neither 'rating' nor 'choice'"),
        ({"item": 1, "annotator": "a", "rating": 3}, "has no 'system'"),
        ({"item": 1, "annotator": "a", "system": "s", "rating": "good"}, "rating is 'good', but must be a number"),
        ({"item": 1, "annotator": "a", "systems": ["s"], "choice": 0}, "must be a list of two or more"),
        ({"item": 1, "annotator": "a", "systems": ["s", "t"], "choice": 2}, "choice is 2, but must be from 0 to 1"),
    ],
)
def test_a_row_that_cannot_be_is_one_line(folder, monkeypatch, capsys, row, message):
    write(folder, [row])
    code, _, err = run_cli(monkeypatch, capsys, "study", "analyse", "judgements.jsonl")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_without_the_packages_it_says_what_to_install(folder, monkeypatch, capsys):
    write(folder, simulated())
    monkeypatch.setitem(sys.modules, "scipy", None)
    code, _, err = run_cli(monkeypatch, capsys, "study", "analyse", "judgements.jsonl")
    assert code == 2
    assert 'needs the package scipy: install it with `pip install "trl-nlpo[people]"`' in err


def test_without_a_command_there_is_help_and_no_error(monkeypatch, capsys):
    code, out, err = run_cli(monkeypatch, capsys, "study")
    assert (code, err) == (0, "")
    assert "analyse" in out


def test_a_run_whose_samples_were_not_judged_is_refused(folder, monkeypatch, capsys):
    write(folder, simulated())
    (folder / "samples.jsonl").write_text(json.dumps({"prompt": "p", "other": {"completion": "x"}}) + "\n")
    code, _, err = run_cli(monkeypatch, capsys, "study", "analyse", "judgements.jsonl", "--run", ".")
    assert code == 2
    assert "has no completion that was rated" in err

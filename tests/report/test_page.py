"""The page as a file: complete, closed to the network, and deaf to what models, data and logs say."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from support.commands import run_cli
from support.grids import FakeRun, made_up_grid
from support.made_up_runs import made_up_run
from trl_nlpo import cli
from trl_nlpo.errors import UserError
from trl_nlpo.grid.ablation import write_ablation
from trl_nlpo.grid.axes import axes_of, grid_of
from trl_nlpo.grid.grid import run_grid
from trl_nlpo.grid.leaderboard import write_leaderboard
from trl_nlpo.report.page import write_report


ROOT = Path(__file__).parent.parent.parent
EVIL = "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"

pytest.importorskip("plotly")


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.scripts, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.inside = tag == "script" and dict(attributes).get("type") is None
        if self.inside:
            self.scripts.append("")

    def handle_data(self, data):
        if self.inside:
            # A long script comes in parts.
            self.scripts[-1] += data

    def handle_endtag(self, tag):
        self.inside = False


def evil_run(path, **keys):
    """A run in which everything that can be called somehow is called [`EVIL`], or says it."""
    folder = made_up_run(path, texts=(EVIL, "plain"), note=EVIL, **{EVIL: EVIL}, **keys)
    lines = (folder / "metrics.jsonl").read_text().replace('"value/mean"', json.dumps(EVIL))
    (folder / "metrics.jsonl").write_text(lines)
    results = json.loads((folder / "results.json").read_text())
    results["stages"]["nlpo"][f"metrics/{EVIL}"] = 1.0
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_nothing_that_is_said_or_called_becomes_an_element(tmp_path):
    folders = [evil_run(tmp_path / "a"), evil_run(tmp_path / "b", gamma=0.5)]
    text = write_report(folders, tmp_path / "report.html").read_text(encoding="utf-8")
    page = Elements(text)
    assert not [tag for tag, _ in page.found if tag in ("img", "iframe", "object", "base", "form")]
    assert not [attributes for _, attributes in page.found if any(name.startswith("on") for name in attributes)]
    kinds = [attributes.get("type") for tag, attributes in page.found if tag == "script"]
    assert set(kinds) == {"application/json", None}
    assert kinds.count(None) == 2
    blocks = re.findall(r'<script type="application/json" id="[\w-]+">(.*?)</script>', text)
    assert len(blocks) == kinds.count("application/json")
    read = [json.loads(block) for block in blocks]
    assert any(EVIL in json.dumps(block, ensure_ascii=False).replace('\\"', '"') for block in read)
    assert not any("<" in block for block in blocks)


def test_the_policy_allows_the_two_scripts_of_the_page_and_no_connection(tmp_path):
    page = Elements(write_report([made_up_run(tmp_path / "a")], tmp_path / "r.html").read_text(encoding="utf-8"))
    (policy,) = (a["content"] for tag, a in page.found if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    assert rules["script-src"].split() == [f"'sha256-{found}'" for found in hashes]
    links = [value for _, attributes in page.found for name, value in attributes.items() if name in ("src", "href")]
    assert all(link.startswith(("#", "data:")) for link in links)


def test_a_run_whose_first_stage_is_not_finished_has_a_page(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "results.json").write_text('{"stages": {}}')
    (tmp_path / "a" / "metrics.jsonl").write_text('{"stage": "nlpo", "step": 1, "reward": 1.0}\n')
    text = write_report([tmp_path / "a"], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "No stage has finished yet." in text
    assert "Learning curves" in text


@pytest.mark.slow
def test_an_ablation_shows_its_axes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axes = axes_of("commongen", ["gamma=0.5,0.9"], ["--preset", "tiny"])
    subject = grid_of("commongen", axes, 2, tmp_path / "grid", ["--preset", "tiny"])
    run_grid(subject, FakeRun(), lambda line: None)
    write_leaderboard(subject, "command")
    write_ablation(subject, axes, "trl-nlpo ablate")
    text = write_report([subject.folder], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h2>Ablation</h2>" in text
    assert "gamma = 0.5" in text
    # As the made-up runs do not look at it.
    assert "Every score with 0.9 is that with 0.5: here the key changes nothing." in text


def test_an_out_that_cannot_be_a_file_is_said(tmp_path):
    run = made_up_run(tmp_path / "a")
    with pytest.raises(UserError, match="is a folder: give the name of a file"):
        write_report([run], tmp_path)
    with pytest.raises(UserError, match="the folder of --out"):
        write_report([run], run / "recipe.yaml" / "report.html")


@pytest.mark.slow
def test_the_command_writes_a_page_and_says_a_mistake_in_one_line(tmp_path):
    made_up_run(tmp_path / "a")

    def command(*words):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        line = [sys.executable, "-m", "trl_nlpo", "report", *words]
        return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)

    done = command("a", "--prompts", "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert "The report is report.html" in done.stdout
    assert "The first 7 of 120 prompts" in (tmp_path / "report.html").read_text(encoding="utf-8")
    failed = command("a", "nowhere")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert "there is no folder nowhere" in failed.stderr


def test_without_plotly_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "plotly", None)
    code, _, error = run_cli(monkeypatch, capsys, "report", made_up_run(tmp_path / "a"))
    assert code == 2
    assert error == (
        'trl-nlpo: a report needs the package plotly: install it with `pip install "trl-nlpo[report]"`.\n'
    )


@pytest.mark.slow
def test_a_grid_gets_its_page_or_the_line_that_says_how(tmp_path, monkeypatch, capsys):
    subject = made_up_grid(tmp_path, seeds=1)
    run_grid(subject, FakeRun(), lambda line: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    cli._report_on(subject)
    assert 'pip install "trl-nlpo[report]"' in capsys.readouterr().out
    assert not (subject.folder / "report.html").exists()
    monkeypatch.undo()
    cli._report_on(subject)
    assert str(subject.folder / "report.html") in capsys.readouterr().out
    assert "commongen" in (subject.folder / "report.html").read_text(encoding="utf-8")

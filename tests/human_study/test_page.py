"""The page where people judge, in a real browser, against a server in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from support.browser import launched
from support.commands import run_cli
from trl_nlpo.human_study.study import Study, StudySettings, create


ROOT = Path(__file__).parent.parent.parent
EVIL = "<img src=x onerror=\"document.title='run'\"><b>bold</b>"

pytest.importorskip("gradio")


def items(number, k):
    return [
        {"item": f"i{n}", "prompt": f"prompt {n} {EVIL}", "completions": [f"s{s} of {n} {EVIL}" for s in range(k)],
         "systems": [f"s{s}" for s in range(k)]}
        for n in range(number)
    ]  # fmt: skip


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@contextlib.contextmanager
def served(folder, port, *more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "trl_nlpo", "study", "serve", str(folder), "--port", str(port), *more],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                break
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def browser():
    with launched() as made:
        yield made


def enter(browser, port, name, **context):
    page = browser.new_context(**context).new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    page.locator("#name input, #name textarea").first.fill(name)
    page.locator("#start").click()
    page.locator("#text-1 textarea").wait_for()
    return page


def judge(page, study, name, number, act):
    """Answer so many questions, one after another, and wait for each to be written."""
    for _ in range(number):
        before = answers(study, name)
        act(page)
        for _ in range(200):
            if answers(study, name) > before:
                break
            time.sleep(0.05)
        assert answers(study, name) == before + 1
        page.wait_for_timeout(150)


def answers(study, name):
    return sum(row["annotator"] == name for row in study.judgements())


def choose_first(page):
    page.keyboard.press("1")


@pytest.mark.slow
def test_a_person_judges_twenty_items_while_the_server_is_killed(browser, tmp_path):
    study, port = create(tmp_path / "study", StudySettings(), items(20, 3)), free_port()
    with served(tmp_path / "study", port):
        page = enter(browser, port, "ann")
        # No text of a model is ever HTML.
        assert EVIL in page.locator("#text-1 textarea").input_value()
        assert EVIL in page.locator("#prompt textarea").input_value()
        assert page.title() != "run"
        judge(page, study, "ann", 8, choose_first)
        judge(page, study, "ann", 1, lambda page: page.locator("#choose-3").click())
        page.keyboard.press("u")
        page.wait_for_timeout(500)
        assert answers(study, "ann") == 8
        kept = study.judgements()
    with served(tmp_path / "study", port):
        page = enter(browser, port, "ann")
        assert "8 of 20" in page.locator("#progress").inner_text()
        judge(page, study, "ann", 12, choose_first)
        page.locator("#done").wait_for()
    rows = study.judgements()
    assert rows[:8] == kept
    assert Counter(row["item"] for row in rows) == dict.fromkeys([f"i{n}" for n in range(20)], 1)
    assert all(row["choice"] == row["order"][0] for row in rows)


@pytest.mark.slow
def test_a_key_pressed_too_soon_answers_no_question_that_was_not_seen(browser, tmp_path):
    study, port = create(tmp_path / "study", StudySettings(), items(20, 3)), free_port()
    with served(tmp_path / "study", port):
        page = enter(browser, port, "ann")
        seen = page.locator("#text-1 textarea").input_value()
        for key in ("1", "2", "3"):
            page.keyboard.press(key)
        page.get_by_text("1 of 20").wait_for()
        page.wait_for_timeout(1000)
        (row,) = study.judgements()
        assert seen == f"{row['systems'][row['choice']]} of {row['item'][1:]} {EVIL}"
        judge(page, study, "ann", 1, choose_first)


@pytest.mark.slow
def test_two_people_at_once_on_a_phone_and_a_desk(browser, tmp_path):
    study = create(tmp_path / "study", StudySettings(kind="pairwise", annotators_per_item=2), items(6, 2))
    port = free_port()
    with served(tmp_path / "study", port):
        phone = enter(browser, port, "ann", viewport={"width": 390, "height": 800}, has_touch=True)
        desk = enter(browser, port, "bob")
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        for _ in range(3):
            judge(phone, study, "ann", 1, lambda page: page.locator("#choose-2").tap())
            judge(desk, study, "bob", 1, choose_first)
        judge(phone, study, "ann", 3, lambda page: page.locator("#choose-tie").tap())
        judge(desk, study, "bob", 3, lambda page: page.keyboard.press("0"))
        phone.locator("#done").wait_for()
        desk.locator("#done").wait_for()
    rows = study.judgements()
    assert Counter(row["annotator"] for row in rows) == {"ann": 6, "bob": 6}
    assert sum(row["choice"] is None for row in rows) == 6


@pytest.mark.slow
def test_ratings_need_every_scale(browser, tmp_path):
    settings = StudySettings(kind="likert", criteria={"quality": "How good is it?", "fluency": "How fluent is it?"})
    study, port = create(tmp_path / "study", settings, items(2, 1)), free_port()
    with served(tmp_path / "study", port):
        page = enter(browser, port, "ann")
        page.locator("#rate-1").get_by_text("good", exact=True).click()
        page.locator("#submit").click()
        page.get_by_text("Please rate: fluency").wait_for()
        assert study.judgements() == []
        page.locator("#rate-2").get_by_text("very bad").click()
        page.locator("#submit").click()
        page.get_by_text("1 of 2").wait_for()
    assert [(row["criterion"], row["rating"]) for row in study.judgements()] == [("quality", 4), ("fluency", 1)]


@pytest.mark.slow
def test_with_a_token_nobody_gets_in_without_it(browser, tmp_path):
    study, port = create(tmp_path / "study", StudySettings(), items(2, 2)), free_port()
    with served(tmp_path / "study", port, "--token", "sesame"):
        page = browser.new_context().new_page()
        for word in ("wrong", "sesame"):
            page.goto(f"http://127.0.0.1:{port}/")
            page.get_by_label("username").fill("ann")
            page.get_by_label("password").fill(word)
            page.get_by_role("button", name="Login").click()
            if word == "wrong":
                page.get_by_text("Incorrect").first.wait_for()
        page.locator("#text-1 textarea").wait_for()
        judge(page, study, "ann", 2, choose_first)


def test_another_address_without_a_token_is_refused(tmp_path, monkeypatch, capsys):
    create(tmp_path / "study", StudySettings(), items(2, 2))
    code, _, err = run_cli(monkeypatch, capsys, "study", "serve", tmp_path / "study", "--host", "0.0.0.0")
    assert code == 2
    assert "serving on 0.0.0.0 needs a token" in err


def test_a_study_of_a_run_is_made_exported_and_has_its_stages_as_systems(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    stages = ("supervised", "supervised+nlpo", "zero-shot")
    rows = [{"prompt": f"p{n}", **{stage: {"completion": f"{stage} {n}"} for stage in stages}} for n in range(9)]
    Path("run/samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--out", "study", "--kind", "pairwise", "--systems", "supervised,supervised+nlpo", "--items", "4"]
    code, out, err = run_cli(monkeypatch, capsys, "study", "create", "run", *words)
    assert (code, err) == (0, "")
    assert "4 items to judge" in out
    study = Study("study")
    while (question := study.next_question("ann")) is not None:
        place = next(i for i, text in enumerate(question.completions) if text.startswith("supervised+nlpo"))
        study.answer("ann", question.shown, place)
    code, out, err = run_cli(monkeypatch, capsys, "study", "export", "study", "--out", "judgements.jsonl")
    assert (code, err) == (0, "")
    found = [json.loads(line) for line in Path("judgements.jsonl").read_text().splitlines()]
    assert [row["systems"][row["choice"]] for row in found] == ["supervised+nlpo"] * 4
    code, out, err = run_cli(
        monkeypatch, capsys, "study", "export", "study", "--out", "new/choices.jsonl", "--as", "preferences"
    )
    assert code == 0, err
    assert "trl-nlpo train-reward new/choices.jsonl" in out
    create("other", StudySettings(), items(1, 2))
    code, _, err = run_cli(monkeypatch, capsys, "study", "export", "other", "--out", "x.jsonl")
    assert code == 2
    assert "other has nothing to write as judgements yet" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--systems", "ppo"], "the run has no stage 'ppo'; it has: supervised"),
        (["items.jsonl", "--systems", "ppo"], "systems are of a run"),
        (["items.jsonl"], "row 1 has no 'systems'"),
        (["nowhere.jsonl"], "nowhere.jsonl is not readable"),
        (["empty"], "is not there: give a run's folder"),
        (["run", "--gold", "known.jsonl"], "known.jsonl, row 1 has no 'gold'"),
        (["run", "--kind", "best"], "kind is 'best'"),
        (["run", "--kinds", "best"], "unknown key 'kinds'"),
    ],
)
def test_what_no_study_can_be_made_of_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    for folder in ("run", "empty"):
        Path(folder).mkdir()
    Path("run/samples.jsonl").write_text(json.dumps({"prompt": "p", "supervised": {"completion": "c"}}) + "\n")
    row = {"prompt": "p", "completions": ["a", "b"]}
    Path("items.jsonl").write_text(json.dumps(row) + "\n")
    Path("known.jsonl").write_text(json.dumps({**row, "systems": ["x", "y"]}) + "\n")
    code, _, err = run_cli(monkeypatch, capsys, "study", "create", *words, "--out", "study")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not Path("study").exists()

"""Completions side by side: by prompt, whatever they are made of."""

from __future__ import annotations

import json

from support.made_up_runs import made_up_run
from trl_nlpo.report.runs import read_reported
from trl_nlpo.report.samples import samples_of
from trl_nlpo.storage.run_folder import RunFolder


def run_of(path, *samples):
    run = RunFolder(path)
    run.log("nlpo", 1, {"reward": 1.0})
    run.add_result("nlpo", {"reward": 1.0}, list(samples), 1.0)
    return read_reported([path])


def test_stages_are_columns_and_only_so_many_prompts_are_kept(tmp_path):
    found = samples_of(read_reported([made_up_run(tmp_path / "a")]), "quickstart", 100)
    assert (found["total"], len(found["prompts"]), len(found["cells"])) == (120, 100, 100)
    assert found["columns"] == [{"name": "zero-shot", "shown": True}, {"name": "nlpo", "shown": True}]
    assert found["cells"][1] == [
        {"text": "bad 1", "score": 1.0, "more": {}},
        {"text": "bad 1 nlpo", "score": 2.0, "more": {}},
    ]


def test_runs_meet_by_prompt_and_a_repeated_prompt_stays_two(tmp_path):
    first, second = made_up_run(tmp_path / "a"), made_up_run(tmp_path / "b", gamma=0.5)
    path = second / "samples.jsonl"
    text = path.read_text().replace('"prompt 3"', '"another"').replace('"prompt 5"', '"prompt 4"')
    path.write_text(text)
    found = samples_of(read_reported([first, second]), "quickstart", 1000)
    assert found["total"] == 122
    assert [column["shown"] for column in found["columns"]] == [False, True, False, True]
    # The second "prompt 4" is a row of its own.
    rows = [found["cells"][index] for index, prompt in enumerate(found["prompts"]) if prompt == "prompt 4"]
    assert [[None if cell is None else cell["text"] for cell in row] for row in rows] == [
        ["good 4", "good 4 nlpo", "good 4", "good 4 nlpo"],
        [None, None, "bad 5", "bad 5 nlpo"],
    ]


def test_conversations_control_characters_and_what_json_has_not_are_readable(tmp_path):
    reported = run_of(
        tmp_path,
        {
            "prompt": [{"role": "user", "content": "hi"}, {"role": "user", "content": "there"}],
            "completion": [{"role": "assistant", "content": "red \x1b[31m"}],
            "score": 1.0,
            "metrics": {"rouge1": 0.5},
            "parsed": "x\u202ey",
        },
    )
    path = tmp_path / "samples.jsonl"
    path.write_text(path.read_text().replace('"score": 1.0', '"score": NaN'))
    reported = read_reported([tmp_path])
    found = samples_of(reported, reported.tasks[0], 10)
    assert found["prompts"] == ["user: hi\nuser: there"]
    assert found["cells"] == [
        [{"text": "assistant: red \\x1b[31m", "score": None, "more": {"parsed": "x\\u202ey", "rouge1": 0.5}}]
    ]
    json.dumps(found, allow_nan=False)


def test_of_many_runs_the_first_seed_of_each_group_is_shown(tmp_path):
    folders = [made_up_run(tmp_path / f"n{seed}", seed, updates=1) for seed in range(12)]
    folders.append(made_up_run(tmp_path / "g", 0, updates=1, gamma=0.5))
    columns = samples_of(read_reported(folders), "quickstart", 10)["columns"]
    assert [column["name"] for column in columns if column["shown"]] == [
        "nlpo, seed 0",
        "nlpo, gamma=0.5: nlpo",
    ]
    assert len(columns) == 4

"""Metrics of one table, shared out over the processes of a run."""

from __future__ import annotations

import json
from pathlib import Path

from support import shared_metrics
from support.launching import launch
from support.shared_metrics import TEXTS, as_json, table


def test_two_processes_find_together_what_one_finds_and_each_row_is_read_once(tmp_path, monkeypatch):
    result = launch(Path(shared_metrics.__file__), tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    asked = [(tmp_path / f"asked-{rank}").read_text().splitlines() for rank in (0, 1)]
    assert sorted(asked[0] + asked[1]) == sorted(TEXTS)
    assert all(asked)
    monkeypatch.chdir(tmp_path)
    assert first == as_json(table())
    assert any("ZeroDivisionError: tired" in reason for reason in first[2].values())

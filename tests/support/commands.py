"""The command line, run in this process."""

from __future__ import annotations

import pytest

from trl_nlpo.cli import main


def run_cli(monkeypatch, capsys, *words):
    """Exit code, output and error output of `trl-nlpo WORDS`."""
    monkeypatch.setattr("sys.argv", ["trl-nlpo", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err

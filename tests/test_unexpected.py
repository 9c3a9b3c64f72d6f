"""Errors that nobody foresaw: whose they are, in a line, with the traceback in a file."""

from __future__ import annotations

import errno
import json

import pytest

from trl_nlpo.errors import one_line
from trl_nlpo.recipes.overrides import parse_overrides
from trl_nlpo.unexpected import explain, write_traceback


def raised(call):
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def raising(error):
    def call():
        raise error

    return raised(call)


def of_ours():
    """One that is raised in our own file."""
    return raised(lambda: parse_overrides(None))


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "/data/x cannot be used (Permission denied)"),
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), "/data/x cannot be used (Read-only file system)"),
        (raised(lambda: json.loads("{")), "A file that was to be read is broken"),
        (EOFError("Ran out of input"), "A file that was to be read is broken"),
        (RuntimeError("PytorchStreamReader failed reading zip archive"), "A file that was to be read is broken"),
    ],
)
def test_what_is_to_be_mended_outside_is_said_so_and_exits_with_2(error, part):
    line, code = explain(raising(error))
    assert code == 2
    assert part in line
    assert "\n" not in line


def test_a_process_that_has_gone_is_told_from_a_server_that_closed_its_connection(monkeypatch):
    lost = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:1")
    of_a_server = ConnectionResetError("[Errno 104] Connection reset by peer")
    monkeypatch.setenv("WORLD_SIZE", "4")
    line, code = explain(lost)
    assert line.startswith("Another process of this run has gone")
    assert code == 2
    assert explain(of_a_server)[0].startswith("The environment is at fault")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert explain(lost)[0].startswith("The environment is at fault")


def test_code_of_the_users_own_is_named_with_its_line():
    line, code = explain(raising(ZeroDivisionError("mine")))
    assert code == 2
    assert line.startswith(f"{__file__}, line ")


def test_a_bug_of_ours_exits_with_1():
    error = of_ours()
    line, code = explain(error)
    assert code == 1
    assert line.startswith(f"A bug of trl-nlpo, or of a library under it ({type(error).__name__}: {one_line(error)}")


def test_the_cause_of_an_error_decides_too():
    def call():
        raise RuntimeError("could not save") from OSError(errno.ENOSPC, "No space left on device")

    assert explain(raised(call))[0].startswith("The disk is full")


def test_the_traceback_is_kept_in_the_runs_folder_or_else_with_temporary_files(tmp_path, monkeypatch):
    error = of_ours()
    assert write_traceback(error, str(tmp_path)) == tmp_path / "traceback.txt"
    assert "overrides.py" in (tmp_path / "traceback.txt").read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    elsewhere = write_traceback(error, str(tmp_path / "not there"))
    assert elsewhere.parent == tmp_path
    assert "overrides.py" in elsewhere.read_text()


def test_a_traceback_has_nothing_secret_in_it(tmp_path):
    error = raising(RuntimeError("401 for https://ann:swordfish@example.org/api with hf_" + "a1B2" * 9))
    text = write_traceback(error, str(tmp_path)).read_text()
    assert "RuntimeError: 401 for https://" in text
    assert "swordfish" not in text
    assert "a1B2a1B2" not in text

"""Where our pages may be served, told before anything is loaded."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.serving import check_address


@pytest.fixture
def taken():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_that_is_taken_is_refused(taken):
    with pytest.raises(UserError, match=f"port {taken} of 127.0.0.1 cannot be used"):
        check_address("127.0.0.1", taken, None, "TOKEN")


def test_a_port_that_is_free_or_is_not_given_is_not(taken):
    check_address("127.0.0.1", None, None, "TOKEN")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    check_address("127.0.0.1", port, None, "TOKEN")


def test_what_else_is_wrong_with_an_address_is_for_its_server_to_say():
    # For documentation (RFC 5737): no machine has it.
    check_address("192.0.2.1", 7860, "a token", "TOKEN")
    check_address("no.such.host.invalid", 7860, "a token", "TOKEN")


def test_other_machines_need_a_token_whatever_the_port_is(taken):
    with pytest.raises(UserError, match=r"serving on 0\.0\.0\.0 needs a token.*TOKEN"):
        check_address("0.0.0.0", taken, None, "TOKEN")


@pytest.mark.parametrize("words", [["demo", "nowhere"], ["push", "nowhere"], ["report", "nowhere"]])
def test_a_folder_that_is_not_there_is_told_before_anything_large_is_imported(tmp_path, words):
    code = (
        "import sys\nfrom trl_nlpo.cli import main\nsys.argv[0] = 'trl-nlpo'\n"
        "try:\n    main()\nfinally:\n    print({'torch', 'transformers', 'gradio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "set()\n"), done.stderr
    assert "nowhere" in done.stderr

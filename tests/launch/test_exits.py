"""Processes that fail meet in their launcher's store, if there still is a launcher."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta

import pytest
import torch

from trl_nlpo.launch import exits


@pytest.fixture
def port(monkeypatch):
    """A free port, as that of a launcher of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    for name, value in {
        "WORLD_SIZE": "2", "RANK": "1", "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(number),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return number


def test_workers_of_a_launcher_that_was_killed_do_not_wait_for_it(port, monkeypatch):
    monkeypatch.setattr(torch.distributed, "TCPStore", lambda *_, **__: pytest.fail("tried to reach it"))
    assert exits.meet("failed") is None


def test_without_a_launcher_the_first_process_speaks(port, monkeypatch):
    said = []
    exits.say_once(lambda: said.append(1))
    monkeypatch.setenv("RANK", "0")
    exits.say_once(lambda: said.append(0))
    assert said == [0]


@pytest.mark.parametrize(("number", "speaks"), [(1, True), (2, False)])
def test_with_a_launcher_the_first_to_get_there_speaks(port, monkeypatch, number, speaks):
    said = []
    monkeypatch.setattr(exits, "meet", lambda place: number)
    exits.say_once(lambda: said.append(number))
    assert bool(said) == speaks


def test_with_a_launcher_all_meet_and_each_has_a_number(port):
    store = torch.distributed.TCPStore(
        "127.0.0.1", port, is_master=True, timeout=timedelta(seconds=30), wait_for_workers=False
    )
    found = []
    processes = [threading.Thread(target=lambda: found.append(exits.meet("failed"))) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(found) == [1, 2]
    del store

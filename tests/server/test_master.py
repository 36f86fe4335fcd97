"""What the master makes of workers that hang or cannot start, and of signals that do not wait."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2

import pytest
from bundled import Bundled
from processes import ROOT
from recorder import Client, exchange, request, until

KEEP = ("Connection", "keep-alive")


def test_a_worker_that_hangs_is_killed_and_replaced(start: Callable[..., Bundled]) -> None:
    server = start(hang_seconds=3)
    [victim] = server.workers
    os.kill(victim, SIGSTOP)
    assert until(lambda: server.workers not in ([victim], []), 30)
    assert exchange(server.port, request("GET /pid")).startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"worker {victim} has not moved for 3 s: it is killed" in server.log


@pytest.mark.slow
def test_a_master_that_was_stopped_with_its_workers_takes_none_for_hung(start: Callable[..., Bundled]) -> None:
    server = start(hang_seconds=3)
    [worker] = server.workers
    for number in (SIGSTOP, signal.SIGCONT):
        server.signal(number)
        os.kill(worker, number)
        time.sleep(4)
    assert server.workers == [worker]
    assert "killed" not in server.log


@pytest.mark.parametrize("numbers", [[SIGINT, SIGINT], [SIGTERM, SIGINT], [SIGTERM, SIGQUIT], [SIGQUIT]])
def test_who_does_not_want_to_wait_need_not(
    start: Callable[..., Bundled], tmp_path: Path, numbers: list[signal.Signals]
) -> None:
    server = start(drain_timeout=1000)
    with Client(server.port, request(f"GET /stream?{tmp_path}/never", KEEP)) as client:
        assert client.read_until(b"first")
        for number in numbers:
            server.signal(number)
            assert until(server.refuses_connections)  # two signals of one kind that come together are one
        assert server.wait() == 0
        with suppress(ConnectionResetError):
            assert not client.read_all().endswith(b"0\r\n\r\n"), "it was cut off, and looks like it"


def test_a_signal_ends_a_worker_whichever_of_its_threads_takes_it(start: Callable[..., Bundled]) -> None:
    server = start()
    [worker] = server.workers
    assert exchange(server.port, request("GET /ends")).endswith(str(worker).encode())
    assert until(lambda: server.workers not in ([worker], []))


def test_a_signal_that_comes_while_workers_start_ends_them(tmp_path: Path) -> None:
    with Bundled(tmp_path, workers=4) as server:
        server.signal(SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.log


def test_a_renewal_is_told_in_a_line_whether_it_works_or_not(start: Callable[..., Bundled]) -> None:
    server = start(workers=2)
    lines, old = len(server.log.splitlines()), set(server.workers)
    for number in (SIGUSR1, SIGUSR2, SIGHUP):  # the first two do nothing
        server.signal(number)
    assert until(lambda: len(server.workers) == 2 and not old & set(server.workers))
    server.settings.write_text("fail")
    server.signal(SIGHUP)
    assert until(lambda: "does not load" in server.log)
    assert [line.partition("server:")[2] for line in server.log.splitlines()[lines:]] == [
        "the app is loaded anew: new workers take over, and the old ones finish",
        "the app does not load, and the running workers stay: bad settings",
    ]


@pytest.mark.slow
def test_every_one_of_many_renewals_leaves_as_many_workers(start: Callable[..., Bundled]) -> None:
    server = start(workers=2)
    first = set(server.workers)
    for _ in range(5):
        server.signal(SIGHUP)
        time.sleep(0.05)  # in the middle of trials, starts and drains
    server.settings.write_text("last")
    server.signal(SIGHUP)
    assert until(lambda: exchange(server.port, request("GET /settings")).endswith(b"last"))
    assert until(lambda: len(server.workers) == 2 and not first & set(server.workers), 30)
    assert {exchange(server.port, request("GET /settings"))[-4:] for _ in range(10)} == {b"last"}


def test_a_worker_that_cannot_start_later_does_not_make_the_master_spin(start: Callable[..., Bundled]) -> None:
    server = start(workers=1)
    server.settings.write_text("fail")
    os.kill(server.workers[0], SIGKILL)
    assert until(lambda: server.log.count("does not load") >= 2)
    assert server.log.count("does not load") <= 4
    server.settings.write_text("")
    assert exchange(server.port, request("GET /pid")).startswith(b"HTTP/1.1 200 OK\r\n")


NO_PROCESSES = """
import os, pathlib
fork = os.fork
def fork_if_there_is_room():
    if pathlib.Path("full").exists():
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()
os.fork = fork_if_there_is_room
"""


def test_a_system_without_room_for_a_process_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_PROCESSES)
    full = tmp_path / "full"
    with Bundled(tmp_path, {"PYTHONPATH": f"{tmp_path}:{ROOT}"}) as server:
        assert until(lambda: server.workers)
        [worker] = server.workers
        full.touch()
        server.signal(SIGHUP)
        assert until(lambda: "the running workers stay: no process can be started" in server.log)
        assert server.workers == [worker]
        os.kill(worker, SIGKILL)
        assert until(lambda: not server.workers)
        full.unlink()
        assert exchange(server.port, request("GET /pid")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert server.log.count("until the system has room") == 1


NO_THREADS = """
import pathlib, threading
start = threading.Thread.start
def start_if_there_is_room(thread):
    if pathlib.Path("full").exists():
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = start_if_there_is_room
"""


@pytest.mark.slow
def test_workers_stay_until_the_new_ones_have_threads_to_serve_with(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_THREADS)
    full = tmp_path / "full"
    with Bundled(tmp_path, {"PYTHONPATH": f"{tmp_path}:{ROOT}"}) as server:
        assert server.serves_with(1)
        [first] = server.workers
        server.signal(SIGHUP)
        assert until(lambda: server.workers and first not in server.workers)
        [worker] = server.workers  # has all its threads: the one before left when this one had said that it serves
        full.touch()
        server.signal(SIGHUP)
        assert until(lambda: server.log.count("ended with 1") >= 2)
        assert server.log.count("ended with 1") <= 4, "it is tried again each second"
        assert worker in server.workers
        assert exchange(server.port, request("GET /pid")).endswith(str(worker).encode())
        full.unlink()
        assert until(lambda: server.workers and worker not in server.workers)


def test_an_idle_connection_is_kept_as_long_as_is_set(start: Callable[..., Bundled]) -> None:
    server = start(keep_alive=1)
    with Client(server.port, request("GET /status/200", KEEP)) as client:
        assert client.read_until(b"hello")
        assert client.read_all().endswith(b"hello"), "the server closes it"

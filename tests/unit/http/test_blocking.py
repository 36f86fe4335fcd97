"""Who waits says so; who does not is found."""

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from recorder import until

from gateway.http import blocking as module
from gateway.http.blocking import Watchdog, blocking, on_blocking


def test_the_turn_is_let_go_before_the_block_and_whatever_becomes_of_it() -> None:
    told: list[str] = []

    def work() -> None:
        on_blocking(lambda: told.append("released"))
        with suppress(KeyError), blocking():
            told.append("waits")
            raise KeyError

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == ["released", "waits"]


def test_outside_the_server_nothing_happens() -> None:
    with blocking():
        pass


@contextmanager
def stuck() -> Iterator[threading.Thread]:
    """A thread that waits for something."""
    event, begun = threading.Event(), threading.Event()

    def wait_unannounced() -> None:
        begun.set()
        event.wait()

    thread = threading.Thread(target=wait_unannounced)
    thread.start()
    try:
        assert until(begun.is_set)
        yield thread
    finally:
        event.set()
        thread.join()


def test_the_stack_of_who_holds_up_all_others_is_logged_once_an_incident(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stuck() as one, stuck() as other:
        threads = [thread.ident for thread in (one, other) if thread.ident]
        watchdog = Watchdog("nowhere")
        for _ in range(3):
            watchdog.report(threads)
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert "wait_unannounced" in record.record["stack"]  # type: ignore[attr-defined]
        monkeypatch.setattr(module, "INCIDENT_SECONDS", 0.0)
        watchdog.report(threads)
        assert len(caplog.records) == 3


def test_a_thread_at_the_servers_own_work_or_gone_is_none(caplog: pytest.LogCaptureFixture) -> None:
    with stuck() as thread:
        assert thread.ident
        Watchdog("threading").report([thread.ident])
    Watchdog("nowhere").report([thread.ident])
    assert caplog.records == []


# Garbage whose finalizer lets others run, at every chance, while threads start and end.
BUSY = """
import gc, threading, time
from gateway.http.blocking import Watchdog

class Garbage:
    def __init__(self):
        self.itself = self

    def __del__(self):
        time.sleep(0.0001)

def start_and_end():
    while True:
        threads = [threading.Thread(target=int) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

gc.set_threshold(1)
for _ in range(4):
    threading.Thread(target=start_and_end, daemon=True).start()
for _ in range(1500):
    Garbage()
    Watchdog("nowhere").report([])
print("done", gc.isenabled())
"""


def test_a_look_at_the_threads_never_stops_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "done True\n"

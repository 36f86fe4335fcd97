"""Failing hardware under load: what was acknowledged stays, what is blacklisted does not pass."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from helpers import mint
from histories import Operation, is_linearizable, timed
from recorder import Recorder, until
from running import Running

SECONDS = float(os.environ.get("FAULT_SECONDS", "5"))  # that workers are killed; docs/reliability.md had more

GOOD, STOLEN = mint(sub="good"), mint(sub="stolen")
METHODS = {"add": "POST", "remove": "DELETE", "find": "GET"}


@pytest.fixture
def upstream() -> Iterator[Recorder]:
    with Recorder() as upstream:
        yield upstream


@pytest.fixture
def gateway(upstream: Recorder, tmp_path: Path) -> Iterator[Running]:
    flags = ["--workers", "2", "--threads", "4"]
    with Running(tmp_path, upstream.url, *flags) as gateway:
        assert gateway.request("POST", "/blacklist", STOLEN).status == 200
        yield gateway


# Killed workers


def operate(gateway: Running, kind: str, token: str) -> bool | None:
    """Do it over HTTP; return whether the token was blacklisted before, None without an answer."""
    try:
        answer = gateway.request(METHODS[kind], "/info" if kind == "find" else "/blacklist", token)
    except (OSError, HTTPException):
        return None
    if kind == "find":
        return {200: False, 401: True}.get(answer.status)
    return answer.json["changed"] is (kind == "remove") if answer.status == 200 else None


@pytest.mark.slow
def test_no_kill_takes_back_what_was_acknowledged(gateway: Running, upstream: Recorder) -> None:
    """Four clients change three tokens through workers that are killed all the time; some order explains it all."""
    tokens = [mint(jti=str(number)) for number in range(3)]
    ends = time.monotonic() + SECONDS

    def client(seed: int) -> list[tuple[str, Operation]]:
        chance, done = random.Random(seed), []
        while time.monotonic() < ends:
            kind, token = chance.choice(list(METHODS)), chance.choice(tokens)
            done.append((token, timed(kind, lambda kind=kind, token=token: operate(gateway, kind, token))))
            assert operate(gateway, "find", STOLEN) in (True, None)
        return done

    with ThreadPoolExecutor(5) as pool:
        killed = pool.submit(kill_workers, gateway, ends)
        clients = [each.result() for each in [pool.submit(client, seed) for seed in range(4)]]
    assert until(lambda: operate(gateway, "find", GOOD) is False)
    for token in tokens:
        last = [timed("find", lambda token=token: operate(gateway, "find", token))]
        assert is_linearizable([[each for whose, each in done if whose == token] for done in clients] + [last])
    assert killed.result() > 3
    told = Counter(each.told for done in clients for _, each in done)
    print(f"{killed.result()} kills, {sum(told.values())} operations, {told[None]} without an answer")


def kill_workers(gateway: Running, ends: float) -> int:
    killed = 0
    while time.monotonic() < ends:
        time.sleep(0.4)
        with suppress(IndexError, ProcessLookupError):
            os.kill(random.choice(gateway.workers), signal.SIGKILL)
            killed += 1
    return killed


# What the system refuses


def under_load(gateway: Running, seconds: float) -> Counter[tuple[str, int]]:
    """Ask with a good and a blacklisted token, and blacklist others, for so long; count the answers by status."""
    ends, answers = time.monotonic() + seconds, Counter[tuple[str, int]]()

    def client(number: int) -> None:
        for turn in range(10**9):
            asked = {
                "good": ("GET", "/info", GOOD),
                "stolen": ("GET", "/info", STOLEN),
                "new": ("POST", "/blacklist", mint(jti=f"{number}.{turn}.{ends}")),
            }
            for name, (method, path, token) in asked.items():
                try:
                    answers[name, gateway.request(method, path, token).status] += 1
                except (OSError, HTTPException):
                    answers[name, 0] += 1
            if time.monotonic() > ends:
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(client, range(4)))
    return answers


def limit(which: int, soft: int) -> Callable[[Running], Callable[[], None]]:
    """Return what lowers a limit of the running workers, and returns what lifts it."""

    def lower(gateway: Running) -> Callable[[], None]:
        before = {pid: resource.prlimit(pid, which) for pid in gateway.workers}
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, which, (soft, hard))
        return lambda: [resource.prlimit(pid, which, both) for pid, both in before.items()] and None

    return lower


def lock(gateway: Running) -> Callable[[], None]:
    """Take the store's write lock, as a stuck backup would."""
    held = sqlite3.connect(gateway._log.with_name("blacklist.sqlite3"), isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    return held.close


# 32 KiB is what the shared index of the log needs: with less, a new thread cannot even ask, and answers 503.
FAULTS: dict[str, tuple[Any, set[int]]] = {
    "the disk is full": (limit(resource.RLIMIT_FSIZE, 32768), {503}),
    "the store is locked": (lock, {503}),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_stored_is_refused_and_the_rest_goes_on(gateway: Running, fault: str) -> None:
    log = gateway._log.with_name("blacklist.sqlite3-wal")
    while not log.exists() or log.stat().st_size < 2 * 32768:  # what lies below the limit can still be written
        under_load(gateway, 0.5)
    cause, refused = FAULTS[fault]
    lift = cause(gateway)
    during = under_load(gateway, 2)
    lift()
    assert {status for name, status in during if name == "new"} == refused
    assert {status for name, status in during if name == "stolen"} == {401}
    assert {status for name, status in during if name == "good"} == {200}
    assert under_load(gateway, 0.5).keys() == {("good", 200), ("stolen", 401), ("new", 200)}
    print(dict(during))


@pytest.mark.slow
def test_out_of_descriptors_nothing_passes_that_should_not_and_it_recovers(gateway: Running) -> None:
    under_load(gateway, 0.5)
    lift = limit(resource.RLIMIT_NOFILE, 40)(gateway)
    idle = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(60)]
    during: list[bool | None] = []

    def hurried() -> None:
        with closing(socket.create_connection(("127.0.0.1", gateway.port), 1)) as sock, suppress(OSError):
            sock.sendall(f"GET /info HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {STOLEN}\r\n\r\n".encode())
            during.append(sock.recv(12) != b"HTTP/1.1 200")

    for _ in range(5):
        hurried()
    assert until(lambda: "new connections wait" in gateway.log)
    assert gateway.log.count("new connections wait: Too many open files") < 10  # and not as often as it is tried
    for sock in idle:
        sock.close()
    assert all(during)
    assert until(lambda: under_load(gateway, 0.1).keys() == {("good", 200), ("stolen", 401), ("new", 200)})
    lift()
    assert len(gateway.workers) == 2


@pytest.mark.slow
def test_memory_descriptors_and_threads_end_where_they_began(gateway: Running) -> None:
    under_load(gateway, 2)
    before = usage(gateway)
    answers = under_load(gateway, 4)
    assert answers.keys() == {("good", 200), ("stolen", 401), ("new", 200)}
    # Slow clients in the hundreds, half a head each.
    slow = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(300)]
    for sock in slow:
        sock.sendall(b"GET /info HTTP/1.1\r\nHost: a\r\n")
    assert under_load(gateway, 1).keys() == {("good", 200), ("stolen", 401), ("new", 200)}
    for sock in slow:
        sock.close()
    # Beside those: idle ones to the upstream, and the store's of threads that have come to ask meanwhile.
    assert until(lambda: usage(gateway)["descriptors"] <= before["descriptors"] + 50)
    after = usage(gateway)
    print(before, after, dict(answers))
    assert after["threads"] == before["threads"]
    assert after["KiB"] < before["KiB"] + 8192


def usage(gateway: Running) -> Counter[str]:
    """Return what the workers hold together."""
    found = Counter[str]()
    for pid in gateway.workers:
        status = Path(f"/proc/{pid}/status").read_text()
        found["KiB"] += int(status.partition("RssAnon:")[2].split()[0])
        found["threads"] += int(status.partition("Threads:")[2].split()[0])
        found["descriptors"] += len(os.listdir(f"/proc/{pid}/fd"))
    return found

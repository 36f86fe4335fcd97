"""A disk that fails or dawdles, and workers killed at every step of a change, beneath the running gateway."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest
from helpers import mint
from injected import Injected
from recorder import Recorder, until
from running import Running

pytestmark = pytest.mark.slow

GOOD, STOLEN = mint(sub="good"), mint(sub="stolen")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    with Recorder() as upstream, Running(tmp_path, upstream.url, "--workers", "1", "--threads", "4") as gateway:
        assert status(gateway, "POST", STOLEN) == 200
        yield gateway


def status(gateway: Running, method: str, token: str) -> int:
    """Return what blacklisting (POST), or asking with the token, is answered with: 0 for nothing."""
    try:
        return gateway.request(method, "/info" if method == "GET" else "/blacklist", token).status
    except (OSError, HTTPException):
        return 0


class Load:
    """Four clients ask with a good and a blacklisted token, blacklist others and ask with them."""

    def __init__(self, gateway: Running) -> None:
        self._gateway = gateway
        self.answers = Counter[tuple[str, int]]()
        self.acknowledged: list[str] = []

    def run(self, name: str, seconds: float) -> None:
        ends = time.monotonic() + seconds
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: self._client(f"{name} {number}", ends), range(4)))

    def _client(self, name: str, ends: float) -> None:
        turn = 0
        while not turn or time.monotonic() < ends:
            turn += 1
            new = mint(jti=f"{name} {turn}")
            self._ask("good", "GET", GOOD)
            self._ask("stolen", "GET", STOLEN)
            if self._ask("new", "POST", new) == 200:
                self.acknowledged.append(new)
                self._ask("acknowledged", "GET", new)

    def _ask(self, name: str, method: str, token: str) -> int:
        answer = status(self._gateway, method, token)
        self.answers[name, answer] += 1
        return answer

    def told(self, name: str) -> set[int]:
        return {answer for asked, answer in self.answers if asked == name}


DISKS = {
    "reads fail": "pread64:error=EIO",
    "writes fail": "pwrite64,ftruncate:error=EIO",
    "syncs fail": "fsync,fdatasync:error=EIO",
    "some writes and syncs fail": "pwrite64,fdatasync:error=EIO:when=3+7",
    "every call takes 20 ms": "pread64,pwrite64,fdatasync:delay_enter=20000",
}


@pytest.mark.parametrize("disk", DISKS)
def test_a_bad_disk_takes_nothing_back_and_lets_nothing_through(gateway: Running, tmp_path: Path, disk: str) -> None:
    load = Load(gateway)
    load.run("before", 0.2)
    with Injected(DISKS[disk], gateway.workers, tmp_path) as faults:
        load.run("during", 1.5)
    assert faults.count
    assert load.told("stolen") <= {401, 503}
    assert load.told("acknowledged") <= {401, 503}
    assert load.told("new") <= {200, 503}
    assert load.told("good") <= {200, 503}
    print(disk, faults.count, "injected:", dict(load.answers))
    after = Load(gateway)
    after.run("after", 0.2)
    assert set(after.answers) == {("good", 200), ("stolen", 401), ("new", 200), ("acknowledged", 401)}
    assert {status(gateway, "GET", token) for token in load.acknowledged} == {401}


STEPS = ("recvfrom", "fcntl", "pwrite64", "fdatasync", "sendto")  # what a change consists of, from request to answer


def test_a_worker_killed_at_any_step_of_a_change_takes_nothing_back(gateway: Running, tmp_path: Path) -> None:
    """Of each system call the first, the second … kills, until a change has no more of them before its answer."""
    acknowledged, kills = [STOLEN], Counter[str]()
    for step in STEPS:
        while True:
            assert until(lambda: status(gateway, "GET", GOOD) == 200)
            assert {status(gateway, "GET", token) for token in acknowledged} == {401}
            token = mint(jti=f"{step} {kills[step]}")
            with Injected(f"{step}:signal=SIGKILL:when={kills[step] + 1}", gateway.workers, tmp_path):
                answered = status(gateway, "POST", token)
            if answered:
                assert answered == 200
                acknowledged.append(token)
                break
            kills[step] += 1
    print(dict(kills))
    assert all(kills[step] for step in STEPS)

"""More than can be answered in time: what waits too long is refused, and nobody is left waiting."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers import mint
from recorder import Recorder, ok, until
from running import Answer, Running

TOKEN, BLACKLISTED = mint(sub="good"), mint(sub="bad")
CLIENTS, REQUESTS = 120, 5


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.slow
def test_a_stalled_upstream_holds_up_its_own_requests_only(tmp_path: Path, release: threading.Event) -> None:
    def stall(talk: Any) -> None:
        release.wait(60)
        talk.send(ok(b"late"))

    flags = ("--workers", "1", "--threads", "2", "--queue-timeout", "0.5")
    with (
        Recorder(stall) as upstream,
        Running(tmp_path, upstream.url, *flags) as gateway,
        ThreadPoolExecutor(40) as pool,
    ):
        held = [pool.submit(gateway.get, "/", TOKEN) for _ in range(2)]
        assert until(lambda: len(upstream.requests) == 2)
        refused = [pool.submit(gateway.request, "POST", "/", TOKEN, {"more": 1}) for _ in range(30)]
        for answer in refused:
            assert_overloaded(answer.result())
        assert (gateway.get("/-/live").status, gateway.get("/-/ready").status) == (200, 200)
        assert len(upstream.requests) == 2
        release.set()
        assert [answer.result().status for answer in held] == [200, 200]
        assert until(lambda: gateway.get("/", TOKEN).status == 200)
        assert gateway.request("POST", "/blacklist", TOKEN).status == 200
        assert gateway.get("/", TOKEN).json["type"] == "urn:jwt-gateway:token-blacklisted"
    assert "overloaded" in {record.get("outcome") for record in gateway.records}


@pytest.mark.slow
def test_at_several_times_what_it_can_do_it_sheds_and_recovers(tmp_path: Path) -> None:
    """Two threads and an upstream that takes 40 ms: 50 requests a second are possible, and 120 clients want more."""

    def slow(talk: Any) -> None:
        time.sleep(0.04)
        talk.send(ok(b"done"))

    flags = ("--workers", "1", "--threads", "2", "--queue-timeout", "0.5")
    with Recorder(slow) as upstream, Running(tmp_path, upstream.url, *flags) as gateway:
        assert gateway.request("POST", "/blacklist", BLACKLISTED).status == 200

        def client(number: int) -> list[tuple[bool, int]]:
            token = BLACKLISTED if number % 3 == 0 else TOKEN
            return [(token is TOKEN, gateway.get("/", token).status) for _ in range(REQUESTS)]

        with ThreadPoolExecutor(CLIENTS) as pool:
            told = Counter(answer for answers in pool.map(client, range(CLIENTS)) for answer in answers)
        assert sum(told.values()) == CLIENTS * REQUESTS  # everybody was answered
        assert set(told) == {(True, 200), (True, 503), (False, 401), (False, 503)}
        assert until(lambda: gateway.get("/", TOKEN).status == 200)
        assert [gateway.get("/", TOKEN).status for _ in range(20)] == [200] * 20


def assert_overloaded(answer: Answer) -> None:
    assert (answer.status, answer.json["type"]) == (503, "urn:jwt-gateway:overloaded")
    assert answer.fields["Retry-After"] == "1"

"""More than can be answered in time: what waits too long is refused, and nobody is left waiting."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers import mint
from recorder import Recorder, ok, until
from redis_servers import RedisServer
from relay import Relay
from running import Running

TOKEN, BLACKLISTED = mint(sub="good"), mint(sub="bad")
CLIENTS, REQUESTS = 120, 5


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def stalled(release: threading.Event) -> Callable[[Any], None]:
    def answer(talk: Any) -> None:
        release.wait(60)
        talk.send(ok(b"late"))

    return answer


@pytest.mark.slow
def test_a_stalled_upstream_holds_up_its_own_requests_only(tmp_path: Path, release: threading.Event) -> None:
    """All of them wait for their answers, and neither of the two threads does."""
    flags = ("--workers", "1", "--threads", "2", "--queue-timeout", "0.5")
    with (
        Recorder(stalled(release)) as upstream,
        Running(tmp_path, upstream.url, *flags) as gateway,
        ThreadPoolExecutor(60) as pool,
    ):
        held = [pool.submit(gateway.get, path, TOKEN) for path in ("/", "/info") for _ in range(20)]
        held += [pool.submit(gateway.request, "POST", "/", TOKEN, {"more": 1}) for _ in range(20)]
        assert until(lambda: len(upstream.requests) == 60)
        assert (gateway.get("/-/live").status, gateway.get("/-/ready").status) == (200, 200)
        assert gateway.request("POST", "/blacklist", BLACKLISTED).status == 200
        assert gateway.get("/", BLACKLISTED).json["type"] == "urn:jwt-gateway:token-blacklisted"
        release.set()
        assert [answer.result().status for answer in held] == [200] * 60


@pytest.mark.slow
def test_at_several_times_what_it_can_do_it_sheds_and_recovers(tmp_path: Path) -> None:
    """Two threads, and changes that take 40 ms: 50 a second are possible, and 80 clients want more."""
    flags = ("--workers", "1", "--threads", "2", "--queue-timeout", "0.5")
    with (
        Recorder(lambda talk: talk.send(ok(b"done"))) as upstream,
        RedisServer() as redis,
        Relay(redis.port) as relay,
        Running(tmp_path, upstream.url, *flags, "--store", relay.url, GATEWAY_ACCEPT_LOSSY_STORE="true") as gateway,
    ):
        assert gateway.request("POST", "/blacklist", BLACKLISTED).status == 200
        relay.delay = 0.04

        def client(number: int) -> list[tuple[bool, int]]:
            if number % 3 == 0:
                return [(False, gateway.get("/", BLACKLISTED).status) for _ in range(REQUESTS)]
            mine = mint(jti=f"of-{number}")
            return [(True, gateway.request("POST", "/blacklist", mine).status) for _ in range(REQUESTS)]

        with ThreadPoolExecutor(CLIENTS) as pool:
            told = Counter(answer for answers in pool.map(client, range(CLIENTS)) for answer in answers)
        assert sum(told.values()) == CLIENTS * REQUESTS  # everybody was answered
        assert set(told) == {(True, 200), (True, 503), (False, 401), (False, 503)}
        relay.delay = 0
        assert until(lambda: gateway.get("/", TOKEN).status == 200)
        assert [gateway.get("/", TOKEN).status for _ in range(20)] == [200] * 20

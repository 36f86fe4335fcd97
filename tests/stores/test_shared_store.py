"""Several gateways on one Redis, and the way from SQLite to Redis and back while they serve."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import mint
from processes import ROOT
from recorder import Recorder
from redis_servers import RedisServer
from relay import Relay
from running import Running, ask

from gateway.blacklist.keys import claim_key
from gateway.blacklist.stores import Entry, open_store

pytestmark = pytest.mark.slow

THREADS = 8


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


def verdict(port: int, token: str) -> str:
    """Return the refusal's code, or that the token passed."""
    answer = ask(port, "GET /info", bearer(token))
    return "passed" if answer.status == 200 else answer.code


def test_what_one_gateway_blacklists_the_others_refuse_at_the_very_next_request(
    server: RedisServer, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        api = stack.enter_context(Recorder())
        flags = ("--store", server.url, "--workers", "2", "--blacklist-claims", "jti,sub")
        ports = [stack.enter_context(Running(tmp_path, api.url, *flags)).port for _ in range(3)]
        admin = bearer(mint(sub="admin", scope="blacklist:admin"))
        for number in range(30):
            token = mint(jti=f"{number}", iat=1)
            first, *others = ports[number % 3 :] + ports[: number % 3]
            assert {verdict(port, token) for port in ports} == {"passed"}
            assert ask(first, "POST /blacklist", bearer(token)).status == 200
            assert {verdict(port, token) for port in others for _ in range(2)} == {"token-blacklisted"}
            assert ask(others[0], "DELETE /blacklist", bearer(token)).status == 200
            body = json.dumps({"jti": f"{number}"}).encode()
            assert {verdict(port, token) for port in ports} == {"passed"}
            assert ask(first, "POST /blacklist", admin, ("Content-Type", "application/json"), body=body).status == 200
            assert {verdict(port, token) for port in others} == {"token-blacklisted"}


def test_gateways_pass_nothing_while_redis_is_away_and_serve_on_when_it_is_back(
    server: RedisServer, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        api = stack.enter_context(Recorder())
        relay = stack.enter_context(Relay(server.port))
        port = stack.enter_context(Running(tmp_path, api.url, "--store", relay.url, "--workers", "2")).port
        token, good = mint(sub="1001"), mint(sub="1002")
        assert ask(port, "POST /blacklist", bearer(token)).status == 200

        def verdicts() -> Counter[str]:
            with ThreadPoolExecutor(THREADS) as threads:
                return Counter(threads.map(lambda _: verdict(port, token), range(5 * THREADS)))

        for stopped in (True, False):
            server.signal(signal.SIGSTOP if stopped else signal.SIGCONT)
            if stopped:
                assert verdicts() == {"store-unavailable": 5 * THREADS}
                assert ask(port, "POST /blacklist", bearer(good)).code == "store-unavailable"
        relay.refuse()
        assert verdicts() == {"store-unavailable": 5 * THREADS}
        assert ask(port, "GET /-/ready").status == 503
        assert ask(port, "GET /-/live").status == 200
        relay.accept()
        while (told := verdict(port, token)) != "token-blacklisted":
            assert told == "store-unavailable"
        while (told := verdict(port, good)) != "passed":
            assert told in ("store-unavailable", "token-blacklisted")
            ask(port, "DELETE /blacklist", bearer(good))  # whether the stopped server took it is not known
        assert ask(port, "GET /-/ready").status == 200


def test_a_wiped_redis_is_refused_by_every_worker_also_by_those_that_start_later(
    server: RedisServer, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        api = stack.enter_context(Recorder())
        gateway = stack.enter_context(Running(tmp_path, api.url, "--store", server.url, "--workers", "2"))
        port = gateway.port
        token = mint(sub="1001")
        assert ask(port, "POST /blacklist", bearer(token)).status == 200
        server.ask("FLUSHALL")
        assert {verdict(port, token) for _ in range(20)} == {"store-unavailable"}
        for worker in gateway.workers:
            os.kill(worker, signal.SIGKILL)
        told = set()
        for _ in range(50):
            try:
                told.add(verdict(port, token))
            except OSError:
                continue  # the worker that had the connection has gone
        assert told == {"store-unavailable"}


def run(*arguments: str) -> str:
    """Return what the command said."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_blacklist_moves_to_redis_and_back_without_loss_while_it_serves(server: RedisServer, tmp_path: Path) -> None:
    count = 8_000  # 100,000 take a minute and a half, and do not fare otherwise
    local, back = (f"sqlite:///{tmp_path}/{name}.sqlite3" for name in ("local", "back"))
    start = 1_800_000_000
    entries = [
        Entry(f"token:{digest}", "i", start + number // 1000, start + 10**8 + number, by="é", reason="\ud800")
        if number % 2
        else Entry(claim_key("i", "sub", str(number)), "i", start, None, ("sub", str(number)), start + number)
        for number in range(count)
        for digest in [hashlib.sha256(str(number).encode()).hexdigest()]
    ]
    store = open_store(local)
    store.add(entries)
    files = [tmp_path / f"{number}.jsonl" for number in range(3)]
    with ExitStack() as stack:
        api = stack.enter_context(Recorder())
        ports = [
            stack.enter_context(Running(tmp_path, api.url, "--store", url, "--workers", "1")).port
            for url in (local, server.url)
        ]
        over, added = threading.Event(), []

        def serve() -> None:
            while not over.is_set():
                token = mint(jti=str(len(added)))
                for port in ports:  # during a move, the operator sends what is blacklisted to both
                    assert ask(port, "POST /blacklist", bearer(token)).status == 200
                    assert verdict(port, token) == "token-blacklisted"
                added.append(token)

        with ThreadPoolExecutor(1) as threads:
            serving = threads.submit(serve)
            try:
                run("export", "--store", local, str(files[0]))
                assert f"{files[0].read_text().count(chr(10))} entries imported" in run(
                    "import", "--store", server.url, str(files[0])
                )
            finally:
                over.set()
            serving.result()
        assert added
        assert all(verdict(port, token) == "token-blacklisted" for port in ports for token in added)
    run("export", "--store", server.url, str(files[1]))
    run("import", "--store", back, str(files[1]))
    run("export", "--store", back, str(files[2]))
    exported = [sorted(file.read_text().splitlines()) for file in files]
    assert exported[1] == exported[2]
    assert len(exported[1]) == count + len(added)
    expected = {json.dumps({"key": entry.key, **entry.to_json()}) for entry in entries}
    assert expected <= set(exported[1])
    assert expected <= set(exported[0])
    store.close()

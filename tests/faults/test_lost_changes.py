"""A store that lost what was acknowledged: every worker of a running gateway refuses it, until an operator takes it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from helpers import fingerprint, mint
from processes import ROOT
from recorder import Recorder, until
from redis_servers import SAFE, RedisServer
from relay import Relay
from running import Running, ask

pytestmark = pytest.mark.slow

COPY = """
import sqlite3, sys
source, target = (sqlite3.connect(path) for path in sys.argv[1:])
source.backup(target)
"""

WIPE = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], isolation_level=None).execute("DELETE FROM unnamed " + sys.argv[2])
"""


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


def verdicts(port: int, token: str, times: int = 40) -> Counter[str]:
    told: Counter[str] = Counter()
    for _ in range(times):
        with suppress(OSError):  # the worker that had the connection has gone
            answer = ask(port, "GET /info", bearer(token))
            told["passed" if answer.status == 200 else answer.code] += 1
    return told


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def copy(source: Path, target: Path) -> None:
    subprocess.run([sys.executable, "-c", COPY, str(source), str(target)], check=True)


def assert_nobody_lets_it_through(gateway: Running, token: str) -> None:
    assert set(verdicts(gateway.port, token)) == {"store-unavailable"}
    killed, kept = gateway.workers
    os.kill(killed, signal.SIGKILL)
    assert until(lambda: len({*gateway.workers} - {killed, kept}) == 1)
    assert set(verdicts(gateway.port, token)) == {"store-unavailable"}
    assert {gateway.get("/-/ready").status for _ in range(10)} == {503}


def test_an_older_copy_of_the_file_is_refused_by_all_workers_until_an_operator_accepts_it(tmp_path: Path) -> None:
    path = tmp_path / "blacklist.sqlite3"
    with ExitStack() as stack:
        api = stack.enter_context(Recorder())
        gateway = stack.enter_context(Running(tmp_path, api.url, "--workers", "2"))
        port = gateway.port
        first, second = mint(jti="first"), mint(jti="second")
        assert ask(port, "POST /blacklist", bearer(first)).status == 200
        copy(path, tmp_path / "older")
        assert ask(port, "POST /blacklist", bearer(second)).status == 200
        copy(tmp_path / "older", path)
        assert_nobody_lets_it_through(gateway, second)
        log = tmp_path / "log"
        record = {"logger": "gateway.audit", "action": "add", "fingerprint": fingerprint(second)}
        kept = {"logger": "gateway.audit", "action": "add", "fingerprint": fingerprint(first)}
        log.write_text("".join(json.dumps(each) + "\n" for each in (kept, record)) + "no JSON\n")
        url = f"sqlite:///{path}"
        refused = run("accept-store", "--store", url)  # nobody says yes
        assert refused.returncode != 0
        assert set(verdicts(port, second, 5)) == {"store-unavailable"}
        accepted = run("accept-store", "--store", url, "--audit", str(log), "--yes", "--reason", "drill")
        assert accepted.returncode == 0, accepted.stderr
        assert json.loads(accepted.stdout) == record
        assert "It lacks 1 of the log's 2 entries" in accepted.stderr
        assert '"action":"accept"' in accepted.stderr
        assert set(verdicts(port, second)) == {"passed"}
        assert set(verdicts(port, first)) == {"token-blacklisted"}


@pytest.mark.parametrize("rows", ["", "WHERE key LIKE 'token:%'"])
def test_rows_deleted_by_hand_are_refused_by_all_workers_also_by_those_that_start_later(
    tmp_path: Path, rows: str
) -> None:
    path = tmp_path / "blacklist.sqlite3"
    with ExitStack() as stack:
        api = stack.enter_context(Recorder())
        gateway = stack.enter_context(Running(tmp_path, api.url, "--workers", "2"))
        port = gateway.port
        token = mint(jti="first")
        assert ask(port, "POST /blacklist", bearer(token)).status == 200
        subprocess.run([sys.executable, "-c", WIPE, str(path), rows], check=True)
        assert_nobody_lets_it_through(gateway, token)


def test_a_file_holds_all_that_was_acknowledged_once_the_gateway_has_ended(tmp_path: Path) -> None:
    path, alone = tmp_path / "blacklist.sqlite3", tmp_path / "alone.sqlite3"
    tokens = [mint(jti=str(number)) for number in range(20)]
    with Recorder() as api:
        with Running(tmp_path, api.url, "--workers", "2") as gateway:
            for token in tokens:
                assert gateway.request("POST", "/blacklist", token).status == 200
        alone.write_bytes(path.read_bytes())  # without log and index
        with Running(tmp_path, api.url, "--store", f"sqlite:///{alone}") as gateway:
            assert {verdict for token in tokens for verdict in verdicts(gateway.port, token, 1)} == {
                "token-blacklisted"
            }


def test_a_failover_that_lost_a_change_is_refused_although_the_number_is_level_again(tmp_path: Path) -> None:
    with ExitStack() as stack:
        api = stack.enter_context(Recorder())
        primary = stack.enter_context(RedisServer())
        relay = stack.enter_context(Relay(primary.port))
        gateway = stack.enter_context(Running(tmp_path, api.url, "--store", relay.url, "--workers", "2"))
        port = gateway.port
        replica = stack.enter_context(RedisServer(*SAFE, "--replicaof", "127.0.0.1", primary.port))
        with primary.client() as client:
            client.set("mark", "1")
            assert client.wait(1, 20_000) == 1
        replica.ask("REPLICAOF", "NO", "ONE")
        token = mint(jti="lost")
        assert ask(port, "POST /blacklist", bearer(token)).status == 200
        other = stack.enter_context(Running(tmp_path, api.url, "--store", replica.url, "--workers", "1"))
        for number in range(3):
            assert other.request("POST", "/blacklist", mint(jti=f"{number}")).status == 200
        relay.behind = replica.port
        relay.cut()
        assert_nobody_lets_it_through(gateway, token)
        assert run("accept-store", "--store", replica.url, "--yes").returncode == 0
        time.sleep(0.3)
        assert set(verdicts(port, token)) == {"passed"}

"""Signals at a gateway in processes of its own: every worker, a restart, and SIGKILL at any moment."""

import itertools
import json
import os
import signal
import threading
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from helpers import ISSUER, mint, sign
from provider import Provider, signer
from recorder import Client, Recorder, Talk, ok, request, response, until
from redis_servers import RedisServer
from running import Answer, Running, ask

pytestmark = pytest.mark.slow

LOGOUT = "http://schemas.openid.net/event/backchannel-logout"
REVOKED = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
ENVIRON = {"GATEWAY_SIGNALS": json.dumps([{"issuer": ISSUER, "audience": "us"}])}
ADMIN = mint(sub="admin", scope="blacklist:admin")
numbers = itertools.count()


def logout_token(session: str) -> str:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": "us", "iat": now, "exp": now + 120, "jti": f"j-{session}", "sid": session}
    return sign({"alg": "HS256", "typ": "logout+jwt"}, {**claims, "events": {LOGOUT: {}}})


def event(session: str) -> str:
    claims = {"iss": ISSUER, "aud": "us", "iat": int(time.time()), "jti": f"e-{session}", "events": {REVOKED: {}}}
    claims["sub_id"] = {"format": "opaque", "id": session}
    return sign({"alg": "HS256", "typ": "secevent+jwt"}, claims)


def test_a_senders_keys_are_there_before_its_first_message(tmp_path: Path) -> None:
    """It comes once, and a provider that hangs just then would have it refused with 503."""
    key = signer("RS256", "a")
    with Provider([key], plain=True) as provider, Recorder(ok()) as upstream:
        sender = {"issuer": provider.issuer, "audience": "us", "about": ISSUER, "jwks_url": provider.issuer}
        flags = ("--workers", "1")
        with Running(tmp_path, upstream.url, *flags, GATEWAY_SIGNALS=json.dumps([sender])) as gateway:
            provider.wait_for(1)
            now = int(time.time())
            claims = {"iss": provider.issuer, "aud": "us", "iat": now, "exp": now + 120, "jti": "1", "sid": "s-1"}
            assert log_out(gateway.port, key.token(**claims, events={LOGOUT: {}})).status == 200
            assert gateway.get("/", mint(sid="s-1")).status == 401


def log_out(port: int, token: str) -> Answer:
    form = ("Content-Type", "application/x-www-form-urlencoded")
    return ask(port, "POST /-/logout", form, body=urlencode({"logout_token": token}).encode())


def push(port: int, token: str) -> Answer:
    return ask(port, "POST /-/events", ("Content-Type", "application/secevent+jwt"), body=token.encode())


def test_every_worker_knows_that_a_message_came_also_after_a_restart(tmp_path: Path) -> None:
    token, pushed = logout_token("s-1"), event("s-2")
    with Recorder(ok()) as upstream:
        with Running(tmp_path, upstream.url, "--workers", "3", **ENVIRON) as gateway:
            # At once, over as many connections: one takes it, and the others know.
            statuses: list[int] = []
            threads = [
                threading.Thread(target=lambda: statuses.append(log_out(gateway.port, token).status)) for _ in range(12)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(statuses) == [200] + [400] * 11
            assert {push(gateway.port, pushed).status for _ in range(6)} == {202}
            assert {gateway.get("/", mint(sid="s-1")).status for _ in range(12)} == {401}
            assert len(gateway.get("/blacklist/entries", ADMIN).json["entries"]) == 2
        with Running(tmp_path, upstream.url, "--workers", "1", **ENVIRON) as gateway:
            assert log_out(gateway.port, token).status == 400
            assert push(gateway.port, pushed).status == 202
            assert gateway.get("/", mint(sid="s-1")).status == 401


@pytest.mark.parametrize("kind", ["logout", "event"])
def test_killed_at_any_moment_what_was_acknowledged_is_there_and_the_rest_can_come_again(
    tmp_path: Path, kind: str
) -> None:
    send, make = (log_out, logout_token) if kind == "logout" else (push, event)
    acknowledged: set[str] = set()
    unanswered: set[str] = set()
    with Recorder(ok()) as upstream:
        for attempt in range(6):
            with Running(tmp_path, upstream.url, "--workers", "1", **ENVIRON) as gateway:
                stop = threading.Event()

                def work(port: int = gateway.port, stop: threading.Event = stop) -> None:
                    while not stop.is_set():
                        session = f"s-{next(numbers)}"
                        unanswered.add(session)
                        try:
                            if send(port, make(session)).status in (200, 202):
                                acknowledged.add(session)
                                unanswered.discard(session)
                        except (OSError, HTTPException):
                            return

                threads = [threading.Thread(target=work) for _ in range(4)]
                for thread in threads:
                    thread.start()
                before = len(acknowledged)
                until(lambda known=before: len(acknowledged) > known + 20)  # type: ignore[misc]
                time.sleep(attempt * 0.004)
                for pid in (*gateway.workers, gateway.pid):
                    os.kill(pid, signal.SIGKILL)
                stop.set()
                for thread in threads:
                    thread.join()
        assert len(acknowledged) > 100
        assert unanswered
        with Running(tmp_path, upstream.url, "--workers", "1", **ENVIRON) as gateway:
            listed = sessions(gateway)
            assert acknowledged <= listed
            # What is there of a message that nobody answered is all of it: then it came before; or it comes now.
            for session in unanswered:
                was_there = session in listed
                status = send(gateway.port, make(session)).status
                assert status == (202 if kind == "event" else 400 if was_there else 200)
            assert acknowledged | unanswered <= sessions(gateway)


def sessions(gateway: Running) -> set[str]:
    found: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = gateway.get(f"/blacklist/entries?limit=1000&cursor={cursor}", ADMIN).json
        found += page["entries"]
        cursor = page["next_cursor"]
    return {entry["claim"]["sid"] for entry in found}


def test_messages_are_counted_by_kind_and_outcome(tmp_path: Path) -> None:
    flags = ("--workers", "2", "--metrics-port", "0")
    with Recorder(ok()) as upstream, Running(tmp_path, upstream.url, *flags, **ENVIRON) as gateway:
        token = logout_token("s-1")
        log_out(gateway.port, token)
        log_out(gateway.port, token)
        log_out(gateway.port, "garbage")
        push(gateway.port, event("s-2"))
        text = ask(gateway.metrics_port, "GET /metrics").body.decode()
    counted = {
        line.partition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if "gateway_signals_total{" in line
    }
    assert {name: count for name, count in counted.items() if count} == {
        'gateway_signals_total{kind="events",outcome="taken"}': 1,
        'gateway_signals_total{kind="logout",outcome="invalid_request"}': 1,
        'gateway_signals_total{kind="logout",outcome="repeated"}': 1,
        'gateway_signals_total{kind="logout",outcome="taken"}': 1,
    }


def test_another_node_knows_that_a_message_came_and_goes_by_it(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    token, pushed = logout_token("s-1"), event("s-2")
    with RedisServer() as redis, Recorder(ok()) as upstream:
        flags = ("--workers", "2", "--store", redis.url)
        with (
            Running(tmp_path / "one", upstream.url, *flags, **ENVIRON) as one,
            Running(tmp_path / "two", upstream.url, *flags, **ENVIRON) as two,
        ):
            assert log_out(one.port, token).status == 200
            assert {log_out(two.port, token).status for _ in range(4)} == {400}
            assert push(two.port, pushed).status == 202
            assert {push(one.port, pushed).status for _ in range(4)} == {202}
            for node in (one, two):
                assert {node.get("/", mint(sid=sid)).status for sid in ("s-1", "s-2") for _ in range(4)} == {401}
                assert node.get("/", mint(sid="s-3")).status == 200
            # While the store is away nothing is taken; the same message is, once it is back.
            again = logout_token("s-3")
            redis.kill()
            answer = log_out(two.port, again)
            assert (answer.status, answer.fields["Retry-After"]) == (503, "1")
            redis.start()
            assert until(lambda: log_out(two.port, again).status == 200, 30)
            assert one.get("/", mint(sid="s-3")).status == 401


def endless(talk: Talk) -> None:
    """Answer with events, and never end."""
    head = response(b"", ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"))
    talk.send(head + b"c\r\ndata: tick\n\n\r\n")
    talk.peer_left(30)
    talk.close()


@pytest.mark.parametrize("kind", ["logout", "event"])
def test_a_stream_that_is_under_way_ends_with_its_session(tmp_path: Path, kind: str) -> None:
    send, make = (log_out, logout_token) if kind == "logout" else (push, event)
    now = int(time.time()) - 10
    with Recorder(endless) as upstream, Running(tmp_path, upstream.url, "--workers", "2", **ENVIRON) as gateway:
        asked = [request("GET /events", ("Authorization", f"Bearer {mint(sid=s, iat=now)}")) for s in ("s-1", "s-2")]
        with Client(gateway.port, asked[0]) as ends, Client(gateway.port, asked[1]) as goes_on:
            for client in (ends, goes_on):
                client.read_until(b"tick\n\n\r\n")
            assert send(gateway.port, make("s-1")).status in (200, 202)
            assert not ends.read_all().endswith(b"0\r\n\r\n")
            goes_on.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                goes_on.sock.recv(1)

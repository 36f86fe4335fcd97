"""After a rich day nothing the gateway wrote, showed or stored holds a token, a signature or a secret."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import mint
from processes import ROOT
from recorder import Recorder, exchange, ok, request, until
from running import Answer, Running, ask

SECRET = "correct-horse-battery-staple-of-42-bytes-"
NEXT_SECRET = "the-one-before-that-battery-staple-of-40-"
STORE_PASSWORD = "hunter2-hunter2"


def tokens() -> dict[str, str]:
    """Return one token of each kind that a gateway meets."""
    return {
        "good": mint(SECRET, sub="good", jti="1"),
        "blacklisted": mint(SECRET, sub="blacklisted", jti="2"),
        "named in a body": mint(SECRET, sub="named", jti="3"),
        "admin": mint(SECRET, sub="admin", scope="blacklist:admin"),
        "of the older secret": mint(NEXT_SECRET, sub="older"),
        "badly signed": mint("another secret of no account, 32 bytes", sub="good"),
        "expired": mint(SECRET, exp=1),
        "of a stranger": mint(SECRET, iss="https://stranger.test/"),
        "without an end": mint(SECRET, exp=2_053_218_952.5, sub="\x00\n" * 5),
    }


def a_rich_day(gateway: Running, upstream: Recorder, known: dict[str, str]) -> list[tuple[str, Answer]]:
    """Return what the gateway answered, with the token of whoever asked."""
    told = []
    for token in known.values():
        for method, path in [
            ("GET", "/info"),
            ("GET", f"/x?t={token}"),
            ("PATCH", "/blacklist"),
            ("GET", "/-/auth"),
            ("GET", "/blacklist/entries"),
        ]:
            told.append((token, gateway.request(method, path, token)))
        told += [(token, gateway.request("GET", "/info", token + tail)) for tail in ("=", ".", " x", ",")]
        told.append((token, gateway.request("GET", f"/x\x01{token}".replace("\x01", "%01"), token, Cookie=token)))
    admin, victim = known["admin"], known["named in a body"]
    told.append((known["blacklisted"], gateway.request("POST", "/blacklist", known["blacklisted"])))
    told.append((known["blacklisted"], gateway.get("/info", known["blacklisted"])))
    for body in ({"token": victim}, {"sub": "good", "reason": "stolen"}, {"token": victim, "x": 1}, {"tokn": victim}):
        for method in ("POST", "DELETE", "POST"):
            told.append((victim + admin, gateway.request(method, "/blacklist", admin, body)))
    told.append((admin, gateway.get("/blacklist/entries", admin)))
    told.append((admin, gateway.get("/blacklist?sub=good", admin)))
    upstream.answer = lambda talk: talk.reset()
    told.append((admin, gateway.get("/info", admin)))
    upstream.answer = ok(b"\xff{", ("Content-Type", "application/json"))
    told.append((admin, gateway.get("/info", admin)))
    return told


@pytest.mark.slow
def test_no_token_signature_or_secret_is_written_anywhere(tmp_path: Path) -> None:
    known = tokens()
    environ = {"GATEWAY_SECRET": f"{SECRET},{NEXT_SECRET}", "GATEWAY_LOG_LEVEL": "debug"}
    flags = ["--workers", "2", "--metrics-port", "0"]
    with Recorder() as upstream, Running(tmp_path, upstream.url, *flags, **environ) as gateway:
        told = a_rich_day(gateway, upstream, known)
        statuses = {answer.status for _, answer in told}
        metrics = ask(gateway.metrics_port, "GET /metrics").body
        ask(gateway.port, "GET /-/live")
        broken = request("GET /info", ("Authorization", f"Bearer {known['good']}"), ("Content-Length", "-1"))
        exchange(gateway.port, broken)
        store = b"".join(file.read_bytes() for file in tmp_path.glob("blacklist.sqlite3*"))
        assert until(lambda: gateway.log.count("GET") > 20)
    shown = check_config(tmp_path, environ)
    assert {200, 400, 401, 403, 405, 502} <= statuses, statuses
    assert b"gateway_" in metrics
    for name, token in known.items():
        # The last place to look is every answer to anybody else.
        others = b"".join(answer.body + str(answer.fields).encode() for whose, answer in told if token not in whose)
        for place in (gateway.log.encode(), metrics, store, shown, others):
            for secret in (token, token.rpartition(".")[2], token.split(".")[1]):
                assert secret.encode() not in place, name
    for answer in (answer for _, answer in told if answer.status >= 400):
        assert not any(token.rpartition(".")[2].encode() in answer.body for token in known.values())
    for place in (gateway.log.encode(), metrics, store, shown, *(answer.body for _, answer in told)):
        for secret in (SECRET, NEXT_SECRET, STORE_PASSWORD):
            assert secret.encode() not in place


def check_config(directory: Path, environ: dict[str, str]) -> bytes:
    """Return all that `check-config` prints, for these settings and for a store with a password."""
    printed = b""
    for store in (f"sqlite:///{directory}/blacklist.sqlite3", f"redis://user:{STORE_PASSWORD}@127.0.0.1:1/0"):
        command = [sys.executable, "-m", "gateway", "check-config", "--store", store]
        ran = subprocess.run(
            command,
            check=False,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            capture_output=True,
        )
        printed += ran.stdout + ran.stderr
    assert b"GATEWAY_SECRET=" in printed
    return printed

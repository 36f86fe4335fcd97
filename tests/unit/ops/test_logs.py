"""How logs look, and that nothing secret is in them at any level."""

import base64
import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGHUP, SIGTERM

import pytest
from helpers import mint
from processes import ROOT
from recorder import Recorder, ok, until
from running import Running

from gateway.ops.logs import configure_logging, line_writer

SECRET = "correct-horse-battery-staple-of-42-bytes"


Told = Callable[[], str]


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Told:
    """Return what returns the lines written since it was last called."""

    def read() -> str:
        logging.getLogger().handlers[0].flush()
        return capfd.readouterr().err

    return read


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Take back what `configure_logging` changes in this process."""
    root, own = logging.getLogger(), logging.getLogger("gateway")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])
    logging.getLogger("gateway.audit").setLevel(logging.NOTSET)


def test_a_json_record_is_one_line_with_its_members(lines: Told) -> None:
    configure_logging("json", "info")
    logging.getLogger("gateway.x").info("%d lines", 1, extra={"record": {"text": "two\nlines \u2028 é", "number": 1.5}})
    [line] = lines().splitlines()
    told = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told.pop("time"))
    assert told == {
        "level": "info",
        "logger": "gateway.x",
        "message": "1 lines",
        "text": "two\nlines \u2028 é",
        "number": 1.5,
    }


def test_a_text_record_is_one_line_with_its_members(lines: Told) -> None:
    configure_logging("text", "info")
    logging.getLogger("gateway.x").warning("hm", extra={"record": {"text": "two\nlines", "number": 1.5}})
    [line] = lines().splitlines()
    assert line.endswith(r'warning gateway.x: hm text="two\nlines" number=1.5')


def test_a_line_of_the_access_log_looks_like_any_other(lines: Told) -> None:
    for log_format in ("json", "text"):
        configure_logging(log_format, "info")
        logging.getLogger("gateway.access").info("GET 200", extra={"record": {"id": "a\n", "status": 200}})
        line_writer(log_format, "gateway.access")("GET 200", {"id": "a\n", "status": 200})
        one, other = (re.sub(r"T[0-9:.]+Z", "", line) for line in lines().splitlines())
        assert one == other


def test_the_values_of_a_line_are_json_whatever_they_are(lines: Told) -> None:
    configure_logging("json", "info")
    write = line_writer("json", "gateway.access", plain={"id": '"%s"', "ms": "%.3f"})
    for number in range(2):
        members = {"id": "a", "100%s": '"\n\\', "remembered": True, "none": None, "number": number, "ms": 1.23456}
        write("GET 200 %s", members)
        told = json.loads(lines())
        assert told.pop("time")
        assert told.pop("message") == "GET 200 %s"
        assert told == {"level": "info", "logger": "gateway.access", **members, "ms": 1.235}


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_an_exception_is_told_whole(lines: Told, log_format: str) -> None:
    configure_logging(log_format, "info")
    try:
        raise RuntimeError("the reason")
    except RuntimeError:
        logging.getLogger("gateway.x").exception("failed")
    told = lines()
    assert "RuntimeError: the reason" in told
    assert "Traceback" in told
    assert log_format == "text" or "RuntimeError" in json.loads(told)["exception"]


def test_libraries_are_quiet_below_warning_at_any_level(lines: Told) -> None:
    for level, loud in (("debug", True), ("info", True), ("error", False)):
        configure_logging("json", level)
        logging.getLogger("urllib3.connectionpool").debug("GET /?access_token=…")
        logging.getLogger("some.library").info("Authorization: Bearer …")
        assert lines() == ""
        logging.getLogger("some.library").warning("hm")
        assert bool(lines()) is loud
        logging.getLogger("gateway.x").debug("of our own")
        assert bool(lines()) is (level == "debug")


def test_the_audit_is_written_at_every_level(lines: Told) -> None:
    for level in ("warning", "error"):
        configure_logging("json", level)
        logging.getLogger("gateway.server").info("listening")
        assert lines() == ""
        logging.getLogger("gateway.audit").info("blacklist add")
        assert "blacklist add" in lines()


# A real gateway, at its most talkative


def parts(token: str) -> set[str]:
    """Return what must not be seen of a token: its parts, and what they say when decoded."""
    header, claims, signature = token.split(".")
    raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    return {claims, signature, raw.hex(), base64.b64encode(raw).decode(), header + "." + claims}


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_nothing_secret_is_logged_at_any_level(tmp_path: Path, log_format: str) -> None:
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET)
    good = mint(SECRET, sub="1001", jti="jti-hush-1", email="hush@private.test", scope="blacklist:admin")
    other = mint(SECRET, sub="1002", jti="jti-hush-2", nonce="hush-nonce")
    forged = mint("wrong", sub="1003", nonce="hush-forged")
    expired = mint(SECRET, exp=1000, nonce="hush-expired")
    broken = other[:-4] + "!!!!"
    answers = [ok(b'{"a": 1}', ("Content-Type", "application/json"), ("Set-Cookie", "session=hush-cookie"))]
    flags = ("--log-level", "debug", "--log-format", log_format, "--workers", "1")
    with (
        Recorder(answers) as upstream,
        Running(tmp_path, upstream.url, *flags, GATEWAY_SECRET_FILE=str(secret_file)) as gateway,
    ):
        for token in (good, other, forged, expired, broken):
            gateway.get("/info?q=hush-query", token, X_Api_Key="hush-key", X_Request_ID=token)
            gateway.get(f"/{token}", token, Cookie=f"jwt={token}")
            gateway.request("POST", "/blacklist", token, {"token": other, "reason": "stolen"})
            gateway.request("DELETE", "/blacklist", good, {"token": token})
        gateway.get("/", None, Authorization=f"Basic {base64.b64encode(SECRET.encode()).decode()}")
        gateway.get("/", None, Authorization=f"Bearer {good} {other}")
        gateway.get(f"http://elsewhere/{good}", good)
        gateway.request("POST", "/blacklist", good, {"sub": "1002"})
        upstream.answer = lambda talk: talk.reset()
        assert gateway.get(f"/?token={good}", good).status == 502
        upstream.answer = lambda talk: talk.send(b"HTTP/1.1 200 OK\r\nX: " + good.encode() + b"\r\nbroken\r\n\r\n")
        assert gateway.get("/", good).status == 502
        secret_file.write_text(SECRET + "," * 20 + "hush-too")
        gateway.signal(SIGHUP)
        secret_file.write_text("")
        gateway.signal(SIGHUP)
        assert until(lambda: "does not load" in gateway.log)
        gateway.signal(SIGTERM)
        gateway.wait()
        log = gateway.log
    assert log.count("gateway.access") == 26
    assert "bad-signature" in log
    hidden = {SECRET, base64.b64encode(SECRET.encode()).decode(), "hush"} | parts(good) | parts(other)
    hidden |= {part for token in (forged, expired, broken) for part in token.split(".")[1:]}
    assert {part for part in hidden if part in log} == set()


def heads_that_cannot_be_read_are_told(gateway: Running) -> None:
    """Nothing else would say why a client that speaks TLS, or folds a field, gets 400."""
    for head in (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n hush\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", gateway.port), 30) as client:
            client.sendall(head)
            assert client.recv(12) == b"HTTP/1.1 400"
    told = "a head is refused: invalid-request"
    assert until(
        lambda: [record["client"] for record in gateway.records if record["message"] == told] == ["127.0.0.1"] * 2
    )
    assert "hush" not in gateway.log


@pytest.mark.slow
def test_the_start_says_what_is_in_force_with_secrets_masked(tmp_path: Path) -> None:
    issuers = json.dumps([{"issuer": "https://one.test/", "secret": SECRET}])
    with Running(tmp_path, "http://127.0.0.1:9", GATEWAY_ISSUERS=issuers) as gateway:
        [told] = [record for record in gateway.records if "settings" in record]
        heads_that_cannot_be_read_are_told(gateway)
    assert told["settings"]["upstream"] == "http://127.0.0.1:9"
    assert "restore" not in told["settings"]  # it was not set
    assert "https://one.test/" in told["settings"]["issuers"]
    assert SECRET not in gateway.log


@pytest.mark.slow
def test_any_server_says_at_the_start_what_is_in_force_and_what_is_amiss(tmp_path: Path) -> None:
    with Running(tmp_path, "http://127.0.0.1:9", GATEWAY_SEKRET="x") as gateway:
        bundled = gateway.records
        assert len(bundled) == len(gateway.log.splitlines())
    program = [sys.executable, "-c", "import gateway.wsgi"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "GATEWAY_SEKRET": "x", "GATEWAY_METRICS_PORT": "9"}
    done = subprocess.run(program, env=environ, cwd=tmp_path, check=True, capture_output=True, text=True)
    other = [json.loads(line) for line in done.stderr.splitlines()]
    for records, own in ((bundled, ()), (other, ("METRICS_PORT is served by `gateway serve` alone",))):
        warned = [record["message"] for record in records if record["level"] == "warning"]
        assert len(warned) == 2 + len(own)
        assert {"GATEWAY_SEKRET sets nothing; did you mean GATEWAY_SECRET?", *own} <= set(warned)
        assert len([record for record in records if "settings" in record]) == 1


@pytest.mark.parametrize("server", ["granian", "gunicorn", "cheroot"])
def test_a_server_that_cannot_be_made_safe_is_warned_of(tmp_path: Path, server: str) -> None:
    program = [sys.executable, "-c", f"import {server}, gateway.wsgi"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, env=environ, cwd=tmp_path, check=True, capture_output=True, text=True)
    warned = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert [message for message in warned if message.startswith(server)]

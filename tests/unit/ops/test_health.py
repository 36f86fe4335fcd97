"""Alive and ready: what an orchestrator is told, and when it changes."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
from helpers import ISSUER, mint
from recorder import Recorder, until
from running import Running

from gateway.http import draining
from gateway.http.problems import Problem, StoreUnavailable
from gateway.ops.health import readiness
from gateway.ops.observe import Observe


def ask(app: Callable[..., Any], method: str = "GET") -> tuple[str, dict[str, str], bytes, dict[str, Any]]:
    """Return status, fields and body of what the app answers, and the environ as it left it."""
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "RAW_URI": "/-/ready", "REMOTE_ADDR": "192.0.2.1"}
    seen: list[Any] = []
    body = b"".join(app(environ, lambda status, fields: seen.extend((status, dict(fields)))))
    return seen[0], seen[1], body, environ


def fails(error: Exception) -> Callable[[], object]:
    def check() -> object:
        raise error

    return check


@pytest.mark.parametrize("error", [StoreUnavailable(), Problem("keys-unavailable"), RuntimeError("secret"), OSError()])
def test_any_check_that_fails_makes_it_not_ready_without_saying_why(error: Exception) -> None:
    status, fields, body, _ = ask(readiness(lambda: None, fails(error)))
    assert (status, body) == ("503 Service Unavailable", b"not ready\n")
    assert fields["Cache-Control"] == "no-store"


def test_every_check_is_made_each_time() -> None:
    made: list[int] = []
    ready = readiness(lambda: made.append(1), lambda: made.append(2))
    assert [ask(ready)[0] for _ in range(2)] == ["200 OK", "200 OK"]
    assert made == [1, 2, 1, 2]


def test_head_gets_the_length_and_no_body() -> None:
    status, fields, body, _ = ask(readiness(), "HEAD")
    assert (status, fields["Content-Length"], body) == ("200 OK", "6", b"")


def test_the_log_says_why() -> None:
    told: list[str] = []
    for error in (StoreUnavailable(), RuntimeError()):
        ready = readiness(fails(error))
        ask(Observe(ready, lambda environ: "192.0.2.1", write=lambda _, members: told.append(members["outcome"])))
    assert told == ["store-unavailable", "not-ready"]


def test_readiness_turns_with_the_store(api: Any, store_url: str) -> None:
    assert api("GET", "/-/ready").status_code == 200
    Path(store_url.removeprefix("sqlite:///")).unlink()
    assert api("GET", "/-/ready").status_code == 503
    assert api("GET", "/-/live").status_code == 200


def test_readiness_turns_with_the_keys(make_api: Any) -> None:
    api = make_api(jwks_url="http://127.0.0.1:9/jwks", algorithms="RS256")
    assert api("GET", "/-/ready").status_code == 503
    assert api("GET", "/-/live").status_code == 200


def test_an_issuer_whose_keys_are_not_there_takes_no_others_away(make_api: Any) -> None:
    dead = [{"issuer": f"https://{name}.test/", "jwks_url": f"http://127.0.0.1:9/{name}"} for name in "ab"]
    live = {"issuer": ISSUER, "secret": "discogs"}
    assert make_api(issuers=json.dumps([*dead, live]))("GET", "/-/ready").status_code == 200
    assert make_api(issuers=json.dumps(dead))("GET", "/-/ready").status_code == 503


def test_readiness_turns_when_draining(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "_is_draining", True)
    assert api("GET", "/-/ready").status_code == 503
    assert api("GET", "/-/live").status_code == 200


@pytest.fixture
def gate_of_the_upstream() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.mark.slow
def test_a_balancer_sees_the_drain_while_requests_finish(tmp_path: Path, gate_of_the_upstream: threading.Event) -> None:
    def answer(talk: Any) -> None:
        gate_of_the_upstream.wait(30)
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    with Recorder(answer) as upstream, Running(tmp_path, upstream.url, "--workers", "1") as gateway:
        answers: list[Any] = []
        late = threading.Thread(target=lambda: answers.append(gateway.get("/", mint())))
        late.start()
        assert until(lambda: upstream.requests)
        probe = http.client.HTTPConnection("127.0.0.1", gateway.port)
        probe.request("GET", "/-/ready")
        assert probe.getresponse().read() == b"ready\n"
        gateway.signal(SIGTERM)
        # A kept connection may ask until it has been silent for a moment.
        assert until(lambda: is_told(probe))
        gate_of_the_upstream.set()
        late.join()
        assert (answers[0].status, answers[0].body) == (200, b"late")
        assert gateway.wait() == 0
        probe.close()


def is_told(connection: http.client.HTTPConnection) -> bool:
    """Return whether the client is told to go elsewhere; a drain that begins within a request shows here first."""
    connection.request("GET", "/-/ready")
    response = connection.getresponse()
    response.read()
    closes = response.headers["Connection"] == "close"
    assert closes or response.status == 200
    return closes

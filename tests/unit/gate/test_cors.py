"""What a page of another origin may read: refusals and the blacklist, where its origin is set."""

from collections.abc import Iterator
from typing import Any

import pytest
from helpers import Api, assert_refused, mint
from recorder import Client, exchange, request, served, until

from gateway.http.wsgi import context

APP = "https://app.test"
PREFLIGHT = {"Origin": APP, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.fixture
def api(make_api: Any) -> Api:
    return make_api(cors_origins=f"{APP},http://localhost:3000")


@pytest.mark.parametrize("origin", [APP, "http://localhost:3000"])
def test_a_refusal_is_readable(api: Api, origin: str) -> None:
    answer = api("GET", "/orders", mint(exp=1), headers={"Origin": origin})
    assert_refused(answer, "token-expired")
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert "WWW-Authenticate" in answer.headers["Access-Control-Expose-Headers"]
    assert answer.headers["Vary"] == "Origin"


def test_the_blacklist_is_usable(api: Api) -> None:
    answer = api("OPTIONS", "/blacklist", headers=PREFLIGHT)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == APP
    assert {"POST", "DELETE"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    assert {"Authorization", "Content-Type"} <= set(answer.headers["Access-Control-Allow-Headers"].split(", "))
    answer = api("POST", "/blacklist", mint(), headers={"Origin": APP})
    assert answer.json["blacklisted"]
    assert answer.headers["Access-Control-Allow-Origin"] == APP


@pytest.mark.parametrize("origin", ["https://evil.test", "https://app.test.evil.test", "null", "http://app.test"])
def test_other_origins_read_nothing(api: Api, origin: str) -> None:
    answer = api("GET", "/orders", headers={"Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.headers["Vary"] == "Origin"
    assert_refused(api("OPTIONS", "/blacklist", headers={**PREFLIGHT, "Origin": origin}), "missing-credentials")


def test_what_no_page_asked_for_varies_all_the_same(api: Api) -> None:
    assert api("GET", "/orders").headers["Vary"] == "Origin"


def test_the_upstreams_answers_are_its_own(api: Api) -> None:
    answer = api("GET", "/orders", mint(), headers={"Origin": APP})
    assert answer.status_code == 200
    assert not {"Access-Control-Allow-Origin", "Vary"} & set(answer.headers.keys())
    assert_refused(api("OPTIONS", "/orders", headers=PREFLIGHT), "missing-credentials")


def test_any_origin_may_be_let_in(make_api: Any) -> None:
    answer = make_api(cors_origins="*")("GET", "/orders", headers={"Origin": "https://x.test"})
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_without_the_setting_there_are_no_such_fields(make_api: Any) -> None:
    answer = make_api()("GET", "/orders", headers={"Origin": APP})
    assert not {name for name, _ in answer.headers if name.startswith("Access-Control") or name == "Vary"}


@pytest.mark.parametrize(
    "origin",
    [
        *("app.test", "https://app.test/", "https://a@app.test", "https://*.app.test", "null"),
        *("https://app.test:443", "http://app.test:80"),
    ],
)
def test_what_is_no_origin_is_refused_at_the_start(make_api: Any, origin: str) -> None:
    with pytest.raises(ValueError, match="origins"):
        make_api(cors_origins=origin)


def test_who_waits_for_an_answer_when_the_token_is_blacklisted_gets_the_same_refusal(
    upstream: Any, make_gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[Any] = []

    def wait(_: Any, environ: dict[str, Any], __: Any) -> Iterator[bytes]:
        waiting.append(context(environ))
        while True:
            waiting[0].pause(3600)
            yield b""

    monkeypatch.setattr(type(upstream), "__call__", wait)
    gate = make_gate(cors_origins=APP, resource="https://api.example.com")
    asked = request("GET /orders", ("Authorization", f"Bearer {mint()}"), ("Origin", APP))
    with served(gate) as port:
        with Client(port, asked) as client:
            assert until(lambda: waiting)
            waiting[0].cut("token-blacklisted")
            seen = client.read_all()
        exchange(port, asked.replace(b"GET /orders", b"POST /blacklist"))
        assert without_date(seen) == without_date(exchange(port, asked))


def without_date(answer: bytes) -> list[bytes]:
    return sorted(line for line in answer.split(b"\r\n") if not line.startswith(b"Date:"))

"""What an application calls in its own process: it takes back, restores and asks, as `/blacklist` does."""

import functools
import logging
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from helpers import ISSUER, SECRET, Api, Clock, mint

from gateway import Gateway, Problem, observe

TOKEN = mint(sub="1001", jti="a")


def inner(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the app"]


@pytest.fixture
def gate(store_url: str, clock: Clock) -> Gateway:
    return Gateway(inner, secret=SECRET, store=store_url, now=clock)


def status(gate: Gateway, token: str) -> int:
    return Api(gate)("GET", "/", token).status_code


class TestWhatIsTakenBack:
    @pytest.mark.parametrize("named", [{"token": TOKEN}, {"sub": "1001"}, {"sub": 1001}, {"jti": "a"}])
    def test_it_is_refused_at_the_next_request_and_passes_when_restored(
        self, gate: Gateway, named: dict[str, Any]
    ) -> None:
        assert (gate.is_blacklisted(**named), status(gate, TOKEN)) == (False, 200)
        assert gate.blacklist(**named, reason="logged out") is True
        assert (gate.is_blacklisted(**named), status(gate, TOKEN)) == (True, 401)
        assert gate.is_blacklisted(token=TOKEN)
        assert gate.blacklist(**named) is False
        assert status(gate, mint(sub="1002", jti="b")) == 200
        assert [gate.restore(**named), gate.restore(**named)] == [True, False]
        assert status(gate, TOKEN) == 200

    @pytest.mark.parametrize("ago", [1, 10**9])
    def test_a_token_that_has_expired_is_success_with_nothing_to_do(
        self, gate: Gateway, clock: Clock, ago: int
    ) -> None:
        assert gate.blacklist(token=mint(exp=int(clock()) - ago)) is False

    def test_an_end_that_is_past_is_refused(self, gate: Gateway, clock: Clock) -> None:
        with pytest.raises(Problem, match="invalid-request"):
            gate.blacklist(sub="1001", until=int(clock()) - 1)

    def test_the_audit_log_says_who_and_why(self, gate: Gateway, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "gateway.audit"):
            gate.blacklist(sub="1001", reason="password changed", by="support: anna")
        [record] = caplog.records
        told: dict[str, Any] = record.__dict__["record"]
        assert (told["by"], told["reason"], told["claim"]) == ("support: anna", "password changed", {"sub": "1001"})

    def test_of_several_issuers_one_must_be_named(self, store_url: str) -> None:
        other = "https://other.example/"
        issuers = [{"issuer": ISSUER, "secret": SECRET}, {"issuer": other, "secret": "s" * 32}]
        gate = Gateway(inner, issuers=issuers, store=store_url)
        with pytest.raises(Problem, match="invalid-request"):
            gate.blacklist(sub="1001")
        assert gate.blacklist(sub="1001", issuer=other)
        assert [status(gate, TOKEN), status(gate, mint("s" * 32, iss=other, sub="1001"))] == [200, 401]


@pytest.mark.parametrize(
    "named",
    [{}, {"reason": "why"}, {"token": "no token"}, {"token": mint("forged")}, {"token": None}, {"sub": ""},
     {"sub": None}, {"sub": True}, {"email": "a@b.test"}, {"sub": "1", "jti": "2"}, {"sub": "1", "issuer": "unknown"},
     {"token": TOKEN, "issued_before": 1}, {"fingerprint": "a" * 64}],
)  # fmt: skip
def test_what_says_nothing_clear_is_refused_and_changes_nothing(gate: Gateway, named: dict[str, Any]) -> None:
    for call in (gate.blacklist, gate.restore, gate.is_blacklisted):
        with pytest.raises(Problem):
            call(**named)
    assert status(gate, TOKEN) == 200


def test_a_store_that_is_unavailable_is_a_problem_and_no_success(gate: Gateway, store_fails: Any) -> None:
    with store_fails("add"), pytest.raises(Problem) as refused:
        gate.blacklist(sub="1001")
    assert (refused.value.code, refused.value.status) == ("store-unavailable", 503)


class TestWhatCanBeWrapped:
    async def asgi(self, scope: Any, receive: Any, send: Any) -> None: ...

    class AnAsgiApp:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    @pytest.mark.parametrize("make", [lambda test: test.asgi, lambda test: test.AnAsgiApp()])
    def test_an_asgi_app_is_refused_with_what_to_do(self, make: Callable[..., Any]) -> None:
        with pytest.raises(TypeError, match="is an ASGI app: turn it into one"):
            Gateway(make(self), secret=SECRET)

    def test_other_shapes_of_asgi_apps_are_known_by_their_arguments(self) -> None:
        def factory(scope: Any, receive: Any, send: Any) -> Any: ...

        def asgi_2(scope: Any) -> Any: ...

        for app in (factory, asgi_2, functools.partial(self.AnAsgiApp())):
            with pytest.raises(TypeError, match="is an ASGI app: turn it into one"):
                Gateway(app, secret=SECRET)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="AnAsgiApp does not take environ and start_response"):
            Gateway(self.AnAsgiApp, secret=SECRET)  # type: ignore[arg-type]

    def test_wsgi_apps_of_every_shape_are_taken(self, store_url: str) -> None:
        class AsClass:
            def __init__(self, environ: Any, start_response: Any) -> None: ...

        class AsObject:
            def __call__(self, environ: Any, start_response: Any, more: int = 0) -> Any: ...

        for app in (AsClass, AsObject(), functools.partial(AsObject(), more=1), lambda *_: [], Mock()):
            Gateway(app, secret=SECRET, store=store_url)  # type: ignore[arg-type]

    def test_what_cannot_be_called_is_refused(self) -> None:
        with pytest.raises(TypeError, match="str cannot be called"):
            Gateway("app", secret=SECRET)  # type: ignore[arg-type]


def test_each_request_is_a_record_and_counted_in_the_registry_that_is_named(
    gate: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    api = Api(observe(gate, registry))
    with caplog.at_level(logging.INFO, "gateway.access"):
        assert [api("GET", "/", TOKEN).status_code, api("GET", "/").status_code] == [200, 401]
    records = [record.__dict__["record"] for record in caplog.records]
    assert [(each["outcome"], each.get("subject")) for each in records] == [
        ("passed", "1001"),
        ("missing-credentials", None),
    ]
    labels = {"route": "upstream", "outcome": "passed"}
    assert registry.get_sample_value("gateway_requests_total", labels) == 1


def test_what_the_app_does_to_its_claims_changes_nothing_for_the_gate(store_url: str) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        assert "scope" not in environ["gateway.claims"]
        environ["gateway.claims"]["scope"] = "blacklist:admin"
        environ["gateway.claims"]["user"] = object()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b"{}"]

    api = Api(Gateway(app, secret=SECRET, store=store_url))
    assert api("GET", "/", TOKEN).status_code == 200
    assert api("GET", "/", mint(exp=9e9 + 0.5)).status_code == 200
    assert api("GET", "/blacklist/entries", TOKEN).status_code == 403
    assert api("GET", "/info", TOKEN).json["token"]["sub"] == "1001"

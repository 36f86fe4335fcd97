"""nginx, HAProxy, Caddy, Envoy and Traefik with the configurations of deploy/, in front of a real gateway."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from itertools import count
from pathlib import Path

import pytest
from helpers import mint
from outer_proxies import PROXIES, SERVERS, gateway, proxy
from processes import free_port
from recorder import Client, Recorder, Talk, ok, response
from running import Answer, ask

pytestmark = pytest.mark.slow

SETTINGS = {"trusted_proxies": 1, "public_paths": "/public,/open/*", "pass_preflight": True}
CHALLENGE = 'Bearer realm="gateway"'
PUNCTUATION = "-_.!#$%&'*+^`|~"  # what may stand in a field's name (RFC 9110 section 5.6.2)
SPOOFED = [
    (spelling, "admin")
    for mark in PUNCTUATION
    for name in ("Subject", "Claims")
    for spelling in (f"X{mark}Token{mark}{name}", f"x-TOKEN{mark}{name}")
]
PREFLIGHT = (("Origin", "https://app.test"), ("Access-Control-Request-Method", "DELETE"))
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
fresh = count(1)


@dataclass
class Stage:
    """An outer proxy, between a gateway and an API that records what reaches it."""

    port: int
    api: Recorder
    outer: str = ""

    def ask(self, line: str, *fields: tuple[str, str], token: str = "", body: bytes | None = None) -> Answer:
        self.api.requests.clear()
        if token:
            fields = (("Authorization", f"Bearer {token}"), *fields)
        return ask(self.port, line, *fields, body=body)

    def assert_untouched(self) -> None:
        assert self.api.requests == []

    def said_of(self, name: str) -> list[str]:
        """Return what the API was told in all fields whose names an upstream could fold into this one."""
        (request,) = self.api.requests
        folded = name.lower().replace("-", "")
        return [value for field, value in request.fields if "".join(filter(str.isalnum, field.lower())) == folded]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Stage]]:
    """Return a starter of stages; each is started once and runs until the last test here."""
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("outer")
        api = stack.enter_context(Recorder(ok(b"from the API")))

        @cache
        def gateway_of(server: str, trusted_proxies: int) -> int:
            return stack.enter_context(gateway(directory, server, **{**SETTINGS, "trusted_proxies": trusted_proxies}))

        @cache
        def stage(outer: str, server: str, trusted_proxies: int = 1) -> Stage:
            port = gateway_of(server, trusted_proxies)
            return Stage(stack.enter_context(proxy(outer, directory, gateway=port, api=api.port)), api, outer)

        yield stage


@pytest.fixture(params=[(outer, server) for outer in PROXIES for server in SERVERS], ids="-".join)
def stage(request: pytest.FixtureRequest, stages: Callable[..., Stage]) -> Stage:
    return stages(*request.param)


@pytest.fixture
def token() -> str:
    return mint(sub="1001", jti=f"outer-{next(fresh)}")


def test_the_whole_story_of_a_token(stage: Stage, token: str) -> None:
    refused = stage.ask("GET /info")
    assert (refused.status, refused.code) == (401, "missing-credentials")
    assert refused.fields.get_all("WWW-Authenticate") == [CHALLENGE]
    assert stage.ask("GET /info", token=token).body == b"from the API"
    assert json.loads(stage.ask("POST /blacklist", token=token).body)["blacklisted"] is True
    stage.assert_untouched()
    refused = stage.ask("GET /info", token=token)
    assert (refused.status, refused.code) == (401, "token-blacklisted")
    (challenge,) = refused.fields.get_all("WWW-Authenticate", [])
    assert challenge.startswith(f'{CHALLENGE}, error="invalid_token"')
    stage.assert_untouched()
    assert json.loads(stage.ask("DELETE /blacklist", token=token).body)["blacklisted"] is False
    assert stage.ask("GET /info", token=token).body == b"from the API"


def test_the_upstream_is_told_who_is_calling(stage: Stage, token: str) -> None:
    stage.ask("GET /info", token=token)
    (claims,) = stage.said_of("X-Token-Claims")
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["sub"] == "1001"
    assert stage.said_of("X-Token-Subject") == ["1001"]


def test_a_spoofed_field_never_reaches_the_upstream_in_any_spelling(stage: Stage, token: str) -> None:
    nobody = ([], [""])
    for line, caller, told in [
        ("GET /info", token, [["1001"]]),
        ("GET /info", mint(jti="no-sub"), nobody),
        ("GET /public", "", nobody),
    ]:
        assert stage.ask(line, *SPOOFED, token=caller).status == 200
        assert stage.said_of("X-Token-Subject") in told
        assert "admin" not in str(stage.api.last.fields)


def test_a_connection_field_does_not_take_the_trusted_fields_away(stage: Stage, token: str) -> None:
    stage.ask("GET /info", ("Connection", "x-token-subject, X-Token-Claims"), token=token)
    assert stage.said_of("X-Token-Subject") == ["1001"]
    assert "x-token-subject" not in "".join(stage.said_of("Connection")).lower()


def test_path_method_and_body_reach_the_upstream_as_they_were(stage: Stage, token: str) -> None:
    stage.ask("PATCH /a%2Fb//c?x=%41&x", token=token, body=b"a body")
    (request,) = stage.api.requests
    assert (request.line, request.body) == ("PATCH /a%2Fb//c?x=%41&x HTTP/1.1", b"a body")


def test_credentials_that_are_not_one_token_are_a_bad_request(stage: Stage, token: str) -> None:
    refused = stage.ask("POST /info", ("Authorization", "Bearer one two"), body=b"a body")
    assert (refused.status, refused.code) == (400, "malformed-credentials")
    assert refused.fields["WWW-Authenticate"].startswith(f'{CHALLENGE}, error="invalid_request"')
    assert stage.ask("GET /info", ("Authorization", f"Bearer {token}"), token=token).status == 400
    assert stage.ask("GET /info", ("Authorization", "Basic eDp5"), token=token).status in (400, 401)
    stage.assert_untouched()


def test_a_refusal_to_head_has_no_body(stage: Stage) -> None:
    refused = stage.ask("HEAD /info")
    assert (refused.status, refused.fields["WWW-Authenticate"], refused.body) == (401, CHALLENGE, b"")


def test_public_paths_need_no_token_and_no_others_do(stage: Stage) -> None:
    names = ("X-Original-URL", "X-Original-URI", "X-Rewrite-URL", "X-Script-Name", "SCRIPT_NAME", "X-Forwarded-Prefix")
    others = [(name, "/secret") for name in names]
    for target in ("/public", "/public?ids=1,2", "/open/to/all"):
        assert stage.ask(f"GET {target}", *others).status == 200
        assert stage.api.last.target == target
        assert "/secret" not in str(stage.api.last.fields)
    for target in (
        "/secret?/public",
        "/open/../secret",
        "/open/%2e%2e/secret",
        "/open/..%2fsecret",
        "//public",
        "/publicity",
        "/public,/public",
    ):
        assert stage.ask(f"GET {target}").status in (400, 401)
        stage.assert_untouched()


@pytest.mark.parametrize(
    "name", ["X-Forwarded-Uri", "X-Original-URI", "X_Forwarded_Uri", "X-Original_URI", "X-Original-Url"]
)
def test_what_is_asked_about_is_never_the_clients_word(stage: Stage, name: str) -> None:
    method = name.replace("Uri", "Method").replace("URI", "Method")
    assert stage.ask("GET /secret", (name, "/public"), (method, "GET")).code == "missing-credentials"
    assert stage.ask("GET /secret", (name, "/public"), ("Connection", "X-Forwarded-Uri, X-Original-URI")).status == 401
    assert stage.ask("DELETE /secret", (method, "OPTIONS"), *PREFLIGHT).code == "missing-credentials"
    stage.assert_untouched()


def test_a_preflight_passes_and_nothing_like_it(stage: Stage) -> None:
    assert stage.ask("OPTIONS /secret", *PREFLIGHT).body == b"from the API"
    for line, fields in [("GET /secret", PREFLIGHT), ("OPTIONS /secret", PREFLIGHT[:1])]:
        assert stage.ask(line, *fields).status == 401
        stage.assert_untouched()


@pytest.mark.parametrize("outer", PROXIES)
def test_without_trust_the_outer_proxys_word_counts_for_nothing(
    stages: Callable[..., Stage], outer: str, token: str
) -> None:
    untrusted = stages(outer, "bundled", 0)
    assert untrusted.ask("GET /public").code == "missing-credentials"
    assert untrusted.ask("OPTIONS /secret", *PREFLIGHT).code == "missing-credentials"
    untrusted.assert_untouched()
    assert untrusted.ask("GET /public", token=token).status == 200


def test_a_trailer_does_not_spoof_a_trusted_field(stage: Stage, token: str) -> None:
    head = f"POST /info HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n"
    trailers = "X-Token-Subject: admin\r\nX_Token_Subject: admin\r\n"
    stage.api.requests.clear()
    with Client(stage.port, f"{head}Trailer: X-Token-Subject\r\n\r\n1\r\nx\r\n0\r\n{trailers}\r\n".encode()) as client:
        client.read_until(b"from the API")
    assert stage.said_of("X-Token-Subject") == ["1001"]
    # HAProxy passes trailers on, as trailers: an upstream must not take them for fields (RFC 9110 section 6.5.1).
    assert stage.api.last.trailers == [] or stage.outer == "haproxy"


@pytest.mark.parametrize("outer", PROXIES)
def test_without_a_gateway_nothing_passes(outer: str, tmp_path: Path, token: str) -> None:
    with Recorder() as api, proxy(outer, tmp_path, gateway=free_port(), api=api.port) as port:
        stage = Stage(port, api)
        for line in ("GET /info", "POST /blacklist", "GET /public"):
            assert stage.ask(line, token=token).status in (500, 502, 503)
            stage.assert_untouched()


SAID_OF_ITSELF = [
    ("X-Forwarded-For", "6.6.6.6"),
    ("Forwarded", "for=6.6.6.6;proto=gopher;host=evil.test"),
    ("X-Forwarded-Proto", "gopher"),
]


@pytest.mark.parametrize("outer", PROXIES)
def test_who_asks_is_the_peer_whatever_a_client_says_of_itself(outer: str, tmp_path: Path, token: str) -> None:
    admitted = response(b"", ("Content-Length", "0"), ("X-Token-Claims", "e30"), ("X-Token-Subject", "1"))
    with (
        Recorder(admitted) as decision,
        Recorder() as api,
        proxy(outer, tmp_path, gateway=decision.port, api=api.port) as port,
    ):
        decision.requests.clear()
        for line in ("GET /info", "POST /blacklist", "GET /blacklist/entries"):
            Stage(port, api).ask(line, *SAID_OF_ITSELF, ("traceparent", TRACE), token=token)
        assert len(decision.requests) == 3
        for request in (*decision.requests, *api.requests):
            assert request.field("traceparent") == TRACE
            assert request.field("X-Forwarded-For") == "127.0.0.1"
            assert "6.6.6.6" not in str(request.fields)
            assert "gopher" not in str(request.fields)


def hang_up(talk: Talk) -> None:
    talk.close()


@pytest.mark.parametrize("outer", PROXIES)
def test_whatever_the_gateway_answers_but_success_nothing_passes(outer: str, tmp_path: Path, token: str) -> None:
    others = [
        ok(status=status) for status in ("302 Found", "403 Forbidden", "404 Not Found", "500 Internal Server Error")
    ]
    with Recorder() as decision, Recorder() as api, proxy(outer, tmp_path, gateway=decision.port, api=api.port) as port:
        for answer in (*others, b"this is not HTTP\r\n\r\n", hang_up):
            decision.answer = answer
            with suppress(HTTPException):  # nginx passes on what is no HTTP
                assert Stage(port, api).ask("GET /info", token=token).status >= 300
            assert api.requests == []


@pytest.mark.parametrize("outer", ["nginx", "haproxy", "caddy", "traefik"])  # Envoy answers its own 503, without a body
def test_why_the_gateway_cannot_decide_is_passed_on(outer: str, tmp_path: Path, token: str) -> None:
    fields = [("Content-Type", "application/problem+json"), ("Retry-After", "1"), ("Access-Control-Allow-Origin", "*")]
    unavailable = ok(b'{"type": "urn:jwt-gateway:store-unavailable"}', *fields, status="503 Service Unavailable")
    with Recorder(unavailable) as decision, proxy(outer, tmp_path, gateway=decision.port, api=free_port()) as port:
        refused = ask(port, "GET /info", ("Authorization", f"Bearer {token}"))
        assert (refused.status, refused.code, refused.fields["Retry-After"]) == (503, "store-unavailable", "1")
        assert refused.fields["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("outer", PROXIES)
def test_an_answer_without_the_trusted_fields_lets_none_of_the_clients_through(
    outer: str, tmp_path: Path, token: str
) -> None:
    bare = response(b"", ("Content-Length", "0"))
    with (
        Recorder(bare) as decision,
        Recorder() as api,
        proxy(outer, tmp_path, gateway=decision.port, api=api.port) as port,
    ):
        Stage(port, api).ask("GET /info", ("X-Token-Subject", "admin"), ("X-Token-Claims", "admin"), token=token)
        assert b"admin" not in b"".join(request.head for request in api.requests)
        if outer == "haproxy":  # its script fails here, and fails closed
            assert api.requests == []

"""Gate: what is let through, what is refused, alike on every path and method, and what stays open to operators."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ABSENT, EXPIRES, ISSUER, NOW, SECRET, Api, Clock, assert_refused, b64, mint, sign

from gateway import Gateway, Settings
from gateway.auth.keyset import KeysRefused
from gateway.blacklist.stores import StoreRefused
from gateway.http.problems import Problem
from upstream.app import app as sample_api

TOKEN = mint(sub="1001", scope="blacklist:admin")
PATHS = ["/", "/info", "/info?a=1", "/a/b", "/blacklist", "/blacklist/entries", "/blacklist/x", "/-/auth", "/-/x"]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]

# One for each code; all there are: tests/unit/auth.
CREDENTIALS = [
    (None, "missing-credentials"),
    ("", "missing-credentials"),
    ("Basic dXNlcjpwYXNz", "unsupported-scheme"),
    (f"Bearer {TOKEN},Bearer {TOKEN}", "malformed-credentials"),
    ("Bearer garbage", "malformed-token"),
    ("Bearer " + TOKEN + "=", "malformed-token"),
    ("Bearer " + "." * 100_000, "malformed-token"),
    ("Bearer " + sign({"alg": "none"}, {"iss": ISSUER, "exp": EXPIRES}), "algorithm-not-allowed"),
    ("Bearer " + mint("wrong"), "bad-signature"),
    ("Bearer " + mint(exp=ABSENT), "missing-claim"),
    ("Bearer " + mint(exp=True), "invalid-claim"),
    ("Bearer " + mint(iss="https://evil.test/"), "wrong-issuer"),
    ("Bearer " + mint(exp=int(NOW)), "token-expired"),
    ("Bearer " + mint(nbf=int(NOW) + 1), "token-not-yet-valid"),
]


@pytest.mark.parametrize(("field", "code"), CREDENTIALS)
def test_refusals_are_alike_on_every_path_and_method(api: Api, upstream: Any, field: str | None, code: str) -> None:
    """And come before anything is sent upstream."""
    headers = {} if field is None else {"Authorization": field}
    answers = [api(method, path, headers=headers) for path in PATHS for method in METHODS]
    for answer in answers:
        assert_refused(answer, code)
    assert len({(answer.data, answer.headers.get("WWW-Authenticate")) for answer in answers}) == 1
    assert not upstream.requests
    if len(field or "") > 40:
        assert (field or "").split()[-1] not in f"{answers[0].headers}{answers[0].data}"


def test_a_refused_head_has_no_body(make_gate: Any) -> None:
    answer = Api(make_gate())("HEAD", "/info")
    assert (answer.status_code, answer.data) == (401, b"")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="gateway"'


def test_a_token_may_have_8192_bytes(api: Api) -> None:
    tokens = [mint(padding="x" * length) for length in range(6005, 6030)]
    assert {len(token) for token in tokens} >= {8192, 8193}
    for token in tokens:
        assert (api("GET", "/", token).status_code == 200) == (len(token) <= 8192)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize("method", METHODS)
def test_a_good_token_goes_through(api: Api, upstream: Any, method: str, scheme: str) -> None:
    answer = api(method, "/a/b?x=1", headers={"Authorization": f"{scheme} {TOKEN}"})
    assert (answer.status_code, answer.json) == (200, {"path": "/a/b"})
    assert len(upstream.requests) == 1


def test_an_audience_is_demanded_where_it_is_set(make_api: Any) -> None:
    api = make_api(audience="api")
    assert api("GET", "/", mint(aud=["web", "api"])).status_code == 200
    assert_refused(api("GET", "/", mint(aud="web")), "wrong-audience")
    assert_refused(api("GET", "/", mint()), "missing-claim")


def test_a_key_that_is_not_known_is_told_from_a_bad_signature(make_api: Any, tmp_path: Path) -> None:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(b"\x58" + b"\x66" * 31), "kid": "a", "alg": "EdDSA"}
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [jwk]}))
    api = make_api(jwks_url=str(tmp_path / "jwks.json"), algorithms="EdDSA")
    claims = {"iss": ISSUER, "exp": EXPIRES}
    assert_refused(api("GET", "/", sign({"alg": "EdDSA", "kid": "b"}, claims)), "unknown-key")
    assert_refused(api("GET", "/", sign({"alg": "EdDSA", "kid": "a"}, claims)), "bad-signature")


def test_keys_that_cannot_be_had_are_no_fault_of_the_token(make_gate: Any) -> None:
    others = "https://other.test/"
    issuers = [{"issuer": ISSUER, "secret": "discogs"}, {"issuer": others, "jwks_url": "http://127.0.0.1:1/jwks"}]
    gate = make_gate(issuers=json.dumps(issuers))
    api, theirs = Api(gate), sign({"alg": "RS256"}, {"iss": others, "exp": EXPIRES})
    assert_refused(api("GET", "/info", theirs), "keys-unavailable")
    assert_refused(api("POST", "/blacklist", TOKEN, json={"token": theirs}), "keys-unavailable")
    assert api("GET", "/-/ready").status_code == 200  # for all others
    assert api("GET", "/info", TOKEN).status_code == 200
    gate._issuers[1].keys.close()


# What is cached, and what never is.


def test_a_token_seen_before_is_checked_again(api: Api, clock: Clock) -> None:
    token = mint(exp=int(NOW) + 10)
    assert api("GET", "/", token).status_code == 200
    api("POST", "/blacklist", token)
    assert_refused(api("GET", "/", token), "token-blacklisted")
    api("DELETE", "/blacklist", token)
    assert api("GET", "/", token).status_code == 200
    clock.advance(9.999)
    assert api("GET", "/", token).status_code == 200
    clock.advance(0.001)
    assert_refused(api("GET", "/", token), "token-expired")
    assert_refused(api("DELETE", "/blacklist", token), "token-expired")


# A store that fails.


@pytest.fixture
def broken(make_gate: Any, store_url: str) -> Gateway:
    """A gate whose store's file has been emptied underneath it."""
    gate: Gateway = make_gate(public_paths="/open")
    assert Api(gate)("GET", "/info", TOKEN).status_code == 200
    os.truncate(store_url.removeprefix("sqlite:///"), 0)
    return gate


def test_nothing_passes_while_the_store_is_unavailable(broken: Gateway, upstream: Any) -> None:
    upstream.requests.clear()
    api = Api(broken)
    for path in ("/", "/info", "/blacklist", "/blacklist/entries", "/-/auth", "/open"):
        for method in ("GET", "POST", "DELETE"):
            assert_refused(api(method, path, TOKEN), "store-unavailable")
    assert not upstream.requests


def test_what_asks_nothing_of_the_store_goes_on_while_it_fails(broken: Gateway) -> None:
    api = Api(broken)
    assert api("GET", "/open").status_code == 200
    assert_refused(api("GET", "/info"), "missing-credentials")
    assert_refused(api("GET", "/info", mint("wrong")), "bad-signature")


# Operators' routes.


@pytest.mark.parametrize(("path", "body"), [("/-/live", b"live\n"), ("/-/ready", b"ready\n")])
@pytest.mark.parametrize("token", [None, TOKEN, "garbage"])
def test_alive_and_ready_need_no_token_and_tell_no_detail(api: Api, path: str, body: bytes, token: str | None) -> None:
    answer = api("GET", path, token)
    assert (answer.status_code, answer.data) == (200, body)
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("method", METHODS)
def test_the_decision_alone_answers_any_method_without_a_body(api: Api, upstream: Any, method: str) -> None:
    answer = api(method, "/-/auth", TOKEN)
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["X-Token-Subject"] == "1001"
    assert answer.headers["X-Token-Claims"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert not upstream.requests


def test_the_decision_alone_refuses_a_blacklisted_token(api: Api) -> None:
    api("POST", "/blacklist", TOKEN)
    assert_refused(api("GET", "/-/auth", TOKEN), "token-blacklisted")


# Before the body is read.


class Unread(io.RawIOBase):
    """A body that nobody may ask for."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("what is decided by the head needs no body")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("token", [None, mint("wrong")])
def test_a_refusal_needs_no_body(gate: Gateway, path: str, token: str | None) -> None:
    fields = {} if token is None else {"HTTP_AUTHORIZATION": f"Bearer {token}"}
    assert status_without_body(gate, "POST", path, fields) == "401 Unauthorized"


@pytest.mark.parametrize(("method", "path"), [("POST", "/-/auth"), ("GET", "/-/live")])
def test_what_is_decided_by_the_head_needs_no_body(gate: Gateway, method: str, path: str) -> None:
    assert status_without_body(gate, method, path, {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}"}) == "200 OK"


def status_without_body(gate: Gateway, method: str, path: str, fields: dict[str, str]) -> str:
    """Return the status of an answer to a request whose body is still to come."""
    request = {"REQUEST_METHOD": method, "REQUEST_URI": path, "CONTENT_LENGTH": "999999999999999999", **fields}
    told: list[str] = []
    list(gate({**request, "wsgi.input": Unread()}, lambda status, *rest: told.append(status)))
    return told[0]


# Around an app in the same process.


@pytest.fixture
def wrapped(store_url: str) -> Iterator[Api]:
    gate = Gateway(sample_api, Settings(store=store_url, secret=SECRET))
    yield Api(gate)
    gate._blacklist.store.close()


def test_the_sample_api_knows_nothing_of_tokens_and_needs_to_know_nothing(wrapped: Api) -> None:
    token = mint(sub="1001")
    assert_refused(wrapped("GET", "/info"), "missing-credentials")
    info = wrapped("GET", "/info?a=1&a=2&b=", token).json
    assert info["service"] == "sample-api"
    assert info["request"] == {"method": "GET", "path": "/info", "params": {"a": ["1", "2"], "b": ""}}
    assert info["token"] == {"iss": ISSUER, "exp": EXPIRES, "sub": "1001"}
    assert wrapped("POST", "/blacklist", token).status_code == 200
    assert_refused(wrapped("GET", "/info", token), "token-blacklisted")
    assert wrapped("DELETE", "/blacklist", token).status_code == 200
    assert wrapped("GET", "/info", token).status_code == 200


def test_settings_may_be_given_by_name(upstream: Any, make_gate: Any) -> None:
    store = make_gate()._blacklist.store
    api = Api(Gateway(upstream, opened=store, issuer="me", secret="another"))
    assert api("GET", "/", mint("another", iss="me")).status_code == 200
    assert_refused(api("GET", "/", TOKEN), "wrong-issuer")


def test_a_setting_that_is_none_is_not_given(upstream: Any, monkeypatch: pytest.MonkeyPatch, store_url: str) -> None:
    """`audience=os.environ.get("API_AUDIENCE")` must not take away the audience that the environment sets."""
    monkeypatch.setenv("GATEWAY_AUDIENCE", "api")
    gate = Gateway(upstream, issuer=ISSUER, secret="discogs", store=store_url, audience=None)
    assert_refused(Api(gate)("GET", "/", mint(exp=9_999_999_999)), "missing-claim")
    with pytest.raises(KeysRefused, match="no secret is set"):
        Gateway(upstream, issuer=ISSUER, secret=None, store=store_url)


def test_the_store_may_be_given_by_its_url(upstream: Any, store_url: str) -> None:
    beside, api = (
        Api(Gateway(upstream, Settings(store=store_url, secret=SECRET))),
        Api(Gateway(upstream, store=store_url, secret=SECRET)),
    )
    beside("POST", "/blacklist", mint())
    assert_refused(api("GET", "/", mint()), "token-blacklisted")


def test_settings_are_given_in_one_way_only(upstream: Any) -> None:
    """What would be ignored might be the secret."""
    with pytest.raises(TypeError):
        Gateway(upstream, Settings(), secret="another")


def test_the_response_body_is_handed_through_and_closed_by_whoever_takes_it(make_gate: Any) -> None:
    class Body:
        closed = 0

        def __iter__(self) -> Iterator[bytes]:
            yield b"one"
            yield b"two"

        def close(self) -> None:
            self.closed += 1

    gate, body = make_gate(), Body()

    def app(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body

    gate.gate.app = app
    answer = Api(gate)("GET", "/", TOKEN)
    assert (answer.data, body.closed) == (b"onetwo", 1)


# What must not start.


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"algorithms": "HS256,RS256"}, KeysRefused),
        ({"algorithms": "none"}, KeysRefused),
        ({"algorithms": "RS256"}, KeysRefused),
        ({"public_key": "/does/not/exist"}, KeysRefused),
        ({"jwks_url": "http://idp.example/jwks"}, KeysRefused),
        ({"secret": "-----BEGIN PUBLIC KEY-----"}, KeysRefused),
        ({"store": "nonsense://x"}, StoreRefused),
        ({"store": "sqlite:////does/not/exist/x.sqlite3"}, StoreRefused),
    ],
)
def test_a_gate_that_could_not_keep_its_promises_does_not_start(
    upstream: Any, store_url: str, values: Any, fault: type[Exception]
) -> None:
    with pytest.raises(fault):
        Gateway(upstream, Settings(**{"store": store_url, "secret": SECRET, **values}))


def test_what_the_app_refuses_with_a_problem_is_answered_as_one(make_gate: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise Problem("upstream-unreachable")

    gate = make_gate()
    gate.gate.app = app
    assert_refused(Api(gate)("GET", "/", TOKEN), "upstream-unreachable")


def test_a_blacklisted_token_passes_at_no_time_that_a_jumping_clock_tells(api: Api, clock: Clock) -> None:
    short, long = (mint(jti=str(exp), exp=int(NOW) + exp, iat=int(NOW)) for exp in (100, 10**8))
    assert {api("POST", "/blacklist", token).status_code for token in (short, long)} == {200}
    for number, seconds in enumerate([0, 50, 3590, 99, -3590, 0, 101, 99, -(10**9), 0, 99.9, 10**7, 0]):
        clock.seconds = NOW + seconds
        if seconds < 3600:  # how long expired entries are kept; each change forgets some
            assert api("POST", "/blacklist", mint(jti=f"other {number}")).status_code == 200
        assert {api("GET", "/x", token).status_code for token in (short, long)} == {401}, seconds

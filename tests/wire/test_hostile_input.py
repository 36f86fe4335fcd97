"""Input nobody thought of: no 500, no hang, no pass for a blacklisted token, no refusal of a good one."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import EXPIRES, ISSUER, SECRET, mint, sign
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from recorder import Client, Recorder, ok, request, saying
from running import Running
from servers import Reply, parse

GOOD = mint(sub="good")
STOLEN = mint(sub="stolen")
OTHER = "https://other.test/"  # whose claims an admin may blacklist at will, without any effect on the rest
ADMIN = mint(iss=OTHER, scope="blacklist:admin")
ISSUERS = json.dumps([{"issuer": ISSUER, "secret": [SECRET]}, {"issuer": OTHER, "secret": [SECRET]}])
REFUSED = {400, 401, 403, 404, 405, 413, 415, 431, 501}

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "100"))  # of each property; docs/reliability.md ran many more

hostile = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def upstream() -> Iterator[Recorder]:
    with Recorder() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(upstream: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("hostile"), upstream.url, "--workers", "1", "--issuers", ISSUERS) as gateway:
        assert gateway.request("POST", "/blacklist", STOLEN).status == 200
        yield gateway


def ask(port: int, sent: bytes) -> Reply:
    """Return the answer to bytes that may lack an end; one that never comes fails."""
    with Client(port, sent) as client:
        client.sock.shutdown(socket.SHUT_WR)
        return parse(client.read_all())


def still_just(gateway: Running) -> None:
    assert gateway.get("/info", GOOD).status == 200
    assert gateway.get("/info", STOLEN).status == 401


@st.composite
def bent(draw: Any, texts: tuple[bytes, ...]) -> bytes:
    """Draw one of the texts with up to four bytes put in, taken out or replaced."""
    text = bytearray(draw(st.sampled_from(texts)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        piece = draw(
            st.binary(max_size=3) | st.sampled_from([b" ", b",", b".", b"=", b"\t", b"\r\n", b"\x00", b"\xff"])
        )
        text[start : start + draw(st.integers(0, 2))] = piece
    return bytes(text)


credentials = bent((f"Bearer {GOOD}".encode(), f"Bearer {STOLEN}".encode(), b"Bearer a.b.c")) | st.binary(max_size=60)


@hostile
@given(value=credentials)
@example(value=b"")
@example(value=f"Bearer {STOLEN}=".encode())
@example(value=f"Bearer {STOLEN}\xad".encode("latin-1"))
def test_no_authorization_but_a_good_one_is_one(gateway: Running, upstream: Recorder, value: bytes) -> None:
    upstream.requests.clear()
    sent = b"GET /info HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: " + value + b"\r\n\r\n"
    reply = ask(gateway.port, sent)
    told = value.split(b"\r\n")[0].strip(b" \t").partition(b" ")
    if (told[0].lower(), told[2]) == (b"bearer", GOOD.encode()):
        assert reply.status in REFUSED | {200}  # what stands after a line's end may spoil it
    else:
        assert reply.status in REFUSED
        assert not upstream.requests
    still_just(gateway)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([GOOD[:-4], "a.b.c"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["token", "jti", "sub", "sid", "issued_before", "reason", "iss"]) | st.text(max_size=4)
bodies = st.dictionaries(names, values, max_size=4).map(json.dumps).map(str.encode)
bodies |= values.map(json.dumps).map(str.encode) | st.binary(max_size=50)
bodies |= bent((b'{"sub": "x"}', b'{"jti": "1", "issued_before": 1}', b"token=a.b.c&token_type_hint=x"))


@hostile
@given(
    method=st.sampled_from(["POST", "DELETE", "GET"]),
    kind=st.sampled_from(["application/json", "application/x-www-form-urlencoded", "text/plain", "", "a/b; c="]),
    body=bodies,
    caller=st.sampled_from([ADMIN, GOOD, STOLEN]),
)
@example(method="POST", kind="application/json", body=b'{"token": "\\ud800"}', caller=ADMIN)
@example(method="POST", kind="application/json", body=b'{"sub": "x", "issued_before": 1e400}', caller=ADMIN)
@example(method="POST", kind="application/json", body=b'{"sub": ' + b"[" * 5000, caller=ADMIN)
@example(method="POST", kind="application/json", body=b'{"sub": ' + b"9" * 5000 + b"}", caller=ADMIN)
def test_no_body_breaks_the_blacklist(gateway: Running, method: str, kind: str, body: bytes, caller: str) -> None:
    fields = [("Authorization", f"Bearer {caller}"), ("Content-Type", kind)]
    if caller == GOOD and method == "POST" and not body:
        return  # which would blacklist it
    if caller == STOLEN and method == "DELETE" and not body:
        return  # which would lift it
    reply = ask(gateway.port, request(f"{method} /blacklist", *fields, body=body))
    assert reply.status in REFUSED | {200}, reply
    assert json.loads(reply.body)["success"] is (reply.status == 200)
    still_just(gateway)


claims = st.dictionaries(st.sampled_from(["sub", "jti", "sid", "iat", "nbf", "aud", "scope", "x"]), values, max_size=4)
payloads = claims.map(lambda more: json.dumps({"iss": ISSUER, "exp": EXPIRES, **more}).encode())
payloads |= bent((f'{{"iss": "{ISSUER}", "exp": {EXPIRES}, "sub": "1", "jti": "2"}}'.encode(),))
headers = st.just(b'{"alg": "HS256", "typ": "JWT"}') | bent((b'{"alg": "HS256", "kid": "1", "typ": "JWT"}',))


@hostile
@given(header=headers, payload=payloads)
@example(header=b'{"alg": "HS256"}', payload=f'{{"iss": "{ISSUER}", "exp": {EXPIRES}, "sub": "\\ud800"}}'.encode())
@example(header=b'{"alg": "HS256"}', payload=f'{{"iss": "{ISSUER}", "exp": {"9" * 4000}}}'.encode())
@example(header=b'{"alg": "HS256"}', payload=f'{{"iss": "{ISSUER}", "exp": 1e300, "jti": {"9" * 5000}}}'.encode())
def test_whatever_is_signed_is_refused_or_can_be_blacklisted(gateway: Running, header: bytes, payload: bytes) -> None:
    token = sign(header, payload)
    passed = gateway.get("/info", token).status
    if passed == 401:
        assert gateway.request("POST", "/blacklist", token).status == 401
    else:
        told = [
            gateway.request(method, path, token).status
            for method, path in [("POST", "/blacklist"), ("GET", "/info"), ("DELETE", "/blacklist"), ("GET", "/info")]
        ]
        assert (passed, told) == (200, [200, 401, 200, 200])


heads = bent(
    (
        request("GET /info"),
        request("POST /blacklist", ("Authorization", f"Bearer {STOLEN}"), ("Content-Length", "0")),
        request("POST /x", ("Transfer-Encoding", "chunked")) + b"5\r\nhello\r\n0\r\n\r\n",
        request("GET http://api.test/info", ("Authorization", "Bearer a.b.c")),
    )
)


@hostile
@given(sent=heads | st.binary(max_size=100))
def test_no_head_without_a_good_token_is_a_way_in(gateway: Running, upstream: Recorder, sent: bytes) -> None:
    upstream.requests.clear()
    status = ask(gateway.port, sent).status
    assert status in REFUSED | {0, 200, 505}  # 200 for a POST that blacklists the stolen token once more
    assert not upstream.requests
    still_just(gateway)


answers = bent(
    (
        ok(b"hello"),
        ok(b'{"a": 1}', ("Content-Type", "application/json")),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\nSet-Cookie: a=b\r\n\r\n",
        b"HTTP/1.0 304 Not Modified\r\nETag: x\r\n\r\n",
    )
)


@hostile
@given(answer=answers | st.binary(max_size=100), path=st.sampled_from(["/info", "/x"]))
def test_no_answer_of_the_upstream_breaks_the_gateway(
    gateway: Running, upstream: Recorder, answer: bytes, path: str
) -> None:
    upstream.answer = saying(answer)
    with Client(gateway.port, request(f"GET {path}", ("Authorization", f"Bearer {GOOD}"))) as client:
        reply = parse(client.read_all())
    upstream.answer = ok(b"own")
    assert reply.status != 0
    assert b"internal-error" not in reply.body
    assert gateway.get(path, GOOD).body == b"own"

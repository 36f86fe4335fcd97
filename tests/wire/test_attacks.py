"""An adversary on the wire: every class of advisory, against the running gateway under each server.

The upstream records raw bytes; what counts is what reached it.
"""

import gzip
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import as_bytes, b64, mint, sign, signature_spellings
from processes import children
from recorder import Client, Recorder, ok, request, response, saying
from servers import SERVERS, Fleet, Reply, Served

TOKEN = mint(sub="good", jti="good")
BEARER = ("Authorization", f"Bearer {TOKEN}")


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


@pytest.fixture(params=[SERVERS[0], *(pytest.param(server, marks=pytest.mark.slow) for server in SERVERS[1:])])
def server(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def gateway(fleet: Fleet, server: str) -> Served:
    return fleet.gateway(server)


@pytest.fixture
def upstream(fleet: Fleet, gateway: Served) -> Iterator[Recorder]:
    """Return the upstream with nothing recorded yet; whatever the attack, it never leads elsewhere."""
    fleet.upstream.requests.clear()
    fleet.upstream.answer = ok()
    yield fleet.upstream
    assert not fleet.trap.connections
    serves_on(gateway)


def serves_on(gateway: Served) -> None:
    """Assert that a good token passes and none does not, whatever was sent before."""
    assert gateway.ask(request("GET /info", BEARER)).status == 200
    assert gateway.ask(request("GET /info")).status == 401


def targets(upstream: Recorder) -> list[str]:
    return [seen.target for seen in upstream.requests]


def code(reply: Reply) -> str:
    return str(json.loads(reply.body)["type"]).rpartition(":")[2]


# Paths (CVE-2025-54576, CVE-2026-41059, CVE-2025-66490, CVE-2026-33494, CVE-2026-27588, CVE-2020-28724)

SPELLINGS = [
    *["/secret?x=/health", "/secret?/health", "/secret/health", "/health/", "/health/x", "/Health", "/%48ealth"],
    *["/%68ealth", "/health%2f", "/health%3f", "/health;x", "/./health", "/x/../health", "/health/../secret"],
    *["/static", "/static/../secret", "/static/..", "/static/./x", "/static/%2e%2e/secret", "/static/%2E%2E%2Fsecret"],
    *["/static/..%2fsecret", "/static/%252e%252e/secret", "/static/..;/secret", "/static/..\\secret"],
    *["/static//secret", "/static/\xc0\xae\xc0\xae/secret", "/static/%00", "/static%2fx", "/BLACKLIST", "/blacklist/"],
    *["/%62lacklist", "//blacklist", "/secret#/health", "/health#x", "//health", "//evil.test/health", "\\health"],
    *["health", "http://evil.test/health", "http://api.test@evil.test/health", "@evil.test/", "*", "/health\x01"],
]


@pytest.mark.parametrize("target", SPELLINGS, ids=ascii)
def test_only_the_very_bytes_of_a_public_path_pass_without_a_token(
    server: str, gateway: Served, upstream: Recorder, target: str
) -> None:
    reply = gateway.ask(request(f"GET {target}"))
    if server == "granian" and reply.status == 200:  # it decodes the path: then that is what goes on, too
        assert targets(upstream) in (["/health"], ["/static/x"])
    else:
        assert reply.status in (400, 401)
        assert not upstream.requests


@pytest.mark.parametrize("target", SPELLINGS, ids=ascii)
def test_a_target_goes_on_byte_for_byte_or_not_at_all(
    server: str, gateway: Served, upstream: Recorder, target: str
) -> None:
    reply = gateway.ask(request(f"GET {target}", BEARER))
    if server == "granian":
        assert len(upstream.requests) <= 1
    elif reply.status == 200:
        assert targets(upstream) == [target]
    else:
        assert reply.status in (400, 404)
        assert not upstream.requests


FIELDS = [
    *[
        (name, "/health")
        for name in (
            *["X-Forwarded-Uri", "X-Forwarded-Path", "X-Forwarded-Prefix", "X-Original-URL", "X-Original-URI"],
            *["X-Rewrite-URL", "Script-Name", "SCRIPT_NAME", "Path-Info", "PATH_INFO", "X-Accel-Redirect"],
        )
    ],
    *[("User-Agent", agent) for agent in ("GoogleHC/1.0", "kube-probe/1.30", "ELB-HealthChecker/2.0")],
    *[("Host", host) for host in ("a/health?", "a/b@c", "/health")],
    *[("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=127.0.0.1;host=health"), ("X-Forwarded-Host", "health")],
    *[("X-HTTP-Method-Override", "OPTIONS"), ("X-Forwarded-Method", "OPTIONS"), ("Cookie", f"access_token={TOKEN}")],
    *[("Proxy-Authorization", f"Bearer {TOKEN}"), ("Authorization_", f"Bearer {TOKEN}")],
    *[("X-Authorization", f"Bearer {TOKEN}"), ("X-Token-Claims", "e30"), ("X-Token-Subject", "admin")],
]


@pytest.mark.parametrize(("name", "value"), FIELDS, ids=lambda text: str(text)[:20])
@pytest.mark.parametrize("target", ["/secret", "/blacklist", "/-/auth", f"/secret?access_token={TOKEN}"])
def test_no_field_of_a_client_opens_a_door(
    gateway: Served, upstream: Recorder, name: str, value: str, target: str
) -> None:
    assert gateway.ask(request(f"GET {target}", (name, value))).status in (400, 401)
    assert not upstream.requests


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "Script-Name", "X-Forwarded-Prefix", "PATH_INFO"])
def test_no_field_moves_the_path(gateway: Served, upstream: Recorder, name: str) -> None:
    reply = gateway.ask(request("GET /x/blacklist", BEARER, (name, "/x")))
    assert reply.status in (200, 400)
    assert targets(upstream) == ["/x/blacklist"] * (reply.status == 200)


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_only_the_request_line_names_the_method(gateway: Served, upstream: Recorder, name: str) -> None:
    token = ("Authorization", f"Bearer {mint(jti=name)}")
    assert gateway.ask(request("POST /blacklist", token)).status == 200
    assert gateway.ask(request("POST /blacklist?_method=DELETE", token, (name, "DELETE"))).status == 200
    assert gateway.ask(request("GET /blacklist", token, (name, "DELETE"))).status == 200
    assert code(gateway.ask(request("GET /info", token))) == "token-blacklisted"


@pytest.mark.parametrize("method", ["get", "P{OST", "G(T", "\x01GET", "GET,POST"])
def test_an_odd_method_is_no_way_in(gateway: Served, upstream: Recorder, method: str) -> None:
    assert gateway.ask(request(f"{method} /secret")).status in (0, 400, 401, 405, 501)
    assert not upstream.requests


# Fields (CVE-2025-64484, CVE-2026-30851, CVE-2024-45410, CVE-2026-29054)


@pytest.mark.parametrize("path", ["/info", "/health"])
def test_no_spelling_of_a_trusted_field_reaches_the_upstream(gateway: Served, upstream: Recorder, path: str) -> None:
    names = [f"X{a}Token{b}{what}" for a in "-_." for b in "-_." for what in ("Subject", "Claims", "SUBJECT")]
    planted = [(name, "planted") for name in names]
    credentials = [BEARER] if path == "/info" else []
    reply = gateway.ask(request(f"GET {path}", *credentials, *planted))
    assert reply.status in (200, 400)
    for seen in upstream.requests:
        assert b"planted" not in seen.head
        assert seen.values("X-Token-Subject") == (["good"] if credentials else [])


@pytest.mark.parametrize("name", ["Connection", "connection", "CONNECTION"])
def test_a_client_cannot_have_a_field_of_the_gateway_removed(gateway: Served, upstream: Recorder, name: str) -> None:
    hit_list = "close, authorization, X-Forwarded-For, x-token-subject, X-Token-Claims, Via, Host, X-Mine"
    gateway.ask(request("GET /info", BEARER, ("X-Mine", "1"), (name, hit_list)))
    seen = upstream.last
    assert seen.field("Authorization") == BEARER[1]
    assert seen.field("X-Token-Subject") == "good"
    assert seen.names >= {"x-forwarded-for", "x-token-claims", "via", "host"}
    assert "x-mine" not in seen.names
    assert "authorization" not in (seen.field("Connection") or "").lower()


def test_credentials_come_once(gateway: Served, upstream: Recorder) -> None:
    bad = ("Authorization", f"Bearer {mint('other')}")
    for pair in ([BEARER, bad], [bad, BEARER], [BEARER, BEARER], [BEARER, ("authorization", "Basic eDp5")]):
        assert gateway.ask(request("GET /info", *pair)).status in (400, 401)
    assert not upstream.requests


# Framing (CVE-2024-1135, CVE-2024-6827, CVE-2019-16785, CVE-2022-24761, CVE-2024-28869)

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n"
FRAMINGS: dict[str, tuple[list[tuple[str, str]], bytes]] = {
    "both": ([("Content-Length", "5"), ("Transfer-Encoding", "chunked")], b"0\r\n\r\n" + SMUGGLED),
    "both, turned": ([("Transfer-Encoding", "chunked"), ("Content-Length", "5")], b"0\r\n\r\n" + SMUGGLED),
    "two lengths": ([("Content-Length", "0"), ("Content-Length", str(len(SMUGGLED)))], SMUGGLED),
    "a list": ([("Content-Length", "0, 0")], SMUGGLED),
    **{
        f"length {text!r}": ([("Content-Length", text)], SMUGGLED)
        for text in ("-1", "+0", "0x0", "0_0", "", " ", "0.0", "1e0", "\xb2", "0\x0b", "99999999999999999999999")
    },
    **{
        f"coding {text!r}": ([("Transfer-Encoding", text), ("Content-Length", "5")], b"0\r\n\r\n" + SMUGGLED)
        for text in ("xchunked", "chunked, identity", "identity", "chunked, chunked", "\x0bchunked", "chunked\x00", "")
    },
    "underscore": ([("Content_Length", str(len(SMUGGLED)))], SMUGGLED),
    "space before colon": ([("Content-Length ", str(len(SMUGGLED)))], SMUGGLED),
    "coding underscore": ([("Transfer_Encoding", "chunked"), ("Content-Length", "5")], b"0\r\n\r\n" + SMUGGLED),
    "folded": ([("X", "a\r\n Content-Length: 9"), ("Content-Length", "0")], SMUGGLED),
    "bare LF": ([("X", f"a\nContent-Length: {len(SMUGGLED)}")], SMUGGLED),
    "bare CR": ([("X", f"a\rContent-Length: {len(SMUGGLED)}")], SMUGGLED),
    "chunk size": ([("Transfer-Encoding", "chunked")], b"0x0\r\n\r\n" + SMUGGLED),
    "signed chunk": ([("Transfer-Encoding", "chunked")], b"+0\r\n\r\n" + SMUGGLED),
    "chunk extension": ([("Transfer-Encoding", "chunked")], b"0;a\n\r\n\r\n" + SMUGGLED),
    "huge chunk": ([("Transfer-Encoding", "chunked")], b"1" + b"0" * 16 + b"\r\n\r\n" + SMUGGLED),
    "LF chunks": ([("Transfer-Encoding", "chunked")], b"0\n\n" + SMUGGLED),
    "chunk too long": ([("Transfer-Encoding", "chunked")], b"1\r\nab0\r\n\r\n" + SMUGGLED),
    "trailers": ([("Transfer-Encoding", "chunked")], b"0\r\nAuthorization: x\r\nContent-Length: 9\r\n\r\n" + SMUGGLED),
}


@pytest.mark.parametrize("case", FRAMINGS)
def test_no_framing_smuggles_a_request(gateway: Served, upstream: Recorder, server: str, case: str) -> None:
    fields, body = FRAMINGS[case]
    sent = request("POST /echo", BEARER, ("Connection", "keep-alive"), *fields) + body
    received = exchange_half_closed(gateway.port, sent)
    answers = len(re.findall(rb"HTTP/1\.1 200", received))
    # granian may not answer a client that has closed its half.
    assert answers == len(upstream.requests) or (server == "granian" and not answers)
    assert len(upstream.requests) <= 1
    for seen in upstream.requests:
        framing = [name for name, _ in seen.fields if name.lower() in ("content-length", "transfer-encoding")]
        assert len(framing) <= 1
        assert seen.target == "/echo"
    serves_on(gateway)
    assert "/smuggled" not in targets(upstream)


def exchange_half_closed(port: int, sent: bytes) -> bytes:
    """Send bytes and the end of them, and return all that comes back."""

    with Client(port, sent) as client:
        client.sock.shutdown(socket.SHUT_WR)
        return client.read_all()


def test_a_pipelined_request_needs_a_token_of_its_own(gateway: Served, upstream: Recorder) -> None:
    first = request("GET /first", BEARER, ("Connection", "keep-alive"))
    received = exchange_half_closed(gateway.port, first + request("GET /second"))
    assert received.count(b"HTTP/1.1 200") <= 1
    assert "/second" not in targets(upstream)


@pytest.mark.parametrize("line", ["CONNECT api.test:443", "CONNECT /info", "GET /info"])
def test_nothing_leaves_http(gateway: Served, upstream: Recorder, line: str) -> None:
    fields = [("Upgrade", "other"), ("Connection", "Upgrade")] if line.startswith("GET") else []
    received = exchange_half_closed(gateway.port, request(line, BEARER, *fields) + b"\x81\x00")
    assert re.match(rb"HTTP/1.1 [45]", received)
    assert not upstream.requests


@pytest.mark.parametrize("text", ["%0d%0aX-Planted:%201", "%0aX-Planted:1", "%00", "%0d%0a%0d%0aGET%20/smuggled"])
def test_encoded_line_ends_stay_encoded(gateway: Served, upstream: Recorder, text: str) -> None:
    for target in (f"/a{text}", f"/a?b={text}"):
        upstream.requests.clear()
        assert gateway.ask(request(f"GET {target}", BEARER)).status == 200
        assert targets(upstream)[0].lower() == target.lower()
        assert "x-planted" not in upstream.last.names


@pytest.mark.parametrize(
    "answer",
    [
        response(b"", ("X", "a\r\n b")),
        response(b"", ("X", "a\nSet-Cookie: planted=1")),
        response(b"", ("X", "a\rSet-Cookie: planted=1")),
        response(b"", ("X", "a\0b")),
        response(b"", ("X y", "1")),
        response(b"", ("Content-Length", "1"), ("Content-Length", "2")) + b"ab",
        response(b"", ("Content-Length", "-1")) + b"ab",
        response(b"", ("Transfer-Encoding", "chunked")) + b"zz\r\n",
        b"HTTP/1.1 200\x00OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"\x00" * 4096,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        response(b"hello", ("Content-Length", "5")) + ok(b"planted for the next"),
    ],
    ids=range(14),
)
def test_a_broken_upstream_spoils_its_own_answer_alone(
    server: str, gateway: Served, upstream: Recorder, answer: bytes
) -> None:
    upstream.answer = saying(answer)
    reply = gateway.ask(request("GET /broken", BEARER))
    # A head that has not been sent yet gives way to the refusal; gunicorn has only its own 500.
    assert reply.status in (0, 200, 502, *([500] if server == "gunicorn" else []))
    assert not re.search(r"(?im)^set-cookie:", reply.head)
    upstream.answer = ok(b"own")
    assert gateway.ask(request("GET /next", BEARER)).body == b"own"


# Credentials that leak (CVE-2014-1829, CVE-2018-18074, CVE-2023-32681, CVE-2024-47081)


def test_redirects_and_cookies_and_the_environment_lead_nowhere(
    fleet: Fleet, gateway: Served, upstream: Recorder
) -> None:
    upstream.answer = ok(b"", ("Location", fleet.trap.url), ("Set-Cookie", "session=alice"), status="302 Found")
    assert gateway.ask(request("GET /go", BEARER)).status == 302
    upstream.answer = ok()
    other = ("Authorization", f"Bearer {mint(sub='bob')}")
    assert gateway.ask(request("GET /go", other, ("Cookie", "mine=1"))).status == 200
    assert upstream.last.field("Cookie") == "mine=1"
    assert upstream.last.field("Authorization") == other[1]  # and not netrc's


def test_a_decompression_bomb_is_passed_on_as_it_is(gateway: Served, upstream: Recorder) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    for path in ("/bomb", "/info"):
        upstream.answer = ok(bomb, ("Content-Encoding", "gzip"), ("Content-Type", "application/json"))
        before = peak_kib(gateway)
        assert gateway.ask(request(f"GET {path}", BEARER)).body == bomb
        assert peak_kib(gateway) - before < 20_000


def peak_kib(gateway: Served) -> int:
    """Return the highest resident memory of the server's processes so far, in KiB."""
    return max(int(re.findall(r"VmHWM:\s+(\d+)", (entry / "status").read_text())[0]) for entry in family(gateway))


def family(gateway: Served) -> list[Path]:
    pid = gateway.pid
    return [Path(f"/proc/{each}") for each in (pid, *children(pid))]


# Tokens (CVE-2025-30204, CVE-2024-28180, CVE-2026-102269, CVE-2026-32597, CVE-2026-102267)


def forgeries(trap: str) -> dict[str, str]:
    payload = {"iss": "https://www.discogs.com/", "exp": 2_053_218_952}
    head = {"alg": "HS256"}
    header, body, signature = TOKEN.split(".")
    unsigned = b64(as_bytes({"alg": "none"})) + f".{body}."
    return {
        "five parts": ".".join([header, "e30", "e30", body, signature]),
        "no signature": f"{header}.{body}.",
        "alg none": unsigned,
        "alg none, signed": unsigned + signature,
        "alg list": sign({"alg": ["HS256"]}, payload),
        "alg null": sign({"alg": None}, payload),
        "alg lower case": sign({"alg": "hs256"}, payload),
        "jku": sign({**head, "jku": trap, "kid": "x"}, payload, "other"),
        "x5u": sign({**head, "x5u": trap}, payload, "other"),
        "jwk": sign({**head, "jwk": {"kty": "oct", "k": b64(b"other")}}, payload, "other"),
        "crit": sign({**head, "crit": ["exp"], "exp": 1}, payload),
        "b64": sign({**head, "b64": False, "crit": ["b64"]}, payload),
        "zip": sign({**head, "zip": "DEF"}, payload),
        "padded": TOKEN + "=",
        "no iss": sign(head, {"exp": 2_053_218_952}),
        "iss list": sign(head, {**payload, "iss": [payload["iss"]]}),
        "iss prefix": sign(head, {**payload, "iss": "https://www.discogs.com"}),
        "no exp": sign(head, {"iss": payload["iss"]}),
        "exp text": sign(head, {**payload, "exp": "9_999_999_999"}),
        "exp true": sign(head, {**payload, "exp": True}),
        "exp infinite": sign(head, '{"iss":"https://www.discogs.com/","exp":1e400}'),
        "exp twice": sign(head, '{"iss":"https://www.discogs.com/","exp":1,"exp":2053218952}'),
        "expired": mint(exp=1),
        "not yet": mint(nbf=2_053_218_000),
        "nested": sign(head, "[" * 3000),
        "utf-16": sign(head, json.dumps(payload).encode("utf-16")),
        "no object": sign(head, "[]"),
    }


@pytest.mark.parametrize("name", forgeries(""))
def test_a_forgery_is_refused(fleet: Fleet, gateway: Served, upstream: Recorder, name: str) -> None:
    reply = gateway.ask(request("GET /info", ("Authorization", f"Bearer {forgeries(fleet.trap.url)[name]}")))
    assert reply.status == 401
    assert not upstream.requests


@pytest.mark.parametrize("text", ["." * 8000, "." * 60_000, "a" * 60_000, "a.b." + "c" * 60_000], ids=range(4))
def test_a_monster_is_refused(gateway: Served, upstream: Recorder, text: str) -> None:
    assert gateway.ask(request("GET /info", ("Authorization", f"Bearer {text}"))).status in (400, 401, 431)
    assert not upstream.requests


def test_a_blacklisted_token_passes_in_no_spelling(gateway: Served, upstream: Recorder) -> None:
    token = mint(jti="stolen")
    assert gateway.ask(request("POST /blacklist", ("Authorization", f"Bearer {token}"))).status == 200
    spelled = signature_spellings(token) | {token + "=", token + "==", token + "\x00", token.replace(".", "..")}
    for scheme in ("Bearer", "bearer", "BEARER"):
        for text in (token, *sorted(spelled)):
            reply = gateway.ask(request("GET /info", ("Authorization", f"{scheme} {text}")))
            assert reply.status in (400, 401), text
    assert gateway.ask(request("GET /health", ("Authorization", f"Bearer {token}"))).status == 401
    assert not upstream.requests

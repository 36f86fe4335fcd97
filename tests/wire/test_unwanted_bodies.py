"""Bodies through the running gateway: what needs none is answered by its head; what frames them is read strictly."""

import pytest
from helpers import mint
from recorder import Client, Recorder, exchange, request
from running import Running

KEEP = ("Connection", "keep-alive")
CHUNKED = ("Transfer-Encoding", "chunked")
TOKEN = mint(sub="bodies")
BEARER = ("Authorization", f"Bearer {TOKEN}")
ENDLESS = ("Content-Length", "999999999999999999")


@pytest.mark.parametrize(
    ("line", "fields", "status"),
    [
        ("GET /-/live", (), 200),
        ("POST /-/auth", (BEARER,), 200),
        ("POST /", (), 401),
        ("POST /blacklist", (), 401),
        ("POST /blacklist", (BEARER,), 413),
        ("PUT /blacklist", (BEARER,), 405),
        ("POST /", (BEARER,), 413),
    ],
)
def test_what_needs_no_body_is_answered_by_its_head(
    gateway: Running, line: str, fields: tuple[tuple[str, str], ...], status: int
) -> None:
    with Client(gateway.port, request(line, KEEP, ENDLESS, *fields)) as client:
        answer = client.read_until(b"\r\n\r\n")
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(("fields", "status"), [((BEARER,), 200), ((), 401)])
def test_a_decision_does_not_wait_for_a_body_and_takes_no_later_request_for_one(
    gateway: Running, fields: tuple[tuple[str, str], ...], status: int
) -> None:
    """An outer proxy that sends the head alone uses the connection for somebody else next."""
    with Client(gateway.port, request("POST /-/auth", KEEP, ("Content-Length", "5"), *fields)) as client:
        answer = client.read_until(b"\r\n\r\n")
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert b"\r\nConnection: close\r\n" in answer


def test_a_decision_without_a_body_keeps_its_connection(gateway: Running) -> None:
    with Client(gateway.port, request("POST /-/auth", KEEP, BEARER, ("Content-Length", "0"))) as client:
        assert b"\r\nConnection: close\r\n" not in client.read_until(b"\r\n\r\n")


@pytest.mark.parametrize("path", ["/", "/blacklist"])
@pytest.mark.parametrize("end", [b"0\r\nX: y\n\r\n", b"\r\n0\r\n\r\n", b"2\r\nabc\r\n0\r\n\r\n"])
def test_behind_a_badly_framed_body_nothing_is_answered(
    gateway: Running, upstream: Recorder, path: str, end: bytes
) -> None:
    before = len(upstream.requests)
    answer = exchange(gateway.port, request(f"POST {path}", KEEP, CHUNKED, BEARER) + end + request("GET /", BEARER))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert len(upstream.requests) == before


def test_a_blacklisted_token_is_refused_once_and_for_all_before_its_body(gateway: Running, upstream: Recorder) -> None:
    token = mint(sub="restored")
    assert gateway.request("POST", "/blacklist", token).status == 200
    before = len(upstream.requests)
    bearer = ("Authorization", f"Bearer {token}")
    with Client(gateway.port, request("POST /", KEEP, CHUNKED, bearer)) as client:
        client.read_until(b"token-blacklisted")
        assert gateway.request("DELETE", "/blacklist", token).status == 200
        client.sock.sendall(b"3\r\nabc\r\n0\r\n\r\n")
        assert client.read_all().count(b"HTTP/1.1 ") == 1
    assert len(upstream.requests) == before


def test_a_token_that_is_taken_back_while_its_body_comes_takes_nothing_back_itself(gateway: Running) -> None:
    admin, body = mint(sub="admin", scope="blacklist:admin"), b'{"sub": "victim"}'
    bearer = ("Authorization", f"Bearer {admin}")
    fields = (bearer, ("Content-Type", "application/json"), ("Content-Length", str(len(body))))
    with Client(gateway.port, request("POST /blacklist", *fields) + body[:5]) as client:
        assert gateway.get("/", mint(sub="victim")).status == 200  # by now the head has been judged
        assert gateway.request("POST", "/blacklist", admin).status == 200
        client.sock.sendall(body[5:])
        assert b"urn:jwt-gateway:token-blacklisted" in client.read_all()
    assert gateway.get("/", mint(sub="victim")).status == 200

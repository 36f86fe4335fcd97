"""The bundled server's HTTP: strict in what it reads, byte-faithful in what it sends."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundled import Bundled
from recorder import Client, chunked, exchange, request, until

KEEP = ("Connection", "keep-alive")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with Bundled(tmp_path_factory.mktemp("bundled"), workers=1) as server:
        yield server.port


def ask(port: int, line: str = "GET /echo", *fields: tuple[str, str], body: bytes = b"") -> dict[str, Any]:
    """Return what the app was told of a request."""
    answer = exchange(port, request(line, *fields, body=body))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    told: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return told


def head(answer: bytes) -> list[str]:
    return answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")


# What the app is told


@pytest.mark.parametrize(
    "target", ["/a%2Fb", "/%2e%2e/x", "//a", "/a;b=c", "/%zz", "/a?", "/[x]", "/caf\xe9", "*", "http://api.test/a?b"]
)
def test_the_target_is_given_as_sent(port: int, target: str) -> None:
    assert ask(port, f"GET {target}")["REQUEST_URI"] == target


def test_a_long_target_of_no_form_holds_nobody_up(port: int) -> None:
    assert exchange(port, request("GET " + "a" * 200_000)).startswith(b"HTTP/1.1 ")


def test_the_path_is_given_decoded(port: int) -> None:
    told = ask(port, "GET /a%2Fb%C3%A9?x=%20")
    assert (told["PATH_INFO"], told["QUERY_STRING"]) == ("/a/b\xc3\xa9", "x=%20")


@pytest.mark.parametrize("method", ["get", "Purge", "M-SEARCH", "!#$%&'*+"])
def test_the_method_is_given_as_sent(port: int, method: str) -> None:
    assert ask(port, f"{method} /echo")["REQUEST_METHOD"] == method


def test_repeated_fields_are_joined_as_each_kind_may_be(port: int) -> None:
    told = ask(port, "GET /echo", ("Accept", "a"), ("accept", "b"), ("Cookie", "a=1"), ("Cookie", "b=2"))
    assert (told["HTTP_ACCEPT"], told["HTTP_COOKIE"]) == ("a, b", "a=1; b=2")


def test_values_keep_their_bytes_and_lose_the_space_around(port: int) -> None:
    told = ask(port, "GET /echo", ("X-Name", "\t caf\xe9  \t au \x80 "))
    assert told["HTTP_X_NAME"] == "caf\xe9  \t au \x80"


def test_names_with_an_underscore_are_dropped(port: int) -> None:
    told = ask(port, "GET /echo", ("X_Name", "forged"), ("X-Name_", "forged"), ("Content_Length", "5"))
    assert not [name for name in told if name.startswith(("HTTP_X", "CONTENT"))]


def test_the_application_sees_forwarded_fields_as_they_came(port: int) -> None:
    told = ask(port, "GET /echo", ("X-Forwarded-For", "10.0.0.1"), ("Forwarded", "for=10.0.0.1"))
    assert (told["HTTP_X_FORWARDED_FOR"], told["HTTP_FORWARDED"]) == ("10.0.0.1", "for=10.0.0.1")


@pytest.mark.parametrize("size", [0, 5, 100_000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_body_arrives_whole(port: int, size: int, framing: str) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    if framing == "length":
        told = ask(port, "POST /echo", ("Content-Length", str(size)), body=body)
    else:
        pieces = [body[at : at + 7001] for at in range(0, size, 7001)]
        told = ask(port, "POST /echo", ("Transfer-Encoding", "chunked"), body=chunked(*pieces, trailers=b"X: y\r\n"))
        assert "CONTENT_LENGTH" not in told
    assert (told["size"], told["sha256"]) == (size, hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_an_app_that_knows_nothing_of_the_server_waits_for_its_body(port: int, size: int) -> None:
    body = b"a line\n" * size
    with Client(port, request("POST /blocking", ("Content-Length", str(len(body))))) as client:
        for start in range(0, len(body), 50_000):
            client.sock.sendall(body[start : start + 50_000])
        told = json.loads(client.read_all().partition(b"\r\n\r\n")[2])
    assert (told["size"], told["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    sent = b"".join(request(f"GET /echo/{number}", KEEP) for number in range(5)) + b"\r\n" + request("GET /echo/5")
    assert re.findall(rb'"PATH_INFO": "/echo/(\d)"', exchange(port, sent)) == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_a_head_may_come_byte_by_byte(port: int) -> None:
    with Client(port) as client:
        for byte in request("POST /echo", body=b"12345"):
            client.sock.sendall(bytes([byte]))
        assert b'"size": 5' in client.read_all()


# What it refuses to read


@pytest.mark.parametrize("fields", [[("X", "a" * 300_000)], [(f"X-{number}", "a") for number in range(1001)]])
def test_too_much_of_a_head_is_refused(port: int, fields: list[tuple[str, str]]) -> None:
    assert_refused(exchange(port, request("GET /echo", *fields)), 431, "fields-too-large")


def assert_refused(answer: bytes, status: int, code: str) -> None:
    fields, _, body = answer.partition(b"\r\n\r\n")
    assert fields.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"\r\nContent-Type: application/problem+json\r\n" in fields
    assert b"\r\nConnection: close" in fields
    problem = json.loads(body)
    assert (problem["type"], problem["status"], problem["success"]) == (f"urn:jwt-gateway:{code}", status, False)
    assert b"waitress" not in answer.lower()


# What it sends


def test_fields_keep_order_case_and_repeats_and_only_a_date_is_added(port: int) -> None:
    lines = head(exchange(port, request("GET /fields")))
    assert lines[:7] == [
        "HTTP/1.1 200 OK", "x-lower: 1", "Set-Cookie: a=1", "A-FIRST: caf\xe9", "Set-Cookie: b=2", "Server: mine",
        "Content-Length: 2",
    ]  # fmt: skip
    assert lines[7].startswith("Date: ")
    assert lines[8:] == ["Connection: close"]


def test_a_connection_serves_on_after_a_chunked_response(port: int, tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    with Client(port, request(f"GET /stream?{tmp_path}/gate", KEEP)) as client:
        first = client.read_until(b"0\r\n\r\n")
        assert first.endswith(b"\r\n\r\n5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n")
        assert b"\r\nTransfer-Encoding: chunked\r\n" in first
        client.sock.sendall(request("HEAD /stream"))
        assert client.read_all()[len(first) :].endswith(b"\r\n\r\n")


def test_a_stream_arrives_as_it_is_made(port: int, tmp_path: Path) -> None:
    with Client(port, request(f"GET /stream?{tmp_path}/gate")) as client:
        client.read_until(b"first")
        (tmp_path / "gate").touch()
        assert client.read_all().endswith(b"last\r\n0\r\n\r\n")


def test_an_app_may_send_the_head_before_it_has_a_body(port: int, tmp_path: Path) -> None:
    with Client(port, request(f"GET /early?{tmp_path}/gate")) as client:
        assert client.read_until(b"\r\n\r\n").endswith(b"\r\nConnection: close\r\n\r\n")
        (tmp_path / "gate").touch()
        assert client.read_all().endswith(b"\r\n\r\n4\r\nlate\r\n0\r\n\r\n")


def test_http_1_0_gets_a_body_that_ends_with_the_connection(port: int, tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    answer = exchange(port, request(f"GET /stream?{tmp_path}/gate HTTP/1.0", KEEP))
    assert answer.endswith(b"\r\n\r\nfirstlast")
    assert "Connection: close" in head(answer)


def test_http_1_0_keeps_alive_when_it_asks_and_the_length_is_known(port: int) -> None:
    with Client(port, request("GET /fields HTTP/1.0", KEEP)) as client:
        assert b"\r\nConnection: keep-alive\r\n" in client.read_until(b"ok")
        client.sock.sendall(request("GET /fields HTTP/1.0", ("Connection", "")))
        assert b"\r\nConnection: close\r\n" in client.read_all()


@pytest.mark.parametrize(
    ("line", "length", "body"),
    [
        ("GET /status/200", True, b"hello"),
        ("HEAD /status/200", True, b""),
        ("GET /status/304", True, b""),
        ("GET /status/204", False, b""),
    ],
)
def test_status_and_method_decide_about_body_and_length(port: int, line: str, length: bool, body: bytes) -> None:
    answer = exchange(port, request(line))
    assert answer.partition(b"\r\n\r\n")[2] == body
    assert ("Content-Length: 5" in head(answer)) == length
    assert not [field for field in head(answer) if field.startswith("Transfer-Encoding")]


def test_a_response_that_fails_midway_is_visibly_cut_off(port: int) -> None:
    assert exchange(port, request("GET /cut")).endswith(b"\r\n4\r\nhalf\r\n")
    assert exchange(port, request("GET /cut?length", KEEP)).endswith(b"\r\n\r\nhalf")
    with Client(port, request("GET /cut HTTP/1.0")) as client, pytest.raises(ConnectionError):
        client.read_until(b"more than was sent")


def test_the_promised_length_is_kept_or_the_connection_closed(port: int) -> None:
    assert exchange(port, request("GET /short", KEEP)).endswith(b"\r\n\r\nhalf")
    assert exchange(port, request("GET /long", KEEP) + request("GET /fields")).count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("path", ["/fails", "/splits"])
def test_an_app_that_fails_leaves_a_500_without_detail(port: int, path: str) -> None:
    answer = exchange(port, request(f"GET {path}", KEEP))
    assert_refused(answer, 500, "internal-error")
    assert b"secret" not in answer
    assert b"planted" not in answer


def test_a_client_that_leaves_is_noticed(port: int, tmp_path: Path) -> None:
    with Client(port, request(f"GET /left?{tmp_path}/noticed")):
        pass
    assert until((tmp_path / "noticed").exists)


# Bodies nobody wants


def test_who_expects_to_continue_may(port: int) -> None:
    sent = request("POST /echo", ("Expect", "100-continue"), ("Content-Length", "5"))
    with Client(port, sent) as client:
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sock.sendall(b"12345")
        assert b'"size": 5' in client.read_all()


@pytest.mark.parametrize("framing", [("Content-Length", "1000000000"), ("Transfer-Encoding", "chunked")])
def test_a_refusal_comes_before_the_body(port: int, framing: tuple[str, str]) -> None:
    with Client(port, request("POST /refused", KEEP, ("Expect", "100-continue"), framing)) as client:
        answer = client.read_all()
    assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert b"100 Continue" not in answer


def test_who_sends_on_after_a_refusal_still_gets_it(port: int) -> None:
    with Client(port, request("POST /refused", ("Content-Length", "50000000"))) as client:
        for _ in range(50):
            client.sock.sendall(bytes(1_000_000))
        assert client.read_all().endswith(b"\r\n\r\nno")


def test_a_short_body_that_nobody_took_is_thrown_away_and_the_connection_goes_on(port: int) -> None:
    with Client(port, request("POST /refused", KEEP, body=b"12345") + request("GET /pid", KEEP)) as client:
        assert client.read_until(b"no").count(b"Connection") == 0
        assert client.read_until(b"HTTP/1.1 200 OK")

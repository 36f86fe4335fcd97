"""Heads as data: those of `heads/valid` are answered, of `heads/invalid` refused as the file's name says."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from recorder import Client, served

HEADS = Path(__file__).parent / "heads"
VALID, INVALID = (sorted((HEADS / kind).glob("*.http")) for kind in ("valid", "invalid"))


def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    environ["wsgi.input"].read()
    start("200 OK", [("Content-Length", "0")])
    return []


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with served(app, threads=2) as port:
        yield port


def answer_to(data: bytes, port: int, step: int) -> bytes:
    """Send the data in steps, and return what comes back until the server ends it, or the head of a good answer."""
    with Client(port) as client:
        with suppress(ConnectionError):  # it may be refused before its end
            for start in range(0, len(data), step):
                client.sock.sendall(data[start : start + step])
        with suppress(ConnectionError):
            if client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 "):
                return client.received
            client.read_until(b"}\n")
        return client.received


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("file", VALID, ids=lambda file: file.stem)
def test_a_valid_head_is_answered(port: int, file: Path, step: int) -> None:
    assert answer_to(file.read_bytes(), port, step).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_an_invalid_head_is_refused_and_the_connection_ends(port: int, file: Path, step: int) -> None:
    _, status, code = file.stem.split(".")
    head, _, body = answer_to(file.read_bytes(), port, step).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
    assert b"\r\nConnection: close" in head
    assert json.loads(body)["type"] == f"urn:jwt-gateway:{code}"

"""No response outlives its token: streams end when it is blacklisted, and when it expires."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from helpers import mint
from injected import Injected
from processes import ROOT
from recorder import Client, Recorder, Talk, request, response, until
from redis_servers import RedisServer
from running import Running

EVENT = b"data: tick\n\n"
HEAD = response(b"", ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"))
LENGTH = 1 << 30
users = count(1)


class Streaming:
    """An upstream whose answers do not end by themselves, on any number of connections."""

    def __init__(self) -> None:
        self.left: list[str | None] = []  # whose connections the gateway has closed

    def __call__(self, talk: Talk) -> None:
        if talk.request.target == "/download":
            talk.send(response(b"x" * 65536, ("Content-Length", str(LENGTH))))
        else:
            talk.send(HEAD + b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
        if talk.peer_left(30):
            self.left.append(talk.request.field("X-Token-Subject"))
        talk.close()


@pytest.fixture(scope="module")
def upstream() -> Streaming:
    return Streaming()


@pytest.fixture
def user() -> str:
    """Return a subject that no other test has."""
    return f"user-{next(users)}"


def stream(port: int, token: str, path: str = "/events") -> Client:
    """Return a client whose answer has started."""
    client = Client(port, request(f"GET {path}", ("Authorization", f"Bearer {token}")))
    client.read_until(b"xxxx" if path == "/download" else EVENT)
    return client


def is_cut_off(client: Client) -> bool:
    """Return whether the connection ends, and the answer is visibly not whole."""
    try:
        rest = client.read_all()
    except ConnectionResetError:
        return True
    return not rest.endswith(b"0\r\n\r\n") and len(rest) < LENGTH


def is_open(client: Client) -> bool:
    client.sock.setblocking(False)
    try:
        return client.sock.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    finally:
        client.sock.settimeout(10)


@contextmanager
def sqlite(directory: Path) -> Iterator[str]:
    yield f"sqlite:///{directory}/streams.sqlite3"


@contextmanager
def redis(directory: Path) -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="module", params=[sqlite, pytest.param(redis, marks=pytest.mark.slow)], ids=["sqlite", "redis"])
def gateway(request: Any, tmp_path_factory: pytest.TempPathFactory, upstream: Streaming) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("streams")
    with (
        Recorder(upstream) as api,
        request.param(directory) as store,
        Running(directory, api.url, "--store", store, "--workers", "2") as running,
    ):
        yield running


def admin() -> str:
    return mint(sub="admin", scope="blacklist:admin", iat=int(time.time()) - 10)


@pytest.mark.parametrize(
    ("way", "path"),
    [
        ("sub", "/events"),
        ("token", "/download"),
        *(
            pytest.param(*ways, marks=pytest.mark.slow)
            for ways in [("sub", "/download"), ("token", "/events"), ("sid", "/events"), ("sid", "/download")]
        ),
    ],
)
def test_a_stream_ends_when_its_token_is_taken_back(
    gateway: Running, upstream: Streaming, user: str, way: str, path: str
) -> None:
    claims = {"sub": user, "sid": f"session of {user}", "iat": int(time.time()) - 10}
    taken, other = mint(**claims), mint(sub=f"not {user}", sid=f"not of {user}", iat=claims["iat"])
    with stream(gateway.port, taken, path) as ends, stream(gateway.port, other, path) as goes_on:
        by, body = (taken, None) if way == "token" else (admin(), {way: claims[way]})
        assert gateway.request("POST", "/blacklist", by, body).json["blacklisted"] is True
        assert is_cut_off(ends)
        assert is_open(goes_on)
        assert until(lambda: user in upstream.left)
        assert until(lambda: outcomes(gateway, user) == ["token-blacklisted"])


def outcomes(gateway: Running, user: str) -> list[str]:
    """Return what the log says of a user's streams that are over."""
    own = {"route": "upstream", "subject": user}
    return [record["outcome"] for record in gateway.records if own.items() <= record.items()]


def test_a_stream_ends_when_its_token_expires(gateway: Running, user: str) -> None:
    token = mint(sub=user, exp=int(time.time()) + 3)
    with stream(gateway.port, token) as client:
        assert is_cut_off(client)
    assert until(lambda: outcomes(gateway, user) == ["token-expired"])


@pytest.mark.slow
def test_what_is_taken_back_by_the_command_ends_streams_too(gateway: Running, user: str) -> None:
    token = mint(sub=user, iat=int(time.time()) - 10)
    with stream(gateway.port, token) as client:
        command = [sys.executable, "-m", "gateway", "revoke", "--sub", user, "--store", gateway.store]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        assert is_cut_off(client)


@pytest.mark.slow
def test_many_streams_of_one_subject_end_together(gateway: Running, user: str) -> None:
    token = [mint(sub=user, jti=str(number), iat=int(time.time()) - 10) for number in range(40)]
    with ExitStack() as stack:
        clients = [stack.enter_context(stream(gateway.port, each)) for each in token]
        gateway.request("POST", "/blacklist", admin(), {"sub": user})
        assert all(map(is_cut_off, clients))


def test_more_changes_than_a_store_keeps_hide_none(gateway: Running, user: str) -> None:
    """Whoever cannot be told what has changed asks about every stream."""
    token = mint(sub=user, iat=int(time.time()) - 10)
    with stream(gateway.port, token) as client:
        gateway.request("POST", "/blacklist", admin(), {"sub": user})
        for number in range(100):
            gateway.request("POST", "/blacklist", admin(), {"sub": f"other-{number}"})
        assert is_cut_off(client)


@pytest.mark.slow
def test_a_stream_that_was_restored_in_time_goes_on_at_the_next_request(gateway: Running, user: str) -> None:
    token = mint(sub=user, iat=int(time.time()) - 10)
    with stream(gateway.port, token) as client:
        gateway.request("POST", "/blacklist", token)
        assert is_cut_off(client)
    gateway.request("DELETE", "/blacklist", token)
    with stream(gateway.port, token) as client:
        assert is_open(client)


def test_streams_end_once_the_store_does_not_answer(tmp_path: Path, upstream: Streaming, user: str) -> None:
    """Nobody could tell any more whose token was blacklisted."""
    with (
        Recorder(upstream) as api,
        Running(tmp_path, api.url, "--stream-check", "0.2") as gateway,
        stream(gateway.port, mint(sub=user)) as client,
    ):
        os.truncate(tmp_path / "blacklist.sqlite3", 0)
        assert is_cut_off(client)
        assert until(lambda: outcomes(gateway, user) == ["store-unavailable"])


@pytest.mark.slow
def test_streams_end_although_the_stores_disk_neither_answers_nor_fails(tmp_path: Path, upstream: Streaming) -> None:
    with (
        Recorder(upstream) as api,
        Running(tmp_path, api.url, "--workers", "1") as gateway,
        stream(gateway.port, mint()) as client,
        Injected("pread64,fcntl,read:delay_enter=8000000", gateway.workers, tmp_path),
    ):
        assert is_cut_off(client)


@pytest.mark.slow
def test_streams_outlast_a_store_that_is_away_for_a_moment(tmp_path: Path, upstream: Streaming) -> None:
    with (
        RedisServer() as server,
        Recorder(upstream) as api,
        Running(tmp_path, api.url, "--store", server.url) as gateway,
        stream(gateway.port, mint()) as client,
    ):
        server.signal(signal.SIGSTOP)
        time.sleep(0.4)
        server.signal(signal.SIGCONT)
        assert until(lambda: gateway.get("/-/ready").status == 200)
        assert is_open(client)


@pytest.mark.slow
def test_streams_are_left_alone_where_that_is_set(tmp_path: Path, upstream: Streaming) -> None:
    token = mint()
    with (
        Recorder(upstream) as api,
        Running(tmp_path, api.url, "--stream-check", "0") as gateway,
        stream(gateway.port, token) as client,
    ):
        gateway.request("POST", "/blacklist", token)
        time.sleep(2)
        assert is_open(client)


def test_an_answer_about_the_own_token_is_never_cut_off(gateway: Running) -> None:
    for _ in range(20):
        token = mint(jti=os.urandom(8).hex())
        assert gateway.request("POST", "/blacklist", token).json["blacklisted"] is True

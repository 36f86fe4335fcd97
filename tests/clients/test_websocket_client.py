"""A WebSocket server and client that nobody here wrote (PyPI's websockets), straight and through the gateway."""

import asyncio
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from helpers import mint
from running import Running

pytestmark = pytest.mark.slow

pytest.importorskip("websockets", reason="websockets is not installed")
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402
from websockets.sync.server import ServerConnection, serve  # noqa: E402

SIZES = [0, 1, 125, 126, 127, 4096, 65535, 65536, 1 << 20]
fresh = count(1)


def choose(_: ServerConnection, offered: Any) -> Any:
    return offered[0] if offered else None


def answer(connection: ServerConnection) -> None:
    """Echo each message as it came; close with the code that a message `close …` asks for."""
    for message in connection:
        if isinstance(message, str) and message.startswith("close "):
            connection.close(int(message.split()[1]), "as asked")
            return
        if message == "in pieces":
            connection.send(iter(["in ", "", "pieces"]))
        else:
            connection.send(message)


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with serve(answer, "127.0.0.1", 0, max_size=None, select_subprotocol=choose) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening.socket.getsockname()[1]
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def gateway(server: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("websockets")
    with Running(directory, f"http://127.0.0.1:{server}", "--workers", "1", "--threads", "2") as running:
        yield running


def open_at(port: int, token: str, **options: Any) -> Any:
    """Open a WebSocket with a token."""
    fields = {"Authorization": f"Bearer {token}"}
    return connect(f"ws://127.0.0.1:{port}/ws", additional_headers=fields, max_size=None, proxy=None, **options)


def use(port: int, compression: str | None) -> list[Any]:
    """Do what a client does; return all that it saw."""
    seen: list[Any] = []
    token = mint(sub="1001", jti=f"ws-{next(fresh)}")
    with open_at(port, token, subprotocols=["news", "chat"], compression=compression) as client:
        seen.append((client.subprotocol, [extension.name for extension in client.protocol.extensions]))
        for size in SIZES:
            for message in ("ü" * (size // 2), b"\x00\xff" * (size // 2)):
                client.send(message)
                seen.append((size, client.recv() == message))
        client.send(iter(["a ", "", "message ", "of pieces"]))
        seen.append(client.recv())
        client.send("in pieces")
        seen.append(list(client.recv_streaming()))
        for payload in (b"", b"x" * 125):
            seen.append(client.ping(payload).wait(10))
        client.pong(b"nobody asked")
        client.send("still here")
        seen.append(client.recv())
    for code in (1000, 1001, 1003, 1011, 3000, 4999):
        with open_at(port, token, compression=compression) as client:
            client.send(f"close {code}")
            with pytest.raises(ConnectionClosed) as closed:
                client.recv()
            seen.append((closed.value.rcvd, closed.value.rcvd_then_sent))
    with open_at(port, token, compression=compression) as client:
        client.close(4001, "the client's")
        seen.append((client.close_code, client.close_reason))
    return seen


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_websocket_client_sees_no_difference_through_the_gateway(
    server: int, gateway: Running, compression: str | None
) -> None:
    straight = use(server, compression)
    assert use(gateway.port, compression) == straight
    assert all(same for _, same in straight[1 : 1 + 2 * len(SIZES)])


def test_it_ends_with_its_token_by_a_close_frame_that_says_why(gateway: Running) -> None:
    token = mint(sub="1001", jti="ws-revoked")
    with open_at(gateway.port, token) as client, open_at(gateway.port, mint(jti="ws-another")) as another:
        client.send("before")
        assert client.recv() == "before"
        assert gateway.request("POST", "/blacklist", token).status == 200
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "token-blacklisted")
        another.send("after")
        assert another.recv() == "after"
    with pytest.raises(InvalidStatus) as refused:
        open_at(gateway.port, token)
    assert refused.value.response.status_code == 401
    assert b"token-blacklisted" in refused.value.response.body


def test_a_hundred_at_once_hold_no_thread(server: int, gateway: Running, tmp_path: Path) -> None:
    from websockets.asyncio.client import connect as connect_async

    async def talk(number: int, all_open: asyncio.Barrier) -> str | bytes:
        fields = {"Authorization": f"Bearer {mint(jti=f'ws-many-{number}')}"}
        url = f"ws://127.0.0.1:{gateway.port}/ws"
        async with connect_async(url, additional_headers=fields, proxy=None) as client:
            await all_open.wait()
            await client.send(f"number {number}")
            return await client.recv()

    async def talk_all() -> list[str | bytes]:
        all_open = asyncio.Barrier(100)
        return await asyncio.gather(*(talk(number, all_open) for number in range(100)))

    assert asyncio.run(talk_all()) == [f"number {number}" for number in range(100)]

"""A WebSocket server and client that nobody here wrote (PyPI's websockets), straight and through the gateway."""

import asyncio
import random
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from helpers import mint
from recorder import Client
from running import Running
from websocket_bytes import frame, handshake

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


MASK = b"mask"
FRAMES = {
    "fragments": [(1, b"ab", False), (0, b"", False), (0, b"cd", True)],
    "a ping between fragments": [(1, b"ab", False), (9, b"p", True), (0, b"cd", True)],
    "a close between fragments": [(1, b"ab", False), (8, b"\x03\xe8", True)],
    "a fragment that continues nothing": [(0, b"ab", True)],
    "a message within a message": [(1, b"ab", False), (1, b"cd", True)],
    "a ping of 125 bytes": [(9, b"p" * 125, True)],
    "a ping of 126 bytes": [(9, b"p" * 126, True)],
    "a ping in pieces": [(9, b"p", False)],
    "a pong that nobody asked for": [(10, b"p", True)],
    "reserved bit 1": [(0x41, b"ab", True)],
    "reserved bit 3": [(0x11, b"ab", True)],
    "a reserved opcode of data": [(3, b"ab", True)],
    "a reserved opcode of control": [(11, b"ab", True)],
    "text in UTF-8": [(1, "κόσμε \U0010ffff \ufffe".encode(), True)],
    "a letter in two fragments": [(1, b"\xce", False), (0, b"\xba", True)],
    "text that is not UTF-8": [(1, b"\xf8\x88\x80\x80\x80", True)],
    "a surrogate in text": [(1, b"\xed\xa0\x80", True)],
    "a close without a code": [(8, b"", True)],
    "a close with half a code": [(8, b"\x03", True)],
    "a close with a reserved code": [(8, b"\x03\xed", True)],
    "a close with a reason": [(8, b"\x0f\xa0because", True)],
    "a close with a reason that is not UTF-8": [(8, b"\x03\xe8\xff", True)],
}


def raw(code: int, content: bytes, is_last: bool) -> bytes:
    """Return a client's frame; `code` may have reserved bits."""
    sent = frame(content, code, MASK)
    return sent if is_last else bytes([sent[0] & 0x7F]) + sent[1:]


RAW = {
    "no mask": frame(b"ab"),
    "a length longer than it need be": b"\x82\xfe\x00\x02" + MASK + b"\x0c\x03",
    **{name: b"".join(raw(*each) for each in frames) for name, frames in FRAMES.items()},
}


@pytest.mark.parametrize("name", RAW)
def test_frames_are_answered_byte_for_byte_as_without_the_gateway(server: int, gateway: Running, name: str) -> None:
    straight, through = (told(port, RAW[name]) for port in (server, gateway.port))
    assert through == straight
    assert straight


def told(port: int, sent: bytes) -> bytes:
    """Return what comes back for what is sent once a WebSocket is open, and for a close behind it."""
    token = ("Authorization", f"Bearer {mint(jti=f'ws-{next(fresh)}')}")
    with Client(port, handshake("/ws", token)) as client:
        head = client.read_until(b"\r\n\r\n")
        client.sock.sendall(sent + raw(8, b"\x03\xe8", True))
        return client.read_all()[len(head.partition(b"\r\n\r\n")[0]) :]


def test_a_message_of_16_mib_passes_whole_and_in_pieces(gateway: Running) -> None:
    message = random.Random(1).randbytes(1 << 20) * 16
    with open_at(gateway.port, mint(jti="ws-long"), compression=None) as client:
        client.send(message)
        assert client.recv() == message
        client.send(message[start : start + 65536] for start in range(0, len(message), 65536))
        assert client.recv() == message

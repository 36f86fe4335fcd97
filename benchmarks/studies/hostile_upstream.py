"""`python -m benchmarks.studies.hostile_upstream`: an API that answers well or badly, as a target's first part says.

Prints its port. For `hostile_hour` and `hostile_kinds`. Bad answers are another process's: what they cost this one is
nothing that the gateway does to others.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress

from recorder import ok, response
from websocket_bytes import frame, switched

PIECE = bytes(65536)
EVENT = b"c\r\ndata: tick\n\n\r\n"
FAILED = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError)
WELL, BADLY = socket.socketpair(type=socket.SOCK_SEQPACKET)  # from one process to the other


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one connection's requests."""
    with suppress(*FAILED):
        while await answer(reader, writer):
            pass
    writer.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answer one request; return whether the connection goes on here."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    target = head.split(" ", 2)[1]
    name = target.strip("/").split("/")[0].split("?")[0]
    if name in BAD:  # what came with the head is lost, and none of these needs it
        socket.send_fds(WELL, [name.encode()], [writer.get_extra_info("socket").fileno()])
        return False
    await read_body(reader, head.lower())
    if name == "big":
        writer.write(response(b"", ("Content-Length", str(128 * len(PIECE)))))
        for _ in range(128):
            writer.write(PIECE)
            await writer.drain()
    else:
        writer.write(ok(target.encode().ljust(1024, b".")))
    await writer.drain()
    return True


async def read_body(reader: asyncio.StreamReader, head: str) -> None:
    """Read a body to its end."""
    if "\r\ntransfer-encoding:" in head:
        while size := int((await reader.readline()).split(b";")[0], 16):
            await reader.readexactly(size + 2)
        while (await reader.readline()).strip():
            pass
    elif "\r\ncontent-length:" in head:
        length = head.partition("\r\ncontent-length:")[2].partition("\r\n")[0]
        await reader.readexactly(int(length))


async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send an event a second."""
    writer.write(response(b"", ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")))
    while not reader.at_eof():
        writer.write(EVENT)
        await writer.drain()
        await asyncio.sleep(1)


async def socket_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Switch to WebSocket, and send back what comes."""
    writer.write(switched() + frame(b"hello"))
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Switch to WebSocket, and write without reading."""
    writer.write(switched())
    for _ in range(256):
        writer.write(PIECE)
        await writer.drain()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read all and say nothing."""
    while await reader.read(65536):
        pass


async def unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read nothing, say nothing, and leave."""
    await asyncio.sleep(5)


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Break the connection."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuse by the head, and leave the body."""
    writer.write(ok(b"no", status="413 No"))
    await writer.drain()
    await asyncio.sleep(1)


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a byte at a time."""
    for byte in ok(b"drop by drop", ("X-Slow", "x" * 50)):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a head that does not end."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(10_000):
        writer.write(b"X-%d: %b\r\n" % (number, b"y" * 100))
        await writer.drain()


def says(data: bytes) -> object:
    """Return what sends these bytes and ends."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return send


BAD = {
    "events": events,
    "ws": socket_echo,
    "flood": flood,
    "silent": silent,
    "unread": unread,
    "reset": reset,
    "refuse": refuse,
    "drip": drip,
    "endless": endless,
    "garbage": says(b"\x16\x03\x01 nonsense\r\n\r\n" * 50),
    "short": says(ok(b"x" * 1000)[:-500]),
    "twice": says(ok(b"one") + ok(b"STOLEN")),
    "chunks": says(response(b"5\r\nhello\r\nzz\r\n", ("Transfer-Encoding", "chunked"))),
    "lengths": says(response(b"hello", ("Content-Length", "5"), ("Content-Length", "4"))),
    "interim": says(b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" * 200 + ok()),
    "switched": says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n"),
}


async def answer_badly() -> None:
    """Take connections from the other process, and answer the last request of each, until that ends."""
    loop, tasks = asyncio.get_running_loop(), set()
    BADLY.setblocking(False)
    is_over = asyncio.Event()

    async def answer_one(name: str, sock: socket.socket) -> None:
        with suppress(*FAILED):
            reader, writer = await asyncio.open_connection(sock=sock)
            try:
                await BAD[name](reader, writer)
            finally:
                writer.close()

    def take() -> None:
        name, descriptors, _, _ = socket.recv_fds(BADLY, 100, 1)
        for descriptor in descriptors:
            task = loop.create_task(answer_one(name.decode(), socket.socket(fileno=descriptor)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if not descriptors:
            is_over.set()

    loop.add_reader(BADLY, take)
    await is_over.wait()


async def main() -> None:
    """Serve until the process is ended."""
    server = await asyncio.start_server(talk, "127.0.0.1", 0, limit=1 << 20, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if os.fork():
        BADLY.close()
        asyncio.run(main())
    else:
        WELL.close()
        asyncio.run(answer_badly())

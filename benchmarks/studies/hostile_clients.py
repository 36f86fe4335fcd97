"""`python -m benchmarks.studies.hostile_clients PORT METRICS_PORT SECONDS [KIND]`: clients that mean harm.

Prints what each kind did, and what it was answered. For `hostile_hour`, and of one kind alone for `hostile_kinds`.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from helpers import mint
from recorder import request
from websocket_bytes import handshake

AT_ONCE = 10
LONGEST = 20.0  # seconds that one attack lasts
PAUSE = 1.0  # seconds between two attacks of one client, on average
BEARER = ("Authorization", f"Bearer {mint(sub='mallory')}")
KEEP = ("Connection", "keep-alive")
CHUNKS = ("Transfer-Encoding", "chunked")
BAD_UPSTREAMS = (
    "silent",
    "reset",
    "garbage",
    "drip",
    "short",
    "twice",
    "chunks",
    "lengths",
    "interim",
    "switched",
    "endless",
    "unread",
)


class Attack:
    """A connection to the gateway, and what was answered on it."""

    def __init__(self, port: int, metrics: int) -> None:
        self.port, self.metrics = port, metrics
        self.statuses: Counter[str] = Counter()

    async def open(self, data: bytes = b"", port: int = 0) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port or self.port)
        await self.send(data)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read(self) -> None:
        """Read to the end, and note the statuses."""
        known = b""
        while data := await self.reader.read(65536):
            known = known[-16:] + data
            for line in known.split(b"HTTP/1.1 ")[1:]:
                self.statuses[line[:3].decode("latin-1")] += 1
            if b"STOLEN" in known:
                self.statuses["AN ANSWER THAT WAS NOBODY'S"] += 1
            known = known[known.rfind(b"HTTP/1.1 ") + 9 :]

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def half_a_head(it: Attack) -> None:
    await it.open(request("GET /good", BEARER)[: random.randrange(1, 60)])
    await asyncio.sleep(10)


async def head_byte_by_byte(it: Attack) -> None:
    await it.open()
    for byte in request("GET /good", BEARER, ("X-Long", "x" * 8000)):
        await it.send(bytes([byte]))
        await asyncio.sleep(0.001)
    await it.read()


async def long_head(it: Attack) -> None:
    await it.open(request("GET /good", *((f"X-{number}", "y" * 250) for number in range(1000)))[:-2])
    await asyncio.sleep(5)


async def pipeline(it: Attack) -> None:
    await it.open(request("GET /good?pipelined", BEARER, KEEP) * 300 + request("GET /good", BEARER))
    await it.read()


async def pipeline_unread(it: Attack) -> None:
    await it.open(request("GET /big", BEARER, KEEP) * 20)
    await asyncio.sleep(5)
    it.reset()


async def bad_chunks(it: Attack) -> None:
    bodies = [
        b"0\r\nX: y\n\r\nGET /good HTTP/1.1\r\n\r\n",
        b"\r\n3\r\nabc\r\n0\r\n\r\n",
        b'3; a="' + b"\\" * 9000 + b"\r\nabc\r\n0\r\n\r\n",
        b"fffffffffffffff\r\n" + bytes(100_000),
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n",
        b"0\r\n" + b"X-Trailer: y\r\n" * 9000 + b"\r\n",
    ]
    await it.open(request("POST /good", BEARER, CHUNKS) + random.choice(bodies))
    await it.read()


async def cut_upload(it: Attack) -> None:
    await it.open(request("PUT /good", BEARER, ("Content-Length", "10000000")) + bytes(random.randrange(1_000_000)))
    it.reset()


async def upload(it: Attack) -> None:
    target = random.choice(["unread", "silent", "refuse", "reset", "garbage", "drip"])
    await it.open()
    with suppress(OSError):
        await it.send(request(f"POST /{target}", BEARER, ("Content-Length", "4000000")) + bytes(4_000_000))
    await it.read()


async def slow_reader(it: Attack) -> None:
    await it.open(request("GET /big", BEARER))
    for _ in range(10):
        await it.reader.read(1024)
        await asyncio.sleep(1)
    it.reset()


async def bad_upstream(it: Attack) -> None:
    await it.open(request(f"GET /{random.choice(BAD_UPSTREAMS)}", BEARER))
    await it.read()


async def forged(it: Attack) -> None:
    tokens = [
        mint("wrong"),
        mint(_header={"alg": "none"}),
        mint(exp=1),
        mint(iss="https://else.where/"),
        mint()[:-1],
        "a.b.c",
        "x" * 20_000,
        mint("wrong", _header={"jku": "http://127.0.0.1:1/"}),
    ]
    for token in random.sample(tokens, 4):
        await it.open(request("GET /good", ("Authorization", f"Bearer {token}")))
        await it.read()


async def other_protocols(it: Attack) -> None:
    texts = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes.fromhex("16030100a5010000a10303") + random.randbytes(160),
        random.randbytes(3000),
        b"\r\n" * 5000,
        b"GET /good\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
    ]
    await it.open(random.choice(texts))
    await it.read()


async def unwanted_body(it: Attack) -> None:
    await it.open()
    with suppress(OSError):
        await it.send(request("GET /-/live", ("Content-Length", "999999999999999999")) + bytes(2_000_000))
    await it.read()


async def promised_body(it: Attack) -> None:
    path = random.choice(["/good", "/blacklist", "/-/auth", "/refuse"])
    await it.open(request(f"POST {path}", BEARER, ("Expect", "100-continue"), ("Content-Length", "1000")))
    await it.reader.read(1000)
    await asyncio.sleep(random.choice([0, 5]))


async def half_closed(it: Attack) -> None:
    await it.open(request(f"GET /{random.choice(['good', 'big', 'drip', 'events'])}", BEARER))
    it.writer.write_eof()
    await it.read()


async def two_writers(it: Attack) -> None:
    await it.open(handshake("/flood", BEARER))
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(5):
            while True:
                await it.send(bytes(65536))
    it.reset()


async def rude_socket(it: Attack) -> None:
    await it.open(handshake("/ws", BEARER) + random.randbytes(5000))
    await it.reader.read(1000)
    it.reset()


async def metrics_trickle(it: Attack) -> None:
    await it.open(b"GET /met", it.metrics)
    await asyncio.sleep(15)


async def bad_blacklistings(it: Attack) -> None:
    bodies = [
        b"{",
        b"[" * 5000,
        b"{}",
        b"null",
        b'{"token": 1}',
        b'{"sub": "someone"}',
        random.randbytes(500),
        b"x" * 70_000,
    ]
    for body in random.sample(bodies, 3):
        fields = [BEARER, ("Content-Type", "application/json")]
        await it.open(request("POST /blacklist", *fields, body=body))
        await it.read()


async def many_connections(it: Attack) -> None:
    for _ in range(40):
        await it.open(random.choice([b"", b"G"]))
        it.reset()


async def honest(it: Attack) -> None:
    """Mean no harm, and ask as fast as is answered: no kind of attack, but what they are compared with."""
    await it.open()
    for _ in range(300):
        await it.send(request("GET /good", BEARER, KEEP))
        await it.reader.readuntil(b"\r\n\r\n")
        await it.reader.readexactly(1024)


KINDS: list[Callable[[Attack], Awaitable[None]]] = [
    half_a_head,
    head_byte_by_byte,
    long_head,
    pipeline,
    pipeline_unread,
    bad_chunks,
    cut_upload,
    upload,
    slow_reader,
    bad_upstream,
    forged,
    other_protocols,
    unwanted_body,
    promised_body,
    half_closed,
    two_writers,
    rude_socket,
    metrics_trickle,
    bad_blacklistings,
    many_connections,
]
NAMED = {kind.__name__: [kind] for kind in [*KINDS, honest]}


async def main(port: int, metrics: int, seconds: float, kinds: list[Callable[[Attack], Awaitable[None]]]) -> None:
    """Attack for so long, and print the counts."""
    end = time.monotonic() + seconds
    attacks: Counter[str] = Counter()
    statuses: dict[str, Counter[str]] = {kind.__name__: Counter() for kind in kinds}

    async def work() -> None:
        while time.monotonic() < end:
            kind = random.choice(kinds)
            it = Attack(port, metrics)
            attacks[kind.__name__] += 1
            try:
                async with asyncio.timeout(LONGEST):
                    await kind(it)
            except (OSError, TimeoutError) as error:
                it.statuses[type(error).__name__] += 1
            finally:
                if hasattr(it, "writer"):
                    it.writer.close()
                statuses[kind.__name__].update(it.statuses)
            await asyncio.sleep(random.random() * 2 * PAUSE)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    print(json.dumps({"attacks": attacks, "statuses": statuses}))


if __name__ == "__main__":
    named = NAMED.get(sys.argv[4], KINDS) if len(sys.argv) > 4 else KINDS
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), named))

"""A TCP relay that misbehaves as told: it delays, drips, stalls, cuts, or answers in the server's place."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class Relay:
    """Carries bytes to a port of this host and back, while the block runs. Its members may be set at any time."""

    def __init__(self, behind: int) -> None:
        self.behind = behind
        self.delay = 0.0  # seconds before each part of an answer
        self.drip = 0.0  # seconds before each byte of an answer
        self.stalled = False  # swallow whatever comes, from either side
        self.says: bytes | None = None  # what is answered instead of asking the server
        self.loses = b""  # the answer to the next request that has this word: the connection is cut in its place
        self.requests = 0  # parts of requests that have been carried
        self._connections: set[socket.socket] = set()
        self._losing: socket.socket | None = None  # whose next answer is lost
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()

    def refuse(self) -> None:
        """Take no more connections, and reset those there are."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        self.cut()

    def accept(self) -> None:
        """Take connections again, on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset all connections."""
        for connection in list(self._connections):
            self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        self._connections.discard(connection)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads
        connection.close()

    def _accept(self) -> None:
        listener = self._listener
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # closed
            self._connections.add(client)
            if listener.fileno() < 0:  # closed since, and all may have been cut before this one was added
                self._close(client)
                return
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.behind))
        except OSError:
            self._close(client)
            return
        self._connections.add(server)  # if the client was cut meanwhile, carrying fails at once, and closes both
        threading.Thread(target=self._carry, args=(server, client, False), daemon=True).start()
        self._carry(client, server, True)

    def _carry(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := source.recv(65536):
                if self.stalled:
                    continue
                if is_request:
                    self._request(data, source, target)
                else:
                    self._answer(data, target)
        self._close(source)
        self._close(target)

    def _request(self, data: bytes, source: socket.socket, target: socket.socket) -> None:
        self.requests += 1
        if self.loses and self.loses in data:
            self.loses, self._losing = b"", source
        if self.says is None:
            target.sendall(data)
        else:
            source.sendall(self.says)

    def _answer(self, data: bytes, target: socket.socket) -> None:
        if target is self._losing:
            raise ConnectionResetError
        time.sleep(self.delay)
        if not self.drip:
            target.sendall(data)
            return
        for byte in data:
            time.sleep(self.drip)
            target.sendall(bytes([byte]))


class HoldingRelay(Relay):
    """A relay in front of Redis that holds back the bytes of some: what is held comes later, in order."""

    def __init__(self, behind: int) -> None:
        super().__init__(behind)
        self.held: set[str] = set()  # whose: replica, sentinel, client
        self._kinds: dict[socket.socket, str] = {}

    def _request(self, data: bytes, source: socket.socket, target: socket.socket) -> None:
        for word, kind in ((b"PSYNC", "replica"), (b"sentinel-", "sentinel")):
            if word in data:
                self._kinds[source] = self._kinds[target] = kind
        self._wait(target)
        super()._request(data, source, target)

    def _answer(self, data: bytes, target: socket.socket) -> None:
        self._wait(target)
        super()._answer(data, target)

    def _wait(self, target: socket.socket) -> None:
        while self._kinds.get(target, "client") in self.held:
            time.sleep(0.01)

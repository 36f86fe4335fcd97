"""Questions to Redis over a pool of connections, each with one deadline for all of its answer.

`begin` waits for nothing: the caller has the connection's descriptor watched, and then receives the answers.

redis-py opens the connections. Its own way of asking takes four times as long
(`python -m benchmarks.studies.redis_lookup`), and its time-out starts again with every part of an answer.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import hiredis
from hiredis import HiredisError, ReplyError
from redis.connection import AbstractConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from gateway.http.threads import at_fork

SECONDS = 0.2  # for an answer; and to connect. redis-py's own defaults stalled a look-up for 6 s
OPENINGS = 16  # connections being opened at once
_SIZE = 4096  # bytes read at once: most answers are shorter

# RuntimeError: no new thread can be started.
FAILURES = (RedisError, HiredisError, OSError, ValueError, LookupError, RuntimeError)

pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command


class NotOpened(OSError):
    """No connection can be opened, which says nothing of those that are open. Its cause is the failure."""


def cause_of(error: BaseException) -> str:
    """Return what a failure shows of the server, in a word: refused, unreachable or damaged."""
    if isinstance(error, NotOpened):
        error = error.__cause__ or error
    if isinstance(error, ReplyError | ResponseError | AuthenticationError):
        return "refused"
    return "unreachable" if isinstance(error, OSError | RedisError) else "damaged"


class RedisConnection:
    """One connection; after a failure it is of no more use."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection  # closes the socket in the end, and leaves a parent process's alone
        self._socket = sock = cast("socket.socket", connection._sock)
        self._reader = hiredis.Reader()
        self._found: list[Any] = []  # what has been received of the answers
        self.late_at = 0.0  # when they are late, on the monotonic clock
        self.is_awaited = False  # whether answers to what was sent are still to come
        self._is_in_parts = False  # whether a part of them has come
        # The descriptor does not block, for the socket has a time-out. TLS may wait for more than bytes to read.
        self.fd = -1 if isinstance(sock, ssl.SSLSocket) else sock.fileno()

    def send(self, request: bytes) -> None:
        """Send all of it at once. Raises OSError."""
        self.late_at, self.is_awaited, self._is_in_parts = time.monotonic() + SECONDS, True, False
        if os.write(self.fd, request) < len(request):
            raise BlockingIOError("the server takes no more")

    def receive(self, answers: int, usual: bytes) -> list[Any] | None:
        """Return so many answers, errors too, None while some are still to come. Raises what `FAILURES` names.

        If what came is the usual, nothing is returned of it: an empty list.
        """
        try:
            data = os.read(self.fd, _SIZE)
        except BlockingIOError:
            return None
        if data == usual and not self._is_in_parts:
            return []
        self._is_in_parts = True
        self._found += self._read(data)
        if len(self._found) < answers:
            return None
        found, self._found = self._found, []
        return found

    def ask(self, request: bytes, answers: int) -> list[Any]:
        """Return so many answers to packed commands, within `SECONDS`. Raises what `FAILURES` names."""
        deadline = time.monotonic() + SECONDS
        self._socket.sendall(request)
        found = self._read(self._socket.recv(_SIZE))
        if len(found) < answers:
            while len(found) < answers:  # the socket's time-out is for each part
                if (left := deadline - time.monotonic()) <= 0:
                    raise TimeoutError("the answer is slow to come")
                self._socket.settimeout(left)
                found += self._read(self._socket.recv(_SIZE))
            self._socket.settimeout(SECONDS)
        if len(found) > answers:
            raise HiredisError("more answers than requests")
        for answer in found:
            if isinstance(answer, ReplyError):
                raise answer
        return found

    def _read(self, data: bytes) -> list[Any]:
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._reader.feed(data)
        found = []
        while (answer := self._reader.gets()) is not False:
            found.append(answer)
        return found

    def is_open(self) -> bool:
        """Return whether it was not closed by us."""
        return self._socket.fileno() >= 0

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class Question:
    """A look-up under way that no thread waits for: for so many entries, when `newest` was the head that is known."""

    connection: RedisConnection
    entries: int
    newest: str


class Connections:
    """The connections of this process that are open and idle. `dial` opens one."""

    def __init__(self, dial: Callable[[], RedisConnection]) -> None:
        self._dial = dial
        self._begin_anew()
        at_fork(after_in_child=self._begin_anew)  # a parent's connections would mix up their answers

    def _begin_anew(self) -> None:
        self._all: weakref.WeakSet[RedisConnection] = weakref.WeakSet()  # idle or not
        self._idle: deque[RedisConnection] = deque()
        self._opening: list[threading.Thread] = []

    def ask(self, request: bytes, answers: int, *, again: bool) -> list[Any]:
        """Return the answers to packed commands, within two and a half times `SECONDS`.

        `again`: ask once more over a new connection if the server had closed it. Raises what `FAILURES` names.
        """
        deadline = time.monotonic() + SECONDS
        try:
            return self._ask(self._take(deadline), request, answers)
        except ConnectionError:
            if not again:
                raise
            return self._ask(self._open(deadline), request, answers)

    def begin(self, request: bytes) -> RedisConnection | None:
        """Return a connection over which this was sent, None if none is open that can. Raises OSError.

        It is the caller's, to close, or to give back once all answers have come.
        """
        if not self._idle or self._idle[-1].fd < 0:
            return None
        connection = self._idle.pop()
        try:
            connection.send(request)
        except BaseException:
            connection.close()
            raise
        return connection

    def give_back(self, connection: RedisConnection) -> None:
        """Have a connection serve others."""
        connection.is_awaited = False
        self._idle.append(connection)

    def _ask(self, connection: RedisConnection, request: bytes, answers: int) -> list[Any]:
        try:
            found = connection.ask(request, answers)
        except BaseException:
            connection.close()  # an answer still to come must never reach another request (CVE-2023-28858)
            raise
        self._idle.append(connection)
        return found

    def _take(self, deadline: float) -> RedisConnection:
        with suppress(IndexError):
            return self._idle.pop()
        try:
            return self._open(deadline)
        except FAILURES as error:
            # A name server or the sentinels may fail alone, and connections that are open go on: one may be idle soon.
            until = time.monotonic() + SECONDS / 2
            while any(connection.is_open() for connection in list(self._all)) and time.monotonic() < until:
                with suppress(IndexError):
                    return self._idle.pop()
                time.sleep(0.001)
            raise NotOpened(str(error)) from error

    def _open(self, deadline: float) -> RedisConnection:
        """Return a new connection, opened by a thread: name servers, sentinels and handshakes keep no deadline."""
        self._opening = [thread for thread in self._opening if thread.is_alive()]
        if len(self._opening) >= OPENINGS:
            raise TimeoutError("connections are slow to open")
        opened: Future[RedisConnection] = Future()
        thread = threading.Thread(target=self._fill, args=(opened,), daemon=True)
        thread.start()
        self._opening.append(thread)
        try:
            return opened.result(max(deadline - time.monotonic(), 0))
        finally:
            opened.cancel()

    def _fill(self, opened: Future[RedisConnection]) -> None:
        try:
            connection = self._dial()
            self._all.add(connection)
        except FAILURES as error:
            if opened.set_running_or_notify_cancel():
                opened.set_exception(error)
        else:
            if opened.set_running_or_notify_cancel():
                opened.set_result(connection)
            else:
                self._idle.append(connection)  # too late for the one who asked, but the next need not wait

    def close(self) -> None:
        """Close what is idle; a later request opens new ones."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

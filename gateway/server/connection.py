"""One client's connection: what it sends becomes requests, and each request a response."""

from __future__ import annotations

import logging
import select
import socket
import struct
import time
from threading import Lock
from typing import Any

from gateway.problems import Problem
from gateway.server.draining import is_draining
from gateway.server.request import ClientDisconnected, Request, base_environ
from gateway.server.response import Application, Response

log = logging.getLogger("gateway.server")

RECEIVE_BYTES = 65536

HEAD_TIMEOUT = 30.0  # seconds for a whole head, however it trickles
QUIET_TIMEOUT = 75.0  # seconds without a byte: between requests, within a body, or of a reader that stopped
LINGER_TIMEOUT = 30.0  # seconds in which a refused body is read and thrown away
GRACE = 1.0  # seconds after which a connection counts as idle: one that just spoke may be about to speak again


class Connection:
    """One client's connection. Whoever calls `serve`, `is_due` or `close` holds its lock."""

    def __init__(self, sock: socket.socket, address: tuple[Any, ...], application: Application) -> None:
        sock.setblocking(False)
        self.fd = sock.fileno()
        self.lock = Lock()
        self._socket = sock
        self._application = application
        self._environ = base_environ(sock.getsockname(), address, self.is_left)
        self._request: Request | None = None
        self._last_active = time.monotonic()
        self._head_since = self._last_active  # 0: no head is being received
        self._discarding = False  # all is answered; what still comes is thrown away

    def serve(self, overloaded: bool = False) -> bool:
        """Read what has come, answer each request that it completes; return whether the connection stays.

        `overloaded` goes into the environ, as `gateway.overloaded`.
        """
        self._environ["gateway.overloaded"] = overloaded
        try:
            return self._receive()
        except (ClientDisconnected, OSError):
            return False
        except Exception:
            log.exception("a connection failed")
            return False

    def _receive(self) -> bool:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return True
        if self._discarding or not data:
            return bool(data)
        self._last_active = time.monotonic()
        while data:
            request = self._request = self._request or Request()
            data = data[request.received(data) :]
            if request.headers_finished and not (data or request.completed or request.asked):
                self._ask(request)
            if request.completed:
                self._request = None
                if not self._answer(request):
                    return self._linger() if data or request.unread else False
        in_head = self._request is not None and not self._request.headers_finished
        self._head_since = (self._head_since or self._last_active) if in_head else 0.0
        return True

    def _ask(self, request: Request) -> None:
        """Ask the application about a request before its body is read; if it does not refuse, let the client go on."""
        request.asked = True
        refuses = getattr(self._application, "refuses", None)
        try:
            refused = refuses is not None and refuses(request.environ(self._environ))
        except Exception:  # noqa: BLE001 - the whole request will be judged again, and then it counts
            refused = False
        if refused:
            request.give_up_body()
        elif request.expect_continue:
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _answer(self, request: Request) -> bool:
        """Send the response; return whether the connection can be used again."""
        response = Response(request, self._send)
        try:
            if request.problem is not None:
                response.refuse(request.problem)
            else:
                response.run(self._application, request.environ(self._environ))
        except ClientDisconnected:
            return False
        except BaseException as error:  # noqa: BLE001 - whatever the app raises: an answer, or a visible cut-off
            if self.is_left():
                return False
            _report(error)
            if response.has_begun:
                # Without the end that its framing promised it is visibly cut off; HTTP/1.0's only end is the close.
                if not response.is_framed:
                    self.reset_at_close()
                return False
            Response(request, self._send).refuse(error if isinstance(error, Problem) else Problem("internal-error"))
            return False
        finally:
            request.close()
        self._last_active = time.monotonic()
        return not response.closes

    def _send(self, data: bytes) -> None:
        """Send all of it, waiting for a client that reads slowly. Raises ClientDisconnected."""
        rest: bytes | memoryview = data
        while rest:
            try:
                sent = self._socket.send(rest)
                rest = memoryview(rest)[sent:] if sent < len(rest) else b""
            except BlockingIOError:
                if not self._awaits(select.POLLOUT, QUIET_TIMEOUT):
                    raise ClientDisconnected from None
            except OSError as error:
                raise ClientDisconnected from error

    def is_left(self) -> bool:
        """Tell whether the client has closed the connection, or its side of it."""
        return self._awaits(select.POLLRDHUP, 0)

    def _awaits(self, event: int, seconds: float) -> bool:
        """Wait for an event of the socket, and tell whether it came."""
        poll = select.poll()
        poll.register(self._socket, event)
        return bool(poll.poll(seconds * 1000))

    def _linger(self) -> bool:
        # Closing with unread bytes resets the connection, and takes the answer with it (RFC 9112 section 9.6).
        self._socket.shutdown(socket.SHUT_WR)
        self._discarding = True
        return True

    def is_due(self, now: float) -> bool:
        """Tell whether the client has had its time; in a drain, whether nothing would be lost by closing."""
        # What has come and found every thread busy is not the client's delay.
        return self._has_had_its_time(now) and not self._awaits(select.POLLIN, 0)

    def _has_had_its_time(self, now: float) -> bool:
        quiet = now - self._last_active
        if self._discarding:
            return quiet > LINGER_TIMEOUT
        has_head = self._request is not None and self._request.headers_finished
        if is_draining() and not has_head:
            return quiet > GRACE
        return quiet > QUIET_TIMEOUT or 0 < self._head_since < now - HEAD_TIMEOUT

    def reset_at_close(self) -> None:
        """Have the close show as a reset, not as an end."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Close the socket."""
        if self._request is not None:
            self._request.close()
        self._socket.close()


def _report(error: BaseException) -> None:
    if isinstance(error, Problem):
        log.warning("a response was cut off: %s", error.code)
    else:
        log.error("the app failed", exc_info=error)

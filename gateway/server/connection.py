"""One client's connection: what it sends becomes requests, and each request a response.

Nothing here waits: a client that sends or reads slowly, or an application that pauses, holds a connection, no thread.
All is done in stages, so that a listener can have many connections do the same, one after the other.
"""

from __future__ import annotations

import logging
import math
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from gateway.http.draining import is_draining
from gateway.http.problems import Problem
from gateway.http.wsgi import Context, Environ, context, give_context
from gateway.server.request import ClientDisconnected, Request, base_environ
from gateway.server.response import Application, Response

log = logging.getLogger("gateway.server")

RECEIVE_BYTES = 65536

HEAD_TIMEOUT = 30.0  # seconds for a whole head, however it trickles
QUIET_TIMEOUT = 75.0  # seconds without a byte: between requests, within a body, or of a reader that stopped
LINGER_TIMEOUT = 30.0  # seconds in which a refused body is read and thrown away
GRACE = 1.0  # seconds after which a connection counts as idle: one that just spoke may be about to speak again

Awaited = tuple[int, int]  # a descriptor, and the epoll event of it
NOTHING = (-1, 0)

ANSWER, SEND, RECEIVE = range(3)  # what a connection does next; what has begun comes before what is new


class Connection:
    """One client's connection. Whoever calls `serve`, `is_due` or `close` holds its lock.

    The context has `pause`: see `http.wsgi.Pause`.
    """

    def __init__(
        self, sock: socket.socket, address: Any, application: Application, keep_alive: float = QUIET_TIMEOUT
    ) -> None:
        sock.setblocking(False)
        self.fd = sock.fileno()
        self.lock = Lock()
        self.stage = RECEIVE
        self.resume_at = math.inf  # when a response that pauses goes on at the latest, in monotonic seconds
        self._socket = sock
        self._application = application
        self._keep_alive = keep_alive
        self._base = base_environ(sock.getsockname(), address)
        self._environ = self._base  # of the request that is being answered, where there is one
        self._received = b""  # what has come, and belongs to no request yet
        self._request: Request | None = None
        self._response: Response | None = None
        self._unsent: bytes | memoryview = b""
        self._awaited: Awaited | None = None  # what the application waits for
        self._last_active = time.monotonic()
        self._head_since = self._last_active  # 0: no head is being received
        self._discarding = False  # all is answered; what still comes is thrown away

    def serve(self, overloaded: bool = False) -> Awaited | None:
        """Do what `stage` says; return what has to happen before the next, maybe NOTHING, or None where all is over.

        `overloaded` goes into the environ, as `gateway.overloaded`.
        """
        context(self._environ).overloaded = overloaded
        try:
            if self.stage == RECEIVE:
                if not self._receive():
                    return None
            elif self.stage == ANSWER:
                self._work(self._advance)
            elif not self._flush():
                return self.fd, select.EPOLLOUT
            return self._next()
        except (ClientDisconnected, OSError):
            return None
        except Exception:
            log.exception("a connection failed")
            return None

    def _next(self) -> Awaited | None:
        """Set the next stage, and return what has to happen before it; None where all is over."""
        response = self._response
        if self._unsent:
            self.stage = SEND
            return NOTHING
        if response and not response.is_over:
            self.stage = ANSWER
            return self._awaited or NOTHING
        self.stage = RECEIVE
        if response:  # it is over, and all of it sent
            self._request = self._response = self._awaited = None
            self._environ, self.resume_at = self._base, math.inf
            if response.closes:
                return self._linger() if self._received or response.request.unread else None
        return NOTHING if self._received else (self.fd, select.EPOLLIN)

    def _receive(self) -> bool:
        """Take what has come, and begin to answer a request that is whole; return whether the client is still there."""
        if not self._received:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return True
            if self._discarding or not data:
                return bool(data)
            self._received = data
            self._last_active = time.monotonic()
        request = self._request = self._request or Request()
        while self._received and not request.completed:
            self._received = self._received[request.received(self._received) :]
            if request.headers_finished and not (self._received or request.completed or request.asked):
                self._ask(request)
        self._head_since = 0.0 if request.headers_finished else self._head_since or self._last_active
        if request.completed:
            self._response = Response(request, self._send, self._flush)
            self._work(self._begin)
        return True

    def _ask(self, request: Request) -> None:
        """Ask the application about a request before its body is read; if it does not refuse, let the client go on."""
        request.asked = True
        refuses = getattr(self._application, "refuses", None)
        try:
            refused = refuses is not None and refuses(self._environ_of(request))
        except Exception:  # noqa: BLE001 - the whole request will be judged again, and then it counts
            refused = False
        if refused:
            request.give_up_body()
        elif request.expect_continue:
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _work(self, step: Callable[[Response], None]) -> None:
        """Go a step on with the response. Whatever the application raises is an answer, or a visible cut-off."""
        response = self._response
        assert response  # noqa: S101 - `stage` says so
        try:
            step(response)
        except ClientDisconnected:
            raise
        except BaseException as error:  # noqa: BLE001
            self._fail(response, error)

    def _begin(self, response: Response) -> None:
        """Have the application begin."""
        if response.request.problem is not None:
            response.refuse(response.request.problem)
        else:
            self._environ = self._environ_of(response.request)
            response.start(self._application, self._environ)

    def _advance(self, response: Response) -> None:
        """Ask for something to send, up to a pause or the response's end."""
        self._awaited, self.resume_at = None, math.inf
        while not (response.is_over or self._awaited or self._unsent):
            response.advance()
        if response.is_over:
            response.close()
            response.request.close()

    def _fail(self, response: Response, error: BaseException) -> None:
        """Answer with a refusal, or show that the answer is cut off."""
        response.close()
        response.request.close()
        if self.is_left():
            raise ClientDisconnected
        _report(error)
        response.closes = True
        if response.has_begun:
            # Without the end that its framing promised it is visibly cut off. HTTP/1.0's only end is the close:
            # there is no more to tell this client but a reset, as at any close amid such a body.
            if not response.is_framed:
                raise ClientDisconnected
            response.is_over = True
        else:
            self._response = Response(response.request, self._send, self._flush)
            self._response.refuse(error if isinstance(error, Problem) else Problem("internal-error"))

    def _environ_of(self, request: Request) -> Environ:
        environ = request.environ(self._base)
        about = Context()
        about.received = tuple(request.fields)
        about.overloaded = context(self._environ).overloaded
        about.client_left, about.pause = self.is_left, self._pause
        give_context(environ, about)
        return environ

    def _pause(self, seconds: float, descriptors: Mapping[int, int] | None = None, *, body: bool = False) -> None:
        if descriptors:
            self._awaited = next(iter(descriptors.items()))
        self.resume_at = time.monotonic() + seconds

    def _send(self, data: bytes) -> None:
        self._unsent = bytes(self._unsent) + data if self._unsent else data

    def _flush(self) -> bool:
        """Send what is unsent; return whether that is all. Raises ClientDisconnected."""
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ClientDisconnected from error
        self._last_active = time.monotonic()
        self._unsent = memoryview(self._unsent)[sent:] if sent < len(self._unsent) else b""
        return not self._unsent

    def is_left(self) -> bool:
        """Tell whether the client has closed the connection, or its side of it."""
        return self._has(select.POLLRDHUP)

    def _has(self, event: int) -> bool:
        poll = select.poll()
        poll.register(self._socket, event)
        return bool(poll.poll(0))

    def _linger(self) -> Awaited:
        # Closing with unread bytes resets the connection, and takes the answer with it (RFC 9112 section 9.6).
        self._socket.shutdown(socket.SHUT_WR)
        self._discarding, self._received = True, b""
        return self.fd, select.EPOLLIN

    def is_due(self, now: float) -> bool:
        """Tell whether the client has had its time; in a drain, whether nothing would be lost by closing."""
        # What has come and found every thread busy is not the client's delay.
        return self._has_had_its_time(now) and not self._has(select.POLLOUT if self._unsent else select.POLLIN)

    def _has_had_its_time(self, now: float) -> bool:
        quiet = now - self._last_active
        if (self._response is not None or self._received) and not self._unsent:
            return False  # the application's time, not the client's
        if self._discarding:
            return quiet > LINGER_TIMEOUT
        has_head = self._request is not None and self._request.headers_finished
        if is_draining() and not has_head:
            return quiet > GRACE
        patience = QUIET_TIMEOUT if self._request is not None or self._unsent else self._keep_alive
        return quiet > patience or 0 < self._head_since < now - HEAD_TIMEOUT

    def reset_at_close(self) -> None:
        """Have the close show as a reset, not as an end."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Close the socket, and let the application clean up."""
        response, self._response = self._response, None
        try:
            if response is not None:
                if not response.is_framed and (self._unsent or not response.is_over):
                    self.reset_at_close()  # else what there is would look whole
                response.close()
        finally:
            if self._request is not None:
                self._request.close()
            self._socket.close()


def _report(error: BaseException) -> None:
    if isinstance(error, Problem):
        log.warning("a response was cut off: %s", error.code)
    else:
        log.error("the app failed", exc_info=error)

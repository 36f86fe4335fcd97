"""One client's connection: what it sends becomes requests, and each request a response.

Nothing here waits: a client that sends or reads slowly, or an app that pauses, holds a connection, but no thread.
All is done in steps, so that a listener can have many connections do the same, one after the other (see `states`).
"""

from __future__ import annotations

import logging
import math
import select
import socket
import time
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any, Final

from gateway.http.disconnected import ClientDisconnected
from gateway.http.draining import is_draining
from gateway.http.problems import Problem
from gateway.http.wsgi import CONTEXT_KEY, App, Context
from gateway.server.body import Body
from gateway.server.head import HeadReader, Room
from gateway.server.pause import NOTHING, Awaited, PauseNote
from gateway.server.request import Request, base_environ, read_request
from gateway.server.response import Response
from gateway.server.states import ANSWER, CLOSED, HEAD, LINGER, PAUSE, QUIET_SECONDS, SEND, SKIP, UNREAD, State
from gateway.server.wire import RECEIVES, Wire

log = logging.getLogger("gateway.server")

NEVER: Final = math.inf
LONG: Final = 65_536  # bytes: such a part is sent before others' are made, while the processor's caches have it
LOOK_SECONDS: Final = 5.0  # at most, between two looks at a connection, whether its time is over


class Connection:
    """One client's connection. Whoever calls `serve`, `is_expired` or `close` holds its lock.

    `notify` is called, from any thread, when the connection is to be served though nothing that it awaits has happened.
    """

    def __init__(
        self,
        sock: socket.socket,
        address: Any,
        application: App,
        *,
        notify: Callable[[Connection], None],
        keep_alive: float = QUIET_SECONDS,
        room: Room | None = None,
    ) -> None:
        self.wire = Wire(sock, keep_alive)
        self._look_seconds = min(LOOK_SECONDS, keep_alive)
        self.fd = self.wire.fd
        self.lock = Lock()
        self.state: State = HEAD
        self.is_ready = False  # whether something has happened since it was served last
        self.alarm = NEVER  # when the listener looks after it, in seconds of time.monotonic: its own note
        self.pause = PauseNote()
        self._application = application
        self._notify = partial(notify, self)
        self._base = base_environ(sock.getsockname(), address)
        self.about = self._nobody = Context()  # of the request that is being answered; between two, of none
        self._has_left, self._ask_for_pause = self.wire.has_left, self.pause.ask
        self._readable: Awaited = {self.fd: select.POLLIN}
        self._head = HeadReader(room or Room())
        self._response: Response | None = None
        self._skipped: Body | None = None

    def serve(self, overloaded: bool = False, is_alone: bool = False) -> Awaited | None:
        """Do what the state says; return what has to happen before the next, maybe NOTHING, or None where all is over.

        `overloaded` and `is_alone` go into the request's context.
        """
        self.about.overloaded, self.about.is_alone = overloaded, is_alone
        self.wire.receives_left = RECEIVES
        response = self._response
        try:
            if response is not None and response.cut_code:
                return self._cut_off(response)
            return _STEPS[self.state](self, response)
        except ClientDisconnected:
            return None
        except BaseException as error:  # noqa: BLE001 - an application may raise anything
            return self._fail(error)

    def _read_head(self, _: None) -> Awaited | None:
        wire = self.wire
        if not wire.received and not wire.receive():
            return self._readable
        try:
            head, used = self._head.feed(wire.received)
        except Problem as problem:
            request, wire.received = Request(problem=problem), b""
            self._head.clear()  # the connection lingers
        else:
            wire.received = wire.received[used:]
            if head is None:
                wire.deadlines.since = wire.deadlines.since or wire.deadlines.heard
                # `is_expired` ends no client that sends all the time, and empty lines add up to no head.
                return self._readable if wire.deadlines.heard < wire.deadlines.end(HEAD) else None
            request = read_request(head)
        wire.deadlines.since = None
        body = Body(wire, request.framing, self._invite if request.expects_continue else None)
        self._response = response = Response(request, body, wire, self.pause, self._notify)
        if request.problem is not None:
            client = {"client": self._base["REMOTE_ADDR"]}
            log.info("a head is refused: %s", request.problem.code, extra={"record": client})
            response.refuse(request.problem, self.about)
            return self._proceed(response)
        about = Context()
        about.received = tuple(request.fields)
        about.overloaded, about.is_alone = self.about.overloaded, self.about.is_alone
        about.client_left = self._has_left
        about.pause, about.resume = self._ask_for_pause, self._notify
        about.cut, about.interim = response.cut, response.interim
        self.about = about
        own = {"wsgi.input": body, CONTEXT_KEY: about}
        if response.start(self._application, {**self._base, **request.fields, **request.line, **own}) or about.is_alone:
            response.go_on()
        return self._proceed(response)

    def _invite(self) -> None:
        """Let a client go on that waits to be asked for its body (RFC 9110 section 10.1.1)."""
        if self._response is not None and not self._response.has_begun:
            self.wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wire.flush()

    def _answer(self, response: Response) -> Awaited | None:
        if self.pause.is_watched and self.wire.has_left():
            raise ClientDisconnected
        response.go_on()
        return self._proceed(response)

    def _send(self, response: Response) -> Awaited | None:
        if self.wire.flush():
            return self._proceed(response)
        if self.about.is_duplex and not response.is_over:
            self.state = UNREAD
            return NOTHING
        return {self.fd: select.POLLOUT}

    def _go_on_unread(self, response: Response) -> Awaited | None:
        self.about.is_unread = not self.wire.flush()
        if not self.about.is_unread:
            self.state = ANSWER
            return NOTHING
        self.pause.clear()
        response.go_on()
        if response.is_over:
            self.state = SEND
            return NOTHING
        awaited = response.awaited(self.fd)
        return awaited if awaited is NOTHING else {**awaited, self.fd: awaited.get(self.fd, 0) | select.POLLOUT}

    def _proceed(self, response: Response) -> Awaited | None:
        """Set the state that follows, and return what has to happen before it; None where all is over."""
        # What was made while the response was cut is not sent.
        unsent = self.wire.unsent
        at_once = self.about.is_alone or len(unsent) > LONG
        if unsent and not (at_once and not response.cut_code and self.wire.flush()):
            self.state = SEND
            return NOTHING
        if response.is_over:
            return self._finish(response)
        if self.pause.awaited is None:
            self.state = ANSWER
            return NOTHING
        self.state = PAUSE
        return response.awaited(self.fd)

    def _finish(self, response: Response) -> Awaited | None:
        """Go on to the next request, or to the connection's end: the response is over, and all of it sent."""
        wire, body = self.wire, response.body
        self._response, self.about = None, self._nobody
        if self.pause.awaited is not None:
            self.pause.clear()
        if response.closes:
            # To close while something of the client's is unread sends a reset, which takes what is not delivered yet.
            if body.has_ended() and not (wire.received or wire.receive()):
                return None
            wire.end()
            wire.deadlines.since = time.monotonic()
            self.state = LINGER
            return self._readable
        if not body.has_ended():
            self._skipped = body
            self.state = SKIP
            return NOTHING
        self.state = HEAD
        return NOTHING if wire.received else self._readable

    def _skip(self, _: None) -> Awaited | None:
        body = self._skipped
        assert body  # noqa: S101 - the state has one
        while part := body.take():
            pass
        if part is not None:
            self._skipped, self.state = None, HEAD
        return NOTHING if self.wire.received else self._readable

    def _linger(self, _: None) -> Awaited | None:
        self.wire.receive()
        self.wire.received = b""
        # `is_expired` ends no client that sends all the time: it would always find something to receive.
        return self._readable if time.monotonic() < self.wire.deadlines.end(LINGER) else None

    def _fail(self, error: BaseException) -> Awaited | None:
        """Answer with a refusal, or show that the answer is cut off; return as `serve` does."""
        response = self._response
        try:
            if response is None:
                raise error
            response.close()
            if self.wire.has_left():
                return None
            _report(error)
            if not response.has_begun:
                return self._refuse(response, error if isinstance(error, Problem) else Problem("internal-error"))
            # Without the promised end it is visibly cut off. Where the close is the only end, a reset shows it.
            if not response.is_framed:
                return None
            response.closes = response.is_over = True
            return self._proceed(response)
        except OSError:  # the client has left
            return None
        except Exception:
            log.exception("a connection failed")
            return None

    def _refuse(self, response: Response, problem: Problem) -> Awaited | None:
        """Answer with a refusal in place of a response that has not started."""
        self._response = refusal = Response(response.request, response.body, self.wire, self.pause, self._notify)
        refusal.refuse(problem, self.about)
        return self._proceed(refusal)

    def _cut_off(self, response: Response) -> Awaited | None:
        """End a response that must not go on: the client sees why if nothing was sent yet, and else a reset."""
        code, response.cut_code = response.cut_code, ""
        if self.about.refusal:  # an answer of its own is under way, and short
            return _STEPS[self.state](self, response)
        self.about.refusal = code
        if response.has_begun:
            if response.say_farewell(self.about.farewell, code):
                return self._proceed(response)
            self.wire.reset_at_close()
            return None
        response.close()
        return self._refuse(response, Problem(code))

    def is_expired(self, now: float) -> bool:
        """Return whether the client has had its time; in a drain, whether nothing would be lost by closing."""
        end = self.wire.deadlines.end(self.state, awaits_body=self.pause.body, draining=is_draining())
        if now <= end or (self.state is HEAD and self.wire.received):
            return False
        # Where something has come that no thread had time for, the delay is not the client's.
        return not self.wire.poll(select.POLLOUT if self.state in (SEND, UNREAD) else select.POLLIN)

    def look_at(self, now: float) -> float:
        """Return when to look at it again, if nothing happens until then: to end it, or to watch the client."""
        if self.state is UNREAD:
            return min(now + LOOK_SECONDS, self.pause.resume_at)
        return self.pause.next_look(now, LOOK_SECONDS) if self.state is PAUSE else now + self._look_seconds

    def close(self) -> None:
        """Close the socket, and let the application clean up."""
        self.state = CLOSED
        self._head.clear()
        response, self._response = self._response, None
        try:
            if response is not None:
                if not response.is_framed and (self.wire.unsent or not response.is_over):
                    self.wire.reset_at_close()  # else what there is would look whole
                response.close()
        finally:
            self.wire.close()


# What each state does, with the response where it has one.
_STEPS: Final[dict[State, Callable[[Connection, Any], Awaited | None]]] = {
    HEAD: Connection._read_head,
    ANSWER: Connection._answer,
    PAUSE: Connection._answer,
    SEND: Connection._send,
    UNREAD: Connection._go_on_unread,
    SKIP: Connection._skip,
    LINGER: Connection._linger,
}


def _report(error: BaseException) -> None:
    if isinstance(error, Problem):
        log.warning("a response was cut off: %s", error.code)
    else:
        log.error("the app failed", exc_info=error)

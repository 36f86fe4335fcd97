"""One exchange at a time over libcurl, on one kept connection."""

from __future__ import annotations

import math
import select
from contextlib import suppress
from io import BytesIO
from time import monotonic
from typing import Any, Final

import pycurl

from gateway.proxy.descriptors import AT_ONCE, CAN_HOLD_BACK, cork, reset_at_close
from gateway.proxy.failures import UpstreamFailed, failure, malformed
from gateway.proxy.leftover import Spare
from gateway.proxy.options import IDLE_SECONDS, field_lines, options
from gateway.proxy.outbound import Outbound, Peer, Take

# What each request needs: compiled code would look it up in pycurl's module each time.
_GET: Final = pycurl.HTTPGET
_POST: Final = pycurl.POST
_FIELDS: Final = pycurl.HTTPHEADER
_TIME_OUT: Final = pycurl.SOCKET_TIMEOUT
_SOCKET: Final = pycurl.ACTIVESOCKET
_REMOVE: Final = pycurl.POLL_REMOVE
_IN: Final = pycurl.CSELECT_IN
_POLL_IN: Final = select.POLLIN
_TO_POLL: Final = {
    pycurl.POLL_IN: select.POLLIN,
    pycurl.POLL_OUT: select.POLLOUT,
    pycurl.POLL_INOUT: select.POLLIN | select.POLLOUT,
}
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
_TO_CURL: Final = [  # by poll's events
    (pycurl.CSELECT_IN if event & _READABLE else 0) | (pycurl.CSELECT_OUT if event & select.POLLOUT else 0)
    for event in range(2 * select.POLLNVAL)
]


class Handle:
    """A libcurl handle with one kept connection to a peer.

    `head` and `body` fill up as `work` is called: lines of all heads and trailers, and undecoded bytes
    (360 KB at a time, at most 720 KB, as measured; what is not asked for stays with the upstream).
    """

    def __init__(self, peer: Peer, connect_seconds: float) -> None:
        self.user: str | None = ""  # who alone may use the connection (see `Pool`); None: nobody
        self.taker: str | None = ""  # who uses it now
        self.is_doubtful = False  # whether others like it turned out to be dead while it was idle
        self.head: list[bytes] = []
        self.body: list[bytes] = []
        self.is_done = False
        self.is_starved = False  # the request's body has not come yet
        self.error: Exception | None = None
        self.watched: dict[int, int] = {}  # what libcurl waits for: poll's events by descriptor
        self._sockets: set[int] = set()
        self._kept = -1  # the socket of the kept connection, below 0 for none
        # The socket that was made for this exchange; None: none was; -1: several were, and nobody knows which is used.
        self._newest: int | None = None
        self._spare = Spare()
        self._look = select.poll().poll  # of that socket alone
        self.idle_since = 0.0  # in seconds of time.monotonic
        self.may_connect = True  # whether the request may go out on a new connection, should the kept one be dead
        self._reads_ahead = CAN_HOLD_BACK and peer.origin.startswith("https:")
        self._is_fresh = self.is_held = self._holds_back = self._has_more = False
        self._take: Take | None = None
        self._shape = "", "", 0  # method, target and kind of request, as last set
        self._multi = pycurl.CurlMulti()
        # pycurl makes a method anew each time that it is asked for one.
        self._socket_action, self._timeout = self._multi.socket_action, self._multi.timeout
        # Not `multi.select`: it fails in a process with more than 1,024 descriptors.
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_MAXCONNECTS, 1)
        self._easy = pycurl.Curl()
        for option, value in options(peer).items():
            self._easy.setopt(option, value)
        self.point_to(peer)
        self._easy.setopt(pycurl.CONNECTTIMEOUT_MS, math.ceil(connect_seconds * 1000))  # 0 would be five minutes
        self._easy.setopt(pycurl.SOCKOPTFUNCTION, self._allow_socket)
        self._easy.setopt(pycurl.HEADERFUNCTION, self.head.append)
        self._easy.setopt(pycurl.WRITEFUNCTION, self.body.append)

    def point_to(self, peer: Peer) -> None:
        """Have connections from now on go to the addresses of `peer`."""
        self.peer = peer
        known = ",".join(f"[{address}]" if ":" in address else address for address in peer.addresses)
        self._easy.setopt(pycurl.RESOLVE, [f"{peer.host}:{peer.port}:{known}"])

    def start(self, request: Outbound) -> None:
        """Begin an exchange: over a kept connection, a request whose body is whole is on its way."""
        # libcurl sends a request again when a kept connection turns out to be dead, whatever its method. One that may
        # not be sent twice goes out on a kept connection only if that is alive, and then gets no second one.
        # What has come on one while nothing was asked for is another user's, and would be taken for the answer: libcurl
        # looks for that only after a second without a request.
        is_fresh = self._kept < 0 or bool(self._look(0))
        if not request.is_repeatable:
            is_fresh = is_fresh or monotonic() > self.idle_since + IDLE_SECONDS
        self.may_connect = request.is_repeatable or is_fresh
        if is_fresh != self._is_fresh:
            self._easy.setopt(pycurl.FRESH_CONNECT, is_fresh)
            self._is_fresh = is_fresh
        self.head.clear()
        self.body.clear()
        self.is_done = self.is_starved = False
        self.error = self._newest = None
        self._holds_back = self._reads_ahead and not is_fresh
        self._set_request(request)
        lines = field_lines(request)
        try:
            self._easy.setopt(_FIELDS, lines)
        except UnicodeEncodeError:  # pycurl takes texts in ASCII alone
            self._easy.setopt(_FIELDS, [line.encode("latin-1") for line in lines])
        if self._holds_back:
            self._start_held_back(request)
        else:
            self._multi.add_handle(self._easy)
            self._act(_TIME_OUT, 0)

    def _start_held_back(self, request: Outbound) -> None:
        """Begin where TLS may have read ahead, which no look at the socket shows: what it read is nobody's answer."""
        cork(self._kept, 1)
        self._multi.add_handle(self._easy)
        self._act(_TIME_OUT, 0)
        with suppress(OSError):  # it has been closed
            cork(self._kept, 0)
        self._holds_back = False
        if not (self.head or self.is_done):
            if self.is_starved:
                self._feed()
        elif request.is_repeatable:
            self._multi.remove_handle(self._easy)
            self._kept = -1
            self.start(request)
        elif not self.error:
            self.head.clear()
            self.error, self.is_done = malformed("it came unasked"), True

    def _set_request(self, request: Outbound) -> None:
        easy, body, length = self._easy, request.body, request.length
        if self._holds_back and isinstance(body, bytes) and len(body) > AT_ONCE:
            length, body = len(body), BytesIO(body).read
        if body is None:
            kind = _GET
        elif isinstance(body, bytes):
            kind = _POST
            easy.setopt(pycurl.POSTFIELDS, body)
        else:
            kind, self._take = pycurl.UPLOAD, body
            easy.setopt(pycurl.WRITEFUNCTION, self._write)
            easy.setopt(pycurl.INFILESIZE_LARGE, -1 if length is None else length)
            easy.setopt(pycurl.READFUNCTION, self._read)
        if self._shape != (shape := (request.method, request.target, kind)):  # what was set before stays set
            self._shape = shape
            easy.setopt(pycurl.NOBODY if kind == _GET and request.method == "HEAD" else kind, 1)
            easy.setopt(pycurl.CUSTOMREQUEST, request.method)
            easy.setopt(pycurl.REQUEST_TARGET, request.target.encode("latin-1"))

    def timeout(self) -> float:
        """Return after how many seconds libcurl wants to work even if nothing happens; below 0: never."""
        timeout = self._timeout
        milliseconds: int = timeout()  # asking costs less than a callback
        return milliseconds / 1000

    def work(self, seconds: float = 0) -> bool:
        """Let libcurl do what it can, after waiting at most so long for it; return whether anything has happened."""
        if self.is_starved and not self.is_done:
            self._feed()
        if self.is_done:  # as answers often are by the time that the request is sent
            return True
        watched, known, has_written = self.watched, len(self.head), False
        if not seconds and len(watched) == 1 and _POLL_IN in watched.values():
            # Where only one thing can have happened, nobody looks whether it has: libcurl finds out when it reads.
            self._act(next(iter(watched)), _IN)
        else:
            poll = select.poll()
            for descriptor, event in watched.items():
                poll.register(descriptor, event)
            for descriptor, event in poll.poll(seconds * 1000):
                has_written |= event & select.POLLOUT != 0
                self._has_more = False
                if descriptor in watched:
                    self._act(descriptor, _TO_CURL[event])
                if self._has_more and not self.body and descriptor in watched:
                    self._act(descriptor, _TO_CURL[event])
        # Where a part of a long answer has come, others have their turn before the next.
        if not (self.is_done or self.body) and self.timeout() == 0:
            self._act(_TIME_OUT, 0)
        return self.is_done or has_written or bool(self.body) or len(self.head) > known

    def is_answered_early(self) -> bool:
        """Return whether the answer, whose head is there, is complete although the request's body is not sent."""
        return self._shape[2] != _GET and not any(event & _POLL_IN for event in self.watched.values())

    def is_connected(self) -> bool:
        """Return whether the request is on its way: before, the connect time-out counts alone."""
        return bool(self._easy.getinfo(pycurl.PRETRANSFER_TIME) > 0)

    def address(self) -> str:
        """Return the address that the connection goes to."""
        return str(self._easy.getinfo(pycurl.PRIMARY_IP))

    def stop(self) -> None:
        """End the exchange; unless the answer is complete, its connection is closed."""
        kept = self._easy.getinfo(_SOCKET)
        if kept != self._kept:
            poll = select.poll()
            if kept >= 0:
                poll.register(kept, _POLL_IN)
            self._kept, self._look = kept, poll.poll
        self.idle_since = monotonic()
        self._multi.remove_handle(self._easy)
        if self._take:
            self._take = None
            self._spare.close()
            self._easy.setopt(pycurl.WRITEFUNCTION, self.body.append)
        if self._shape[2] == _POST:
            self._easy.setopt(pycurl.POSTFIELDS, b"")  # an idle connection holds nobody's body

    def hold(self, is_held: bool) -> None:
        """Take no more of the answer in, or go on with it: while a body that is taken part by part is sent."""
        self.is_held = is_held
        if not (is_held or self.is_done):  # libcurl goes on with nothing that is over
            self._feed()

    def is_sending(self) -> bool:
        """Return whether there may be more of the request's body to send."""
        return self.is_starved or any(event & select.POLLOUT for event in self.watched.values())

    def close(self) -> None:
        """Close the handle and its connection, whatever their state."""
        self._easy.close()
        self._multi.close()
        self._spare.close()
        self._take = None

    def drop(self) -> None:
        """Close an idle connection, with a reset where that takes nothing away."""
        with suppress(OSError):
            if self._kept >= 0:
                reset_at_close(self._kept)
        self.close()

    def _read(self, size: int) -> Any:
        self._spare.open(self._kept if self._newest is None else self._newest)
        try:
            data = None if self._holds_back else self._take(size) if self._take else b""
        except Exception as error:  # noqa: BLE001 - a server may raise anything here; it ends the exchange
            self.error = error
            return pycurl.READFUNC_ABORT
        if data is None:
            self.is_starved = True
            return pycurl.READFUNC_PAUSE
        self._has_more = len(data) == size  # maybe; two parts in a step save a fifth of the CPU
        return data

    def _write(self, data: bytes) -> int | None:
        if self.is_held:
            return int(pycurl.WRITEFUNC_PAUSE)
        self.body.append(data)
        return None

    def _feed(self) -> None:
        """Have libcurl ask for the request's body again, and go on with the answer."""
        self.is_starved = False
        self._easy.pause(pycurl.PAUSE_CONT)
        self._act(_TIME_OUT, 0)

    def _act(self, descriptor: int, events: int) -> None:
        socket_action = self._socket_action
        _, running = socket_action(descriptor, events)
        if not running:
            _, _, failed = self._multi.info_read()
            self.is_done = True
            if failed and not self.error:
                # libcurl does not read an answer that came before the upstream reset the connection under an upload.
                if not self.head and (left := self._spare.answer()):
                    self.head += left[0]
                    self.body += left[1]
                else:
                    self.error = self._failure(failed[0][1], failed[0][2])

    def _failure(self, code: int, message: str) -> UpstreamFailed:
        # `_allow_socket`; or a body that is passed as it comes cannot be sent once more.
        if code in (pycurl.E_ABORTED_BY_CALLBACK, pycurl.E_SEND_FAIL_REWIND):
            return UpstreamFailed("upstream-unreachable", "the kept connection was closed before the head")
        return failure(code, message, self._easy.getinfo(pycurl.OS_ERRNO))

    def _allow_socket(self, descriptor: int, _: int) -> int:
        self._sockets.add(descriptor)
        # Of addresses tried at once libcurl closes all but the fastest: a number that is free may soon be another's.
        self._newest = descriptor if self._newest in (None, descriptor) else -1
        return int(pycurl.SOCKOPT_OK if self.may_connect else pycurl.SOCKOPT_ERROR)

    def _watch(self, what: int, descriptor: int, _multi: object, _data: object) -> None:
        if what == _REMOVE:
            self.watched.pop(descriptor, None)
        elif descriptor in self._sockets:  # beside them libcurl has one for its resolver, which is not waited for
            self.watched[descriptor] = _TO_POLL.get(what, 0)

"""The upstream's answer as it comes: its head, then its bytes, taken when asked for and never decoded."""

from __future__ import annotations

import re
from time import monotonic
from typing import Final

from gateway.http.blocking import blocking
from gateway.http.cache import bounded_cache
from gateway.http.disconnected import ClientDisconnected
from gateway.http.wsgi import Context, Fields
from gateway.proxy.curl import Handle
from gateway.proxy.failures import UpstreamFailed, malformed
from gateway.proxy.fields import response_fields
from gateway.proxy.outbound import Outbound
from gateway.proxy.pool import Pool

MAX_INTERIMS: Final = 100  # before an answer
POLL_SECONDS: Final = 1.0  # how often to look whether the client has left

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)(?: ([\t -~\x80-\xff]*))?\r\n")
_FIELD_LINE: Final = re.compile(rb"([!#-'*+\-.^-`|~0-9A-Za-z]+):([\t -~\x80-\xff]*)\r\n")  # RFC 9110 section 5.5
_END_OF_HEAD: Final = b"\r\n"

Head = tuple[int, str, Fields]  # status, the same with its reason as WSGI has it, and field lines as they came


class Answer:
    """The answer to the request that a handle has sent. Where there is nothing to take yet, `waits`.

    `pool` gets the handle back when the answer is complete. All but `close` raise `UpstreamFailed`,
    `ClientDisconnected`, and what the taking of the request's body raises.
    """

    __slots__ = (
        "_about", "_ends_with_head", "_handle", "_pool", "_silence", "_since", "fields", "is_awaited", "status",
        "status_line",
    )  # fmt: skip

    def __init__(self, handle: Handle, pool: Pool, request: Outbound, about: Context, silence_seconds: float) -> None:
        self.status = 0
        self.status_line = ""
        self.fields: Fields = []
        self._handle: Handle | None = handle
        self._pool = pool
        self._about = about
        self._silence = silence_seconds
        # libcurl would wait for the body of an answer to a HEAD that had one itself.
        self._ends_with_head = request.body is not None and request.method == "HEAD"
        self.is_awaited = False  # whether something may have come
        self._since = monotonic()  # since when something is waited for; 0: it came

    def take_head(self) -> bool:
        """Return whether the head has come; if so, `status`, `status_line` and `fields` are set."""
        handle = self._handle
        assert handle  # noqa: S101 - it is asked for once
        if self.is_awaited:
            self._work(handle)
        lines = final_head(handle.head, self._about) if handle.head else []
        if not lines:
            if handle.body or handle.is_done:
                # A client that leaves within its upload says nothing of the others.
                if not handle.may_connect and isinstance(handle.error, UpstreamFailed):
                    self._pool.doubt_idle()
                raise handle.error or malformed("no head")
            return False
        self.status, self.status_line, self.fields = parse(lines)
        if self.status == 204 or self.status == 304:  # noqa: PLR1714 - a set would be looked into at each request
            handle.user = handle.taker
        if self._ends_with_head:
            self._end(handle)
        return True

    def take(self) -> bytes | None:
        """Return what has come of the body: None for nothing yet, b"" for the end.

        While the client reads nothing it takes nothing either, and only the request's body goes on.
        """
        handle, about = self._handle, self._about
        if handle is None:
            return b""
        if handle.is_held != about.is_unread:
            handle.hold(about.is_unread)
        if self.is_awaited:
            self._work(handle)
        if handle.is_held and not handle.error:
            about.is_duplex = handle.is_sending()
            return None
        if handle.body:
            data = b"".join(handle.body)
            handle.body.clear()
            return data
        if handle.is_done and handle.error:
            raise handle.error
        if handle.is_done or handle.is_answered_early():
            self._end(handle)
            return b""
        return None

    def waits(self) -> bool:
        """Wait for something to happen, by telling the server if that is possible: then the caller has to yield b""."""
        handle, about = self._handle, self._about
        assert handle  # noqa: S101 - what is complete does not wait
        now = monotonic()
        self._since = self._since or now
        timeout = handle.timeout()
        if timeout == 0:
            self.is_awaited = True
            return False
        pause = about.pause
        if pause is not None:
            self.is_awaited = True
            # The server looks after the client.
            left = self._since + self._silence - now
            seconds = left if left > 0 else POLL_SECONDS
            pause(min(seconds, timeout) if timeout > 0 else seconds, handle.watched, body=handle.is_starved)
            return True
        seconds = min(POLL_SECONDS, self._silence)
        if timeout > 0:
            seconds = min(seconds, timeout)
        with blocking():
            self._work(handle, seconds)
        return False

    def close(self) -> None:
        """Give the answer up, if it is not complete: its connection is closed at once."""
        if self._handle:
            handle, self._handle = self._handle, None
            handle.close()

    def _end(self, handle: Handle) -> None:
        """Let the handle go. Where libcurl waits for more to send or to come, its connection is closed with it."""
        self._handle = None
        if handle.is_done:
            self._pool.give_back(handle)
        else:
            handle.close()

    def _work(self, handle: Handle, seconds: float = 0) -> None:
        """Take in what has come, after waiting at most so long; raise if nobody waits for the answer any more."""
        self.is_awaited = False
        # The client's silence is not the upstream's.
        if handle.work(seconds) or handle.is_starved or self._about.is_unread:
            self._since = 0.0
            return
        silent = monotonic() - self._since
        if silent >= self._silence and handle.is_connected():
            raise UpstreamFailed("upstream-timeout", "timed out while reading")
        if silent >= POLL_SECONDS and self._about.client_left and self._about.client_left():
            raise ClientDisconnected


def final_head(lines: list[bytes], about: Context) -> list[bytes]:
    """Return the lines of the first head that is not an interim one, if it is complete; those before are passed on.

    Raises `UpstreamFailed`.
    """
    while _END_OF_HEAD in lines:
        end = lines.index(_END_OF_HEAD)
        if lines[0][9:10] != b"1":
            return lines[:end]
        if lines[0][9:12] == b"101":
            raise malformed("101 that nobody asked for")
        pass_interim(parse(lines[:end]), about)
        del lines[: end + 1]
    return []


def pass_interim(head: Head, about: Context) -> None:
    """Pass an interim answer on (RFC 9110 section 15.2), unless it is a 100: that the server has sent.

    Raises `UpstreamFailed` where there are too many.
    """
    status, line, fields = head
    about.interims += 1
    if about.interims > MAX_INTERIMS:
        raise malformed("too many interim answers")
    if about.interim and status != 100:
        about.interim(line, response_fields(fields, 204))  # as of an answer without a body: nothing that frames one


def parse(lines: list[bytes]) -> Head:
    """Return what a head says. Raises `UpstreamFailed`."""
    return *_status(lines[0]), list(map(_field, lines[1:]))


@bounded_cache(2048, longest=256)
def _field(line: bytes) -> tuple[str, str]:
    match = _FIELD_LINE.fullmatch(line)
    if match is None:  # a CR or NUL would break a line downstream
        raise malformed("a field")
    return match[1].decode("latin-1"), match[2].decode("latin-1").strip(" \t")


@bounded_cache(256, longest=256)
def _status(line: bytes) -> tuple[int, str]:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise malformed("the status line")
    return int(match[1]), (match[1] + b" " + (match[2] or b"")).decode("latin-1")

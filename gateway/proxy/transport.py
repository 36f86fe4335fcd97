"""The hop to the upstream: a `requests` transport adapter on libcurl."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from time import monotonic
from typing import Any

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from gateway.http.blocking import about_to_wait
from gateway.http.cache import remembered
from gateway.proxy.adapter import ClientLeft, MalformedAnswer, PlainAdapter, split_url

try:
    from gateway.proxy.curl import Channel

    HAS_CURL = True
except ImportError:
    HAS_CURL = False

KEPT = 100  # idle connections to an upstream, of one process
PULSE_SECONDS = 1.0  # longest time between two looks after the client

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([2-9]\d\d)(?: ([\t -~\x80-\xff]*))?\r\n")
_FIELD_LINE = re.compile(rb"([!#-'*+\-.^-`|~0-9A-Za-z]+):([\t -~\x80-\xff]*)\r\n")  # RFC 9110 section 5.5
_END_OF_HEAD = b"\r\n"

Settings = tuple[str, float, Any, Any]  # of a channel: origin, seconds to connect, verify, cert


def default_adapter() -> BaseAdapter:
    """Return the transport on libcurl, or requests' own where pycurl is not installed."""
    return CurlAdapter() if HAS_CURL else PlainAdapter()


class CurlAdapter(BaseAdapter):
    """A transport adapter on libcurl. Safe to share between threads, and to use after a fork."""

    def __init__(self) -> None:
        super().__init__()
        # A parent's connections are left alone, and kept: closing one would end its TLS session.
        self._idle: defaultdict[tuple[int, Settings], list[Channel]] = defaultdict(list)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = True,
        timeout: Any = (3.0, 60.0),
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send a request and return as soon as the head of its answer is there.

        `timeout` is (connect, silence) in seconds; time in which nobody reads the answer does not
        count. `proxies` are ignored. Raises ConnectTimeout, ReadTimeout, `MalformedAnswer`,
        `ClientLeft`, and ConnectionError for everything else that can go wrong with a connection.
        """
        raw = self.begin(request, timeout, verify, cert)
        try:
            while not raw.take_head():
                raw.wait()
        except BaseException:
            raw.discard()
            raise
        return CurlResponse(request, raw)

    def begin(
        self, request: requests.PreparedRequest, timeout: tuple[float, float], verify: Any = True, cert: Any = None
    ) -> RawAnswer:
        """Send a request as `send` does, and return before anything of its answer is there."""
        origin, target = split_url(str(request.url))
        settings = (origin, timeout[0], verify, cert)
        idle = self._idle[os.getpid(), settings]
        try:
            channel = idle.pop()  # the one used last: its connection is the least likely to be stale
        except IndexError:
            channel = Channel(*settings)
        try:
            channel.start(request, target)
        except BaseException:
            channel.close()
            raise
        return RawAnswer(channel, idle, timeout[1], request)

    def close(self) -> None:
        """Close the idle connections."""
        for (pid, _), idle in list(self._idle.items()):
            while idle and pid == os.getpid():
                idle.pop().close()


class CurlResponse(requests.Response):
    """A response whose conveniences are made when asked for: `requests.Response()` alone costs 9 µs."""

    encoding = None
    _content = _content_consumed = False

    def __init__(self, request: requests.PreparedRequest, raw: RawAnswer) -> None:
        self.request = request
        self.url = str(request.url)
        self.raw = raw
        self.status_code, self.reason = raw.status, raw.reason
        self.history = []

    @cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        """The fields by name; of a repeated one, the last. `raw.headers` has every line."""
        return CaseInsensitiveDict(self.raw.headers)


class FieldLines(list[tuple[str, str]]):
    """Field lines in the order they came."""

    def items(self) -> list[tuple[str, str]]:
        """Return name and value of every line."""
        return self


class RawAnswer:
    """An answer as it comes: its head, then its bytes, taken when asked for and never decoded.

    Where there is nothing to take yet, `wait`; or wait elsewhere for the descriptor that is `awaited`, at most
    `patience` seconds. All of them raise ReadTimeout, `MalformedAnswer`, `ClientLeft`, and ConnectionError.
    """

    def __init__(
        self, channel: Channel, idle: list[Channel], silence_seconds: float, request: requests.PreparedRequest
    ) -> None:
        self.status = 0
        self.reason = ""
        self.headers = FieldLines()
        self.patience = min(PULSE_SECONDS, silence_seconds)
        self._channel: Channel | None = channel
        self._idle = idle
        self._silence = silence_seconds
        self._client_left: Callable[[], bool] | None = getattr(request, "client_left", None)
        self._ends_with_head = request.method == "HEAD" and request.body is not None  # libcurl would wait for a body
        self._error: Exception | None = None
        self._awaited: int | None = None
        self._since = 0.0  # since when something is asked for and does not come; 0: it came

    def take_head(self) -> bool:
        """Tell whether the head has come; if so, `status`, `reason` and `headers` are set."""
        self._look()
        channel = self._channel
        assert channel  # noqa: S101 - it is asked for once
        lines = _final_head(channel.head)
        if not lines:
            if channel.body or channel.is_done:
                raise channel.error or MalformedAnswer("an answer without a head")
            return False
        self.status, self.reason, self.headers = _parse(lines)
        if self._ends_with_head:
            self.close()
        return True

    def take(self) -> bytes | None:
        """Return what has come of the body: None for nothing yet, b"" for the end."""
        self._look()
        channel = self._channel
        if channel:
            if channel.body:
                data = b"".join(channel.body)
                channel.body.clear()
                return data
            if not channel.is_done:
                return None
            self._error = channel.error
            self.close()
        if self._error:
            raise self._error
        return b""

    def read1(self, amt: int | None = None, decode_content: bool | None = None) -> bytes:
        """Return what has come, waiting for something; b"" at the end. The parameters are urllib3's, and unused."""
        while (data := self.take()) is None:
            self.wait()
        return data

    read = read1

    def awaited(self) -> int | None:
        """Return the descriptor to wait for; None where there is none, and only `wait` helps."""
        self._since = self._since or monotonic()
        self._awaited = self._channel.awaited() if self._channel else None
        return self._awaited

    def wait(self) -> None:
        """Wait for anything to happen, for at most `patience` seconds."""
        channel = self._channel
        self._since = self._since or monotonic()
        about_to_wait()
        if channel and channel.turn(self.patience):
            self._since = 0.0
        elif channel and channel.had_event:
            self._since = monotonic()
        else:
            self._check()

    def _look(self) -> None:
        """Take in what has come by the descriptor that was awaited."""
        channel, descriptor = self._channel, self._awaited
        if channel and descriptor is not None:
            self._awaited = None
            if channel.look(descriptor):
                self._since = 0.0
            else:
                self._check()

    def _check(self) -> None:
        """Raise if nobody waits for the answer any more."""
        silent = monotonic() - self._since
        if silent >= self._silence and self._channel and self._channel.is_connected():
            raise requests.exceptions.ReadTimeout("the upstream is silent")
        if silent >= PULSE_SECONDS and self._client_left and self._client_left():
            raise ClientLeft

    def close(self) -> None:
        """Let the connection go: it is kept where the answer is complete, otherwise closed at once."""
        if self._channel:
            channel, self._channel = self._channel, None
            channel.stop()
            if len(self._idle) < KEPT:
                self._idle.append(channel)
            else:
                channel.close()

    def discard(self) -> None:
        """Close the connection: what follows a malformed head is not to be trusted."""
        if self._channel:
            channel, self._channel = self._channel, None
            channel.close()


def _final_head(lines: list[bytes]) -> list[bytes]:
    """Return the lines of the first head that is not an interim one (RFC 9110 section 15.2), if it is complete."""
    while _END_OF_HEAD in lines:
        end = lines.index(_END_OF_HEAD)
        if lines[0][9:10] != b"1" or lines[0][9:12] == b"101":
            return lines[:end]
        del lines[: end + 1]
    return []


def _parse(lines: list[bytes]) -> tuple[int, str, FieldLines]:
    """Return status, reason and fields. Raises `MalformedAnswer`."""
    return *_status(lines[0]), FieldLines(map(_field, lines[1:]))


@remembered(2048, longest=256)
def _field(line: bytes) -> tuple[str, str]:
    match = _FIELD_LINE.fullmatch(line)
    if match is None:  # a CR or NUL would break a line downstream
        raise MalformedAnswer("a malformed field")
    return match[1].decode("latin-1"), match[2].decode("latin-1").strip(" \t")


@remembered(256, longest=256)
def _status(line: bytes) -> tuple[int, str]:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise MalformedAnswer("a malformed status line")
    return int(match[1]), (match[2] or b"").decode("latin-1")

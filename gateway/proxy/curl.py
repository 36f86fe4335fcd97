"""One exchange at a time over libcurl: what `transport.CurlAdapter` keeps a few of."""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import pycurl
import requests
from requests.exceptions import ConnectionError, ConnectTimeout
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from gateway.proxy.adapter import ClientLeft, MalformedAnswer

# RFC 9110 section 9.2.2. libcurl sends a request again when a kept connection turns out to be dead,
# whatever its method, and cannot rewind a body: all others get a new connection, and are never sent twice.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
_WEIRD_REPLY, _TOO_LARGE = 8, 100  # libcurl's numbers, which pycurl does not name
_MALFORMED = frozenset({pycurl.E_UNSUPPORTED_PROTOCOL, pycurl.E_BAD_CONTENT_ENCODING, _WEIRD_REPLY, _TOO_LARGE})
_WEB = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS
_OPTIONS: dict[int, Any] = {
    pycurl.PATH_AS_IS: 1,
    pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
    pycurl.HTTP09_ALLOWED: 0,
    pycurl.PROTOCOLS: _WEB,
    pycurl.FOLLOWLOCATION: 0,
    pycurl.NETRC: pycurl.NETRC_IGNORED,
    pycurl.PROXY: "",  # not even the environment's
    pycurl.NOPROXY: "*",
    pycurl.USERAGENT: "",  # none
    pycurl.NOSIGNAL: 1,
    pycurl.TCP_NODELAY: 1,
}
_SUPPRESSED = ("Accept:", "Expect:")  # what libcurl would add
_LOOKED_FOR = frozenset({"Host", "Content-Length"})  # where libcurl has words of its own
_TO_POLL = {
    pycurl.POLL_IN: select.POLLIN,
    pycurl.POLL_OUT: select.POLLOUT,
    pycurl.POLL_INOUT: select.POLLIN | select.POLLOUT,
}
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
_TO_CURL = [  # by what poll has told
    (pycurl.CSELECT_IN if event & _READABLE else 0) | (pycurl.CSELECT_OUT if event & select.POLLOUT else 0)
    for event in range(2 * select.POLLNVAL)
]

Verify = bool | str
Cert = str | tuple[str, str] | None


class Channel:
    """A libcurl handle with one kept connection to an origin.

    `head` and `body` fill up as `turn` is called: lines of all heads and trailers, and undecoded bytes
    (at most 360 KB at a time, measured; what is not asked for stays with the upstream).
    """

    def __init__(self, origin: str, connect_seconds: float, verify: Verify, cert: Cert) -> None:
        self.head: list[bytes] = []
        self.body: list[bytes] = []
        self.is_done = False
        self.had_event = False
        self.error: Exception | None = None
        self._watched: dict[int, int] = {}  # what libcurl waits for, by descriptor
        self._shape: tuple[str, str, bool] | None = None  # method, target and whether there is a body, as last set
        self._multi = pycurl.CurlMulti()
        # Not `multi.select`: it fails in a process with more than 1,024 descriptors.
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_MAXCONNECTS, 1)
        self._easy = pycurl.Curl()
        for option, value in {**_OPTIONS, **_tls(verify, cert), pycurl.URL: origin}.items():
            self._easy.setopt(option, value)
        self._easy.setopt(pycurl.CONNECTTIMEOUT_MS, int(connect_seconds * 1000))
        self._easy.setopt(pycurl.HEADERFUNCTION, self.head.append)
        self._easy.setopt(pycurl.WRITEFUNCTION, self.body.append)

    def start(self, request: requests.PreparedRequest, target: str) -> None:
        """Begin an exchange: over a kept connection, the request is on its way."""
        easy, method, body = self._easy, str(request.method), request.body
        if body is not None:
            easy.setopt(pycurl.UPLOAD, 1)
            easy.setopt(pycurl.INFILESIZE_LARGE, int(request.headers.get("Content-Length", -1)))
            easy.setopt(pycurl.READFUNCTION, self._reader(body))
        shape = (method, target, body is not None)
        if shape != self._shape or body is not None:  # what was set before stays set
            self._shape = shape
            self._set_shape(method, target, body is not None)
        lines = _field_lines(request.headers)
        try:
            easy.setopt(pycurl.HTTPHEADER, lines)
        except UnicodeEncodeError:  # pycurl takes texts in ASCII alone
            easy.setopt(pycurl.HTTPHEADER, [line.encode("latin-1") for line in lines])
        self.head.clear()
        self.body.clear()
        self.is_done, self.error = False, None
        self._multi.add_handle(easy)
        self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _set_shape(self, method: str, target: str, has_body: bool) -> None:
        easy = self._easy
        if not has_body:
            easy.setopt(pycurl.NOBODY if method == "HEAD" else pycurl.HTTPGET, 1)
        easy.setopt(pycurl.CUSTOMREQUEST, method)
        easy.setopt(pycurl.REQUEST_TARGET, target.encode("latin-1"))
        easy.setopt(pycurl.FRESH_CONNECT, has_body or method not in _IDEMPOTENT)

    def awaited(self) -> int | None:
        """Return the descriptor whose readability is all that libcurl waits for; None where that is not so."""
        descriptor: int = self._easy.getinfo(pycurl.ACTIVESOCKET)
        waits = self._watched.get(descriptor) == pycurl.POLL_IN and self._multi.timeout() != 0
        return descriptor if waits else None

    def look(self, descriptor: int) -> bool:
        """Let libcurl read from the descriptor; tell whether something new is there."""
        known = len(self.head)
        self._act(descriptor, pycurl.CSELECT_IN)
        return self._has_more(known)

    def turn(self, seconds: float) -> bool:
        """Let libcurl work, waiting at most so long; tell whether something new is there."""
        known = len(self.head)
        poll = select.poll()
        for descriptor, event in self._watched.items():
            poll.register(descriptor, _TO_POLL.get(event, 0))
        due = self._multi.timeout()  # in milliseconds, or -1; asking costs less than being told
        events = poll.poll(seconds * 1000 if due < 0 else min(due, seconds * 1000))
        self.had_event = bool(events)
        for descriptor, event in events:
            self._act(descriptor, _TO_CURL[event])
        if not events:
            self._act(pycurl.SOCKET_TIMEOUT, 0)
        return self._has_more(known)

    def _has_more(self, lines: int) -> bool:
        return self.is_done or bool(self.body) or len(self.head) > lines

    def is_connected(self) -> bool:
        """Tell whether the request is on its way: before, the connect time-out counts alone."""
        return bool(self._easy.getinfo(pycurl.PRETRANSFER_TIME) > 0)

    def stop(self) -> None:
        """End the exchange; unless the answer is complete, its connection is closed."""
        self._multi.remove_handle(self._easy)

    def close(self) -> None:
        """Close the handle and its connection, whatever their state."""
        self._easy.close()
        self._multi.close()

    def _reader(self, body: Any) -> Callable[[int], Any]:
        read = body.read if hasattr(body, "read") else BytesIO(body if isinstance(body, bytes) else body.encode()).read

        def read_some(size: int) -> Any:
            try:
                return read(size)
            except Exception as error:  # noqa: BLE001 - a server may raise anything here; it ends the exchange
                self.error = error
                return pycurl.READFUNC_ABORT

        return read_some

    def _act(self, descriptor: int, events: int) -> None:
        _, running = self._multi.socket_action(descriptor, events)
        if not running:
            _, _, failed = self._multi.info_read()
            self.is_done = True
            if failed and not self.error:
                self.error = _named(failed[0][1], failed[0][2])

    def _watch(self, what: int, descriptor: int, *_: object) -> None:
        if what == pycurl.POLL_REMOVE:
            del self._watched[descriptor]
        else:
            self._watched[descriptor] = what


def _tls(verify: Verify, cert: Cert) -> dict[int, Any]:
    options: dict[int, Any] = {
        pycurl.SSL_VERIFYPEER: 1 if verify else 0,
        pycurl.SSL_VERIFYHOST: 2 if verify else 0,
        pycurl.CAINFO: verify if isinstance(verify, str) else DEFAULT_CA_BUNDLE_PATH,
    }
    if cert:
        options[pycurl.SSLCERT], options[pycurl.SSLKEY] = (cert, cert) if isinstance(cert, str) else cert
    return options


def _field_lines(fields: Mapping[str, Any]) -> list[str]:
    """Return libcurl's way of saying: these fields, and none of your own.

    It looks for a few fields, and passes the text of an item on as it is (CURLOPT_HTTPHEADER(3)). So all others are
    lines of one item, which takes 5 % off the instructions of a whole request.
    """
    lines, items = [], [*_SUPPRESSED]
    for name, value in fields.items():
        if name in _LOOKED_FOR or not value:
            items.append(f"{name}: {value}" if value else name + ";")
        else:
            lines.append(f"{name}: {value}")
    if lines:
        items.append("\r\n".join(lines))
    return items


def _named(code: int, message: str) -> Exception:
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return ConnectTimeout(message)
    if code == pycurl.E_READ_ERROR:
        return ClientLeft("the request's body ended early")
    # A head beyond 300 KiB comes with the number of a broken connection.
    is_malformed = code in _MALFORMED or message.startswith("Too large response headers")
    return MalformedAnswer(message) if is_malformed else ConnectionError(message)

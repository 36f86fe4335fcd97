"""A connection to the upstream that carries any bytes: for upgrades, where libcurl's framing ends."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections.abc import Generator
from contextlib import suppress
from functools import lru_cache
from time import monotonic

from gateway.proxy.failures import UpstreamFailed, connection_failure
from gateway.proxy.outbound import Peer, Wait

PIECE_BYTES = 65536
_UNDER_WAY = (errno.EINPROGRESS, errno.EAGAIN)


class Link:
    """A non-blocking socket, with TLS or without."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.events = select.POLLIN  # what TLS waits for
        self.was_cut = False  # whether TLS did not say that it ends (RFC 8446 section 6.1)
        self._failed: UpstreamFailed | None = None  # why nothing can be sent

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def open(self, address: tuple[str, int], deadline: float) -> Generator[Wait, None, None]:
        """Connect; yield what is waited for. Raises OSError and `UpstreamFailed`."""
        sock = self._socket
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # an upstream may vanish while nothing passes
        error = sock.connect_ex(address)
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        while error in _UNDER_WAY and not poll.poll(0):
            yield seconds_until(deadline, was_connected=False), {sock.fileno(): select.POLLOUT}
        if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if error in _UNDER_WAY else error:
            raise OSError(error, os.strerror(error))

    def start_tls(self, peer: Peer, deadline: float) -> Generator[Wait, None, None]:
        """Shake hands; yield what is waited for. Raises OSError and `UpstreamFailed`."""
        context = _tls_context(peer.ca_file, peer.cert, peer.stamp)
        name = peer.host.rstrip(".")  # as certificates have it
        wrapped = context.wrap_socket(
            self._socket, server_hostname=name, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        self._socket = wrapped
        while True:
            try:
                wrapped.do_handshake()
                return
            except ssl.SSLWantReadError:
                event = select.POLLIN
            except ssl.SSLWantWriteError:
                event = select.POLLOUT
            yield seconds_until(deadline, was_connected=False), {self.fileno(): event}

    def receive(self) -> bytes | None:
        """Return what has come: b"" at the end, None for nothing yet. Raises `UpstreamFailed`."""
        data: bytes | None = None
        try:
            data = self._socket.recv(PIECE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            self.events = select.POLLIN
        except ssl.SSLWantWriteError:
            self.events = select.POLLOUT
        except ssl.SSLEOFError:
            self.was_cut, data = True, b""
        except OSError as error:
            raise connection_failure(error) from error
        if self._failed and not data:
            raise self._failed
        return data

    def send(self, data: bytes) -> int:
        """Send what can be sent at once, and return how many bytes that was. That it fails `receive` tells, at the end
        of what has come: an upstream that resets the connection may have said why.
        """
        try:
            return self._socket.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except OSError as error:
            self._failed = connection_failure(error)
            return len(data)

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError):
            self._socket.close()


def connect(peer: Peer, seconds: float) -> Generator[Wait, None, Link]:
    """Return a connection to the first of the peer's addresses that takes one; yield what is waited for.

    Raises `UpstreamFailed`.
    """
    end = monotonic() + seconds
    failed = UpstreamFailed("upstream-unreachable", "name does not resolve", was_connected=False)
    for place, address in enumerate(peer.addresses):
        now = monotonic()
        deadline = now + (end - now) / (len(peer.addresses) - place)  # a silent one leaves time for the others
        try:
            return (yield from _connect_to(address, peer, deadline))
        except UpstreamFailed as late:
            failed = late
        except OSError as error:
            failed = connection_failure(error, was_connected=False)
    raise failed


def _connect_to(address: str, peer: Peer, deadline: float) -> Generator[Wait, None, Link]:
    link = Link(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET))
    try:
        yield from link.open((address, peer.port), deadline)
        if peer.origin.startswith("https:"):
            yield from link.start_tls(peer, deadline)
    except BaseException:
        link.close()
        raise
    return link


def seconds_until(deadline: float, *, was_connected: bool = True) -> float:
    """Return how many seconds are left to connect, or to read. Raises `UpstreamFailed` where none are."""
    seconds = deadline - monotonic()
    if seconds <= 0:
        doing = "reading" if was_connected else "connecting"
        raise UpstreamFailed("upstream-timeout", f"timed out while {doing}", was_connected=was_connected)
    return seconds


@lru_cache(4)
def _tls_context(ca_file: str | None, cert: str | None, stamp: tuple[object, ...]) -> ssl.SSLContext:
    """Return what verifies as libcurl does; `stamp` changes with the files."""
    context = ssl.create_default_context(cafile=ca_file)
    context.verify_flags = context.verify_flags & ~ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    if cert:
        context.load_cert_chain(cert)
    return context

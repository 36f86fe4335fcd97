"""The socket that the server listens on: an address and a port, a Unix socket, or the one that systemd opened."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

UNIX = "unix:"
UNIX_MODE = 0o660  # the owner and the group may connect
BACKLOG = 2048  # connections that the kernel holds until they are accepted
FIRST_PASSED = 3  # the descriptor of the first socket that systemd passes (sd_listen_fds(3))


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen while the block runs; raises OSError where that is not possible.

    `host` is an IPv4 or IPv6 address, a name, `::` for both kinds of address, or `unix:` and a path.
    A socket that systemd passes takes precedence over both.
    """
    passed = _passed()
    sock, opened_by = passed or _open(host, port), os.getpid()
    sock.setblocking(False)  # of several workers that are told of a connection, one gets it
    with suppress(OSError):  # a Unix socket has none
        # Connections inherit it. Without it the end of an answer in chunks, which is sent apart, waits until the client
        # has confirmed what came before: 40 ms over a kept connection.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        yield sock
    finally:
        sock.close()
        is_ours = os.getpid() == opened_by  # a forked worker leaves through here too
        if host.startswith(UNIX) and is_ours and not passed:
            _remove_abandoned(host.removeprefix(UNIX))  # who started during our drain may listen there now


def describe(sock: socket.socket) -> str:
    """Return where a socket listens, as a URL where there is one."""
    address = sock.getsockname()
    if not isinstance(address, tuple):
        return f"{UNIX}{address}"
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _passed() -> socket.socket | None:
    """Return the socket that systemd passed to this process, if there is one."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "0")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):  # they are not for processes that we start
        os.environ.pop(name, None)
    if count == "0":
        return None
    if count != "1":
        raise OSError(f"systemd passes {count} sockets, and one can be served: [::] takes IPv4 as well")
    os.set_inheritable(FIRST_PASSED, False)
    sock = socket.socket(fileno=FIRST_PASSED)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise OSError("systemd passes a socket that takes no connections: ListenStream= with Accept=no does")
    return sock


def _open(host: str, port: int) -> socket.socket:
    if host.startswith(UNIX):
        return _open_unix(host.removeprefix(UNIX))
    host = host.removeprefix("[").removesuffix("]")  # as URLs write it
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # whatever the system's default is
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_unix(path: str) -> socket.socket:
    if not path:
        raise OSError("a Unix socket needs a path")  # without one Linux chooses a name that nobody knows
    sock = socket.socket(socket.AF_UNIX)
    try:
        _remove_abandoned(path)  # left behind by a process that was killed
        before = os.umask(0o777 & ~UNIX_MODE)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_abandoned(path: str) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode) and _is_abandoned(path):
            os.unlink(path)


def _is_abandoned(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # whoever is too busy to take one more is alive
        return probe.connect_ex(path) == errno.ECONNREFUSED

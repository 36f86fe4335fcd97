"""The upstream's addresses: its name is resolved in the background, and no request holds a thread for it."""

from __future__ import annotations

import ipaddress
import math
import socket
import threading
from collections.abc import Generator
from contextlib import suppress
from time import monotonic

from gateway.http.threads import start_thread
from gateway.proxy.failures import UpstreamFailed
from gateway.proxy.outbound import Wait

STALE_SECONDS = 15.0  # age at which addresses are looked up again, while they still serve
MAX_AGE = 30.0  # seconds after which nobody goes to an address that was not looked up again
POLL_SECONDS = 0.01  # how often a request that waits for the first addresses checks whether they are there


class Resolver:
    """The addresses of one name, looked up by the system. Of one process: threads do not survive a fork.

    libcurl's own resolver has a thread for each transfer, and joins it when the transfer is cleaned up.
    """

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self._host, self._port, self._timeout = host, port, timeout
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._asked = -math.inf  # when the last look-up began, in seconds of `monotonic`
        self._since = -math.inf  # when the last one that has ended began
        self._failed = ""
        self.addresses: tuple[str, ...] = ()
        with suppress(ValueError):
            ipaddress.ip_address(host)
            self.addresses = (host,)
        self.is_literal = bool(self.addresses)

    def current(self) -> bool:
        """Return whether the addresses may be used, and have old ones looked up again."""
        if self.is_literal:
            return True
        age = monotonic() - self._since
        if STALE_SECONDS < age <= MAX_AGE:
            self._start()
        return age <= MAX_AGE and bool(self.addresses)  # where it failed, the next may follow at once

    def wait(self) -> Generator[Wait, None, None]:
        """Look the name up, and yield what to wait for until that is done.

        Where it fails or takes too long, the addresses that were known serve on; where there are none, `UpstreamFailed`
        is raised.
        """
        self._start()
        while self._thread and monotonic() - self._asked < self._timeout:
            yield POLL_SECONDS, {}
        if not self.addresses:
            raise UpstreamFailed(
                "upstream-unreachable", self._failed or "name does not resolve in time", was_connected=False
            )

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self.is_literal:
                self._asked = monotonic()
                self._thread = start_thread(self._resolve, name="gateway-resolve")
                if self._thread is None:
                    self._failed = "no thread is left to look the name up"

    def _resolve(self) -> None:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self.addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
            self._failed = ""
        except (OSError, UnicodeError) as error:
            self._failed = f"name does not resolve: {getattr(error, 'strerror', None) or error}"
        finally:
            with self._lock:  # `_start` notes the thread first
                self._since, self._thread = self._asked, None

"""The files with certificates: read in the background, and kept in memory, so that no request waits for their disk."""

from __future__ import annotations

import logging
import math
import os
import threading
import weakref
from collections.abc import Generator
from time import monotonic
from typing import NamedTuple

from gateway.http.threads import start_thread
from gateway.proxy.outbound import Wait

log = logging.getLogger("gateway.upstream")

LOOK_SECONDS = 1.0  # between two looks at the files
POLL_SECONDS = 0.01  # how often a request that waits for a look checks whether it is done
GENERATIONS = 4  # how many versions of a file stay open: connections may still be made with an earlier one


class Contents(NamedTuple):
    """Where to read the CA certificates from, and the client's own; `stamp` changes with the files."""

    ca_file: str | None
    cert: str | None
    stamp: tuple[object, ...]


class Files:
    """What verifies an upstream, and what is shown to it. Of one process: threads do not survive a fork.

    `known` is what the parent of this process has read.
    """

    def __init__(self, ca_file: str | None, cert: str | None, known: Contents | None = None) -> None:
        self.paths = ca_file, cert
        self.are_any = any(self.paths)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._asked = -math.inf  # when the last look began, in seconds of `monotonic`
        self._opened: list[int] = []
        weakref.finalize(self, _close, self._opened).atexit = False
        self._fault = ""
        self.contents = known or self._read(_stamp(self.paths))

    def look(self) -> None:
        """Look at the files in the background, unless that was just done; to be called where there are any."""
        if self._thread is None and monotonic() - self._asked > LOOK_SECONDS:
            self._start()

    def wait(self, seconds: float) -> Generator[Wait, None, None]:
        """Look at the files, and yield what to wait for until that is done, or takes too long."""
        if self.are_any:
            self._start()
        while self._thread and monotonic() - self._asked < seconds:
            yield POLL_SECONDS, {}

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._asked = monotonic()
                self._thread = start_thread(self._renew, name="gateway-certificates")

    def _renew(self) -> None:
        try:
            stamp = _stamp(self.paths)
            if stamp != self.contents.stamp:
                self.contents = self._read(stamp)
            self._fault = ""
        except OSError as error:
            fault = f"{error.filename}: {error.strerror}"
            if fault != self._fault:
                log.warning(
                    "the upstream's certificates cannot be read (%s): those that were read before stay in use", fault
                )
            self._fault = fault
        finally:
            with self._lock:  # `_start` notes the thread first
                self._thread = None

    def _read(self, stamp: tuple[object, ...]) -> Contents:
        ca_file, cert = (path and self._copy(path) for path in self.paths)
        return Contents(ca_file, cert, stamp)

    def _copy(self, path: str) -> str:
        """Return a path under which libcurl and OpenSSL, which take nothing else, find the contents in memory."""
        if not hasattr(os, "memfd_create") or not os.path.isdir("/proc/self/fd"):
            return path
        with open(path, "rb") as file:
            data = file.read()
        descriptor = os.memfd_create("gateway")
        os.write(descriptor, data)
        self._opened.append(descriptor)
        if len(self._opened) > GENERATIONS * len(self.paths):
            os.close(self._opened.pop(0))
        return f"/proc/self/fd/{descriptor}"


def _stamp(paths: tuple[str | None, ...]) -> tuple[object, ...]:
    """Return what changes whenever one of the files does. Raises OSError."""
    known = [path and os.stat(path) for path in paths]
    return tuple(each and (each.st_ino, each.st_size, each.st_mtime_ns) for each in known)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

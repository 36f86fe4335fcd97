"""The figures of all worker processes, served to Prometheus on a port of their own."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from gateway.http.build import BUILD, VERSION
from gateway.http.problems import Problem
from gateway.ops.metrics import DIRECTORY, add_up

log = logging.getLogger("gateway.metrics")

PARENT_SECONDS = 0.25  # how often the process looks whether its parent is still there
SCRAPE_SECONDS = 10  # the longest that a scrape may take, from its connection to its end
_MEMORY = "/dev/shm"  # noqa: S108 - `mkdtemp` makes a folder there that is ours alone
SCRAPES = 16  # at once; for another one, the oldest is ended


class Figure(NamedTuple):
    """A figure of the whole deployment, asked for at each scrape; a `Problem` leaves it out."""

    name: str
    help: str
    read: Callable[[], float]


@contextmanager
def collect_figures(host: str, port: int | None, gauges: Iterable[Figure]) -> Iterator[Callable[[], None] | None]:
    """Collect the figures of worker processes while the block runs; yield what serves them on the port (0: a free one).

    That is for a process of its own, which no worker's load can starve, and ends with this one. Without a port, None.
    """
    if port is None:
        yield None
        return
    # The files are mapped: on a full disk the system kills (SIGBUS) every worker that starts.
    folder = _MEMORY if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) else None
    directory = os.environ[DIRECTORY] = tempfile.mkdtemp(prefix="gateway-metrics-", dir=folder)
    # Here, that is once for all processes, and when it is said where the figures are.
    from prometheus_client import CollectorRegistry, make_wsgi_app

    registry = CollectorRegistry()
    registry.register(_Deployment(Path(directory), tuple(gauges)))
    parent = os.getpid()
    try:
        yield partial(
            _serve, parent, host.removeprefix("[").removesuffix("]"), port, directory, make_wsgi_app(registry)
        )
    finally:
        if os.getpid() == parent:  # a forked worker leaves through here too
            shutil.rmtree(directory, ignore_errors=True)


def _serve(parent: int, host: str, port: int, directory: str, app: Any) -> None:
    """Serve the figures until the parent has gone. Raises OSError where nothing can listen there."""
    server_class = _Server6 if ":" in host else _Server
    with make_server(host, port, app, server_class, _Handler) as server:
        log.info("metrics at http://%s:%d", f"[{host}]" if ":" in host else host, server.server_port)
        server.timeout = PARENT_SECONDS
        while os.getppid() == parent:
            server.handle_request()
            server.end_late()
    shutil.rmtree(directory, ignore_errors=True)  # the parent was killed


class _Deployment:
    """What the workers counted, without the live gauges of dead ones, and figures that no worker has alone."""

    def __init__(self, directory: Path, gauges: tuple[Figure, ...]) -> None:
        self._directory, self._gauges = directory, gauges

    def describe(self) -> Iterable[Any]:
        return ()

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        for file in self._directory.glob("gauge_live*.db"):
            if not _is_running(int(file.stem.rpartition("_")[2])):
                file.unlink(missing_ok=True)
        yield from add_up(self._directory)
        yield InfoMetricFamily("gateway_build", "Version", value={"version": VERSION, "build": BUILD})
        for gauge in self._gauges:
            with suppress(Problem):
                yield GaugeMetricFamily(gauge.name, gauge.help, value=gauge.read())


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


class _Server(ThreadingMixIn, WSGIServer):
    """Gives each scrape a thread and a time limit, so that a slow one does not hold up the others."""

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: dict[socket.socket, float] = {}  # by connection, since when (`time.monotonic`); the oldest first
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open[request] = time.monotonic()
        self.end_late()
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().close_request(request)

    def end_late(self) -> None:
        """End connections that have had their time, or are too many; their threads then close them."""
        with self._lock:
            late = time.monotonic() - SCRAPE_SECONDS
            surplus = len(self._open) - SCRAPES
            for place, (request, since) in enumerate([*self._open.items()]):
                if place < surplus or since < late:
                    del self._open[request]
                    with suppress(OSError):  # the client has left
                        request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a scraper left, or was late."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 5  # seconds of silence

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape is no event."""

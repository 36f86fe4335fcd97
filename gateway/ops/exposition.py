"""The figures of all worker processes, served to Prometheus on a port of their own."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from gateway.http.problems import Problem
from gateway.ops.metrics import DIRECTORY, added_up

log = logging.getLogger("gateway.metrics")

PARENT_SECONDS = 1  # how often the process looks whether its parent is still there


class Figure(NamedTuple):
    """A figure of the whole deployment, asked for at each scrape; a `Problem` leaves it out."""

    name: str
    help: str
    read: Callable[[], float]


@contextmanager
def served(host: str, port: int | None, gauges: Iterable[Figure] = ()) -> Iterator[None]:
    """Collect the figures of worker processes and serve them on the port (0: a free one) while the block runs.

    Without a port, do nothing. They are served by a process of its own, which no worker's load can
    starve and which ends with this one. Raises OSError when the port cannot be had.
    """
    if port is None:
        yield
        return
    directory = os.environ[DIRECTORY] = tempfile.mkdtemp(prefix="gateway-metrics-")
    parent = os.getpid()
    server_class = _Server6 if ":" in host else WSGIServer
    with make_server(host, port, _app(directory, gauges), server_class, _Handler) as server:
        server.timeout = PARENT_SECONDS
        child = os.fork()
        if child == 0:
            _serve_while(parent, server, directory)
        log.info("metrics at http://%s:%d", f"[{host}]" if ":" in host else host, server.server_port)
    try:
        yield
    finally:
        if os.getpid() == parent:  # a forked worker leaves through here too
            with suppress(ProcessLookupError, ChildProcessError):  # it was killed, and gunicorn has waited for it
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            shutil.rmtree(directory, ignore_errors=True)


def _serve_while(parent: int, server: WSGIServer, directory: str) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and systemd reach every process: the parent ends this one,
        signal.signal(number, signal.SIG_IGN)  # after its drain
    try:
        while os.getppid() == parent:
            server.handle_request()
        shutil.rmtree(directory, ignore_errors=True)  # the parent was killed
    finally:
        os._exit(0)


def _app(directory: str, gauges: Iterable[Figure]) -> Any:
    from prometheus_client import CollectorRegistry, make_wsgi_app

    registry = CollectorRegistry()
    registry.register(_Deployment(Path(directory), tuple(gauges)))
    return make_wsgi_app(registry)


class _Deployment:
    """What the workers counted, without the live gauges of dead ones, and figures that no worker has alone."""

    def __init__(self, directory: Path, gauges: tuple[Figure, ...]) -> None:
        self._directory, self._gauges = directory, gauges

    def describe(self) -> Iterable[Any]:
        return ()

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        for file in self._directory.glob("gauge_live*.db"):
            if not Path("/proc", file.stem.rpartition("_")[2]).exists():
                file.unlink(missing_ok=True)
        yield from added_up(self._directory)
        yield InfoMetricFamily("gateway_build", "Version", value={"version": version("jwt-blacklist-gateway")})
        for gauge in self._gauges:
            with suppress(Problem):
                yield GaugeMetricFamily(gauge.name, gauge.help, value=gauge.read())


class _Server6(WSGIServer):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 2  # seconds; a scraper that says nothing holds up all others

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape is no event."""

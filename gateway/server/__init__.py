"""`gateway serve`: the bundled server, its worker processes, its drain."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable

from gateway.http.wsgi import App
from gateway.server.sockets import listening

__all__ = ["listening", "serve"]


def serve(  # noqa: PLR0913 - each is a setting of its own
    load: Callable[[], App],
    *,
    sock: socket.socket,
    workers: int,
    threads: int,
    queue_timeout: float = 5.0,
    drain_timeout: float = 30.0,
    keep_alive: float = 75.0,
    renew: Callable[[], Callable[[], App]],
    beside: Callable[[], None] | None = None,
) -> None:
    """Serve the WSGI app that `load` returns to whoever connects to `sock`, until SIGTERM or SIGINT; raise SystemExit.

    `load` is called in every worker process; if it raises at the start, the exit status is 3. At SIGHUP `renew` is
    called, first in a process that tries what it returns; that is called in every worker from then on. If it raises,
    all stays as it is. A request that has waited `queue_timeout` seconds for a thread comes with
    `Context.overloaded` true. `drain_timeout`, in seconds, is what requests in flight have at the end, `keep_alive` how
    long a connection may be idle. If the app has a method `close`, each worker calls it after the drain; it should take
    a second at most. What an attribute `streams` of the app is for, the module `streams` says. `beside` is called in a
    process of its own, which is started anew when it ends, and ended after the workers.
    """
    from gateway.server.master import Master  # late: most commands serve nothing
    from gateway.server.worker import Options

    options = Options(threads, queue_timeout, drain_timeout, keep_alive)
    sys.exit(Master(load, sock, options, workers, renew, beside).run())

"""`gateway serve`: the bundled server, its worker processes, its drain."""

from __future__ import annotations

from collections.abc import Callable

from gateway.server.response import Application

__all__ = ["serve"]


def serve(
    load: Callable[[], Application],
    *,
    host: str,
    port: int,
    workers: int,
    threads: int,
    queue_timeout: float = 5.0,
    drain_timeout: float = 30.0,
) -> None:
    """Serve the WSGI app that `load` returns until SIGTERM or SIGINT; then raise SystemExit.

    `load` is called in every worker process, at the start and at SIGHUP. If it raises at the start,
    the exit status is 3; if it raises later, the running workers stay. A request that has waited
    `queue_timeout` seconds for a thread comes with `gateway.overloaded` true in its environ.
    `drain_timeout`, in seconds, is what requests in flight have at the end. The app may have an attribute
    `refuses(environ) -> bool`: it is asked about a request whose body is still to come, and one
    that it refuses is answered without its body.
    """
    from gateway.server.processes import Pool  # gunicorn is slow to import, and no other command needs it

    Pool(
        load,
        host=host,
        port=port,
        workers=workers,
        threads=threads,
        queue_timeout=queue_timeout,
        drain_timeout=drain_timeout,
    ).run()

"""The bundled server in processes of its own, around an app that does what a path says.

    with Bundled(workers=2) as server:
        exchange(server.port, request("GET /pid"))
        server.signal(SIGTERM); server.wait()

A path with a query names a file: what waits, waits until that file is there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from processes import ROOT, ServerProcess, listens
from recorder import exchange, request, until

Environ = dict[str, Any]
Start = Callable[..., Any]


class Bundled(ServerProcess):
    """A running server. `settings` is a file whose text `/settings` answers; `fail` in it makes loading fail."""

    ends_by = signal.SIGQUIT  # at once

    def __init__(self, directory: Path, environ: dict[str, str] | None = None, **options: Any) -> None:
        self.settings = directory / "settings"
        self.settings.touch()
        options = {"host": "127.0.0.1", "port": 0, "workers": 1, "threads": 4, "drain_timeout": 15, **options}
        command = [sys.executable, __file__, str(self.settings), json.dumps(options)]
        super().__init__(command, directory, **(environ or {}))

    def refuses_connections(self) -> bool:
        """Return whether nobody takes connections any more."""
        return not listens(self.port)

    def serves_with(self, count: int) -> bool:
        """Wait until so many workers serve; return whether they did in time."""
        seen: set[bytes] = set()

        def ask() -> bool:
            seen.update(exchange(self.port, request("GET /pid")).partition(b"\r\n\r\n")[2] for _ in range(5))
            return len(seen) == count

        return until(ask)


def context(environ: Environ) -> Any:
    from gateway.http.wsgi import context as of

    return of(environ)


def app(environ: Environ, start: Start) -> Iterable[bytes]:
    page = PAGES.get(environ["PATH_INFO"].strip("/").partition("/")[0], echo)
    return page(environ, start)


def echo(environ: Environ, start: Start) -> Iterator[bytes]:
    """Restate the request: its environ, and its body's length and digest. While the body does not come, it pauses."""
    from gateway.http.body import await_body, take_body

    digest, size = hashlib.sha256(), 0
    while (data := take_body(environ, 65536)) != b"":
        if data is None:
            await_body(environ)
            yield b""
        else:
            digest.update(data)
            size += len(data)
    yield from restate(environ, start, size, digest.hexdigest())


def blocking(environ: Environ, start: Start) -> list[bytes]:
    """Restate the request as `echo` does, as an app that knows nothing of this server would."""
    body = b"".join(
        [environ["wsgi.input"].readline(), *environ["wsgi.input"].readlines(10), environ["wsgi.input"].read()]
    )
    return restate(environ, start, len(body), hashlib.sha256(body).hexdigest())


def restate(environ: Environ, start: Start, size: int, digest: str) -> list[bytes]:
    told = {name: value for name, value in environ.items() if isinstance(value, (str, int))}
    body = json.dumps({**told, "size": size, "sha256": digest}).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def pid(environ: Environ, start: Start) -> list[bytes]:
    start("200 OK", [])
    return [str(os.getpid()).encode()]


def ends(environ: Environ, start: Start) -> list[bytes]:
    """Have this thread take a signal that ends the worker, as the system may have any."""
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    return pid(environ, start)


def wait(environ: Environ, start: Start) -> list[bytes]:
    await_file(environ)
    return pid(environ, start)


def stream(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", [("Content-Type", "text/event-stream")])
    yield b"first"
    await_file(environ)
    yield b"last"


def early(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", [])(b"")  # the head at once
    await_file(environ)
    yield b"late"


def cut(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", [("Content-Length", "10")] if environ["QUERY_STRING"] else [])
    yield b"half"
    raise RuntimeError("the upstream died")


def short(environ: Environ, start: Start) -> list[bytes]:
    start("200 OK", [("Content-Length", "10")])
    return [b"half"]


def long(environ: Environ, start: Start) -> list[bytes]:
    start("200 OK", [("Content-Length", "4")])
    return [b"half", b"HTTP/1.1 200 OK\r\n\r\n"]


def fails(environ: Environ, start: Start) -> list[bytes]:
    raise RuntimeError("secret words")


def fields(environ: Environ, start: Start) -> list[bytes]:
    given = [("x-lower", "1"), ("Set-Cookie", "a=1"), ("A-FIRST", "caf\xe9"), ("Set-Cookie", "b=2"), ("Server", "mine")]
    start("200 OK", [*given, ("Content-Length", "2")])
    return [b"ok"]


def splits(environ: Environ, start: Start) -> list[bytes]:
    start("200 OK", [("X-Echo", "a\r\nSet-Cookie: planted=1")])
    return [b"ok"]


def status(environ: Environ, start: Start) -> list[bytes]:
    """Answer with the status in the path, and a Content-Length."""
    start(environ["PATH_INFO"].rpartition("/")[2] + " Chosen", [("Content-Length", "5")])
    return [b"hello"]


def big(environ: Environ, start: Start) -> Iterator[bytes]:
    """Answer with so many MiB."""
    start("200 OK", [])
    for _ in range(16 * int(environ["QUERY_STRING"])):
        yield bytes(65536)


def left(environ: Environ, start: Start) -> list[bytes]:
    """Wait until the client leaves, and tell so by making the file."""
    client_left = context(environ).client_left
    while client_left and not client_left():
        time.sleep(0.01)
    Path(environ["QUERY_STRING"]).touch()
    return pid(environ, start)


def refused(environ: Environ, start: Start) -> list[bytes]:
    start("401 Unauthorized", [])
    return [b"no"]


def settings(environ: Environ, start: Start) -> list[bytes]:
    start("200 OK", [])
    return [environ["loaded"].encode()]


def await_file(environ: Environ) -> None:
    Path(environ["QUERY_STRING"] + ".reached").touch()
    while not Path(environ["QUERY_STRING"]).exists():
        time.sleep(0.01)


PAGES: dict[str, Callable[[Environ, Start], Iterable[bytes]]] = {
    page.__name__: page
    for page in (
        pid,
        ends,
        blocking,
        wait,
        stream,
        early,
        cut,
        short,
        long,
        fails,
        fields,
        splits,
        status,
        big,
        left,
        refused,
        settings,
    )
}


def main() -> None:
    # Without the rest of the package, which the server does not need, and which takes most of a start.
    alone = ModuleType("gateway")
    alone.__path__ = [str(ROOT / "gateway")]
    sys.modules["gateway"] = alone
    from gateway.server import listening, master, serve

    settings_file, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    master.HANG_SECONDS = options.pop("hang_seconds", master.HANG_SECONDS)
    logging.basicConfig(level=logging.INFO)

    def load() -> Callable[[Environ, Start], Iterable[bytes]]:
        loaded = settings_file.read_text()
        if "fail" in loaded:
            raise ValueError("bad settings")

        def with_settings(environ: Environ, start: Start) -> Iterable[bytes]:
            return app({**environ, "loaded": loaded}, start)

        return with_settings

    with listening(options.pop("host"), options.pop("port")) as sock:
        serve(load, sock=sock, renew=lambda: load, **options)


if __name__ == "__main__":
    main()

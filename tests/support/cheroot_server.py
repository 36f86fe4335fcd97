"""A WSGI app behind cheroot: a server that nobody here wrote, and that undoes chunks."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# cheroot leaves kept-alive sockets to the garbage collector, which is called here while that is nobody's fault.
ignore_its_sockets = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@contextmanager
def cheroot_serving(app: Any) -> Iterator[str]:
    """Serve a WSGI app on a port of its own; the value is its address."""
    wsgi = pytest.importorskip("cheroot.wsgi", reason="cheroot is not installed")
    server = wsgi.Server(("127.0.0.1", 0), app)
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.bind_addr[1]}"
    finally:
        server.stop()
        thread.join()
        del server
        gc.collect()

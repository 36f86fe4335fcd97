"""Has the application look after the responses that are under way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from threading import Thread
from typing import Any

from gateway.http.wsgi import App, Context

log = logging.getLogger("gateway.server")

# Part of the time between two checks: a token blacklisted right after one ends its streams before the time is over.
SHARE = 0.8


def watch_streams(application: App, under_way: Callable[[], Iterable[Context]]) -> None:
    """Start the thread that has the application check its streams, if it has an attribute `streams`.

    `streams.check(under_way)` cuts off what must not go on; it is called every `streams.seconds` at the latest, by a
    thread that may wait.
    """
    streams = getattr(application, "streams", None)
    if streams is not None:
        Thread(target=_watch, args=(streams, under_way), name="gateway-streams", daemon=True).start()


def _watch(streams: Any, under_way: Callable[[], Iterable[Context]]) -> None:
    while True:
        time.sleep(streams.seconds * SHARE)
        try:
            streams.check(under_way)
        except Exception:
            log.exception("the streams could not be checked")

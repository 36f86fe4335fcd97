"""Look-ups that hold no thread of the server's: one thread asks for all requests, which pause meanwhile.

Those that come while a question is under way go out together, as the next one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from gateway.blacklist.stores.redis.client import SECONDS
from gateway.http.problems import StoreUnavailable
from gateway.http.wsgi import Context

log = logging.getLogger(__name__)

MOST = 64  # look-ups in one question, about 20 KB of it
LONGEST_SECONDS = 5 * SECONDS  # for the question before, and for one's own, each with a new connection


class LookUp:
    """One request's: what it asks for, and what came of it."""

    __slots__ = ("error", "keys", "resume", "texts")

    def __init__(self, keys: Sequence[str], resume: Callable[[], None]) -> None:
        self.keys = keys
        self.resume = resume
        self.texts: list[Any] | None = None
        self.error: StoreUnavailable | None = None


class LookUps:
    """The look-ups of one process.

    `find` returns the texts of entries, or raises `StoreUnavailable`; it may wait. `fail` notes why a look-up fails
    (a cause, and what is known of it), and returns what to raise.
    """

    def __init__(
        self, find: Callable[[Collection[str]], list[Any]], fail: Callable[[str, object], StoreUnavailable]
    ) -> None:
        self._find = find
        self._fail = fail
        self._pid = 0

    def find(self, keys: Sequence[str], about: Context) -> Generator[bytes, None, list[Any]]:
        """Return the texts of entries; yield b"" in pauses of the request. Raises `StoreUnavailable`."""
        pause, resume = about.pause, about.resume
        if pause is None or resume is None:  # the server cannot
            return self._find(keys)
        if self._pid != os.getpid():  # no thread crosses a fork
            self._start()
        look_up = LookUp(keys, resume)
        until = time.monotonic() + LONGEST_SECONDS
        self._queue.put(look_up)
        while look_up.texts is None:
            left = until - time.monotonic()
            if look_up.error or left <= 0:
                raise look_up.error or self._fail("unreachable", "no answer in time")
            pause(left)
            yield b""
        return look_up.texts

    def _start(self) -> None:
        self._queue: SimpleQueue[LookUp] = SimpleQueue()
        Thread(target=self._serve, args=(self._queue,), name="gateway-look-ups", daemon=True).start()
        self._pid = os.getpid()

    def _serve(self, queue: SimpleQueue[LookUp]) -> None:
        while True:
            look_ups = [queue.get()]
            with suppress(Empty):
                while len(look_ups) < MOST:
                    look_ups.append(queue.get_nowait())
            self._answer(look_ups)

    def _answer(self, look_ups: list[LookUp]) -> None:
        try:
            texts = self._find([key for look_up in look_ups for key in look_up.keys])
        except Exception as error:
            # Whatever it is: were the thread to end, all would wait for it.
            if not isinstance(error, StoreUnavailable):
                log.exception("look-ups failed")
                error = self._fail("damaged", error)
            for look_up in look_ups:
                look_up.error = StoreUnavailable(error.cause)
        else:
            for look_up in look_ups:
                look_up.texts, texts = texts[: len(look_up.keys)], texts[len(look_up.keys) :]
        for look_up in look_ups:
            look_up.resume()

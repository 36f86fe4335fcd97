"""Look-ups that hold no thread: the first asks for all that wait, and its request pauses until the answer has come.

Those that come meanwhile go out together, as the next question. Whatever takes more than one question over an open
connection is left to a thread.
"""

from __future__ import annotations

import logging
import math
import select
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

from gateway.blacklist.stores.outage import LOOKUPS
from gateway.blacklist.stores.redis.client import FAILURES, SECONDS, Question
from gateway.blacklist.stores.redis.server import Server
from gateway.http.problems import StoreUnavailable
from gateway.http.protocols import Pause
from gateway.http.threads import start_thread
from gateway.http.wsgi import Context

log = logging.getLogger(__name__)

MOST = 64  # look-ups in one question, about 20 KB of it
LONGEST_SECONDS = 5 * SECONDS  # for the question before, and for one's own, each with a new connection
WATCH_SECONDS = SECONDS / 5  # between two looks whether an answer is late


class LookUp:
    """One request's: what it asks for, and what came of it."""

    __slots__ = ("found", "is_left", "keys", "resume")

    def __init__(self, keys: Sequence[str], resume: Callable[[], None]) -> None:
        self.keys = tuple(keys)
        self.resume = resume
        self.found: list[Any] | StoreUnavailable | None = None
        self.is_left = False  # by its request, which has ended


class LookUps:
    """The look-ups of one process; a child makes others, for no thread crosses a fork."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._starting = Lock()
        self._is_started = False  # whether there is the thread
        self._is_watching = False  # whether it looks whether an answer is late
        self._waiting: deque[LookUp] = deque()
        self._asking = Lock()  # held while a question is under way, whoever asks it
        self._questions: SimpleQueue[list[LookUp] | None] = SimpleQueue()  # the thread's; None wakes it
        self._late_at = math.inf  # when the thread resumes who asks: the server's own clock is coarser

    def find(self, keys: Sequence[str], about: Context) -> Generator[bytes, None, list[Any]]:
        """Return the texts of entries; yield b"" in pauses of the request. Raises `StoreUnavailable`."""
        pause, resume = about.pause, about.resume
        if pause is None or resume is None:  # the server cannot
            return self._server.find(keys)
        if not self._is_started:
            with self._starting:  # once, whichever of the process's threads are first
                if not self._is_started:
                    self._start()
        look_up = LookUp(keys, resume)
        until = time.monotonic() + LONGEST_SECONDS
        self._waiting.append(look_up)
        try:
            while (found := look_up.found) is None:
                if self._asking.acquire(blocking=False):
                    yield from self._ask(look_up, about, pause)
                elif (left := until - time.monotonic()) > 0:
                    pause(left)
                    yield b""
                else:
                    raise self._server.outage.begin(LOOKUPS, "unreachable", "no answer in time")
        finally:
            if look_up.found is None:
                look_up.is_left = True
                self._call_next()  # it may just have been resumed to ask for the others
        if isinstance(found, StoreUnavailable):
            raise found
        return found

    def _ask(self, asker: LookUp, about: Context, pause: Pause) -> Generator[bytes, None, None]:
        """Ask for all that wait, in pauses of one of them; where that fails, the thread asks anew."""
        look_ups: list[LookUp] = []
        question: Question | None = None
        found: list[Any] | StoreUnavailable | None = None
        try:
            if not about.is_alone:
                yield b""  # others add theirs meanwhile
            look_ups = self._take()
            question = self._server.begin([look_up.keys for look_up in look_ups])
            if question:
                self._late_at, self._asker = question.connection.late_at, asker
                if not self._is_watching:
                    self._is_watching = True
                    self._questions.put(None)
                fd = question.connection.fd
                while found is None:
                    pause(SECONDS, {fd: select.POLLIN})
                    yield b""
                    found = self._server.end(question)
        except StoreUnavailable as unavailable:
            found = unavailable
        except FAILURES:
            pass
        finally:  # also where the request ends meanwhile
            self._late_at = math.inf
            if question and question.connection.is_awaited:
                question.connection.close()  # an answer still to come must never reach another request
            if found is None:
                self._questions.put(look_ups or self._take())
            else:
                self._end(look_ups, found, asker)

    def _take(self) -> list[LookUp]:
        waiting = self._waiting  # others only add to it
        return [waiting.popleft() for _ in range(min(len(waiting), MOST))]

    def _end(self, look_ups: list[LookUp], found: list[Any] | StoreUnavailable, asker: LookUp | None = None) -> None:
        """Tell all what came of their look-ups, the asker without resuming it; the next question may follow."""
        start = 0
        for look_up in look_ups:
            end = start + len(look_up.keys)
            look_up.found = StoreUnavailable(found.cause) if isinstance(found, StoreUnavailable) else found[start:end]
            start = end
        self._asking.release()
        for look_up in look_ups:
            if look_up is not asker:
                look_up.resume()
        if self._waiting:
            self._call_next()

    def _call_next(self) -> None:
        if look_up := next((each for each in tuple(self._waiting) if not each.is_left), None):
            look_up.resume()

    def _start(self) -> None:
        if start_thread(self._serve, name="gateway-look-ups") is None:
            raise self._server.outage.begin(LOOKUPS, "unreachable", "no thread is left to ask")
        self._is_started = True

    def _serve(self) -> None:
        while True:
            try:
                look_ups = self._questions.get(timeout=WATCH_SECONDS if self._is_watching else None)
            except Empty:
                if time.monotonic() > self._late_at:
                    self._asker.resume()
                self._is_watching = self._late_at < math.inf
            else:
                if look_ups is not None:
                    self._end(look_ups, self._find([key for look_up in look_ups for key in look_up.keys]))

    def _find(self, keys: list[str]) -> list[Any] | StoreUnavailable:
        try:
            return self._server.find(keys)
        except StoreUnavailable as unavailable:
            return unavailable
        except Exception as error:
            # Whatever it is, the thread must go on: all wait for it.
            log.exception("look-ups failed")
            return self._server.outage.begin(LOOKUPS, "damaged", error)

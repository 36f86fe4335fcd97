"""Code that waits for a disk, a lock, a reader or the network says so here, for a server whose threads take turns."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from types import FrameType

log = logging.getLogger("gateway.blocking")

INCIDENT_SECONDS = 60.0  # after which the same place is logged again


class _Thread(threading.local):
    release: Callable[[], None] | None = None


class _Blocking:
    """Lets another thread work while its block waits. There is one for all: it has no state."""

    __slots__ = ()

    def __enter__(self) -> None:
        if _thread.release is not None:
            _thread.release()

    def __exit__(self, *_: object) -> None:
        """Go on without the turn: the thread that has it keeps it, and this one takes its next turn when it is free."""


_thread = _Thread()
_blocking = _Blocking()


def blocking() -> _Blocking:
    """Return a context manager for what may wait: `with blocking(): …`. Outside the bundled server it does nothing."""
    return _blocking


def on_blocking(release: Callable[[], None]) -> None:
    """Have `release` called when this thread is about to wait: it lets another one have its turn."""
    _thread.release = release


class Watchdog:
    """Logs where threads are that hold up all others without having said that they wait: once an incident.

    A thread whose innermost call is in the package `own` is at the server's work, and only slow. So may be one that
    shows no call but its first: compiled code shows none.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._logged: dict[tuple[object, int], float] = {}  # when, by the place

    def report(self, threads: Iterable[int]) -> None:
        """Log the stacks of the threads with these identifiers (`threading.get_ident`)."""
        frames = _innermost_frames()
        for thread in threads:
            frame = frames.get(thread)
            if frame and not self._is_own(frame) and self._is_new(frame):
                record = {"stack": "".join(traceback.format_stack(frame))}  # code alone, without values
                log.warning("a thread waits outside `blocking()`, and holds up all others", extra={"record": record})

    def _is_own(self, frame: FrameType) -> bool:
        name: str = frame.f_globals.get("__name__", "")
        return frame.f_code is threading.Thread.run.__code__ or name.startswith(self._own)

    def _is_new(self, frame: FrameType) -> bool:
        place, now = (frame.f_code, frame.f_lineno), time.monotonic()
        is_new = now - self._logged.get(place, -INCIDENT_SECONDS) >= INCIDENT_SECONDS
        self._logged[place] = now
        return is_new


def _innermost_frames() -> dict[int, FrameType]:
    """Return them by thread, without a garbage collection meanwhile.

    Python 3.11 holds a lock then which every thread takes when it starts or ends: where a finalizer let such a thread
    run, the whole process would stop for ever (python/cpython#106883).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if was_enabled:
            gc.enable()

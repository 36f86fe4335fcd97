"""Waiting for many descriptors at once, for several threads: epoll where there is one, else poll.

A poller tells of each event once, to one thread. Events are of select.poll; any thread may call any method.
"""

from __future__ import annotations

import os
import select
import weakref
from collections.abc import Iterable
from contextlib import suppress
from threading import Lock

EVENTS = 32  # taken at once


class EpollPoller:
    """For Linux: a descriptor that is armed counts at once, also for a thread that waits already.

    `wake_up` is what `wait` returns beside descriptors once `wake` was called.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._once = select.EPOLLONESHOT
        self.wake_up = os.eventfd(1, os.EFD_CLOEXEC)  # ready to be read whenever it is armed
        # Not at the end of the process, where threads still wait.
        weakref.finalize(self, os.close, self.wake_up).atexit = False
        self._epoll.register(self.wake_up, 0)
        self._is_woken = False  # and nobody has been told yet

    def arm(self, fd: int, events: int) -> None:
        """Have the descriptor told of once when it is ready for any of the events. Raises OSError if it is closed."""
        try:
            self._epoll.modify(fd, events | self._once)
        except FileNotFoundError:
            self._epoll.register(fd, events | self._once)

    def disarm(self, fd: int) -> None:
        """Forget a descriptor that is open, armed before or not; one that is closed is forgotten by itself."""
        with suppress(FileNotFoundError):
            self._epoll.unregister(fd)

    def wake(self) -> None:
        """Have `wait` return."""
        if not self._is_woken:
            self._is_woken = True
            self._epoll.modify(self.wake_up, select.POLLIN | self._once)

    def wait(self, seconds: float | None) -> Iterable[tuple[int, int]]:
        """Return descriptors that are ready, with their events; wait for some at most so long, None: for ever."""
        ready = self._epoll.poll(seconds, EVENTS)
        # Not assigned otherwise: another thread may have been told meanwhile, and then nobody could wake any more.
        if self._is_woken and any(fd == self.wake_up for fd, _ in ready):
            self._is_woken = False
        return ready


class PollPoller:
    """For every other system. A wait starts again whenever something is armed, and takes time for each descriptor."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._armed: dict[int, int] = {}
        self._is_woken = self._is_interrupted = False
        self.wake_up, self._writer = os.pipe()
        for end in (self.wake_up, self._writer):
            weakref.finalize(self, os.close, end).atexit = False
            os.set_blocking(end, False)

    def arm(self, fd: int, events: int) -> None:
        """Have the descriptor told of once."""
        with self._lock:
            self._armed[fd] = events
            self._interrupt()

    def disarm(self, fd: int) -> None:
        """Forget a descriptor."""
        with self._lock:
            self._armed.pop(fd, None)

    def wake(self) -> None:
        """Have `wait` return."""
        with self._lock:
            self._is_woken = True
            self._interrupt()

    def _interrupt(self) -> None:
        if not self._is_interrupted:
            self._is_interrupted = True
            os.write(self._writer, b".")

    def wait(self, seconds: float | None) -> Iterable[tuple[int, int]]:
        """Return descriptors that are ready, with their events, maybe none; wait at most so long."""
        poll = select.poll()
        with self._lock:
            for fd, events in self._armed.items():
                poll.register(fd, events)
        poll.register(self.wake_up, select.POLLIN)
        ready = dict(poll.poll(None if seconds is None else seconds * 1000))
        with self._lock:
            found = [pair for pair in ready.items() if self._armed.pop(pair[0], None) is not None]
            if self.wake_up in ready and self._is_interrupted:
                os.read(self.wake_up, 1)
                self._is_interrupted = False
            if self._is_woken:
                found.append((self.wake_up, select.POLLIN))
                self._is_woken = False
        return found


Poller = EpollPoller | PollPoller


def open_poller() -> Poller:
    """Return the poller for this system."""
    return EpollPoller() if hasattr(select, "epoll") else PollPoller()

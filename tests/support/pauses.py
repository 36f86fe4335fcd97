"""What pauses, driven as the bundled server drives it, without one."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Generator, Mapping
from typing import TypeVar

from gateway.http.wsgi import Context

T = TypeVar("T")


def outcome_in_pauses(begin: Callable[[Context], Generator[bytes, None, T]]) -> T:
    """Return what a generator returns that is given a request's context and yields b"" in its pauses."""
    waits: list[tuple[float, Mapping[int, int]]] = []

    def pause(seconds: float, descriptors: Mapping[int, int] | None = None, *, body: bool = False) -> None:
        waits.append((seconds, descriptors or {}))

    woken, waker = socket.socketpair()
    with woken, waker:

        def resume() -> None:
            with contextlib.suppress(OSError):  # it comes late
                waker.send(b".")

        about = Context()
        about.pause, about.resume = pause, resume
        going = begin(about)
        while True:
            try:
                next(going)
            except StopIteration as end:
                outcome: T = end.value
                return outcome
            if waits:
                _wait(*waits.pop(), woken)


def _wait(seconds: float, descriptors: Mapping[int, int], woken: socket.socket) -> None:
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    for fd, events in descriptors.items():
        poll.register(fd, events)
    if woken.fileno() in dict(poll.poll(seconds * 1000)):
        woken.recv(100)

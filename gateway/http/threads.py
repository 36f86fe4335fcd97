"""Threads that start while requests are served; and forks, which no thread but the forking one survives."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Thread
from weakref import WeakMethod


def start_thread(run: Callable[..., object], *args: object, name: str) -> Thread | None:
    """Start a daemon thread and return it; None where the system has none left, such as at a container's limit."""
    thread = Thread(target=run, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


def at_fork(*, after_in_child: Callable[[], None], before: Callable[[], None] | None = None) -> None:
    """Have an object's methods called whenever this process or a child of it forks, as long as the object lives.

    In a child the object's threads are not there, and its locks may have been held by one of them.
    """
    os.register_at_fork(after_in_child=_while_it_lives(after_in_child))
    if before:
        os.register_at_fork(before=_while_it_lives(before))


def _while_it_lives(method: Callable[[], None]) -> Callable[[], None]:
    found = WeakMethod(method)

    def call() -> None:
        if known := found():
            known()

    return call

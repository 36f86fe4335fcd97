"""Whoever is about to wait says so here, for a server whose threads take turns."""

from __future__ import annotations

import threading
from collections.abc import Callable


class _Thread(threading.local):
    give_way: Callable[[], None] | None = None


_thread = _Thread()


def on_waiting(give_way: Callable[[], None]) -> None:
    """Have `give_way` called when this thread is about to wait."""
    _thread.give_way = give_way


def about_to_wait() -> None:
    """Let another thread work: this one is about to wait for a network, a disk or a lock."""
    if _thread.give_way is not None:
        _thread.give_way()

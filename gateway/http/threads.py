"""Threads that start while requests are served."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread


def start_thread(run: Callable[..., object], *args: object, name: str) -> Thread | None:
    """Start a daemon thread and return it; None where the system has none left, such as at a container's limit."""
    thread = Thread(target=run, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread

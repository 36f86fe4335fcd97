"""Whether this process is finishing its last requests."""

from __future__ import annotations

SHUT_DOWN = "shut-down"  # what became of a request that had not ended when the drain's time was over

_is_draining = False


def is_draining() -> bool:
    """Return whether this process takes no more connections, and ends those it has: it is not ready for more."""
    return _is_draining


def begin_drain() -> None:
    """Let every response from now on end its connection. There is no way back."""
    global _is_draining  # noqa: PLW0603 - a fact about the process
    _is_draining = True

"""Which of several threads works."""

from __future__ import annotations

from threading import Lock, get_ident


class Lead:
    """What one thread has at a time. Where it is lost, the thread finishes what it is at, and takes it again."""

    def __init__(self) -> None:
        self._free = Lock()
        self._holder: dict[int, bool] = {}  # popping tells one caller alone that there was one

    def take(self) -> None:
        """Wait until no thread has the lead, and have it."""
        self._free.acquire()
        self._holder[get_ident()] = True

    def is_mine(self) -> bool:
        """Tell whether this thread has the lead."""
        return get_ident() in self._holder

    def give(self) -> None:
        """Let another thread have it, if this one has."""
        self._lose(get_ident())

    def withdraw(self) -> None:
        """Let another thread have it, whoever has it now."""
        for thread in list(self._holder):
            self._lose(thread)

    def _lose(self, thread: int) -> None:
        if self._holder.pop(thread, False):
            self._free.release()

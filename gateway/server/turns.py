"""Leader and followers: of the threads that serve, one works."""

from __future__ import annotations

from threading import Lock, get_ident


class Turns:
    """The turn, which one thread has at a time. Who has lost it finishes the step it is at, and acquires it again."""

    def __init__(self) -> None:
        self._free = Lock()
        self.holder: dict[int, bool] = {}  # by thread; popping tells one caller alone that there was one

    def acquire(self) -> None:
        """Wait until no thread has the turn, and have it."""
        self._free.acquire()
        self.holder[get_ident()] = True

    def is_mine(self) -> bool:
        """Return whether this thread has the turn."""
        return get_ident() in self.holder

    def release(self) -> None:
        """Let another thread have it, if this one has."""
        self._release(get_ident())

    def revoke(self) -> list[int]:
        """Let another thread have it, whoever has it now; return which thread had it, if one did."""
        return [thread for thread in list(self.holder) if self._release(thread)]

    def _release(self, thread: int) -> bool:
        had = self.holder.pop(thread, False)
        if had:
            self._free.release()
        return had

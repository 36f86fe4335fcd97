"""What a response waits for in a pause, as the server keeps it: a `http.protocols.Pause`. See the README beside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from time import monotonic
from typing import Final

Awaited = Mapping[int, int]  # events of select.poll by descriptor; any of them will do
NOTHING: Final[Awaited] = {}  # the next step may follow at once
# Into a pause, after which the client's leaving ends it: most pauses are shorter, and watching costs a system call.
WATCH_SECONDS: Final = 1.0


class PauseNote:
    """The latest pause of a connection's response."""

    __slots__ = ("awaited", "body", "is_watched", "resume_at", "since")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Note that there is no pause."""
        self.awaited: Awaited | None = None  # None: no pause
        self.body = False  # whether more of the request's body ends it
        self.since = 0.0
        self.resume_at = math.inf  # when it is over at the latest, in seconds of time.monotonic
        self.is_watched = False  # whether it ends when the client leaves

    def ask(self, seconds: float, descriptors: Mapping[int, int] | None = None, *, body: bool = False) -> None:
        """Note what the response waits for: this is the context's `pause`."""
        self.awaited = dict(descriptors or {})
        self.body = body
        self.since = monotonic()
        self.resume_at = self.since + seconds

    def is_to_be_watched(self, now: float) -> bool:
        """Return whether it has lasted so long that the client's leaving is to end it."""
        return now >= self.since + WATCH_SECONDS and not self.is_watched and not self.body

    def next_look(self, now: float, usual: float) -> float:
        """Return when something is to be done about it: to watch it, to end it, or after `usual` seconds."""
        if self.is_watched:  # it costs nothing any more, however long it is
            return self.resume_at
        return min(self.resume_at, now + usual if self.body else self.since + WATCH_SECONDS)

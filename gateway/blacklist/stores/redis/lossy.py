"""Whether a Redis server may forget entries: by its settings, role or clock, or because it has done so already."""

from __future__ import annotations

import itertools
import logging
import math
import mmap
import re
import struct
import time
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

from gateway.blacklist.stores.base import LATEST
from gateway.blacklist.stores.redis.keys import GRACE_SECONDS
from gateway.http.problems import StoreUnavailable
from gateway.http.threads import at_fork

log = logging.getLogger(__name__)

_FORBIDDEN = re.compile(r"(NOPERM|ERR unknown command).*['`](config|info)\b", re.IGNORECASE)
FORBIDDEN_SECONDS = 60.0  # to the next try: each costs a connection
_SETTINGS = ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync")
_FIGURES = re.compile(rb"^(evicted_keys|run_id|role|uptime_in_seconds):(-?\w+)", re.MULTILINE)
_GONE = struct.Struct("<qq")  # when an operator last took the store; up to which end entries may be gone since
_ANY = LATEST + 1  # as such an end: whenever they end
_UNCHECKED = {
    "CONFIG": "Redis does not tell its configuration: eviction and persistence are unchecked",
    "INFO": "Redis does not tell (INFO) its role, nor how many keys it has evicted",
}


def is_forbidden(error: BaseException | None) -> bool:
    """Return whether a server refuses CONFIG or INFO alone, whose answers are good to have, and not needed."""
    return bool(_FORBIDDEN.match(str(error)))


class Lossy:
    """What was last found to make a server forget. `ask` sends commands to it, `now` returns epoch seconds.

    That entries may be gone, all processes know that were forked from the same one, and whatever server comes next.
    """

    def __init__(self, ask: Callable[..., list[Any]], now: Callable[[], float]) -> None:
        self.faults: list[str] = []
        self._numbers = itertools.count()
        self._opened = next(self._numbers)  # which connection was opened last
        self._looked = -1, 0.0  # that number when the last look began, and when it ended, on the monotonic clock
        self._ask = ask
        self._now = now
        self._said: set[str] = set()
        self._forbidden_until: dict[str, float] = {}  # by command
        self._config: dict[str, str] = {}
        self._accepted = -1  # when an operator last took the store as it is
        self._evicted: dict[bytes, int] = {}  # by the server's run, how many keys it had evicted when it was taken
        self._gone = mmap.mmap(-1, _GONE.size)
        self._begin_anew()
        at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        self.looking = Lock()  # held by whoever looks

    def __str__(self) -> str:
        return ", ".join(self.faults)

    def note_opened(self) -> None:
        """Note that there is a new connection: it may lead to another server, or to the same one started anew."""
        self._opened = next(self._numbers)

    def age(self) -> float:
        """Return the seconds since the last look; infinity where a connection was opened since it began."""
        opened, when = self._looked
        return time.monotonic() - when if opened == self._opened else math.inf

    def look(self, accepted: int) -> None:
        """Find the faults there are now. Raises `StoreUnavailable`.

        `accepted` is when an operator last took the store as it is: what happened before no longer counts.
        """
        opened = self._opened
        self.faults = [*self._of_figures(accepted), *self._of_clock(accepted), *self._of_settings()]
        self._accepted = accepted
        self._looked = opened, time.monotonic()

    def _note_gone(self, accepted: int, until: int = 0) -> int:
        """Note that entries that end by `until` may be gone; return the latest such time since the store was taken."""
        when, latest = _GONE.unpack(self._gone)
        latest = max(latest if when >= accepted else 0, until)
        _GONE.pack_into(self._gone, 0, max(when, accepted), latest)
        return latest

    def _of_clock(self, accepted: int) -> Iterator[str]:
        (clock,) = self._ask(("TIME",))
        ahead = int(clock[0]) - self._now()
        gone = self._note_gone(accepted, int(clock[0]) - GRACE_SECONDS if ahead >= GRACE_SECONDS else 0)
        if ahead >= GRACE_SECONDS / 2:
            yield "its clock is far ahead"
        elif self._now() < gone < _ANY:
            yield "its clock was far ahead, and entries may be gone that have not ended"

    def _of_settings(self) -> Iterator[str]:
        # What the server told earlier still counts where it does not tell any more.
        for answer in self._told("CONFIG", ("GET", "maxmemory*"), ("GET", "*append*")):
            texts = [text.decode() for text in answer]
            self._config.update(zip(texts[::2], texts[1::2], strict=True))
        config = self._config
        if config.get("maxmemory") != "0" and config.get("maxmemory-policy", "noeviction") != "noeviction":
            yield f"maxmemory-policy is {config['maxmemory-policy']}, not noeviction"
        if config.get("appendonly", "yes") != "yes":
            yield "appendonly is off"
        elif config.get("appendfsync") == "no":
            yield "appendfsync is no"
        elif config.get("appendfsync", "always") != "always":
            self.say("Redis syncs about once a second: a power cut may lose the last second (appendfsync always)")
        if config.get("no-appendfsync-on-rewrite") == "yes":
            self.say(
                "Redis syncs nothing while it rewrites its file: a power cut may lose that (no-appendfsync-on-rewrite)"
            )
        if _UNCHECKED["CONFIG"] not in self._said and (untold := [name for name in _SETTINGS if name not in config]):
            self.say(f"Redis does not tell {', '.join(untold)}: what follows from them is unchecked")

    def _of_figures(self, accepted: int) -> Iterator[str]:
        figures = dict(_FIGURES.findall(b"".join(self._told("INFO", ("stats",), ("server",), ("replication",)))))
        run, evicted = figures.get(b"run_id", b""), int(figures.get(b"evicted_keys", 0))
        if accepted != self._accepted:
            self._evicted = {run: evicted}
            if evicted:
                self.say(f"Redis has evicted {evicted} keys since it was started: entries among them count no more")
        if evicted > self._evicted.get(run, 0):
            self._note_gone(accepted, _ANY)
        # A server whose uptime is below zero was started by a clock that was ahead.
        ahead = -int(figures.get(b"uptime_in_seconds", 0))
        if ahead >= GRACE_SECONDS and run not in self._evicted:
            self._note_gone(accepted, int(self._now()) + ahead - GRACE_SECONDS)
        if self._note_gone(accepted) == _ANY:
            yield "it has evicted keys: import the newest export, then run `gateway accept-store`"
        if figures.get(b"role") == b"slave":
            yield "it is a replica that takes writes: its primary has other changes (replica-read-only)"

    def _told(self, command: str, *arguments: tuple[str, ...]) -> list[Any]:
        """Return the answers; none, for a minute, if the server does not allow the command."""
        if time.monotonic() < self._forbidden_until.get(command, 0):
            return []
        try:
            return self._ask(*[(command, *each) for each in arguments])
        except StoreUnavailable as unavailable:
            if not is_forbidden(unavailable.__cause__):
                raise
            self._forbidden_until[command] = time.monotonic() + FORBIDDEN_SECONDS
            self.say(_UNCHECKED[command])
            return []

    def say(self, sentence: str) -> None:
        """Warn, once."""
        if sentence not in self._said:
            self._said.add(sentence)
            log.warning("%s", sentence)

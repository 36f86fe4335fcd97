"""Whether a Redis server may forget entries: by its settings, by its clock, or because it has done so already."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from gateway.blacklist.stores.redis.keys import GRACE_SECONDS
from gateway.http.problems import StoreUnavailable

log = logging.getLogger(__name__)

_FORBIDDEN = re.compile(r"(NOPERM|ERR unknown command).*['`](config|info)\b", re.IGNORECASE)
FORBIDDEN_SECONDS = 60.0  # to the next try: each costs a connection
_SETTINGS = ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync")
_UNCHECKED = {
    "CONFIG": "Redis does not tell its configuration: eviction and persistence are unchecked",
    "INFO": "Redis does not tell how many keys it has evicted (INFO)",
}


def is_forbidden(error: BaseException | None) -> bool:
    """Return whether a server refuses CONFIG or INFO alone, whose answers are good to have, and not needed."""
    return bool(_FORBIDDEN.match(str(error)))


class Lossy:
    """What was last found to make a server forget. `ask` sends commands to it, `now` returns epoch seconds."""

    def __init__(self, ask: Callable[..., list[Any]], now: Callable[[], float]) -> None:
        self.faults: list[str] = []
        self.checked = float("-inf")  # when, on the monotonic clock
        self._ask = ask
        self._now = now
        self._said: set[str] = set()
        self._forbidden_until: dict[str, float] = {}  # by command
        self._config: dict[str, str] = {}
        self._accepted = -1  # when an operator last took the store as it is
        self._forgotten = 0.0  # entries that ended by then may be gone
        self._evicted: dict[str, int] = {}  # by the server's run, how many keys it had evicted when it was taken

    def look(self, accepted: int) -> None:
        """Find the faults there are now. Raises `StoreUnavailable`.

        `accepted` is when an operator last took the store as it is: what happened before no longer counts.
        """
        if accepted != self._accepted:
            self._forgotten = 0.0
        self.faults = [*self._of_clock(), *self._of_settings(), *self._of_evictions(accepted)]
        self._accepted = accepted
        self.checked = time.monotonic()

    def _of_clock(self) -> Iterator[str]:
        (clock,) = self._ask(("TIME",))
        ahead = int(clock[0]) - self._now()
        if ahead >= GRACE_SECONDS:
            self._forgotten = max(self._forgotten, int(clock[0]) - GRACE_SECONDS)
        if ahead >= GRACE_SECONDS / 2:
            yield "its clock is far ahead"
        elif self._now() < self._forgotten:
            yield "its clock was far ahead, and entries may be gone that have not ended"

    def _of_settings(self) -> Iterator[str]:
        # What it told before it ceased to tell still counts.
        for answer in self._told("CONFIG", ("GET", "maxmemory*"), ("GET", "append*")):
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
        if _UNCHECKED["CONFIG"] not in self._said and (untold := [name for name in _SETTINGS if name not in config]):
            self.say(f"Redis does not tell {', '.join(untold)}: what follows from them is unchecked")

    def _of_evictions(self, accepted: int) -> Iterator[str]:
        text = b"".join(self._told("INFO", ("stats",), ("server",)))
        evicted, run = re.search(rb"evicted_keys:(\d+)", text), re.search(rb"run_id:(\w+)", text)
        if not evicted or not run:
            return
        count, name = int(evicted[1]), run[1].decode()
        if accepted != self._accepted:
            self._evicted = {name: count}
        if count > self._evicted.get(name, 0):
            yield "it has evicted keys: import the newest export, then run `gateway accept-store`"

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

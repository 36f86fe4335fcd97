"""A Redis server that vouches for its answers: the primary, with the blacklist we know, that forgets nothing."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from hiredis import ReplyError
from redis.exceptions import RedisError

from gateway.blacklist.stores.base import StoreRefused
from gateway.blacklist.stores.redis.client import FAILURES, Lines, pack
from gateway.blacklist.stores.redis.primary import primary
from gateway.http.blocking import about_to_wait
from gateway.http.problems import StoreUnavailable

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.2  # after a failure nobody asks for so long: no storm of retries, no queue of waiting threads
WAIT_MILLISECONDS = 100  # for replicas; half the time that an answer has
GRACE_SECONDS = 3600  # the server keeps expired entries this long: its clock is not ours

# All keys carry one hash tag, so that one command and one script reach them all: a cluster keeps
# the blacklist on one of its shards.
TAG = "{jwt-gateway}:"
GENERATION = TAG + "generation"  # what makes this blacklist this one, a dot, and the number of its changes

# Parts of scripts: before it changes anything, and when it has.
READ_GENERATION = f"""
local name, changes = string.match(redis.call('GET', '{GENERATION}') or '', '^(%x+)%.(%d+)$')
if not name then return redis.error_reply('WIPED the generation is gone') end
"""
COUNT_CHANGE = f"redis.call('SET', '{GENERATION}', name .. '.' .. (changes + 1))"

# Counted as a write, though it changes nothing: a primary that was demoted refuses it, and so does one that
# has lost the replicas it must have (min-replicas-to-write). Neither may answer from the past. It is asked last:
# what was wiped meanwhile is noticed, and who makes a change knows of it.
_GENERATION = pack(("GETEX", GENERATION))

_MARK = ("SET", TAG + "mark", "")  # a write, and no change

_UNCHECKED = "Redis does not tell its configuration: eviction and persistence are unchecked"


class NoBlacklist(RedisError):
    """There is none, and none is to be made."""


class Server:
    """Asks and changes, and refuses answers that nobody vouches for; the arguments are `RedisStore`'s."""

    def __init__(self, url: str, now: Callable[[], float], *, replicas: int, accept_lossy: bool, create: bool) -> None:
        try:
            self._lines = Lines(primary(url, GENERATION))
        except (ValueError, RedisError) as error:
            raise StoreRefused("STORE is not a URL of a Redis server.") from error
        self._now = now
        self._replicas = replicas
        self._accept_lossy = accept_lossy
        self._create = create
        self._known = (b"", b"", 0)  # the generation as last read, its name, its changes
        self._failed_until = 0.0
        self._said: set[str] = set()
        try:
            self.check()
        except StoreUnavailable as error:
            if not create and isinstance(error.__cause__, NoBlacklist):
                raise StoreRefused(f"There is no store: {error.__cause__}.") from error
            log.warning("Redis cannot be asked at the start; until it can, every request is refused")

    def ask(self, *commands: tuple[Any, ...], again: bool = True) -> list[Any]:
        """Return the answers, sure that they come from the primary and that the blacklist is the one we know."""
        if self._failed_until and time.monotonic() < self._failed_until:
            raise StoreUnavailable
        question = b"".join([pack(command) for command in commands]) + _GENERATION
        about_to_wait()
        known = self._known  # taken before the question: the answer must know this much
        try:
            *answers, generation = self._lines.ask(question, 1 + len(commands), again=again)
            if generation != known[0]:
                self._vouch(generation, *known[1:])
        except FAILURES as error:
            if again or not isinstance(error, ReplyError):
                self._fail(error)
            else:
                log.warning("Redis refuses: %s", error)
            raise StoreUnavailable from error
        if self._failed_until:
            self._failed_until = 0.0
            log.warning("Redis answers again")
        return answers

    def change(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Run commands that change something; with REPLICAS return only when so many replicas have them."""
        if not self._replicas:
            return self.ask(*commands, again=False)
        # WAIT vouches for what its own connection wrote: what we find changed already may have come over another.
        wait = ("WAIT", self._replicas, WAIT_MILLISECONDS)
        *answers, _, acknowledged = self.ask(*commands, _MARK, wait, again=False)
        if acknowledged < self._replicas:
            log.warning("%d of %d replicas have a change", acknowledged, self._replicas)
            raise StoreUnavailable
        return answers

    def ping(self) -> None:
        """Return if the server takes changes and does not forget. Raises `StoreUnavailable`, `StoreRefused`."""
        self.check()
        self.change(_MARK)  # fails where there is no room

    @property
    def mark(self) -> str:
        """The generation as last read."""
        return self._known[0].decode()

    def _vouch(self, found: bytes | None, known: bytes, changes_known: int) -> None:
        """Take the generation when none is known yet. Raises RedisError when it is another's, or of the past."""
        if found is None and not known and self._create:
            new = pack(("SET", GENERATION, f"{secrets.token_hex(16)}.0", "NX"))
            _, found = self._lines.ask(new + _GENERATION, 2, again=False)
        if found is None and not known:
            raise NoBlacklist("the Redis server of STORE has no blacklist")
        name, _, changes = (found if isinstance(found, bytes) else b"").partition(b".")
        if not name or known not in (b"", name):
            raise RedisError("the blacklist was emptied or replaced: restore it, or start the gateway anew")
        if int(changes) < changes_known:
            self._meet_older(changes_known - int(changes))
        self._known = (found or b"", name, int(changes))

    def _meet_older(self, changes: int) -> None:
        sentence = f"the blacklist is an older copy that lacks the last {changes} changes"
        if not self._accept_lossy:
            raise RedisError(f"{sentence}: restore it, or start the gateway anew")
        log.warning("%s", sentence)

    def _fail(self, error: Exception) -> None:
        if not self._failed_until:
            log.warning("Redis fails, and every request is refused until it answers: %s", error)
        self._lines.close()
        self._failed_until = time.monotonic() + PAUSE_SECONDS

    def check(self) -> None:
        """Raise `StoreRefused` if the server is set up so that it may forget."""
        (clock,) = self.ask(("TIME",))
        faults = [] if int(clock[0]) - self._now() < GRACE_SECONDS / 2 else ["its clock is far ahead"]
        if _UNCHECKED not in self._said:
            faults += self._config_faults()
        if faults and not self._accept_lossy:
            raise StoreRefused(f"This Redis may forget: {', '.join(faults)}. ACCEPT_LOSSY_STORE takes the risk.")
        for fault in faults:
            self._say(f"Redis may forget entries: {fault}")

    def _config_faults(self) -> Iterator[str]:
        try:
            answers = self.ask(("CONFIG", "GET", "maxmemory*"), ("CONFIG", "GET", "append*"), again=False)
        except StoreUnavailable as unavailable:
            if not str(unavailable.__cause__).startswith(("NOPERM", "ERR unknown command")):
                raise
            return self._say(_UNCHECKED)
        members = [text.decode() for answer in answers for text in answer]
        config = dict(zip(members[::2], members[1::2], strict=True))
        if config["maxmemory"] != "0" and config["maxmemory-policy"] != "noeviction":
            yield f"maxmemory-policy is {config['maxmemory-policy']}, not noeviction"
        if config["appendonly"] != "yes":
            yield "appendonly is off"
        elif config["appendfsync"] == "no":
            yield "appendfsync is no"
        elif config["appendfsync"] != "always":
            self._say("Redis syncs about once a second: a power cut may lose the last second (appendfsync always)")

    def _say(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            log.warning("%s", sentence)

    def close(self) -> None:
        """Let go of connections; a later question opens new ones."""
        self._lines.close()

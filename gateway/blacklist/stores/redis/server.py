"""A Redis server that can be believed: the primary, with the blacklist we know, that forgets nothing."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from hiredis import ReplyError
from redis.exceptions import RedisError

from gateway.blacklist.stores.base import StoreMissing, StoreRefused
from gateway.blacklist.stores.history import MOST_KEYS, WINDOW, HistoryLost, Known, new_mark, read_head
from gateway.blacklist.stores.outage import CHANGES, LOOKUPS, Outage
from gateway.blacklist.stores.redis.client import (
    FAILURES,
    Connections,
    NotOpened,
    Question,
    RedisConnection,
    cause_of,
    pack,
)
from gateway.blacklist.stores.redis.keys import (
    CHANGE,
    GRACE_SECONDS,
    as_answered,
    as_not_found,
    packing,
    read_prefix,
    read_row,
    read_text,
)
from gateway.blacklist.stores.redis.lossy import Lossy, is_forbidden
from gateway.blacklist.stores.redis.primary import node_of, primary
from gateway.http.blocking import blocking
from gateway.http.problems import StoreUnavailable

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.2  # after a failure nobody asks for so long: no storm of retries, no queue of waiting threads
WAIT_MILLISECONDS = 70  # for replicas; up to 100 more, for a server looks ten times a second whether it is over
CHECK_SECONDS, LATEST_CHECK_SECONDS = 0.8, 0.9  # age of the last look at its settings: one thread looks; all wait


class NoBlacklist(RedisError):
    """There is none, and none is to be made."""


class Server:
    """Asks and changes, and refuses answers that cannot be believed; the arguments are `RedisStore`'s."""

    def __init__(self, url: str, now: Callable[[], float], *, replicas: int, accept_lossy: bool, create: bool) -> None:
        try:
            url, self.keys = read_prefix(url)
            self._primary = primary(url, self.keys.generation)
            self._connections = Connections(self._dial)
            self._url = url
            self._nodes: dict[str, Connections] = {}  # of a cluster, to which a slot migrates
        except (ValueError, RedisError) as error:
            raise StoreRefused("STORE is not a URL of a Redis server: docs/redis.md has their forms.") from error
        self._now = now
        self._replicas = replicas
        self._accept_lossy = accept_lossy
        self._create = create
        self.known = Known(accept_lossy=accept_lossy)
        self.outage = Outage()
        # To Redis GETEX is a write: a primary that was demoted, or lacks replicas (min-replicas-to-write), refuses it,
        # and may not answer from the past. Asked last, it tells of what was wiped meanwhile, and of the change itself.
        self._ask_head = pack(("GETEX", self.keys.head))
        self._pack_keys = packing(self.keys.tag)
        self._end_of_lookup = pack(("MGET", self.keys.generation)).partition(b"MGET\r\n")[2] + self._ask_head
        self.empty_write = ("SET", self.keys.tag + "mark", "")  # no change, and refused where there is no room
        self._failed_until = 0.0
        self._lossy = Lossy(self._ask, now)
        try:
            self._ask()  # what is known of its history, first
            self._refuse_lossy()
        except StoreUnavailable as error:
            if not create and isinstance(error.__cause__, NoBlacklist):
                self._lossy = Lossy(self.ask_at_once, now)
                self._refuse_lossy()
                raise StoreMissing(f"There is no store: {error.__cause__}.") from error
            log.warning("Redis does not answer yet; until it does, everything is refused")

    def ask(self, *commands: tuple[Any, ...], again: bool = True) -> list[Any]:
        """Return the answers, sure that they come from the primary and that the blacklist is the one we know."""
        self._check_settings()
        answers = self._ask(*commands, again=again)
        self._check_settings()  # these may be the first answers of another server, which has not been looked at
        return answers

    def _dial(self) -> RedisConnection:
        connection = self._primary()
        self._lossy.note_opened()
        return connection

    def _check_settings(self) -> None:
        """Look at what makes the server forget, unless another thread does so just in time."""
        age, looking = self._lossy.age(), self._lossy.looking
        if age > LATEST_CHECK_SECONDS or (age > CHECK_SECONDS and not looking.locked()):
            # By `with`: what a signal raises here, as servers do to end what takes long, leaves no lock behind.
            with blocking(), looking:
                if self._lossy.age() > CHECK_SECONDS:
                    self._look()
        if self._is_lossy():
            raise self.outage.begin(LOOKUPS, "lossy", f"this Redis may forget: {self._lossy}")

    def _is_lossy(self) -> bool:
        return bool(self._lossy.faults) and not self._accept_lossy

    def _look(self) -> None:
        newest = self.known.newest()
        self._lossy.look(read_head(newest).accepted if newest else 0)
        if self._accept_lossy:
            for fault in self._lossy.faults:
                self._lossy.say(f"Redis may forget entries: {fault}")

    def find(self, keys: Collection[str]) -> list[Any]:
        """Return the texts of entries."""
        (texts,) = self.ask(("MGET", *[self.keys.tag + key for key in keys]))
        return list(texts)

    def begin(self, lookups: Sequence[tuple[str, ...]]) -> Question | None:
        """Ask for the texts of entries, and wait for nothing. None, or what `FAILURES` names: `find` may help."""
        since = self.known.newest()
        is_old = self._lossy.age() > CHECK_SECONDS
        if not since or is_old or self._is_lossy() or self._failed_until or LOOKUPS in self.outage.causes:
            return None
        entries = sum(map(len, lookups))
        start = b"*%d\r\n$4\r\nMGET\r\n" % (entries + 2)
        connection = self._connections.begin(b"".join([start, *map(self._pack_keys, lookups), self._end_of_lookup]))
        return Question(connection, entries, since) if connection else None

    def end(self, question: Question) -> list[Any] | None:
        """Return the texts, None while they are still to come. Raises `StoreUnavailable` if they are late.

        Whatever else it raises is among `FAILURES`: `find` may help.
        """
        connection, entries = question.connection, question.entries
        if (answers := connection.receive(2, as_not_found((question.newest, entries)))) is None:
            if time.monotonic() > connection.late_at:
                raise self._fail(TimeoutError("the answer is slow to come"), lookup=True)
            return None
        if not answers:
            self._connections.give_back(connection)
            return [None] * entries
        texts, head = answers
        if not texts or not isinstance(texts, list) or not isinstance(head, bytes):
            raise RedisError("no answer to a look-up")
        self._connections.give_back(connection)
        if (texts.pop(), head) != as_answered(question.newest) or len(texts) != entries:
            raise RedisError("others have changed the blacklist")
        return texts

    def _ask(self, *commands: tuple[Any, ...], again: bool = True) -> list[Any]:
        if self._failed_until and time.monotonic() < self._failed_until:
            raise StoreUnavailable(self.outage.causes.get(LOOKUPS, ""))
        # With a look-up the generation costs no command of its own.
        is_lookup = len(commands) == 1 and commands[0][0] == "MGET"
        asked = [(*commands[0], self.keys.generation)] if is_lookup else [*commands, ("GET", self.keys.generation)]
        try:
            with blocking():
                answers = self._exchange(asked, is_lookup=is_lookup, again=again)
        except (*FAILURES, HistoryLost) as error:
            raise self._fail(error, lookup=again) from error
        if self._failed_until:
            self._failed_until = 0.0
        if self.outage.causes and not self._is_lossy():
            self.outage.end(LOOKUPS)
        return answers

    def ask_at_once(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Return the answers also of a server that has just failed, or has no blacklist."""
        try:
            with blocking():
                return self._connections.ask(b"".join(map(pack, commands)), len(commands), again=True)
        except FAILURES as error:
            raise self._fail(error, lookup=True) from error

    def _exchange(self, commands: Sequence[tuple[Any, ...]], *, is_lookup: bool, again: bool) -> list[Any]:
        since = self.known.newest()  # taken before the look-up: the answer must know this much
        request, answers = b"".join(map(pack, commands)) + self._ask_head, len(commands) + 1
        try:
            *found, head = self._connections.ask(request, answers, again=again)
        except ReplyError as error:
            if again and str(error).startswith("MOVED "):
                # Another node of the cluster has the slot now: new connections lead to it.
                self._connections.close()
                *found, head = self._connections.ask(request, answers, again=False)
            elif again and str(error).startswith(("ASK ", "TRYAGAIN")):
                # The slot migrates: each key is either here or there, and both say so when they are asked for one.
                *found, head = map(self._ask_one, [*commands, ("GETEX", self.keys.head)])
            else:
                raise
        if is_lookup and not (isinstance(found[0], list) and len(found[0]) == len(commands[0]) - 1):
            raise RedisError("the answer to a look-up is no list of as many texts")
        generation = found[0].pop() if is_lookup else found.pop()
        self._check_history(generation, head, since)
        return found

    def _ask_one(self, command: tuple[Any, ...]) -> Any:
        """Return the answer to a command, about each of its keys from the node of a cluster that has it."""
        if command[0] == "MGET":
            return [self._ask_one(("GET", key)) for key in command[1:]]
        try:
            return self._connections.ask(pack(command), 1, again=True)[0]
        except ReplyError as error:
            word, *_, place = str(error).split()
            if word != "ASK":
                raise
            if place not in self._nodes:
                host, _, port = place.rpartition(":")
                self._nodes[place] = Connections(node_of(self._url, host, int(port)))
            return self._nodes[place].ask(pack(("ASKING",)) + pack(command), 2, again=True)[1]

    def change(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Run commands that change something; with REPLICAS return only when so many replicas have them."""
        if self._replicas and not commands:
            # WAIT speaks only for what its own connection wrote; what was changed before may have come over another.
            commands = (self.empty_write,)
        wait = (("WAIT", self._replicas, WAIT_MILLISECONDS),) if self._replicas else ()
        answers = self.ask(*commands, *wait, again=False)
        if wait and (count := answers[-1]) < self._replicas:
            raise self.outage.begin(CHANGES, "replicas", f"{count} of {self._replicas} replicas have a change in time")
        self.outage.end(CHANGES)
        return answers[: len(commands)]

    def change_command(
        self, entries: Collection[str], args: list[Any], *, accepted: str = "", message: str = "", ends: object = ""
    ) -> tuple[Any, ...]:
        """Return the command that changes entries (their keys, five arguments each) and marks it in the history."""
        keys = self.keys
        names = [keys.generation, keys.head, keys.history, keys.created, keys.expires, keys.tag + (message or "seen")]
        names += [keys.tag + key for key in entries]
        known = not accepted and len(entries) <= MOST_KEYS
        changed = json.dumps([*entries, message] if message else list(entries)) if known else "*"
        first = [new_mark(), accepted, changed, GRACE_SECONDS, WINDOW, ends, int(self._now())]
        return ("EVAL", CHANGE, len(names), *names, *first, *args)

    def _check_history(self, generation: Any, head: Any, since: str) -> None:
        if since and (generation, head) == as_answered(since):
            return
        if generation is None and not since:
            generation, head = self._begin()
        blacklist, _, changes = read_text(generation).partition(".")
        if not blacklist or not changes.isdigit() or (since and not head):
            raise HistoryLost("the blacklist was emptied, or something else is in its place")
        if not head or read_head(read_text(head)).number < int(changes):
            # Gateways of older versions have made changes, or none of ours was there yet.
            adopt = pack(self.change_command([], [], accepted="adopt"))
            _, head = self._connections.ask(adopt + self._ask_head, 2, again=False)
        found = read_head(read_text(head))
        if found.blacklist != blacklist:
            raise HistoryLost("the blacklist and its history are not of one store")
        first = read_head(since).number if since else "-inf"
        rows = self._ask_one(("ZRANGEBYSCORE", self.keys.history, first, "+inf"))
        self.known.check(str(found), since, {number: text for number, text, _ in map(read_row, rows)})

    def _begin(self) -> tuple[Any, Any]:
        if not self._create:
            raise NoBlacklist("the Redis server of STORE has no blacklist")
        new = pack(("SET", self.keys.generation, f"{secrets.token_hex(16)}.0", "NX"))
        ask = pack(("GET", self.keys.generation)) + self._ask_head
        _, generation, head = self._connections.ask(new + ask, 3, again=False)
        return generation, head

    def _fail(self, error: Exception, *, lookup: bool) -> StoreUnavailable:
        if is_forbidden(error):
            return StoreUnavailable("refused")  # `Lossy` says what follows from it
        if isinstance(error, NoBlacklist):
            return StoreUnavailable("history")  # whoever asked reports it
        what = LOOKUPS if lookup or not isinstance(error, ReplyError) else CHANGES
        if what == LOOKUPS:
            if not isinstance(error, NotOpened):
                self._connections.close()
            self._failed_until = time.monotonic() + PAUSE_SECONDS
        cause = "history" if isinstance(error, HistoryLost) else cause_of(error)
        return self.outage.begin(what, cause, str(error) or "no answer in time")

    def _refuse_lossy(self) -> None:
        self._look()
        if self._is_lossy():
            raise StoreRefused(f"This Redis may forget: {self._lossy}. Correct it; ACCEPT_LOSSY_STORE takes the risk.")

    def close(self) -> None:
        """Let go of connections; a later look-up opens new ones."""
        for connections in [self._connections, *self._nodes.values()]:
            connections.close()

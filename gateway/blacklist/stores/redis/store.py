"""Entries in Redis or Valkey, shared by any number of nodes. `primary` lists the URLs.

An entry is a string `{jwt-gateway}:token:…` or `{jwt-gateway}:claim:…` that holds its JSON. Two sorted sets
list all entries by a name that begins with their second of creation: one in that order, one by expiry.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from gateway.blacklist.stores.base import LATEST, Added, Entry, in_parts, merge
from gateway.blacklist.stores.history import HistoryLost, changed_keys, number_of, read_head
from gateway.blacklist.stores.outage import HISTORY, Probe
from gateway.blacklist.stores.redis.keys import FORGET, GRACE_SECONDS, MATCH, read_row
from gateway.blacklist.stores.redis.lookups import LookUps
from gateway.blacklist.stores.redis.older import from_stored, is_twin, to_stored, with_twins
from gateway.blacklist.stores.redis.server import Server
from gateway.http.problems import StoreUnavailable
from gateway.http.threads import at_fork
from gateway.http.wsgi import Context

A = TypeVar("A")
T = TypeVar("T")

log = logging.getLogger(__name__)

CONTEST_SECONDS = 0.3  # to get a change in while others change the same entry
CHUNK = 100  # entries in one script, 34 µs each: the server does nothing else meanwhile
LOOKED_AT = 100  # parts of the list that are read, 2.5 ms each, for a page: others' or expired entries may be many

_WHOLE = len("token:") + 64
_CURSOR = re.compile(r"[0-9]{12}:(token|claim):[0-9a-f]{64}")


class RedisStore:
    """A `Store` on one primary; replicas are never read.

    `replicas` is how many must have a change before it is answered. A server that may forget
    entries is refused (`StoreRefused`) unless `accept_lossy`. `now` returns epoch seconds.
    """

    older_gateways = True

    def __init__(
        self,
        url: str,
        now: Callable[[], float] = time.time,
        *,
        replicas: int = 0,
        accept_lossy: bool = False,
        create: bool = True,
    ) -> None:
        self._now = now
        self._server = Server(url, now, replicas=replicas, accept_lossy=accept_lossy, create=create)
        self._begin_anew()
        at_fork(after_in_child=self._begin_anew)
        self._takes_changes = Probe(partial(self._server.change, self._server.empty_write), self._server.outage)
        self._lists = self._server.keys.created, self._server.keys.expires

    def _begin_anew(self) -> None:
        self._look_ups = LookUps(self._server)

    def find(self, keys: Sequence[str]) -> list[Entry]:
        """Return the live entries among `keys`: one round trip."""
        return self._live(self._texts(keys))

    def find_again(self, keys: Sequence[str], last: None) -> tuple[None, list[Entry]]:
        """Return the live entries among `keys`, as `find` does."""
        return None, self.find(keys)

    def find_in_pauses(self, keys: Sequence[str], about: Context) -> Generator[bytes, None, list[Entry]]:
        """Return the live entries among `keys`, as `find` does; meanwhile the request pauses."""
        texts = yield from self._look_ups.find(keys, about)
        return (
            self._live(dict(zip(keys, texts, strict=True)))
            if texts.count(None) < len(texts) or self._server.outage.causes
            else []
        )

    def add(self, entries: Sequence[Entry], *, once: Entry | None = None) -> list[Added] | None:
        """Add the entries, each merged with a live one of its key; not those that have expired.

        When it raises, some of a large batch may have been added: a script takes 100, all or none. With `once`, the
        mark of a message that has been taken, one script takes all of them; None and no change if the mark is there.
        """
        if once:
            return self._contest(partial(self._add_once, once), entries)[0]
        return [added for chunk in in_parts(entries, CHUNK) for added in self._contest(self._add, chunk)]

    def _add(self, entries: Sequence[Entry], once: Entry | None = None) -> list[Added] | None:
        everywhere = with_twins(entries)
        texts = self._texts({entry.key for entry in everywhere})
        live = {entry.key: entry for entry in self._live(texts)}
        added = merge(everywhere, live, self._now())
        changed = {entry.key: live[entry.key] for entry, changed in added if changed}
        return added[: len(entries)] if self._swap({key: texts[key] for key in changed}, changed, once) else None

    def _add_once(self, once: Entry, entries: Sequence[Entry]) -> tuple[list[Added] | None] | None:
        text = self._texts([once.key])[once.key]
        if self._read_end(once.key, text) > self._now():
            self._server.change()  # the replicas may not have yet what came with the mark
            return (None,)
        try:
            added = self._add(entries, once)
        except StoreUnavailable:
            # Its sender is not told that it was taken, so it must be taken when it comes again.
            with suppress(StoreUnavailable):
                self._server.ask_at_once(("DEL", self._server.keys.tag + once.key))
            raise
        return (added,) if added is not None else None

    def remove(self, key: str, issuer: str | None = None) -> bool:
        """Remove an entry, of this issuer alone where one is given; return whether a live one was there."""
        return self._contest(partial(self._remove, issuer), key)

    def _remove(self, issuer: str | None, key: str) -> bool | None:
        texts = self._texts([key])
        found = any(issuer in (None, entry.issuer) for entry in self._live(texts))
        return found if self._swap(texts if found else {}, {}) else None

    def _contest(self, change: Callable[[A], T | None], argument: A) -> T:
        """Return what `change` does once no other node comes between its look and its change."""
        deadline = time.monotonic() + CONTEST_SECONDS
        while time.monotonic() < deadline:
            outcome = change(argument)
            if outcome is not None:
                return outcome
        log.warning("a change is refused: other nodes kept changing the same entry. What to do: ask again")
        raise StoreUnavailable("busy")

    def _texts(self, keys: Collection[str]) -> dict[str, bytes | None]:
        return dict(zip(keys, self._server.find(keys), strict=True))

    def _swap(self, texts: dict[str, bytes | None], entries: dict[str, Entry], once: Entry | None = None) -> bool:
        """Replace each text by the entry of its key, or by nothing; return whether all were still there."""
        if not texts and not once:
            self._server.change()
            return True
        args: list[Any] = []
        for key, text in texts.items():
            args += [text or "", _name(self._decode(key, text)) if text else ""]
            args += _written(entries[key]) if key in entries else ["", "", ""]
        message, ends = (once.key, once.expires_at) if once else ("", "")
        swapped, _ = self._server.change(
            self._server.change_command(texts.keys(), args, message=message, ends=ends),
            ("EVAL", FORGET, 2, *self._lists, int(self._now()), CHUNK, GRACE_SECONDS),
        )
        return bool(swapped)

    def matching(self, prefix: str) -> list[Entry]:
        """Return up to two live entries whose key begins so, as `Store.matching` says.

        Part of a fingerprint is looked for in the whole list: about a second for a million entries.
        """
        if len(prefix) == _WHOLE:
            return self.find([prefix])
        found: list[Entry] = []
        before = "+"
        while before and len(found) < 2:
            ((names, last),) = self._server.ask(("EVAL", MATCH, 1, self._server.keys.created, before, prefix))
            found += self.find([name.decode()[13:] for name in names])
            before = f"({last.decode()}" if last else ""
        return found[:2]

    def page(
        self, limit: int, cursor: str = "", *, issuers: Sequence[str] = (), claim: str | None = None
    ) -> tuple[list[Entry], str]:
        """Return a page of live entries, and the next one's cursor, as `Store.page` says."""
        if cursor and not _CURSOR.fullmatch(cursor):
            raise ValueError("not a cursor")
        entries: list[Entry] = []
        for _ in range(LOOKED_AT):
            if len(entries) > limit:
                break
            wanted = (f"({cursor}" if cursor else "+", "-", "LIMIT", 0, CHUNK)
            (names,) = self._server.ask(("ZREVRANGEBYLEX", self._server.keys.created, *wanted))
            if not names:
                return entries, ""
            cursor = names[-1].decode()
            texts = self._texts([name.decode()[13:] for name in names])
            listed = set(names)
            entries += [
                entry
                for entry in self._live(texts)
                if _name(entry).encode() in listed
                and (not issuers or entry.issuer in issuers)
                and (claim is None or (entry.claim is not None and entry.claim[0] == claim))
            ]
        return entries[:limit], _name(entries[limit - 1]) if len(entries) > limit else cursor

    def changes(self, since: str) -> tuple[str, frozenset[str] | None]:
        """Return the newest mark, and the keys changed since the mark `since`, None if that is not known."""
        (rows,) = self._server.ask(("ZRANGEBYSCORE", self._server.keys.history, number_of(since), "+inf"))
        try:
            found = [read_row(row) for row in rows]
            # A change that came after the rows were read has the next answer.
            newest = found[-1][1] if found else self._server.known.newest()
            keys = frozenset() if since == newest else changed_keys(since, found)
        except HistoryLost as error:
            raise self._server.outage.begin(HISTORY, "history", error) from error
        self._server.outage.end(HISTORY)
        return newest, keys

    def purge(self) -> int:
        """Take expired entries off the lists; return how many. The server deletes the entries themselves."""
        deleted = 0
        while count := self._server.change(("EVAL", FORGET, 2, *self._lists, int(self._now()), CHUNK, 0))[0]:
            deleted += count
        return deleted

    def count(self, later: int = 0) -> int:
        """Return how many entries will still be live in so many seconds, if nobody lifts them."""
        return int(self._server.ask(("ZCOUNT", self._server.keys.expires, f"({int(self._now()) + later}", "+inf"))[0])

    def ping(self) -> None:
        """Return if the server answers, does not forget, and takes changes, tried once a second."""
        self._takes_changes()

    def accept(self) -> None:
        """Take the store as it is, for every gateway that knows of changes it lacks: an operator's decision."""
        accepted = read_head(self._server.known.newest()).next(accepted=True).accepted
        self._server.change(self._server.change_command([], [], accepted=str(accepted)))

    def close(self) -> None:
        """Let go of connections; a later look-up opens new ones."""
        self._server.close()

    def _live(self, texts: dict[str, bytes | None]) -> list[Entry]:
        entries = [self._decode(key, text) for key, text in texts.items() if text is not None]
        if self._server.outage.causes:  # none of these is damaged any more
            for key in texts:
                self._server.outage.end(key)
        return [entry for entry in entries if entry.is_live(self._now())]

    def _read_end(self, key: str, text: bytes | None) -> float:
        try:
            end = 0.0 if text is None else float(text)
        except ValueError as error:
            raise self._server.outage.begin(key, "damaged", "what stands there is no message's end") from error
        self._server.outage.end(key)
        return end

    def _decode(self, key: str, text: bytes) -> Entry:
        try:
            return from_stored(Entry.from_json(key, json.loads(text)))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise self._server.outage.begin(key, "damaged", "what stands there is no entry") from error


def _name(entry: Entry) -> str:
    """Return what the lists call the entry: in the order of its creation, and unlike one that it follows."""
    return f"{max(0, min(entry.created_at, LATEST)):012d}:{entry.key}"


def _written(entry: Entry) -> list[Any]:
    text = json.dumps(to_stored(entry).to_json(), separators=(",", ":"), allow_nan=False)
    return [text, "" if is_twin(entry) else _name(entry), "+inf" if entry.expires_at is None else entry.expires_at]

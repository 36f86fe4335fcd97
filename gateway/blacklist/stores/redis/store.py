"""Entries in Redis or Valkey, shared by any number of nodes. `redis_primary` lists the URLs.

An entry is a string `{jwt-gateway}:token:…` or `{jwt-gateway}:claim:…` that holds its JSON. Two sorted sets
list all entries by a name that begins with their second of creation: one in that order, one by expiry.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from gateway.blacklist.stores.base import LATEST, Added, Entry, check_mark, check_prefix, merge
from gateway.blacklist.stores.redis.server import COUNT_CHANGE, GRACE_SECONDS, READ_GENERATION, TAG, Server
from gateway.http.problems import StoreUnavailable

A = TypeVar("A")
T = TypeVar("T")

log = logging.getLogger(__name__)

CONTEST_SECONDS = 0.3  # to get a change in while others change the same entry
PING_SECONDS = 1.0  # no more often do probes, which come without a token, make the server sync
CHUNK = 100  # entries in one script, 34 µs each: the server does nothing else meanwhile

CREATED, EXPIRES = TAG + "created", TAG + "expires"

# KEYS: a message's mark, and entries'. ARGV: until when the mark lives ("" for no mark), and now; for each entry the
# text it must replace ("" for none) and that one's name; the new text ("" to remove it), its name, its expires_at or
# "+inf". Answers 1, or 0 and changes nothing where another text, or a live mark, is there: two nodes that change one
# entry see each other. SET comes first, for a full server refuses only a script's first write.
_SWAP = f"""{READ_GENERATION}
local until_when, now = ARGV[1], ARGV[2]
if until_when ~= '' and tonumber(redis.call('GET', KEYS[1]) or '0') > tonumber(now) then return 0 end
for i = 2, #KEYS do
  if (redis.call('GET', KEYS[i]) or '') ~= ARGV[5 * i - 7] then return 0 end
end
for i = 2, #KEYS do
  local key, old_name, text, name, expires = KEYS[i], unpack(ARGV, 5 * i - 6, 5 * i - 3)
  if text == '' then redis.call('DEL', key)
  elseif expires == '+inf' then redis.call('SET', key, text)
  else redis.call('SET', key, text, 'EXAT', expires + {GRACE_SECONDS}) end
  redis.call('ZREM', '{CREATED}', old_name)
  redis.call('ZREM', '{EXPIRES}', old_name)
  if text ~= '' then
    redis.call('ZADD', '{CREATED}', 0, name)
    redis.call('ZADD', '{EXPIRES}', expires, name)
  end
end
if until_when == '+inf' then redis.call('SET', KEYS[1], until_when)
elseif until_when ~= '' then redis.call('SET', KEYS[1], until_when, 'EXAT', until_when + {GRACE_SECONDS}) end
{COUNT_CHANGE}
return 1
"""
# Answers the names of entries whose key begins with ARGV[2], among the 10,000 before the name ARGV[1], and the last
# of these, "" at the end.
_MATCH = f"""
local names = redis.call('ZREVRANGEBYLEX', '{CREATED}', ARGV[1], '-', 'LIMIT', 0, 10000)
local found = {{}}
for _, name in ipairs(names) do
  if string.sub(name, 14, 13 + #ARGV[2]) == ARGV[2] then found[#found + 1] = name end
end
return {{found, names[#names] or ''}}
"""
# Takes off the lists up to ARGV[2] entries that expired by ARGV[1]; the server deletes them by itself.
_FORGET = f"""
local names = redis.call('ZRANGEBYSCORE', '{EXPIRES}', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, name in ipairs(names) do
  redis.call('ZREM', '{CREATED}', name)
  redis.call('ZREM', '{EXPIRES}', name)
end
return #names
"""
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
        self._pinged = float("-inf")
        self._server = Server(url, now, replicas=replicas, accept_lossy=accept_lossy, create=create)

    def find(self, keys: Sequence[str]) -> list[Entry]:
        """Return the live entries among `keys`: one round trip."""
        if not keys:
            self._server.ask()
            return []
        return self._live(self._texts(keys))

    def add(self, entries: Sequence[Entry], *, once: Entry | None = None) -> list[Added] | None:
        """Add the entries, each merged with a live one of its key; not those that have expired.

        When it raises, some of a large batch may have been added: a script takes 100, all or none. With `once`, the
        mark of a message that has been taken, one script takes all of them; None and no change if the mark is there.
        """
        if once:
            check_mark(once)
            return self._contest(partial(self._add_once, once), entries)[0]
        return [added for chunk in _chunks(entries) for added in self._contest(self._add, chunk)]

    def _add(self, entries: Sequence[Entry], once: Entry | None = None) -> list[Added] | None:
        texts = self._texts({entry.key for entry in entries})
        live = {entry.key: entry for entry in self._live(texts)}
        added = merge(entries, live, self._now())
        changed = {entry.key: live[entry.key] for entry, changed in added if changed}
        return added if self._swap({key: texts[key] for key in changed}, changed, once) else None

    def _add_once(self, once: Entry, entries: Sequence[Entry]) -> tuple[list[Added] | None] | None:
        text = self._texts([once.key])[once.key]
        if text and float(text) > self._now():
            return (None,)
        added = self._add(entries, once)
        return (added,) if added is not None else None

    def remove(self, key: str) -> bool:
        """Remove an entry; return whether a live one was there."""
        return self._contest(self._remove, key)

    def _remove(self, key: str) -> bool | None:
        texts = self._texts([key])
        found = bool(self._live(texts))
        return found if self._swap(texts if found else {}, {}) else None

    def _contest(self, change: Callable[[A], T | None], about: A) -> T:
        """Return what `change` does once no other node comes between its look and its change."""
        deadline = time.monotonic() + CONTEST_SECONDS
        while time.monotonic() < deadline:
            outcome = change(about)
            if outcome is not None:
                return outcome
        log.warning("others keep changing an entry")
        raise StoreUnavailable

    def _texts(self, keys: Collection[str]) -> dict[str, bytes | None]:
        if not keys:
            return {}
        (texts,) = self._server.ask(("MGET", *[TAG + key for key in keys]))
        return dict(zip(keys, texts, strict=True))

    def _swap(self, texts: dict[str, bytes | None], entries: dict[str, Entry], once: Entry | None = None) -> bool:
        """Replace each text by the entry of its key, or by nothing; return whether all were still there."""
        if not texts and not once:
            self._server.change()
            return True
        args: list[Any] = _mark(once, self._now())
        for key, text in texts.items():
            args += [text or "", _name(_decode(key, text)) if text else ""]
            args += _written(entries[key]) if key in entries else ["", "", ""]
        swapped, _ = self._server.change(
            ("EVAL", _SWAP, 1 + len(texts), TAG + (once.key if once else "seen"), *[TAG + key for key in texts], *args),
            ("EVAL", _FORGET, 1, EXPIRES, int(self._now()) - GRACE_SECONDS, 100),
        )
        return bool(swapped)

    def matching(self, prefix: str) -> list[Entry]:
        """Return up to two live entries whose key begins so. Raises ValueError for what `Store.matching` refuses.

        Part of a fingerprint is looked for in the whole list: about a second for a million entries.
        """
        check_prefix(prefix)
        if len(prefix) == _WHOLE:
            return self.find([prefix])
        found: list[Entry] = []
        before = "+"
        while before and len(found) < 2:
            ((names, last),) = self._server.ask(("EVAL", _MATCH, 1, CREATED, before, prefix))
            found += self.find([name.decode()[13:] for name in names])
            before = f"({last.decode()}" if last else ""
        return found[:2]

    def page(
        self, limit: int, cursor: str = "", *, issuer: str | None = None, claim: str | None = None
    ) -> tuple[list[Entry], str]:
        """Return up to `limit` live entries, newest first, and the next page's cursor, "" at the end.

        Raises ValueError for a cursor that no page gave.
        """
        if cursor and not _CURSOR.fullmatch(cursor):
            raise ValueError("not a cursor")
        entries: list[Entry] = []
        while len(entries) <= limit:
            (names,) = self._server.ask(
                ("ZREVRANGEBYLEX", CREATED, f"({cursor}" if cursor else "+", "-", "LIMIT", 0, min(limit + 1, CHUNK))
            )
            if not names:
                return entries, ""
            cursor = names[-1].decode()
            texts = self._texts([name.decode()[13:] for name in names])
            listed = set(names)
            entries += [
                entry
                for entry in self._live(texts)
                if _name(entry).encode() in listed
                and (issuer is None or entry.issuer == issuer)
                and (claim is None or (entry.claim is not None and entry.claim[0] == claim))
            ]
        return entries[:limit], _name(entries[limit - 1])

    def changes(self, since: str) -> tuple[str, frozenset[str] | None]:
        """Return the newest mark, and the keys changed since the mark `since`, None if that is not known."""
        self._server.ask()
        mark = self._server.mark
        return mark, frozenset() if mark == since else None

    def purge(self) -> int:
        """Take expired entries off the lists; return how many. The server deletes the entries themselves."""
        deleted = 0
        while count := self._server.change(("EVAL", _FORGET, 1, EXPIRES, int(self._now()), CHUNK))[0]:
            deleted += count
        return deleted

    def count(self, later: int = 0) -> int:
        """Return how many entries will still be live in so many seconds, if nobody lifts them."""
        return int(self._server.ask(("ZCOUNT", EXPIRES, f"({int(self._now()) + later}", "+inf"))[0])

    def ping(self) -> None:
        """Return if the server answers, takes changes and does not forget."""
        self._server.ask()
        if time.monotonic() - self._pinged > PING_SECONDS:
            self._server.ping()
            self._pinged = time.monotonic()

    def close(self) -> None:
        """Let go of connections; a later question opens new ones."""
        self._server.close()

    def _live(self, texts: dict[str, bytes | None]) -> list[Entry]:
        entries = [_decode(key, text) for key, text in texts.items() if text is not None]
        return [entry for entry in entries if entry.is_live(self._now())]


def _name(entry: Entry) -> str:
    """Return what the lists call the entry: in the order of its creation, and unlike one that it follows."""
    return f"{max(0, min(int(entry.created_at), LATEST)):012d}:{entry.key}"


def _mark(once: Entry | None, now: float) -> list[Any]:
    """Return the script's first arguments: until when a message's mark lives, and now."""
    return ["" if once is None else "+inf" if once.expires_at is None else once.expires_at, int(now)]


def _written(entry: Entry) -> list[Any]:
    text = json.dumps(entry.to_json(), separators=(",", ":"), allow_nan=False)
    return [text, _name(entry), "+inf" if entry.expires_at is None else entry.expires_at]


def _decode(key: str, text: bytes) -> Entry:
    try:
        return Entry.from_json(key, json.loads(text))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise StoreUnavailable from error


def _chunks(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    return (entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK))

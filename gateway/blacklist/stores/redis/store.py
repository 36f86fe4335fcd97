"""Entries in Redis or Valkey, shared by any number of nodes. `redis_primary` lists the URLs.

An entry is a string `{jwt-gateway}:token:…` or `{jwt-gateway}:claim:…` that holds its JSON. Two sorted sets
list all entries by a name that begins with their second of creation: one in that order, one by expiry.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from gateway.blacklist.stores.base import LATEST, Added, Entry, merge
from gateway.blacklist.stores.redis.server import COUNT_CHANGE, GRACE_SECONDS, READ_GENERATION, TAG, Server
from gateway.http.problems import StoreUnavailable

A = TypeVar("A")
T = TypeVar("T")

log = logging.getLogger(__name__)

CONTEST_SECONDS = 0.3  # to get a change in while others change the same entry
PING_SECONDS = 1.0  # no more often do probes, which come without a token, make the server sync
CHUNK = 100  # entries in one script, 34 µs each: the server does nothing else meanwhile

CREATED, EXPIRES = TAG + "created", TAG + "expires"

# KEYS: entries'. ARGV: for each, the text it must replace ("" for none) and that one's name; the new text
# ("" to remove it), its name, its expires_at or "+inf". Answers 1, or 0 and changes nothing where another
# text is there: two nodes that change one entry see each other. SET comes first, for a full server refuses
# only a script's first write.
_SWAP = f"""{READ_GENERATION}
for i, key in ipairs(KEYS) do
  if (redis.call('GET', key) or '') ~= ARGV[5 * i - 4] then return 0 end
end
for i, key in ipairs(KEYS) do
  local _, old_name, text, name, expires = unpack(ARGV, 5 * i - 4, 5 * i)
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
{COUNT_CHANGE}
return 1
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
_CURSOR = re.compile(r"[0-9]{12}:(token|claim):[0-9a-f]{64}")


class RedisStore:
    """A `Store` on one primary; replicas are never read.

    `replicas` is how many must have a change before it is answered. A server that may forget
    entries is refused (`StoreRefused`) unless `accept_lossy`. `now` returns epoch seconds.
    """

    def __init__(
        self, url: str, now: Callable[[], float] = time.time, *, replicas: int = 0, accept_lossy: bool = False
    ) -> None:
        self._now = now
        self._pinged = float("-inf")
        self._server = Server(url, now, replicas=replicas, accept_lossy=accept_lossy)

    def find(self, keys: Sequence[str]) -> list[Entry]:
        """Return the live entries among `keys`: one round trip."""
        if not keys:
            self._server.ask()
            return []
        return self._live(self._texts(keys))

    def add(self, entries: Sequence[Entry]) -> list[Added]:
        """Add the entries, each merged with a live one of its key; not those that have expired.

        When it raises, some of a large batch may have been added: a script takes 100, all or none.
        """
        return [added for chunk in _chunks(entries) for added in self._contest(self._add, chunk)]

    def _add(self, entries: Sequence[Entry]) -> list[Added] | None:
        texts = self._texts({entry.key for entry in entries})
        live = {entry.key: entry for entry in self._live(texts)}
        added = merge(entries, live, self._now())
        changed = {entry.key: live[entry.key] for entry, changed in added if changed}
        return added if self._swap({key: texts[key] for key in changed}, changed) else None

    def remove(self, key: str) -> bool:
        """Remove an entry; tell whether a live one was there."""
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

    def _texts(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        (texts,) = self._server.ask(("MGET", *[TAG + key for key in keys]))
        return dict(zip(keys, texts, strict=True))

    def _swap(self, texts: dict[str, bytes | None], entries: dict[str, Entry]) -> bool:
        """Replace each text by the entry of its key, or by nothing; tell whether all were still there."""
        if not texts:
            self._server.change()
            return True
        args: list[Any] = []
        for key, text in texts.items():
            args += [text or "", _name(_decode(key, text)) if text else ""]
            args += _written(entries[key]) if key in entries else ["", "", ""]
        swapped, _ = self._server.change(
            ("EVAL", _SWAP, len(texts), *[TAG + key for key in texts], *args),
            ("EVAL", _FORGET, 1, EXPIRES, int(self._now()) - GRACE_SECONDS, 100),
        )
        return bool(swapped)

    def page(self, limit: int, cursor: str = "") -> tuple[list[Entry], str]:
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
            entries += [entry for entry in self._live(texts) if _name(entry).encode() in listed]
        return entries[:limit], _name(entries[limit - 1])

    def purge(self) -> int:
        """Take expired entries off the lists; return how many. The server deletes the entries themselves."""
        deleted = 0
        while count := self._server.change(("EVAL", _FORGET, 1, EXPIRES, int(self._now()), CHUNK))[0]:
            deleted += count
        return deleted

    def count(self) -> int:
        """Return how many live entries there are."""
        return int(self._server.ask(("ZCOUNT", EXPIRES, f"({int(self._now())}", "+inf"))[0])

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

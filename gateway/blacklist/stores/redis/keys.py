"""Under which names a blacklist stands in Redis, and the scripts that change it."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from gateway.blacklist.stores.history import read_head
from gateway.http.cache import bounded_cache

GRACE_SECONDS = 3600  # the server keeps expired entries this long: its clock is not ours
PREFIX = "jwt-gateway"

CHANGE, FORGET, MATCH = (
    files("gateway.blacklist.stores.redis").joinpath(f"{name}.lua").read_text()
    for name in ("change", "forget", "match")
)


class Keys(NamedTuple):
    """The names of one blacklist. All carry one hash tag, so that a cluster keeps it on one of its shards.

    `tag` stands before each entry's key. `generation` has whose blacklist it is, a dot, and the number of changes: all
    that gateways of older versions know of. `head` is the newest mark of the history, `history` a sorted set of the
    last marks with the keys they changed, by number. `created` is a sorted set of all entries' names, which begin with
    the second of their creation; `expires` the same, by expiry.
    """

    tag: str
    generation: str
    head: str
    history: str
    created: str
    expires: str

    @classmethod
    def of(cls, prefix: str) -> Keys:
        """Return the names of the blacklist with this prefix."""
        tag = f"{{{prefix}}}:"
        return cls(tag, *(tag + name for name in cls._fields[1:]))


def packing(tag: str) -> Callable[[tuple[str, ...]], bytes]:
    """Return what packs the names of entries as they stand in a command; hiredis packs whole commands, and anew."""

    @bounded_cache(4096, longest=16)  # half a KB for most tokens, at most 1.5
    def pack_names(keys: tuple[str, ...]) -> bytes:
        return "".join([f"${len(tag) + len(key)}\r\n{tag}{key}\r\n" for key in keys]).encode("ascii")

    return pack_names


@bounded_cache(4)
def as_answered(newest: str) -> tuple[bytes, bytes]:
    """Return the generation and the head of a server that has no other changes than those that are known."""
    head = read_head(newest)
    return f"{head.blacklist}.{head.number}".encode(), newest.encode()


@bounded_cache(256)
def as_not_found(asked: tuple[str, int]) -> bytes:
    """Return what such a server answers, in RESP 2, when it has none of so many entries."""
    newest, entries = asked
    generation, head = as_answered(newest)
    texts = b"$-1\r\n" * entries + b"$%d\r\n%b\r\n" % (len(generation), generation)
    return b"*%d\r\n%b$%d\r\n%b\r\n" % (entries + 1, texts, len(head), head)


def read_prefix(url: str) -> tuple[str, Keys]:
    """Return a store's URL as redis-py knows it, and the names that its `?prefix=` asks for. Raises ValueError."""
    url = re.sub(r"\Avalkey", "redis", url)
    before, mark, query = url.partition("?")
    members = parse_qsl(query, keep_blank_values=True)
    prefixes = [value for name, value in members if name == "prefix"] or [PREFIX]
    if len(prefixes) > 1 or not re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", prefixes[0]):
        raise ValueError("the prefix is not 1 to 64 letters, digits, dots, colons, lines or underscores")
    rest = urlencode([(name, value) for name, value in members if name != "prefix"])
    return (before + mark + rest if rest else before), Keys.of(prefixes[0])


def read_text(answer: Any) -> str:
    """Return an answer's text, "" for what is none."""
    return answer.decode("ascii", "replace") if isinstance(answer, bytes) else ""


def read_row(row: Any) -> tuple[int, str, str | None]:
    """Return number, head and changed keys (JSON, None for too many) of a row of the history. Raises `HistoryLost`."""
    head, _, keys = read_text(row).partition(" ")
    return read_head(head).number, head, None if keys == "*" else keys

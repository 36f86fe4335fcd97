"""The request that goes out, and the peer that it goes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Take = Callable[[int], bytes | None]
Wait = tuple[float, dict[int, int]]  # what is waited for: seconds at most, and poll's events by descriptor

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110 section 9.2.2


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom a connection goes to, and by which certificates. `stamp` is what the files with them were last like."""

    origin: str
    host: str
    port: int
    addresses: tuple[str, ...]
    ca_file: str | None
    cert: str | None
    stamp: tuple[object, ...]


class Outbound:
    """A request that goes out as it is: `target` and `fields` are Latin-1 text, and nothing is added.

    `body` is the whole, or takes the next part (b"": the end; None: nothing yet); `length` is what Content-Length
    says of one that is taken, None where it goes out in chunks.
    """

    __slots__ = ("body", "fields", "is_repeatable", "length", "method", "target")

    def __init__(self, method: str, target: str, fields: dict[str, str]) -> None:
        self.method = method
        self.target = target
        self.fields = fields
        self.body: bytes | Take | None = None
        self.length: int | None = None
        # Whether it may be sent again when a kept connection turns out to be dead.
        self.is_repeatable = method in _IDEMPOTENT

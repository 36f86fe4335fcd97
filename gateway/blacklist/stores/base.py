"""What a store of blacklist entries is: the entry, and the protocol every backend keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from gateway.auth.issuers import ANY
from gateway.http.values import value_text

T = TypeVar("T")

# 9999-12-31T23:59:59Z, the last second a date can say. An absurd expiry (2**63, 1e308) is
# clamped to it, so that blacklisting such a token works and lasts.
LATEST = 253_402_300_799


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One thing that is blacklisted: a token, or all tokens with a claim issued before a cut-off.

    `key` is what the store looks up: `token:` or `claim:` and 64 hexadecimal digits, see gateway.blacklist.keys.
    `claim` is a name and the value's text. Times are whole epoch seconds. `issued_before` is the cut-off of a claim
    entry, None for every token, whenever issued; of a cut-off "now", `as_of` is the next whole second, without the
    LEEWAY of the gateway that wrote it. `expires_at` is None for an entry that lives until it is lifted. An entry is
    live while now < expires_at. One for a token that was named `by_fingerprint` alone may end before the token does,
    and its issuer need not be the token's: `administers` are the others whose token it may be.
    """

    key: str
    issuer: str
    created_at: int
    expires_at: int | None
    claim: tuple[str, str] | None = None
    issued_before: int | None = None
    by: str = ""
    reason: str = ""
    as_of: int | None = None
    by_fingerprint: bool = False
    administers: tuple[str, ...] = ()

    def is_live(self, now: float) -> bool:
        """Return whether the entry still counts at `now` (epoch seconds)."""
        return self.expires_at is None or now < self.expires_at

    def covers(self, other: Entry) -> bool:
        """Return whether adding `other`, an entry with the same key, would change nothing."""
        return (
            (
                self.issued_before is None
                or (
                    other.issued_before is not None
                    and self.issued_before >= other.issued_before
                    and (self.as_of or 0) >= (other.as_of or 0)
                )
            )
            and (self.expires_at is None or (other.expires_at is not None and self.expires_at >= other.expires_at))
            and (not self.by_fingerprint or set(other.administers) <= set(self.administers))
        )

    def merged(self, newer: Entry) -> Entry:
        """Return `newer` with the later cut-off and the later end of the two, none being the latest.

        Where it gives no reason, the first one's stays. An entry of another issuer by fingerprint alone changes
        nothing: whose token it is, is for the caller to settle. That of a token that was seen takes the place of one
        that may not count for it, or ends before it.
        """
        if self.issuer != newer.issuer:
            counts_as_well = not self.by_fingerprint or not {ANY, newer.issuer}.isdisjoint(self.administers)
            if newer.by_fingerprint or (counts_as_well and self.covers(newer)):
                return self
            return dataclasses.replace(newer, reason=newer.reason or self.reason)
        if self.covers(newer):
            return self
        cut_off = _later(self.issued_before, newer.issued_before)
        return dataclasses.replace(
            newer,
            issued_before=cut_off,
            as_of=None if cut_off is None else max(self.as_of or 0, newer.as_of or 0) or None,
            expires_at=_later(self.expires_at, newer.expires_at),
            reason=newer.reason or self.reason,
            by_fingerprint=self.by_fingerprint and newer.by_fingerprint,
            administers=tuple(sorted({*self.administers, *newer.administers})),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the members a store keeps and an export writes (everything but `key`), absent ones left out."""
        members = {name: getattr(self, name) for name in self.__slots__ if name != "key"}
        members["claim"] = None if self.claim is None else {self.claim[0]: self.claim[1]}
        return {name: value for name, value in members.items() if value not in (None, "", ()) and value is not False}

    @classmethod
    def from_json(cls, key: str, members: dict[str, Any]) -> Entry:
        """Return the entry that `to_json` made. Raises KeyError, TypeError or ValueError for anything else."""
        claim = members.get("claim")
        if claim is not None:
            ((name, value),) = claim.items()
            claim = (name, _text(value))
        times = [members.get(name) for name in ("expires_at", "issued_before", "as_of")]
        if not isinstance(members["created_at"], int) or not all(isinstance(time, int | None) for time in times):
            raise TypeError("a time is not in whole seconds")
        administers = tuple(members.get("administers", ()))
        if not all(isinstance(name, str) for name in (members["issuer"], *administers)):
            raise TypeError("an issuer's name is no text")
        return cls(
            key=key,
            issuer=members["issuer"],
            created_at=members["created_at"],
            expires_at=members.get("expires_at"),
            claim=claim,
            issued_before=members.get("issued_before"),
            by=members.get("by", ""),
            reason=members.get("reason", ""),
            as_of=members.get("as_of"),
            by_fingerprint=members.get("by_fingerprint") is True,
            administers=administers,
        )


def _later(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else max(first, second)


def _text(value: object) -> str:
    # Older gateways kept numbers as numbers.
    text = value_text(value)
    if text is None:
        raise ValueError("a claim's value is none")
    return text


class StoreRefused(ValueError):
    """The store must not be used as it is; the text is one sentence for the operator."""


class StoreMissing(StoreRefused):
    """There is no store, and none was to be made, though one `can_be_made` there."""

    def __init__(self, fault: str, *, can_be_made: bool = True) -> None:
        super().__init__(fault)
        self.can_be_made = can_be_made


class StoreOutdated(StoreRefused):
    """The store is of an older version, whose running gateways would refuse everything once it were up to date."""


class Added(NamedTuple):
    """What came of adding an entry: the one now in force, and whether anything changed."""

    entry: Entry
    changed: bool


def merge(entries: Sequence[Entry], live: dict[str, Entry], now: float) -> list[Added]:
    """Return what comes of adding the entries one after the other to the `live` ones, which it keeps up to date."""
    added = []
    for entry in entries:
        known = live.get(entry.key)
        merged = known.merged(entry) if known and entry.is_live(now) else known or entry
        changed = merged is not known and merged.is_live(now)
        if changed:
            live[entry.key] = merged
        added.append(Added(merged, changed))
    return added


def in_parts(sequence: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the members, in order, so many at a time."""
    return (sequence[start : start + size] for start in range(0, len(sequence), size))


class Store(Protocol):
    """Where entries live. Absent is not broken: every method answers truly or raises `StoreUnavailable`.

    The order that makes it so, in every store: *stamp, then ask; check, then believe.*
    - What is known (the history's newest head, the stamp of a cached answer) is taken before the look-up, so that
      the answer knows at least as much: what was learned while it was asked must not make it look newer than it is.
    - An answer is believed after it has been checked, on the same connection, that the store's history continues what
      was known (`history.Known.check`); else it is thrown away and nothing passes.
    - A change is synced, then known to all workers of the machine, then answered.

    One store serves all threads of a process and survives fork. A change that was answered is
    synced and seen by every other thread, process and node at their next look-up.

    `older_gateways` says whether gateways of older versions may use the same store: then claims are looked for, and
    kept, under their legacy keys as well (gateway.blacklist.keys).

    A store beyond a network has `find_in_pauses(keys, about)` as well: `find` as a generator, in which the request
    pauses (yields b"", see `http.protocols.Pause`) and holds no thread; `about` is its context.
    """

    older_gateways: bool

    def find(self, keys: Sequence[str]) -> Sequence[Entry]:
        """Return the live entries among `keys`, in one look-up."""

    def find_again(self, keys: Sequence[str], last: Any) -> tuple[Any, Sequence[Entry]]:
        """Return what `find` does, and before that what is to be given as `last` when these keys are asked for again.

        From it a store may see that nothing has been committed since. At first it is None.
        """

    def matching(self, prefix: str) -> list[Entry]:
        """Return up to two live entries whose key begins so: `token:` and 12 digits or more, or a whole claim's key."""

    def add(self, entries: Sequence[Entry], *, once: Entry | None = None) -> list[Added] | None:
        """Add the entries, all or none, each merged with a live one of its key (`Entry.merged`).

        `once` marks a message that has been taken: its key is `seen:` and 64 hexadecimal digits. It is added
        together with the entries; if a live one is there, nothing changes and None is returned. Marks are
        neither counted nor listed.
        """

    def remove(self, key: str, issuer: str | None = None) -> bool:
        """Remove an entry, of this issuer alone where one is given; return whether a live one was there."""

    def page(
        self, limit: int, cursor: str = "", *, issuers: Sequence[str] = (), claim: str | None = None
    ) -> tuple[list[Entry], str]:
        """Return up to `limit` live entries, newest first, and the cursor of the next page, "" at the end.

        A page may have fewer though more follow: nobody is to wait for a walk through all of a long list.
        `issuers`, if there are any, and `claim` (a name) leave only their entries. Raises ValueError for a cursor that
        no page gave.
        """

    def changes(self, since: str) -> tuple[str, frozenset[str] | None]:
        """Return the store's newest mark, and the keys changed since the mark `since`: None where that is not known.

        One cheap look-up, exact: an entry that changes after it was asked has a later mark.
        """

    def purge(self) -> int:
        """Delete expired entries; return how many. The file shrinks."""

    def count(self, later: int = 0) -> int:
        """Return about how many entries there are that will still be live in `later` seconds, if nobody lifts them."""

    def accept(self) -> None:
        """Take the store as it is, for all gateways that refuse it for the changes it lacks: an operator's decision."""

    def ping(self) -> None:
        """Return if the store answers and takes changes now."""

    def close(self) -> None:
        """Let go of connections."""

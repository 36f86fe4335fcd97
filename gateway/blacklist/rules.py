"""The rules: what blacklists a token, and what taking back and restoring change."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.auth.tokens import Token
from gateway.blacklist.keys import claim_key, legacy_claim_keys, token_key
from gateway.blacklist.stores.base import LATEST, Added, Entry, Store
from gateway.http.values import value_text

audit = logging.getLogger("gateway.audit")


class Actor(NamedTuple):
    """Who changes something, for the entry and the audit record: a name, an address, a reason given."""

    by: str = ""
    address: str = ""
    reason: str = ""


class ClaimTarget(NamedTuple):
    """All tokens of an issuer with a claim of this value (`keys.value_text`), issued before a cut-off; None: all."""

    issuer: str
    name: str
    value: str
    issued_before: int | None


class Blacklist:
    """Answers whether a token is blacklisted, and changes what is.

    A token is blacklisted by an entry of its own, or by an entry for one of its claims (within
    its issuer) whose cut-off lies after its `iat`; without `iat` it counts as issued before
    anything. `leeway` and `max_token_age` are in seconds. Whatever fails raises `StoreUnavailable`.
    """

    def __init__(
        self,
        store: Store,
        *,
        claims: tuple[str, ...] = ("jti", "sub", "sid"),
        leeway: float = 0,
        max_token_age: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.claims = claims
        self._leeway = leeway
        self._max_token_age = max_token_age
        self._now = now

    def has(self, token: Token) -> bool:
        """Tell whether the token is blacklisted: one question to the store, never remembered."""
        keys = token.derived.get(self)
        if keys is None:
            keys = token.derived[self] = self._lookup_keys(token)
        entries = self.store.find(keys)
        return bool(entries) and any(_strikes(entry, token) for entry in entries)

    def add_token(self, token: Token, actor: Actor) -> bool:
        """Add the token's own entry; tell whether that changed anything."""
        # The entry outlives the token by the leeway in which the token would still pass.
        ends = min(math.ceil(min(token.expires_at, LATEST)) + math.ceil(self._leeway), LATEST)
        added = self._add(
            Entry(
                token_key(token.fingerprint),
                token.issuer.name,
                int(self._now()),
                ends,
                by=actor.by,
                reason=actor.reason,
            )
        )
        self._record("add", added.changed, actor, fingerprint=token.fingerprint)
        return added.changed

    def remove_token(self, token: Token, actor: Actor) -> bool:
        """Lift the token's own entry; tell whether there was one."""
        changed = self.store.remove(token_key(token.fingerprint))
        self._record("remove", changed, actor, fingerprint=token.fingerprint)
        return changed

    def find_claim(self, issuer: str, name: str, value: str) -> Entry | None:
        """Return the live entry for the claim, if there is one."""
        return next(iter(self.store.find([claim_key(issuer, name, value)])), None)

    def add_claim(
        self, issuer: str, name: str, value: str, issued_before: int | None, actor: Actor
    ) -> tuple[Entry, bool]:
        """Blacklist all tokens with the claim issued before the cut-off (epoch seconds, default the next second).

        Return the entry in force, whose cut-off may be a later one, and whether that changed anything.
        Raises ValueError for a cut-off in the future.
        """
        latest = self.next_second()
        cut_off = latest if issued_before is None else issued_before
        if cut_off > latest:
            raise ValueError("issued_before lies in the future")
        [added] = self.take_back([ClaimTarget(issuer, name, value, cut_off)], actor) or []
        return added.entry, added.changed

    def take_back(
        self, targets: Sequence[ClaimTarget], actor: Actor, *, once: Entry | None = None
    ) -> list[Added] | None:
        """Add an entry for each of the claims, all or none, in one change of the store.

        `once` marks the message that asks for it (`Store.add`): if it was taken before, nothing changes, and None is
        returned.
        """
        added = self.store.add([self._claim_entry(target, actor) for target in targets], once=once)
        for entry, changed in added or ():
            claim = dict([entry.claim or ("", "")])
            self._record("add", changed, actor, issuer=entry.issuer, claim=claim, issued_before=entry.issued_before)
        return added

    def _claim_entry(self, target: ClaimTarget, actor: Actor) -> Entry:
        # From now, not from the cut-off: an old one would be over at once, and tokens without `iat` with it.
        age, latest = self._max_token_age, self.next_second()
        return Entry(
            claim_key(target.issuer, target.name, target.value),
            target.issuer,
            int(self._now()),
            None if age is None else min(latest + age + math.ceil(self._leeway), LATEST),
            (target.name, target.value),
            target.issued_before,
            actor.by,
            actor.reason,
        )

    def remove_claim(self, issuer: str, name: str, value: str, actor: Actor) -> bool:
        """Lift the claim's entry; tell whether there was one."""
        changed = self.store.remove(claim_key(issuer, name, value))
        self._record("remove", changed, actor, issuer=issuer, claim={name: value})
        return changed

    def next_second(self) -> int:
        """Return the latest cut-off there can be.

        With `iat` in whole seconds, a cut-off of now would spare a token stolen within this second.
        """
        return math.floor(self._now()) + 1

    def _add(self, entry: Entry) -> Added:
        added = self.store.add([entry]) or []
        return added[0]

    def _lookup_keys(self, token: Token) -> tuple[str, ...]:
        keys = [token_key(token.fingerprint)]
        for name in self.claims:
            text = value_text(token.claims.get(name))
            if text is not None:
                keys.append(claim_key(token.issuer.name, name, text))
                if self.store.older_gateways:
                    keys += legacy_claim_keys(token.issuer.name, name, text)
        return tuple(keys)

    def _record(self, action: str, changed: bool, actor: Actor, **entry: object) -> None:
        record = {
            "action": action,
            "changed": changed,
            **entry,
            "by": actor.by,
            "from": actor.address,
            "reason": actor.reason,
        }
        audit.info("blacklist %s", action, extra={"record": record})


def _strikes(entry: Entry, token: Token) -> bool:
    if entry.issued_before is None:
        return True
    issued_at = token.claims.get("iat")
    return issued_at is None or issued_at < entry.issued_before

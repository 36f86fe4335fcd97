"""The rules: what blacklists a token, and what blacklisting and restoring change."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

from gateway.auth.issuers import Issuers
from gateway.auth.tokens import Token, is_time
from gateway.blacklist.entries import distinct
from gateway.blacklist.keys import claim_key, claim_keys, token_key
from gateway.blacklist.stores.base import LATEST, Added, Entry, Store
from gateway.http.problems import Problem
from gateway.http.values import find_claim, value_texts

audit = logging.getLogger("gateway.audit")

LARGEST_LEEWAY = 300  # seconds, of any gateway that shares the store
MOST_MEMBERS = 64  # of a claim that is a list
NOW: Final = "now"  # as a cut-off: whatever passes at this moment was issued before it

CutOff = int | Literal["now"] | None
BY_CLAIM: Final = "by claim"  # as a cut-off that is asked for: the one that the claim gets by CUT_OFF_CLAIMS
AskedCutOff = CutOff | Literal["by claim"]


class Actor(NamedTuple):
    """Who changes something, for the entry and the audit log: name, address, reason, trace id, the name's issuer."""

    by: str = ""
    address: str = ""
    reason: str = ""
    trace: str = ""
    issuer: str = ""


class ClaimTarget(NamedTuple):
    """A claim whose tokens are to be blacklisted: the issuer's that have this value of it (`values.value_text`).

    `issued_before` leaves out those issued later; None: none. `until` is when the entry ends; None: when there can be
    no token any more to which it applies. Both are in epoch seconds, but for the cut-off `NOW`.
    """

    issuer: str
    name: str
    value: str
    issued_before: CutOff
    until: int | None = None


class Rules(NamedTuple):
    """What can be blacklisted, and for how long. Times are in seconds.

    Claims of `cut_off_claims` get the cut-off "now" unless another is named, all others none. With `by_auth_time` a
    cut-off counts for a token's `auth_time`, where it has one. Tokens older than `max_token_age` are refused.
    """

    claims: tuple[str, ...] = ("jti", "sub", "sid")
    cut_off_claims: tuple[str, ...] = ("sub",)
    by_auth_time: bool = False
    leeway: float = 0
    max_token_age: int | None = None


DEFAULTS = Rules()
_NONE_IS_SET: Final = Issuers(())


class Blacklist:
    """Answers whether a token is blacklisted, and changes what is.

    A token is blacklisted by an entry of its own, or by one for a claim of its issuer's: by one without a cut-off
    whenever it was issued, by one with a cut-off if its `iat` lies before it; without `iat` it counts as issued before
    anything. Of a claim that is a list every member counts; a name with dots that is no claim of the token's is a path.

    An issuer's entries may stand under its aliases, too: each may have been its name. One by fingerprint counts for all
    whom its issuer administers, or did when it was made. Whatever fails raises `StoreUnavailable`.
    """

    def __init__(
        self,
        store: Store,
        rules: Rules = DEFAULTS,
        *,
        issuers: Issuers = _NONE_IS_SET,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.claims = rules.claims
        self._rules = rules
        self.issuers = issuers
        self._now = now

    # What is asked.

    def has(self, token: Token) -> bool:
        """Return whether the token is blacklisted. Raises as `lookup_keys`."""
        return bool(self.entries_against(token))

    def entries_against(self, token: Token) -> list[Entry]:
        """Return the entries that blacklist the token now: one look-up. Raises as `lookup_keys`."""
        token.answer, found = self.store.find_again(self.lookup_keys(token), token.answer)
        return self._against(token, found)

    def _against(self, token: Token, found: Sequence[Entry]) -> list[Entry]:
        return distinct(entry for entry in map(self._as_here, found) if self._applies(entry, token))

    def refusal(self, token: Token, found: Sequence[Entry] | None = None) -> Problem | None:
        """Return why a token must not pass, None where it may. `found`: what the store has, if it was asked."""
        if found is None:
            token.answer, found = self.store.find_again(self.lookup_keys(token), token.answer)
        if not found or not (entries := self._against(token, found)):
            return None
        cut_offs, log = [entry.issued_before for entry in entries], {"issuer": token.issuer.name}
        if self._rules.by_auth_time and "auth_time" in token.claims and None not in cut_offs:
            latest = max(cut_off for cut_off in cut_offs if cut_off is not None)
            # A new sign-in helps, unless the subject is locked out until later.
            if latest <= self.cut_off_now():
                return Problem("sign-in-required", max_age=max(0, math.floor(self._now()) - latest), log=log)
        return Problem("token-blacklisted", log=log)

    def find_claims(self, issuer: str, name: str, values: Iterable[str]) -> list[Entry]:
        """Return the live entries for the claim with one of these values."""
        keys = claim_keys(self.issuers.spellings_of(issuer), name, values, legacy=self.store.older_gateways)
        return distinct(map(self._as_here, self.store.find(keys)))

    def find_fingerprint(self, digits: str) -> Entry | None:
        """Return the live entry of the token whose fingerprint begins with these digits, 12 or more, if there is one.

        Raises `Problem` invalid-request where several do, and where none does and the digits are not a whole one.
        """
        found = self.store.matching(token_key(digits))
        if len(found) > 1:
            raise Problem("invalid-request", "Several fingerprints begin with these digits: give more.")
        if not found and len(digits) < 64:
            raise Problem("invalid-request", "No entry's fingerprint begins with these digits: give all 64.")
        return found[0] if found else None

    def issuer_of(self, entry: Entry) -> str:
        """Return the name that the entry's issuer has today."""
        return self.issuers.name_of(entry.issuer) or entry.issuer

    def check_end(self, until: int | None) -> None:
        """Raise `Problem` invalid-request for an end that does not lie in the future."""
        if until is not None and until <= self._now():
            raise Problem("invalid-request", "until must lie in the future.")

    def cut_off_now(self) -> int:
        """Return the cut-off "now", which covers whatever passes at this moment.

        With `iat` in whole seconds, a cut-off of now would spare a token stolen within this second.
        """
        return self._next_second() + math.ceil(self._rules.leeway)

    # What is changed.

    def add_token(self, token: Token, actor: Actor) -> bool:
        """Add the token's own entry; return whether that changed anything."""
        ends = math.ceil(min(token.expires_at, LATEST)) + LARGEST_LEEWAY
        entry = self._entry(token_key(token.fingerprint), token.issuer.name, min(ends, LATEST), actor)
        changed = self._add_one(entry).changed
        self.record("add", actor, changed=changed, issuer=entry.issuer, fingerprint=token.fingerprint)
        return changed

    def add_fingerprint(self, issuer: str, fingerprint: str, actor: Actor, until: int | None) -> bool:
        """Add an entry for a token that is known by its fingerprint alone; return whether that changed anything.

        It ends at `until`, or never: nobody knows when the token does. The entry in force may be of another issuer;
        then nothing has changed, and the token is not blacklisted.
        """
        members = {"by_fingerprint": True, "administers": self.issuers.administered_by(issuer)}
        added = self._add_one(self._entry(token_key(fingerprint), issuer, until, actor, **members))
        self.record("add", actor, changed=added.changed, issuer=issuer, fingerprint=fingerprint, until=until)
        return added.changed

    def add_claims(
        self, issuer: str, name: str, values: Iterable[str], cut_off: AskedCutOff, until: int | None, actor: Actor
    ) -> bool:
        """Add an entry for the claim with each of these values; return whether that changed anything."""
        if cut_off == BY_CLAIM:  # a person signs in again, what has ended does not
            cut_off = NOW if name in self._rules.cut_off_claims else None
        targets = [ClaimTarget(issuer, name, value, cut_off, until) for value in values]
        return any(added.changed for added in self.add_targets(targets, actor) or ())

    def add_targets(
        self, targets: Sequence[ClaimTarget], actor: Actor, *, once: Entry | None = None
    ) -> list[Added] | None:
        """Add an entry for each of the claims, all or none, in one change of the store.

        Return the entries in force, which may have a later cut-off or end. `once` marks the message that asks for it
        (`Store.add`): if it was taken before, nothing changes, and None is returned.
        """
        added = self.store.add([self._claim_entry(target, actor) for target in targets], once=once)
        for entry, changed in added or ():
            claim = dict([entry.claim or ("", "")])
            members = {"claim": claim, "issued_before": entry.issued_before, "until": entry.expires_at}
            self.record("add", actor, changed=changed, issuer=entry.issuer, **members)
        return added

    def remove_fingerprint(self, issuer: str, fingerprint: str, actor: Actor, made_by: str | None = None) -> bool:
        """Lift the entry of the token with this fingerprint, that of an issuer alone; return whether there was one."""
        changed = self.store.remove(token_key(fingerprint), made_by)
        self.record("remove", actor, changed=changed, issuer=issuer, fingerprint=fingerprint)
        return changed

    def remove_claims(self, issuer: str, name: str, values: Iterable[str], actor: Actor) -> bool:
        """Lift the entries of the claim with these values; return whether there was one."""
        changed, spellings = False, self.issuers.spellings_of(issuer)
        for value in values:
            keys = claim_keys(spellings, name, [value], legacy=self.store.older_gateways)
            lifted = [self.store.remove(key) for key in keys]
            self.record("remove", actor, changed=any(lifted), issuer=issuer, claim={name: value})
            changed = changed or any(lifted)
        return changed

    def record(self, action: str, actor: Actor, **members: object) -> None:
        """Note in the audit log what somebody did, or was refused."""
        record = {"action": action, **members, "by": actor.by, "from": actor.address, "reason": actor.reason}
        record |= {name: text for name, text in (("trace", actor.trace), ("by_issuer", actor.issuer)) if text}
        audit.info("blacklist %s", action, extra={"record": record})

    # How.

    def is_in_force(self, entry: Entry, added: Entry) -> bool:
        """Return whether what came of adding an entry refuses all that the entry does."""
        return added.covers(entry) and self._counts_for(added, self.issuer_of(entry))

    def _counts_for(self, entry: Entry, issuer: str) -> bool:
        """Return whether the entry may be about a token of this issuer: a fingerprint does not tell whose it is."""
        return not entry.by_fingerprint or self.issuers.may_act(entry.issuer, issuer, entry.administers)

    def _applies(self, entry: Entry, token: Token) -> bool:
        if not self._counts_for(entry, token.issuer.name):
            return False
        if entry.issued_before is None:
            return True
        issued_at = token.claims.get("iat")
        if self._rules.by_auth_time and "auth_time" in token.claims:
            issued_at = token.claims["auth_time"]
        return not is_time(issued_at) or issued_at < entry.issued_before

    def lookup_keys(self, token: Token) -> tuple[str, ...]:
        """Return the keys of the entries that can blacklist the token.

        Raises `Problem` invalid-claim for a token with too long a list in a claim that can be blacklisted.
        """
        if token.looked_up_by is not self:
            token.keys, token.answer, token.looked_up_by = self._lookup_keys(token), None, self
        return token.keys

    def _lookup_keys(self, token: Token) -> tuple[str, ...]:
        keys = [token_key(token.fingerprint)]
        for name in self.claims:
            value = find_claim(token.claims, name)
            if isinstance(value, list) and len(value) > MOST_MEMBERS:
                raise Problem("invalid-claim", f"The token's claim {name} has more than {MOST_MEMBERS} members.")
            spellings = (token.issuer.name, *token.issuer.aliases)
            keys += claim_keys(spellings, name, value_texts(value), legacy=self.store.older_gateways)
        return tuple(dict.fromkeys(keys))

    def _claim_entry(self, target: ClaimTarget, actor: Actor) -> Entry:
        issuer, name, value, cut_off, until = target
        as_of = self._next_second() if cut_off == NOW else None
        issued_before = self.cut_off_now() if cut_off == NOW else cut_off
        ends = self._end(issued_before) if until is None else until
        members = {"claim": (name, value), "issued_before": issued_before, "as_of": as_of}
        return self._entry(claim_key(issuer, name, value), issuer, ends, actor, **members)

    def _next_second(self) -> int:
        return math.floor(self._now()) + 1

    def _as_here(self, entry: Entry) -> Entry:
        """Return the entry with the cut-off that it has here: with a larger LEEWAY than its writer's, a later one."""
        if entry.as_of is None or entry.issued_before is None:
            return entry
        here = entry.as_of + math.ceil(self._rules.leeway)
        return entry if here <= entry.issued_before else dataclasses.replace(entry, issued_before=here)

    def _end(self, cut_off: int | None) -> int | None:
        """Return when an entry with this cut-off may be forgotten: when all that it refuses is too old anyway.

        One without a cut-off is never forgotten: a session may go on for longer than any of its tokens. Nor is one that
        counts for the sign-in, from which tokens are refreshed for as long.
        """
        if self._rules.max_token_age is None or cut_off is None or self._rules.by_auth_time:
            return None
        latest = max(cut_off, self._next_second() + LARGEST_LEEWAY)
        return min(latest + self._rules.max_token_age + LARGEST_LEEWAY, LATEST)

    def _entry(self, key: str, issuer: str, ends: int | None, actor: Actor, **more: Any) -> Entry:
        return Entry(key, issuer, int(self._now()), ends, by=actor.by, reason=actor.reason, **more)

    def _add_one(self, entry: Entry) -> Added:
        return (self.store.add([entry]) or [])[0]  # None is for messages that come once

"""A token, claim or fingerprint to be blacklisted, lifted or shown, once it is known whose it is."""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.auth.tokens import Token
from gateway.blacklist.rules import Actor, AskedCutOff, Blacklist
from gateway.blacklist.stores.base import Entry


class Named(NamedTuple):
    """A token with its fingerprint, a fingerprint alone, or a claim: its name, and the values that its text may mean.

    For a token that `has_expired` no entry counts any more. A fingerprint lifts only the entry of the issuer `made_by`:
    one that another issuer has made since stays.
    """

    blacklist: Blacklist
    issuer: str
    fingerprint: str = ""
    token: Token | None = None
    claim: tuple[str, tuple[str, ...]] | None = None
    has_expired: bool = False
    made_by: str | None = None

    def entries(self) -> list[Entry]:
        """Return the entries that blacklist it now; of a fingerprint only its own can be known."""
        if self.claim is not None:
            return self.blacklist.find_claims(self.issuer, *self.claim)
        if self.token is not None:
            return [] if self.has_expired else self.blacklist.entries_against(self.token)
        entry = self.blacklist.find_fingerprint(self.fingerprint)
        return [entry] if entry else []

    def add(self, actor: Actor, cut_off: AskedCutOff, until: int | None) -> bool:
        """Blacklist it, a token also if it has expired; return whether that changed anything."""
        if self.claim is not None:
            return self.blacklist.add_claims(self.issuer, *self.claim, cut_off, until, actor)
        if self.token is not None:
            return self.blacklist.add_token(self.token, actor)
        if until is None and any(not entry.by_fingerprint for entry in self.entries()):
            return False  # it ends after the token, or never
        # An entry that was made under a former name, now an alias, takes a later end under that name alone.
        return self.blacklist.add_fingerprint(self.made_by or self.issuer, self.fingerprint, actor, until)

    def remove(self, actor: Actor) -> bool:
        """Lift its own entry; return whether there was one."""
        if self.claim is not None:
            return self.blacklist.remove_claims(self.issuer, *self.claim, actor)
        if self.token is None and not self.entries():
            return False
        return self.blacklist.remove_fingerprint(self.issuer, self.fingerprint, actor, self.made_by)

    def to_json(self) -> dict[str, Any]:
        """Return what is named, as answers have it."""
        if self.claim is not None:
            return {"claim": {self.claim[0]: self.claim[1][0]}}
        return {"fingerprint": self.fingerprint}

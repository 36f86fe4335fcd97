"""Who may do what with the blacklist: by the scopes of a token."""

from __future__ import annotations

from typing import NamedTuple

from gateway.auth.tokens import Claims
from gateway.http.values import find_claim


class Scopes(NamedTuple):
    """The scopes that let an admin do all, blacklist alone, and look up alone; and the claims they stand in."""

    admin: str
    revoke: str
    read: str
    claims: tuple[str, ...]

    def may_do_all(self, claims: Claims) -> bool:
        """Return whether a token with these claims may do whatever an admin may."""
        return self.admin in self._of(claims)

    def may_add(self, claims: Claims) -> bool:
        """Return whether it may blacklist by claim or fingerprint."""
        return not self._of(claims).isdisjoint((self.admin, self.revoke))

    def may_look_up(self, claims: Claims) -> bool:
        """Return whether it may list and look up."""
        return not self._of(claims).isdisjoint((self.admin, self.read))

    def _of(self, claims: Claims) -> set[str]:
        """Return the token's scopes: text is split at blanks, lists are taken as they are."""
        found: set[str] = set()
        for name in self.claims:
            value = find_claim(claims, name)
            members = value.split(" ") if isinstance(value, str) else value
            if isinstance(members, list):
                found.update(each for each in members if isinstance(each, str))
        return found

"""Who may sign tokens: issuers, the spellings of their names, and their tenants."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from gateway.auth.keys import Keys
from gateway.auth.keyset import TENANT, Key
from gateway.auth.required import Requirement
from gateway.http.problems import Problem

ANY = "*"

_TENANT_ID = "([A-Za-z0-9._-]{1,64})"


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who may sign: the `iss`, its allowed algorithms, the accepted `aud` values (none: unchecked), its keys.

    `aliases` are other spellings of the `iss`. Where the name has `{tenantid}`, each tenant is an issuer of its own,
    and `tenants`, in lower case, are those let in (none: all). `administers` names the issuers that its admins may act
    in beside their own: names as they stand here, or `*` for all. `client_ids` are accepted in `client_id` or `azp` of
    tokens without `aud`, and of all where no audience is; `required` is what their claims must meet.
    """

    name: str
    algorithms: frozenset[str]
    audience: frozenset[str]
    keys: Keys
    aliases: tuple[str, ...] = ()
    tenants: frozenset[str] = frozenset()
    administers: frozenset[str] = frozenset()
    client_ids: frozenset[str] = frozenset()
    required: tuple[Requirement, ...] = ()

    def may_use(self, key: Key) -> bool:
        """Return whether the key may sign for this issuer: of a set for all tenants, some are one tenant's alone."""
        return key.issuer in (None, self.name, *self.aliases)

    def may_administer(self, name: str) -> bool:
        """Return whether this issuer's admins may act within the issuer of that name, as `Issuers.name_of` gives it."""
        return name == self.name or ANY in self.administers or is_named(name, self.administers)


class Issuers:
    """Finds the issuer that a token, or an admin, names."""

    def __init__(self, issuers: Iterable[Issuer]) -> None:
        self.all = tuple(issuers)
        self._names = ", ".join(issuer.name for issuer in self.all)  # for the log
        found = [(spelling, issuer) for issuer in self.all for spelling in (issuer.name, *issuer.aliases)]
        self._whole = {spelling: issuer for spelling, issuer in found if TENANT not in spelling}
        self._of_tenants = [(_pattern(spelling), issuer) for spelling, issuer in found if TENANT in spelling]

    def of(self, claims: dict[str, Any]) -> Issuer | None:
        """Return the issuer that the claims name; of an issuer with tenants, the one that is this tenant's."""
        iss = claims.get("iss")
        if not isinstance(iss, str):
            return None
        issuer, tenant = self._find(iss)
        return issuer if tenant is None or tenant == claims.get("tid") else None

    def require(self, claims: dict[str, Any]) -> Issuer:
        """Return the issuer that the claims name. Raises `Problem` wrong-issuer where it is none of these."""
        issuer = self.of(claims)
        if issuer is None:
            told = {"found_issuer": str(claims.get("iss"))[:200], "expected_issuer": self._names}
            raise Problem("wrong-issuer", log=told)
        return issuer

    def name_of(self, spelling: str) -> str | None:
        """Return the name of the issuer that is spelled so, or None where it is nobody's."""
        issuer, _ = self._find(spelling)
        return issuer.name if issuer else None

    def spellings_of(self, name: str) -> tuple[str, ...]:
        """Return the issuer's name and its aliases: it may have had each of them for its name."""
        issuer, _ = self._find(name)
        return (issuer.name, *issuer.aliases) if issuer else (name,)

    def administered_by(self, spelling: str) -> tuple[str, ...]:
        """Return the issuers that the one spelled so administers beside itself."""
        issuer, _ = self._find(spelling)
        return tuple(sorted(issuer.administers)) if issuer else ()

    def may_act(self, spelling: str, name: str, also: Collection[str] = ()) -> bool:
        """Return whether admins of the issuer spelled so may act within that of the name; `also`: in these they may.

        An issuer that is not set any more may have administered any.
        """
        issuer, _ = self._find(spelling)
        return (
            issuer is None
            or issuer.may_administer(name)
            or ANY in also
            or any(is_named(each, also) for each in self.spellings_of(name))
        )

    def may_act_in_all(self, spelling: str, also: Collection[str] = ()) -> bool:
        """Return whether admins of the issuer spelled so may act within every issuer; `also`: in these they may."""
        return not self._of_tenants and all(self.may_act(spelling, each.name, also) for each in self._whole.values())

    def _find(self, spelling: str) -> tuple[Issuer | None, str | None]:
        if issuer := self._whole.get(spelling):
            return issuer, None
        for pattern, issuer in self._of_tenants:
            if (match := pattern.fullmatch(spelling)) and (not issuer.tenants or match[1].lower() in issuer.tenants):
                # A tenant's id is a UUID, and one tenant in either case (RFC 9562 section 4).
                tenant = match[1].lower()
                aliases = tuple(alias.replace(TENANT, tenant) for alias in issuer.aliases)
                return replace(issuer, name=issuer.name.replace(TENANT, tenant), aliases=aliases), match[1]
        return None, None


def is_named(issuer: str, names: Collection[str]) -> bool:
    """Return whether an issuer, as `Issuers.name_of` gives it, is among the names: one with tenants stands for each."""
    return issuer in names or any(_pattern(each).fullmatch(issuer) for each in names if TENANT in each)


@cache
def _pattern(spelling: str) -> re.Pattern[str]:
    # The first place gives the tenant; where there are several, all must agree.
    first, _, rest = re.escape(spelling).partition(re.escape(TENANT))
    return re.compile(first + _TENANT_ID + rest.replace(re.escape(TENANT), r"\1"))

"""The one target that a request to /blacklist names."""

from __future__ import annotations

import difflib
import re
from typing import Any, NamedTuple

from gateway.blacklist.body import Members, Typed, invalid
from gateway.blacklist.rules import BY_CLAIM, AskedCutOff
from gateway.blacklist.stores.base import LATEST
from gateway.http.strict_json import json_list
from gateway.http.values import JOIN, join_texts, number_text, value_text

LONGEST_REASON = 1000  # characters
# Members beside a token or a claim: no claim that can be blacklisted may have one of these names.
BESIDE = ("fingerprint", "issuer", "issued_before", "until", "reason")

# What bytes that are no UTF-8 were turned into: in a query U+FFFD, on a command line lone surrogates.
_UNREADABLE = re.compile("[\ufffd\ud800-\udfff]")
_FINGERPRINT = re.compile(r"[0-9a-f]{12,64}", re.ASCII)


class Target(NamedTuple):
    """What to act on: a token's text, a claim, a fingerprint or its beginning; all None: the caller's own token.

    A claim has its name and the values that its text may mean. `issuer` is whose it is, None where that is not said.
    `cut_off` and `until` are in epoch seconds; a cut-off of None is none.
    """

    token: str | None = None
    claim: tuple[str, tuple[str, ...]] | None = None
    fingerprint: str | None = None
    issuer: str | None = None
    cut_off: AskedCutOff = BY_CLAIM
    until: int | None = None
    reason: str = ""

    @property
    def is_own(self) -> bool:
        """Return whether it is the caller's own token."""
        return (self.token, self.claim, self.fingerprint) == (None, None, None)

    @property
    def is_for_admins(self) -> bool:
        """Return whether it is named by what everybody may know of it: not by a token's text."""
        return self.claim is not None or self.fingerprint is not None

    def is_token(self, text: str) -> bool:
        """Return whether it is the caller's own token, which has this text: named or not, in whatever spelling."""
        return self.is_own if self.token is None else self.token.rpartition(".")[0] == text.rpartition(".")[0]


def with_query(members: Members, params: Members, claims: tuple[str, ...]) -> Members:
    """Return the body's members and those that the query has.

    A token in a URL would end up in logs. Raises `Problem` invalid-request for one, and for a member named twice.
    """
    if "token" in params:
        raise invalid("A token must not stand in a URL, which ends up in logs: send it in the body.")
    named = {
        name: Typed(value) if isinstance(value := params[name], str) else value
        for name in (*claims, *BESIDE)
        if name in params
    }
    if repeated := [name for name, value in named.items() if isinstance(value, list)]:
        raise invalid(f"{repeated[0]} is there more than once.")
    if named.keys() & members.keys():
        raise invalid("Only one target can be named, once: in the query or in the body.")
    return named | members


def read_target(members: Members, claims: tuple[str, ...]) -> Target:
    """Return what the members name. Raises `Problem` invalid-request for anything unknown, mistyped or double."""
    known = ("token", *claims, *BESIDE)
    if unknown := sorted(members.keys() - {"token_type_hint", *known}):
        # Its own text may be a token. What is only a little alike (user_id and sid) would mislead.
        nearest = difflib.get_close_matches(unknown[0][:64], known, 1, 0.65)
        hint = "".join(f"; did you mean {name}?" for name in nearest) or "."
        raise invalid(f"Only {', '.join(known)} can be named{hint}")
    named = [name for name in ("token", "fingerprint", *claims) if name in members]
    if len(named) > 1:
        raise invalid("Only one target can be named.")
    what = named[0] if named else ""
    misplaced = {"issued_before"} if what == "fingerprint" else set(BESIDE[:-1]) if what in ("", "token") else set()
    if found := sorted(misplaced & members.keys()):
        raise invalid(f"{found[0]} goes with a claim.")
    return Target(
        token=read_text(members, "token") if what == "token" else None,
        claim=(what, read_values(what, members[what])) if what in claims else None,
        fingerprint=read_fingerprint(members[what]) if what == "fingerprint" else None,
        issuer=read_text(members, "issuer") if "issuer" in members else None,
        cut_off=_cut_off(members["issued_before"]) if "issued_before" in members else BY_CLAIM,
        until=None if members.get("until") is None else read_seconds("until", members["until"]),
        reason=_reason(members.get("reason", "")),
    )


def read_values(name: str, value: object) -> tuple[str, ...]:
    """Return the texts that a claim's value may mean: where all is text (`Typed`), `1e3` may be a number, too.

    Raises `Problem` invalid-request for what is no value.
    """
    text = value_text(value)
    if text is None:
        raise invalid("A claim's value must be a string that is not empty, or a number.")
    if isinstance(value, Typed) and _UNREADABLE.search(text):
        # It would name nobody, or somebody else.
        raise invalid("The claim's value is not UTF-8: in JSON every text can be named.")
    if JOIN in name:
        return (_join_values(name, text),)
    number = number_text(text) if isinstance(value, Typed) else None
    return (text,) if number in (None, text) else (str(number), str(text))


def _join_values(name: str, text: str) -> str:
    """Return the value of joined claims, which is named by a JSON list of their values."""
    try:
        values = [value_text(each) for each in json_list(text)]
    except ValueError:
        values = []
    texts = [each for each in values if each is not None]
    if len(texts) != len(values) or len(texts) != len(name.split(JOIN)):
        raise invalid("Claims that are joined are named by a JSON list with a value for each.")
    return join_texts(texts)


def read_fingerprint(value: object) -> str:
    """Return a fingerprint, or its beginning, in lower case. Raises `Problem` invalid-request for anything else."""
    text = value.lower() if isinstance(value, str) else ""
    if not _FINGERPRINT.fullmatch(text):
        raise invalid("fingerprint must be 64 hexadecimal digits; of an entry that is there, 12 or more will do.")
    return text


def read_text(members: Members, name: str) -> str:
    """Return a member that is text. Raises `Problem` invalid-request for anything else."""
    value = members[name]
    if not (isinstance(value, str) and value):
        raise invalid(f"{name} must be a string.")
    return value


def read_seconds(name: str, value: Any) -> int:
    """Return whole epoch seconds, up to the year 9999. Raises `Problem` invalid-request for anything else."""
    if isinstance(value, Typed) and value.isascii() and value.isdigit() and len(value) <= len(str(LATEST)):
        value = int(value)
    if type(value) is not int or not 0 <= value <= LATEST:
        raise invalid(f"{name} must be whole epoch seconds.")
    return value


def _cut_off(value: Any) -> int | None:
    is_null = value is None or (isinstance(value, Typed) and value == "null")
    return None if is_null else read_seconds("issued_before", value)


def _reason(value: object) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_REASON:
        raise invalid(f"reason must be a string of up to {LONGEST_REASON} characters.")
    return value

"""Whom a message is about (RFC 9493, and complex subjects of SSF 1.0): exactly those tokens, or a refusal.

All parts of a subject must hold. A session has one user, one device and one tenant, so it alone is looked for; other
parts are looked for together, by one entry for joined claims. What stands in no claim is refused: never more than was
asked for, and never less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

from gateway.auth.issuers import Issuers, is_named
from gateway.auth.keyset import TENANT
from gateway.http.values import JOIN, join_texts
from gateway.signals.answers import Refusal
from gateway.signals.senders import Sender

Members = Mapping[str, Any]

# The parts of a complex subject that can be expressed, in the order in which they are joined.
_PARTS = ("user", "session", "device", "tenant")
# Keycloak names all sessions of a user so, when an administrator ends them.
_ALL_SESSIONS = "ALL"
MOST_ENTRIES = 1000  # entries for the aliases of one subject's parts, of one issuer: each goes with each of the others


class Subject(NamedTuple):
    """All tokens of an issuer that have the claim. What has ended `for_good` does not come back."""

    issuer: str
    claim: str
    value: str
    for_good: bool = False


class Unmatched(Refusal):
    """The subject is well-formed, but no setting says which claims of a token have it."""

    def __init__(self, why: str, *, not_supported: bool = False) -> None:
        super().__init__("invalid_request", f"The subject cannot be matched: {why}")
        self.not_supported = not_supported
        self.outcome = "unmatched"


class NotAbout(Unmatched):
    """The subject is one of an issuer that the sender does not speak about."""


def find_subjects(members: Members, sender: Sender, issuers: Issuers, opaque: str = "user") -> list[Subject]:
    """Return what a subject identifier names; `opaque` is what one of that format stands for.

    For a session it alone stands; other formats name a user then. Raises `Unmatched`, and `Refusal`
    invalid_request for what is no subject identifier.
    """
    if members["format"] == "complex":
        return check_user(_find_complex(members, sender, issuers), sender)
    return check_user(_find_part(members, sender, issuers, "user" if opaque == "session" else opaque, opaque), sender)


def check_user(found: list[Subject], sender: Sender) -> list[Subject]:
    """Return the subjects. Raises `Unmatched` for sessions alone where tokens have none, and for nobody's tenant."""
    if any(TENANT in each.issuer for each in found):  # by its Authorization field a sender is of no tenant
        raise Unmatched("it does not tell the tenant.")
    if sender.by_subject and all(each.claim == sender.claims["session"] for each in found):
        raise Unmatched("it names a session and no user.")
    return found


def _find_part(
    members: Members, sender: Sender, issuers: Issuers, part: str, opaque: str | None = None
) -> list[Subject]:
    match members["format"]:
        case "complex":
            raise _malformed("a complex subject must not be within another.")
        case "aliases":  # RFC 9493 section 3.2.8: all are the same subject
            return _find_aliases(members, sender, issuers, part, opaque)
        case "iss_sub":
            return _in_claim(part, _text(members, "sub"), _issuers_of(_text(members, "iss"), sender, issuers), sender)
        case "opaque":
            return _in_claim(opaque or part, _text(members, "id"), sender.issuers_about(), sender)
        case "email" if part == "user":
            return _in_claim("email", _text(members, "email"), sender.issuers_about(), sender)
        case "jwt_id":  # SSF 1.0 section 3.4.1
            jti = _text(members, "jti")
            return [
                Subject(name, "jti", jti, for_good=True) for name in _issuers_of(_text(members, "iss"), sender, issuers)
            ]
    raise Unmatched("its format is not supported here.", not_supported=True)


def _in_claim(part: str, value: str, names: tuple[str, ...], sender: Sender) -> list[Subject]:
    claim = sender.claims.get(part)
    if claim is None:
        raise Unmatched(f"no claim is set for {part[:32]!r}.")
    return [Subject(name, claim, value, for_good=part == "session") for name in names]


def _issuers_of(iss: str, sender: Sender, issuers: Issuers) -> tuple[str, ...]:
    """Return the issuers whose subjects a sender means: the one it names; by its own name all that it speaks about."""
    about = sender.issuers_about()
    if iss in (sender.name, *sender.aliases):
        return (sender.name,) if sender.name in about else about
    # By its Authorization field a sender is of no tenant: it means those of its own that are let in.
    name = (Issuers([sender]) if any(TENANT in each for each in about) else issuers).name_of(iss)
    if name is None or not is_named(name, about):
        raise NotAbout("this sender does not speak about its issuer.")
    return (name,)


def _find_aliases(members: Members, sender: Sender, issuers: Issuers, part: str, opaque: str | None) -> list[Subject]:
    identifiers = members.get("identifiers")
    if not isinstance(identifiers, list) or not identifiers:
        raise _malformed("identifiers must be a list that is not empty.")
    found: list[Subject] = []
    missed: Unmatched | None = None
    for identifier in identifiers:
        inner = read_subject(identifier)
        if inner["format"] == "aliases":
            raise _malformed("aliases must not be within others.")
        try:
            found += _find_part(inner, sender, issuers, part, opaque)
        except Unmatched as reason:
            missed = reason
    if not found and missed:
        raise missed
    return found


def _find_complex(members: Members, sender: Sender, issuers: Issuers) -> list[Subject]:
    parts = {name: read_subject(part) for name, part in members.items() if name != "format"}
    if not parts:
        raise _malformed("a complex subject must have a part.")
    if unknown := sorted(parts.keys() - set(_PARTS)):
        raise Unmatched(f"a part named {unknown[0][:32]!r} stands in no claim of a token.")
    if "user" in parts and parts.get("session", {}).get("id") == _ALL_SESSIONS:
        del parts["session"]
    if "session" in parts:
        if "tenant" in parts and sender.within:
            _check_tenant(parts["tenant"], sender)
        return _find_session(parts, sender, issuers)
    if "tenant" in parts and "tenant" not in sender.claims:
        _check_tenant(parts.pop("tenant"), sender)
    return _join([_find_part(parts[name], sender, issuers, name) for name in _PARTS if name in parts], sender)


def _join(parts: list[list[Subject]], sender: Sender) -> list[Subject]:
    """Return subjects that must have all parts: of one issuer, by claims that are looked up together."""
    if not parts:
        raise Unmatched("the tenant is the same for everybody, so it names nobody.")
    if len(parts) == 1:
        return parts[0]
    found = []
    for issuer in dict.fromkeys(part.issuer for part in parts[0]):
        choices = [[part for part in each if part.issuer == issuer] for each in parts]
        if math.prod(map(len, choices)) > MOST_ENTRIES:
            raise Unmatched("its parts have too many aliases.")
        for each in product(*choices):
            claim = JOIN.join(part.claim for part in each)
            if claim in sender.joined:
                found.append(Subject(issuer, claim, join_texts(part.value for part in each)))
    if not found:
        raise Unmatched("no claims have all of its parts.")
    return found


def _find_session(parts: Mapping[str, Members], sender: Sender, issuers: Issuers) -> list[Subject]:
    """Return the session: it has one user, one device and one tenant, that follow from it; its issuer is the user's."""
    sessions = _find_part(parts["session"], sender, issuers, "session")
    if "user" not in parts:
        return sessions
    try:
        users = _find_part(parts["user"], sender, issuers, "user")
    except NotAbout:
        raise
    except Unmatched:
        return sessions
    found = [session for session in sessions if session.issuer in {user.issuer for user in users}]
    if not found:
        raise Unmatched("its session and its user are of different issuers.")
    return [*found, *(users if sender.by_subject else [])]


def _check_tenant(part: Members, sender: Sender) -> None:
    """Raise Unmatched unless all tokens that the sender speaks about are of that tenant."""
    name = _text(part, {"opaque": "id", "iss_sub": "sub", "uri": "uri"}.get(part["format"], "id"))
    if name not in sender.within:
        raise Unmatched("its tenant is not one of those that are set.")


def read_subject(subject: object) -> Members:
    """Return a subject identifier's members, with the format that older drafts left out or called `subject_type`.

    Raises `Refusal` invalid_request for what is none.
    """
    found = subject if isinstance(subject, dict) else {}
    members = {name: value for name, value in found.items() if value is not None}  # null is what is not there
    if isinstance(older := members.pop("subject_type", None), str):
        name = older.replace("-", "_")
        # Google's, which may have an email beside it.
        members.setdefault("format", "iss_sub" if name == "id_token_claims" else name)
    if members and all(isinstance(part, dict) for part in members.values()):
        members["format"] = "complex"
    if not isinstance(members.get("format"), str):
        raise _malformed("it must be an object with a format.")
    return members


def _text(members: Members, name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value:
        raise _malformed(f"{name} must be text that is not empty.")
    return value


def _malformed(why: str) -> Refusal:
    return Refusal("invalid_request", f"The subject is malformed: {why}")

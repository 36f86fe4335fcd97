"""What a request to /blacklist names: its body's members, checked, as one target."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from gateway.http.body import read_whole
from gateway.http.problems import Problem
from gateway.http.strict_json import json_object, unique_members
from gateway.http.values import value_text
from gateway.http.wsgi import Environ

LARGEST_BODY = 64 * 1024  # bytes
LONGEST_REASON = 1000  # characters
JSON, FORM = "application/json", "application/x-www-form-urlencoded"

Members = dict[str, Any]


class Target(NamedTuple):
    """What to act on: a token's text, a claim with its cut-off, or (both None) the caller's own token."""

    token: str | None
    claim: tuple[str, str] | None
    issued_before: int | None
    reason: str


def body_members(environ: Environ) -> Generator[bytes, None, Members]:
    """Return the members of the JSON object or form in the body; none for an empty body, whatever its type says.

    To be called with `yield from`: it pauses until the body is there.
    Raises `Problem` payload-too-large, unsupported-media-type or invalid-request.
    """
    body = yield from read_whole(environ, LARGEST_BODY)
    if not body:
        return {}
    media_type = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if media_type not in (JSON, FORM):
        raise Problem(
            "unsupported-media-type", f"The body must be {JSON} or {FORM}.", fields=[("Accept", f"{JSON}, {FORM}")]
        )
    try:
        members = json_object(body) if media_type == JSON else _form(body)
    except ValueError as error:
        raise _invalid("The body is not one well-formed object with unique members.") from error
    if not members.keys() - {"token_type_hint"}:
        raise _invalid("The body names nothing.")  # a hint is ignored, and then nothing is left
    return members


def _form(body: bytes) -> Members:
    return unique_members(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, errors="strict"))


def with_query(members: Members, params: Members, claims: tuple[str, ...]) -> Members:
    """Return the body's members and the claims that the query names.

    A token in a URL would end up in logs. Raises `Problem` invalid-request for one, and for a claim named twice.
    """
    if "token" in params:
        raise _invalid("A token never stands in a URL: send it in the body.")
    named = {name: params[name] for name in claims if name in params}
    if named.keys() & members.keys():
        raise _invalid("Only one target can be named.")
    return named | members


def read_target(members: Members, claims: tuple[str, ...]) -> Target:
    """Return what the members name. Raises `Problem` invalid-request for anything unknown, mistyped or double."""
    unknown = members.keys() - {"token", "token_type_hint", "issued_before", "reason", *claims}
    if unknown:
        raise _invalid(f"Only token, {', '.join(claims)}, issued_before and reason can be named.")
    named = [name for name in ("token", *claims) if name in members]
    if len(named) > 1:
        raise _invalid("Only one target can be named.")
    token, reason = members.get("token"), members.get("reason", "")
    if "token" in members and not (isinstance(token, str) and token):
        raise _invalid("token must be a string.")
    if not isinstance(reason, str) or len(reason) > LONGEST_REASON:
        raise _invalid(f"reason must be a string of up to {LONGEST_REASON} characters.")
    claim = None
    if named and token is None:
        text = value_text(members[named[0]])
        if text is None:
            raise _invalid("A claim must be a string that is not empty, or a number.")
        claim = (named[0], text)
    return Target(token, claim, _cut_off(members, claim), reason)


def _cut_off(members: Members, claim: tuple[str, str] | None) -> int | None:
    if "issued_before" not in members:
        return None
    value = members["issued_before"]
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 12:
        value = int(value)  # a form has nothing but text
    if claim is None or type(value) is not int or value < 0:
        raise _invalid("issued_before must be whole epoch seconds and goes with a claim.")
    return value


def _invalid(detail: str) -> Problem:
    return Problem("invalid-request", detail)

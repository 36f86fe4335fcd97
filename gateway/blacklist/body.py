"""The members that a request to /blacklist has in its body."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any
from urllib.parse import parse_qsl

from gateway.http.body import FORM, JSON, media_type, read_whole
from gateway.http.problems import Problem
from gateway.http.strict_json import Number, describe_fault, json_object, unique_members
from gateway.http.values import number_text, value_text
from gateway.http.wsgi import Environ

LARGEST_BODY = 64 * 1024  # bytes

Members = dict[str, Any]


class Typed(str):
    """Text from where all is text (a form, a query, a command line): it may mean a number."""

    __slots__ = ()


def body_members(environ: Environ) -> Generator[bytes, None, Members]:
    """Return the members of the JSON object or form in the body; none for an empty body, whatever its type says.

    To be called with `yield from`: it pauses until the body is there.
    Raises `Problem` payload-too-large, unsupported-media-type or invalid-request.
    """
    body = yield from read_whole(environ, LARGEST_BODY)
    if not body:
        return {}
    kind = media_type(environ)
    if kind not in (JSON, FORM):
        raise Problem(
            "unsupported-media-type", f"The body must be {JSON} or {FORM}.", fields=[("Accept", f"{JSON}, {FORM}")]
        )
    members = _json(body) if kind == JSON else _form(body)
    if not members.keys() - {"token_type_hint"}:
        raise invalid("The body names nothing.")
    return members


def restate(value: Any) -> Any:
    """Return a request's member as it can be written again without losing a digit: else as text."""
    if not isinstance(value, Number):
        return value
    text = value_text(value)
    if text and "." not in text and "e" not in text:
        return int(text)
    return value if text == number_text(repr(float(value))) else text


def _json(body: bytes) -> Members:
    try:
        return json_object(body)
    except json.JSONDecodeError as error:
        raise invalid(f"The body is not JSON: {describe_fault(error)}.") from error
    except UnicodeDecodeError as error:
        raise invalid("The body is not UTF-8.") from error
    except ValueError as error:
        raise invalid(f"The body is not one JSON object with unique members: {error}.") from error


def _form(body: bytes) -> Members:
    try:
        text = body.decode().rstrip("\r\n")  # a file's line end; one of a value's is encoded
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")
        return unique_members([(name, Typed(value)) for name, value in pairs])
    except ValueError as error:
        hint = f" JSON needs Content-Type: {JSON}." if body.lstrip().startswith(b"{") else ""
        raise invalid(f"The body is not one form with unique members.{hint}") from error


def invalid(detail: str) -> Problem:
    """Return the refusal of a request whose target is not clear."""
    return Problem("invalid-request", detail)

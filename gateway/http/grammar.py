"""The rules of HTTP's grammar that more than one room needs, each once."""

from __future__ import annotations

import re

from gateway.http.cache import bounded_cache

# RFC 9110 section 5.6.2: the characters of a token, to be put in a regular expression's brackets.
TOKEN_CHARS = r"!#$%&'*+\-.^_`|~0-9A-Za-z"  # noqa: S105 - HTTP's word, no secret
TOKEN = re.compile(rf"[{TOKEN_CHARS}]+")
# What one server takes for a line's end or a string's end and another does not (RFC 9110 section 5.5).
_WITHOUT_CONTROLS = bytes(ord("?") if (code < 32 and code != 9) or code == 127 else code for code in range(256))
_LENGTH = re.compile(r"[0-9]{1,18}")
# Atomic groups, so that no text takes more than one look at each character. Python before 3.11.5 (Debian 12 has 3.11.2)
# repeats possessive groups wrongly: `"a` is a whole quote then.
QUOTED = r'"(?>(?:[^"\\]|\\.)*)"'
_HAS_WHOLE_QUOTES = re.compile(rf'(?>(?:[^"]|{QUOTED})*)')
_ELEMENT = re.compile(rf'(?>(?:[^,"]|{QUOTED})+)')


@bounded_cache(2048)
def is_token(text: str) -> bool:
    """Return whether a text is a token, as methods and names of fields are (RFC 9110 section 5.6.2)."""
    return TOKEN.fullmatch(text) is not None


def has_control(text: bytes) -> bool:
    """Return whether there is a control character, tabs aside (RFC 9110 section 5.5)."""
    # Of a line as long as a token, a regular expression or `str.isprintable` takes twice as long.
    return text.translate(_WITHOUT_CONTROLS) != text


@bounded_cache(1024, longest=18)
def read_length(text: str) -> int | None:
    """Return the number of bytes that a Content-Length says, None where it is no number (RFC 9110 section 8.6)."""
    return int(text) if _LENGTH.fullmatch(text) else None


def elements(value: str) -> list[str]:
    """Return the elements of a list field (RFC 9110 section 5.6.1); commas in quotes divide nothing.

    Where a quote is not closed every comma divides: else whoever opened it could hide what a later writer adds.
    """
    if not value:
        return []
    is_quoted = '"' in value and _HAS_WHOLE_QUOTES.fullmatch(value)
    found = _ELEMENT.findall(value) if is_quoted else value.split(",")
    return [element for each in found if (element := each.strip(" \t"))]


@bounded_cache(2048)
def environ_key(name: str) -> str:
    """Return the key that a field has in a WSGI environ (RFC 3875 section 4.1.18)."""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


@bounded_cache(2048)
def field_name(key: str) -> str:
    """Return the name of the field that has the key, "" where it is no field's. `-` and `_` cannot be told apart."""
    name = key.removeprefix("HTTP_").replace("_", "-").title()
    return name if (key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH")) and is_token(name) else ""

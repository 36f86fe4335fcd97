"""Faults of settings as sentences: by the setting's name, and never with its value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from gateway.config.settings import PREFIX
from gateway.config.signals import ClientSettings, SignalSettings
from gateway.config.values import IssuerSettings, nearest

_MEMBERS: dict[object, type[BaseModel]] = {
    "issuers": IssuerSettings,
    "signals": SignalSettings,
    "clients": ClientSettings,
}
# In place of pydantic's own words, by its name of the fault, or that name's first part.
_WORDS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "model": "must be a JSON object",
    "tuple": "must be a list",
    "string": "must be text",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "missing": "is missing",
}


def faults(error: ValueError) -> Iterator[str]:
    """Yield one sentence for each fault in the error, naming settings as they are set, never their values."""
    if not isinstance(error, ValidationError):
        yield from str(error).splitlines()
        return
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        yield _place(fault["loc"]) + _what(fault["type"], fault["loc"], fault["msg"])


def _place(loc: tuple[Any, ...]) -> str:
    """Return the beginning of a sentence: the setting's name, and of a list the member by its number and name."""
    if not loc:
        return ""
    name, *inner = loc
    parts = [f"number {part + 1}" if isinstance(part, int) else part for part in inner]
    return ", ".join([PREFIX + str(name).upper(), *parts]) + ": "


def _what(kind: str, loc: tuple[Any, ...], message: str) -> str:
    if kind == "extra_forbidden":
        return "there is no such member" + nearest(str(loc[-1]).lower(), _MEMBERS[loc[0]].model_fields)
    words = message.removeprefix("Value error, ").replace("Input should be", "must be")
    return _WORDS.get(kind) or _WORDS.get(kind.partition("_")[0]) or re.sub("^(Value|Tuple) should", "must", words)

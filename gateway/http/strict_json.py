"""JSON as security needs it: one meaning for every reader."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`: strict UTF-8, no duplicate members, no NaN or Infinity, 1e400 included.

    Two readers of a duplicate member may take different ones; Python's own takes the last.
    Raises ValueError for anything else, also for nesting too deep to read.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=unique_members, parse_constant=_refuse, parse_float=_finite
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a mapping. Raises ValueError when a name is there twice."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is too large to be written as JSON again")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")

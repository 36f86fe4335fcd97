"""JSON as security needs it: one meaning for every reader."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any, NoReturn

LONGEST_NUMBER = 4300  # digits; Python reads no longer integer, either
_LARGEST_EXACT = 2**53  # beyond it not every whole number is a float's


class Number(float):
    """A JSON number with a fraction or an exponent; `text` is its spelling, which has all its digits."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Number:
        """Return the number. Raises ValueError where it cannot be written as JSON again, or is too long."""
        number = super().__new__(cls, text)
        if math.isinf(number) or len(text) > LONGEST_NUMBER:
            raise ValueError("a number is too large")
        number.text = text
        return number


def json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`: strict UTF-8, no duplicate members, no NaN or Infinity, 1e400 included.

    A float is a `Number`, which keeps its digits; a whole number that no float is (9007199254740993.0) is an integer.

    Two readers of a duplicate member may take different ones; Python's own takes the last.
    Raises ValueError for anything else, also for nesting too deep to read.
    """
    value = _read(data.decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def json_list(text: str) -> list[Any]:
    """Return the JSON list in `text`, as strictly as `json_object` reads. Raises ValueError for anything else."""
    value = _read(text)
    if not isinstance(value, list):
        raise ValueError("not a list")
    return value


def _read(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        if "set_int_max_str_digits" in str(error):  # advice for whoever runs Python, not for whoever asks
            raise ValueError("a number is too large") from error
        raise


def describe_fault(error: json.JSONDecodeError) -> str:
    """Return what is wrong with a text that is not JSON, and where."""
    what = error.msg.removesuffix(" at")  # of "Unterminated string starting at"
    return f"{what} at line {error.lineno}, column {error.colno}"


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a mapping. Raises ValueError when a name is there twice."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _read_number(text: str) -> Number | int:
    number = Number(text)
    if abs(number) >= _LARGEST_EXACT:
        exact = Decimal(text)
        whole = int(exact)
        if whole == exact != Decimal(repr(number)):
            return whole
    return number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=unique_members, parse_constant=_refuse, parse_float=_read_number)

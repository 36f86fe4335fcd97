"""Values of claims: the text that each is compared by, and which ones a token has.

A number with a whole value and its decimal text are one value: `7001`, `7001.0`, `7.001e3` and `"7001"` name the same
subject. All digits count, however many there are. Other text is compared as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import islice, product
from typing import Any

from gateway.http.strict_json import LONGEST_NUMBER, Number

JOIN = " & "  # between the names of claims that count together
MOST_JOINED = 1000  # values of such claims: lists of a token's can have millions together, and over 64 are refused

# A number as JSON spells it (RFC 8259 section 6): sign, whole part, fraction, exponent.
_NUMBER = re.compile(r"(-?)(0|[1-9]\d*)(?:\.(\d+))?(?:[eE]([+-]?\d+))?", re.ASCII)


def find_claim(claims: dict[str, Any], name: str) -> Any:
    """Return the claim of that name; where there is none, what the name leads to as a path with dots, or None.

    Of names that are joined (`sub & device`), the values are joined, too: all of them must be the same.
    """
    if name in claims:
        return claims[name]
    if JOIN in name:
        texts = [value_texts(find_claim(claims, each)) for each in name.split(JOIN)]
        return [join_texts(each) for each in islice(product(*texts), MOST_JOINED)]
    for end in (place for place, letter in enumerate(name) if letter == "."):
        if (
            isinstance(inner := claims.get(name[:end]), dict)
            and (found := find_claim(inner, name[end + 1 :])) is not None
        ):
            return found
    return None


def join_texts(texts: Iterable[str]) -> str:
    """Return the value of joined claims."""
    return json.dumps(list(texts), ensure_ascii=False)


def value_texts(value: object) -> list[str]:
    """Return the texts that a claim is compared by: of a list, those of every member that is a value."""
    members = value if isinstance(value, list) else [value]
    return [text for each in members if (text := value_text(each)) is not None]


def value_text(value: object) -> str | None:
    """Return the text that a claim's value is compared by, or None where it is none.

    No values are empty text, booleans, null, lists, objects, infinities and NaN.
    """
    if isinstance(value, str):
        return value or None
    if isinstance(value, float):
        return number_text(value.text if isinstance(value, Number) else repr(value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def number_text(spelling: str) -> str | None:
    """Return the one decimal text of a number that JSON spells so, without losing a digit; None for anything else."""
    found = _NUMBER.fullmatch(spelling)
    if not found or len(found[4] or "") >= LONGEST_NUMBER:
        return None
    sign, whole, fraction, exponent = found[1], found[2], found[3] or "", int(found[4] or 0)
    digits = (whole + fraction).lstrip("0")
    kept = digits.rstrip("0")
    if not kept:
        return "0"
    # The value is `kept` * 10 ** power.
    power = exponent - len(fraction) + len(digits) - len(kept)
    if abs(power) > LONGEST_NUMBER:
        return f"{sign}{kept}e{power}"
    if power >= 0:
        return sign + kept + "0" * power
    kept = kept.rjust(1 - power, "0")
    return f"{sign}{kept[:power]}.{kept[power:]}"

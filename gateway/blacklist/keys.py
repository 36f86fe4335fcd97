"""Under which key a store keeps what has been taken back, and what a claim's value is.

A number with a whole value and its decimal text are one value: `7001`, `7001.0`, `7.001e3` and `"7001"` name the same
subject. All digits count, however many there are. Other text is compared as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import re

from gateway.http.strict_json import LONGEST_NUMBER, Number

# A number as JSON spells it (RFC 8259 section 6): sign, whole part, fraction, exponent.
_NUMBER = re.compile(r"(-?)(0|[1-9]\d*)(?:\.(\d+))?(?:[eE]([+-]?\d{1,9}))?", re.ASCII)


def value_text(value: object) -> str | None:
    """Return the text that a claim's value is compared by, or None where it is none.

    No values are empty text, booleans, null, lists, objects, infinities and NaN.
    """
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return number_text(value.text if isinstance(value, Number) else repr(value))
    return None


def number_text(spelling: str) -> str | None:
    """Return the one decimal text of a number that JSON spells so, without losing a digit; None for anything else."""
    found = _NUMBER.fullmatch(spelling)
    if not found:
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


def token_key(fingerprint: str) -> str:
    """Return the key of a token's own entry; `fingerprint` is 64 hexadecimal digits."""
    return "token:" + fingerprint


def claim_key(issuer: str, name: str, text: str) -> str:
    """Return the key of a claim with this value (`value_text`): a hash, so that length, odd Unicode and NUL do no harm.

    Text keeps the key that older gateways gave it.
    """
    return _claim_key(issuer, name, text)


def legacy_claim_keys(issuer: str, name: str, text: str) -> tuple[str, ...]:
    """Return the other keys under which older gateways look for this value, and keep it.

    To them 7001, 7001.0 and "7001" were three claims. While such gateways use the same store, what is taken back is
    kept under all of these keys, and looked for under all of them. None for text that is no number's.
    """
    if len(text) > LONGEST_NUMBER or "e" in text or number_text(text) != text:
        return ()
    spellings = [float(text), *([] if "." in text else [int(text)])]
    return tuple(_claim_key(issuer, name, each) for each in spellings if abs(each) != math.inf)


def _claim_key(issuer: str, name: str, value: object) -> str:
    return "claim:" + hashlib.sha256(json.dumps([issuer, name, value]).encode()).hexdigest()

"""Under which key a store keeps an entry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import product

from gateway.http.cache import bounded_cache
from gateway.http.strict_json import LONGEST_NUMBER
from gateway.http.values import number_text


def token_key(fingerprint: str) -> str:
    """Return the key of a token's own entry; `fingerprint` is 64 hexadecimal digits."""
    return "token:" + fingerprint


def claim_key(issuer: str, name: str, value: str | float) -> str:
    """Return the key of a claim with this value (`value_text`): a hash, so that length, odd Unicode and NUL do no harm.

    Text keeps the key that older gateways gave it. Only theirs have a number for a value.
    """
    return "claim:" + hashlib.sha256(f"{_beginning((issuer, name))}{json.dumps(value)}]".encode()).hexdigest()


def legacy_claim_keys(issuer: str, name: str, text: str) -> tuple[str, ...]:
    """Return the other keys under which older gateways look for this value, and keep it.

    To them 7001, 7001.0 and "7001" were three claims. While such gateways use the same store, an entry is
    kept under all of these keys, and looked for under all of them. None for text that is no number's.
    """
    if len(text) > LONGEST_NUMBER or "e" in text or number_text(text) != text:
        return ()
    spellings = [float(text), *([] if "." in text else [int(text)])]
    # A float that stands for other numbers, too, would blacklist their tokens.
    return tuple(claim_key(issuer, name, each) for each in spellings if number_text(repr(each)) == text)


def claim_keys(issuers: Sequence[str], name: str, values: Iterable[str], *, legacy: bool) -> list[str]:
    """Return the keys of a claim with each of these values, under each of its issuer's names; `legacy` ones, too."""
    keys = []
    for issuer, value in product(issuers, values):
        keys.append(claim_key(issuer, name, value))
        if legacy:
            keys += legacy_claim_keys(issuer, name, value)
    return keys


@bounded_cache(256)
def _beginning(claim: tuple[str, str]) -> str:
    """Return the beginning of a list in JSON: an issuer and a claim's name."""
    return json.dumps(claim)[:-1] + ", "

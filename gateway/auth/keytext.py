"""The texts that public keys come in, told apart by content: PEM, JWKS, one JWK, a map of certificates."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from gateway.auth.jwk import NotForSignatures, public_key, read_jwk
from gateway.auth.keyset import MAX_TRIES, TENANT, Key, KeySet, KeysRefused, NoUsableKey
from gateway.auth.snapshot import Ignored
from gateway.http.strict_json import json_object

MAX_KEYS = 1000  # of one set

_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.+?)-----END \1-----", re.DOTALL)


def is_key_text(value: str) -> bool:
    """Return whether a setting's value is keys themselves, and not the place where they are."""
    return "-----BEGIN" in value or value.lstrip("\ufeff \t\r\n").startswith("{")


def read_keys(text: bytes, allowed: frozenset[str]) -> tuple[KeySet, list[Ignored]]:
    """Return the usable keys in a text, and why each of the others is ignored, by number and kid.

    Raises NoUsableKey when none is, KeysRefused for what is no text of keys. Of a PEM file none is ever ignored.
    """
    text = text.removeprefix(codecs.BOM_UTF8)
    if b"-----BEGIN" in text and not text.lstrip().startswith(b"{"):
        return KeySet(_read_pem(text.decode("utf-8", "replace"), allowed)), []
    members = read_object(text)
    if "keys" in members:
        return _read_all("of the JWKS", *_split_jwks(members["keys"], partial(read_jwk, allowed=allowed)))
    if "kty" in members:
        return _read_all("of the JWK", [(members.get("kid"), partial(read_jwk, members, allowed))], [])
    if members and all(isinstance(value, str) and "-----BEGIN" in value for value in members.values()):
        return _read_all("of the certificates", *_split_map(members, allowed))
    raise KeysRefused("the JSON object is no key set: it has neither 'keys' nor 'kty', and is no map of certificates")


def read_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object in the text. Raises KeysRefused with what was found in its place."""
    text = text.removeprefix(codecs.BOM_UTF8).strip()
    if not text:
        raise KeysRefused("the key set is empty")
    if text.startswith(b"<"):
        raise KeysRefused("the key set is HTML or XML: is it a page for people?")
    try:
        return json_object(text)
    except UnicodeDecodeError as error:
        raise KeysRefused("the key set is not UTF-8") from error
    except ValueError as error:
        what = "is not one JSON object with unique members" if text[:1] in b"{[" else "is neither PEM nor JSON"
        raise KeysRefused(f"the key set {what}") from error


Source = tuple[Any, Callable[[], Key]]  # a kid, for the log, and what reads the key


def _split_jwks(members: Any, read: Callable[[Any], Key]) -> tuple[list[Source], list[Ignored]]:
    if not isinstance(members, list):
        raise KeysRefused("the JWKS's member 'keys' is no list")
    rest = [Ignored(f"the JWKS has more than {MAX_KEYS} keys: the rest")] if len(members) > MAX_KEYS else []
    kids = [member.get("kid") if isinstance(member, dict) else None for member in members]
    return [(kid, partial(read, member)) for kid, member in zip(kids, members[:MAX_KEYS], strict=False)], rest


def _split_map(members: dict[str, str], allowed: frozenset[str]) -> tuple[list[Source], list[Ignored]]:
    """Read what Google publishes for Firebase: certificates by kid."""
    if len(members) > MAX_KEYS:
        raise KeysRefused(f"there are more than {MAX_KEYS} certificates")
    return [(kid, partial(_read_certificate, kid, text, allowed)) for kid, text in members.items()], []


def _read_certificate(kid: str, text: str, allowed: frozenset[str]) -> Key:
    blocks = list(_PEM_BLOCK.finditer(text))
    if len(blocks) != 1:
        raise KeysRefused(f"holds {len(blocks)} PEM blocks, not 1")
    return public_key(kid, _load_pem(*blocks[0].groups()), allowed)


def _read_all(of: str, sources: list[Source], ignored: list[Ignored]) -> tuple[KeySet, list[Ignored]]:
    keys: list[Key] = []
    shared: Counter[str] = Counter()
    for number, (kid, read) in enumerate(sources, 1):
        try:
            key = read()
            shared.update([key.kid] if key.kid is not None else [])
            if key.kid is not None and shared[key.kid] > MAX_TRIES:
                raise KeysRefused(f"is one of more than {MAX_TRIES} with this kid")
            keys.append(key)
        except KeysRefused as fault:
            named = "" if kid is None else f" (kid {str(kid)[:80]!r})"
            ignored.append(Ignored(f"key {number}{named} {of} {fault}", isinstance(fault, NotForSignatures)))
    if not keys:
        raise NoUsableKey("; ".join(["there is no usable key", *(reason for reason, _ in ignored[:MAX_TRIES])]))
    return KeySet(_bind_to_tenants(keys)), ignored


def _bind_to_tenants(keys: list[Key]) -> list[Key]:
    """Return the keys with an issuer where they are one tenant's alone, as in Entra's set for all tenants.

    There a key that signs for every tenant has an issuer with `{tenantid}`. In any other set the member means nothing.
    """
    is_for_all = [TENANT in (key.issuer or "") for key in keys]
    return [
        replace(key, issuer=None) if is_any or not any(is_for_all) else key
        for key, is_any in zip(keys, is_for_all, strict=True)
    ]


def _read_pem(text: str, algorithms: Iterable[str]) -> list[Key]:
    """Return the keys of public keys and certificates, in their order. Raises KeysRefused when one is unusable."""
    blocks = list(_PEM_BLOCK.finditer(text))
    if not 1 <= len(blocks) <= MAX_TRIES:
        raise KeysRefused(f"there must be 1 to {MAX_TRIES} PEM public keys, not {len(blocks)}")
    keys = []
    for number, block in enumerate(blocks, 1):
        try:
            keys.append(public_key(None, _load_pem(*block.groups()), algorithms))
        except KeysRefused as fault:
            raise KeysRefused(f"PEM key {number} {fault}") from fault
    return keys


def _load_pem(label: str, body: str) -> Any:
    if "PRIVATE" in label:
        raise KeysRefused("is private; only its public half is needed here")
    # In a variable the line ends of PEM become blanks, or `\n` as two letters, or are lost.
    lines = "\n".join(body.replace("\\r", "").replace("\\n", "\n").split())
    block = f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n".encode()
    try:
        return load_pem_x509_certificate(block).public_key() if label == "CERTIFICATE" else load_pem_public_key(block)
    except Exception as error:
        raise KeysRefused(f"({label}) cannot be read") from error

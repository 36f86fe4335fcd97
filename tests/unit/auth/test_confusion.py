"""Key confusion: a public key, in any form, never serves as an HMAC secret, nor one key as another's.

The attack (CVE-2015-9235, CVE-2022-29217): everybody has the public key; a verifier that lets the
token pick the algorithm takes HS256 over its text for a signature.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from provider import Signer, jwks, pem, signer

from gateway.auth.keys import build_keys
from gateway.auth.keyset import ALGORITHMS, ASYMMETRIC, KeySet, KeysRefused

SIGNED = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJyb290In0"
HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
SIGNERS = [signer(algorithm, "a") for algorithm in ("RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA")]


def forms(each: Signer) -> dict[str, bytes]:
    """Return every form in which anybody can get the public key."""
    public, text = each.key.public_key(), pem(each.key)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    body, jwk = b"".join(text.splitlines()[1:-1]), each.jwk()
    found = {
        "PEM": text,
        "PEM without its last newline": text.rstrip(b"\n"),
        "PEM with CRLF": text.replace(b"\n", b"\r\n"),
        "PEM as one line": text.replace(b"\n", b""),
        "PEM with escaped newlines": text.replace(b"\n", b"\\n"),
        "PEM body": body,
        "PEM body in lines": b"\n".join(text.splitlines()[1:-1]),
        "base64 of PEM": base64.b64encode(text),
        "DER": der,
        "DER in hexadecimal": der.hex().encode(),
        "JWK": json.dumps(jwk).encode(),
        "compact JWK": json.dumps(jwk, separators=(",", ":")).encode(),
        "sorted JWK": json.dumps(jwk, separators=(",", ":"), sort_keys=True).encode(),
        "JWKS": jwks(each),
        "SSH": public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        "kid": str(each.kid).encode(),
        "null byte": b"\0",
        "nothing": b"",
    }
    return found | {f"member {name}": value.encode() for name, value in jwk.items() if isinstance(value, str)}


def forged(secret: bytes) -> dict[str, bytes]:
    return {name: hmac.digest(secret, SIGNED, made_with) for name, made_with in HASHES.items()}


def passes(keys: KeySet, algorithm: str, signature: bytes) -> bool:
    return any(
        key.verifies(algorithm, SIGNED, signature) for kid in ("a", None) for key in keys.candidates(kid, algorithm)
    )


@pytest.fixture(params=["PEM", "JWKS", "JWKS without alg", "JWKS without kid"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Signer], KeySet]:
    """Return a maker of key sets that hold one signer's public key, from each kind of source."""

    def build(each: Signer) -> KeySet:
        jwk = each.jwk(
            alg=None if request.param == "JWKS without alg" else each.algorithm,
            kid=None if request.param == "JWKS without kid" else each.kid,
        )
        path = tmp_path / "keys"
        path.write_bytes(pem(each.key) if request.param == "PEM" else jwks(jwk))
        given: dict[str, Any] = {"public_key": None, "jwks_url": None}
        given["public_key" if request.param == "PEM" else "jwks_url"] = str(path)
        return build_keys(secrets=(), algorithms=(), issuer="x", **given).current()

    return build


@pytest.mark.parametrize("each", SIGNERS, ids=lambda each: each.algorithm)
def test_hmac_over_a_public_key_in_any_form_never_passes(each: Signer, source: Callable[[Signer], KeySet]) -> None:
    keys = source(each)
    assert passes(keys, each.algorithm, ALGORITHMS[each.algorithm].sign(SIGNED, each.key))
    for form, secret in forms(each).items():
        for algorithm, signature in forged(secret).items():
            assert not keys.candidates("a", algorithm)
            for named in (*HASHES, *ASYMMETRIC, "none", "None", "", "hs256"):
                assert not passes(keys, named, signature), (form, algorithm, named)


@pytest.mark.parametrize("each", SIGNERS, ids=lambda each: each.algorithm)
def test_even_a_key_reached_past_the_set_refuses_hmac(each: Signer, source: Callable[[Signer], KeySet]) -> None:
    (key,) = source(each).candidates(None, each.algorithm)
    for secret in forms(each).values():
        for algorithm, signature in forged(secret).items():
            assert not key.verifies(algorithm, SIGNED, signature)


@pytest.mark.parametrize("each", SIGNERS, ids=lambda each: each.algorithm)
def test_no_key_verifies_what_another_algorithm_signed(each: Signer, source: Callable[[Signer], KeySet]) -> None:
    keys = source(each)
    for other in SIGNERS:
        signature = ALGORITHMS[other.algorithm].sign(SIGNED, other.key)
        for named in (*HASHES, *ASYMMETRIC, "none"):
            its_own = other is each and named in (each.algorithm, {"EdDSA": "Ed25519"}.get(each.algorithm))
            assert passes(keys, named, signature) is its_own, (other.algorithm, named)


# A secret's own side: what is a key's text is refused at start, so that a public text never is a secret.

KEYS_BY_THEIR_LOOKS = [
    "PEM", "PEM without its last newline", "PEM with CRLF", "PEM as one line", "PEM with escaped newlines", "PEM body",
    "PEM body in lines", "base64 of PEM", "JWK", "compact JWK", "sorted JWK", "JWKS", "SSH",
]  # fmt: skip


@pytest.mark.parametrize("form", KEYS_BY_THEIR_LOOKS)
@pytest.mark.parametrize("each", SIGNERS, ids=lambda each: each.algorithm)
def test_a_public_key_configured_as_a_secret_is_refused(each: Signer, form: str) -> None:
    with pytest.raises(KeysRefused, match="is the text of a key"):
        build_keys(
            secrets=[forms(each)[form].decode()], public_key=None, jwks_url=None, algorithms=["HS256"], issuer="x"
        )


def test_neither_an_empty_signature_nor_an_empty_secret_passes_for_hmac() -> None:
    keys = build_keys(secrets=["secret"], public_key=None, jwks_url=None, algorithms=list(HASHES), issuer="x").current()
    for algorithm, signature in forged(b"").items():
        for made in (signature, b"", b"\0" * len(signature), forged(b"secret")[algorithm][:-1]):
            assert not passes(keys, algorithm, made)
        assert passes(keys, algorithm, forged(b"secret")[algorithm])
        for other in set(HASHES) - {algorithm}:
            assert not passes(keys, other, forged(b"secret")[algorithm])


# An ES256 signature of zeros verified everywhere in one well-known verifier (CVE-2022-21449).
@pytest.mark.parametrize("each", SIGNERS, ids=lambda each: each.algorithm)
def test_a_blank_signature_never_passes(each: Signer, source: Callable[[Signer], KeySet]) -> None:
    keys = source(each)
    size = len(ALGORITHMS[each.algorithm].sign(SIGNED, each.key))
    for blank in (b"", b"\0" * size, b"\xff" * size, b"\0" * (size - 1) + b"\1"):
        assert not passes(keys, each.algorithm, blank)

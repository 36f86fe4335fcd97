"""Key sets as identity providers write them: members, order, nulls and what else stands beside the signature keys."""

import base64
import datetime
import hashlib
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from helpers import b64
from provider import Signer, private_key, signer

Members = dict[str, Any]


@cache
def certificate_of(kid: str) -> x509.Certificate:
    """Return a self-signed certificate of the RSA key of that kid."""
    key, name = private_key("RS256", kid), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keys of the tests")])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .sign(key, hashes.SHA256())
    )


def with_certificate(jwk: Members, kid: str) -> Members:
    """Return the JWK with the members of its certificate (RFC 7517 sections 4.7 to 4.9)."""
    der = certificate_of(kid).public_bytes(Encoding.DER)
    thumbprints = {"x5t": b64(hashlib.sha1(der).digest()), "x5t#S256": b64(hashlib.sha256(der).digest())}
    return {**jwk, "x5c": [base64.b64encode(der).decode()], **thumbprints}


def keycloak(*keys: Signer) -> Members:
    enc = {**signer("RS256", "encryption").jwk(), "alg": "RSA-OAEP", "use": "enc"}
    signing = [with_certificate(key.jwk(), str(key.kid)) for key in keys]
    return {"keys": [with_certificate(enc, "encryption"), *signing]}


def auth0(*keys: Signer) -> Members:
    made = [with_certificate(key.jwk(), str(key.kid)) for key in keys]
    return {
        "keys": [{name: jwk[name] for name in ("kty", "use", "n", "e", "kid", "x5t", "x5c", "alg")} for jwk in made]
    }


def plain(*keys: Signer) -> Members:
    """Okta, Cognito, Google, Apple and ZITADEL differ in the order of the members alone."""
    return {"keys": [key.jwk() for key in keys]}


def entra(*keys: Signer) -> Members:
    made = [with_certificate(key.jwk(), str(key.kid)) for key in keys]
    own = {"cloud_instance_name": "microsoftonline.com", "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0"}
    return {"keys": [{name: jwk[name] for name in ("kty", "use", "kid", "x5t", "n", "e", "x5c")} | own for jwk in made]}


def firebase(*keys: Signer) -> Members:
    return {str(key.kid): certificate_of(str(key.kid)).public_bytes(Encoding.PEM).decode() for key in keys}


def supabase(*keys: Signer) -> Members:
    return {"keys": [{**key.jwk(), "ext": True, "key_ops": ["verify"]} for key in keys]}


def dotnet(*keys: Signer) -> Members:
    """What .NET's JsonWebKeySet writes: every member it knows, null or empty where there is nothing."""
    names = ("alg", "crv", "d", "dp", "dq", "e", "k", "kid", "kty", "n", "p", "q", "qi", "use", "x", "x5t", "x5t#S256")
    names += ("x5u", "y")
    empty = dict.fromkeys(names, None) | {"key_ops": [], "x5c": [], "oth": []}
    return {"keys": [{**empty, **key.jwk()} for key in keys]}


def java(*keys: Signer) -> Members:
    """What Java's BigInteger gives, signed and padded, and no kid."""
    made = []
    for key in keys:
        jwk = {name: value for name, value in key.jwk().items() if name not in ("kid", "use")}
        for name in {"n", "e"} & jwk.keys():
            number = base64.urlsafe_b64decode(jwk[name] + "==")
            jwk[name] = base64.urlsafe_b64encode(b"\0" + number).decode()
        made.append({**jwk, "kid": "", "key_ops": None})
    return {"keys": made}


SHAPES: dict[str, Callable[..., Members]] = {
    "keycloak": keycloak,
    "auth0": auth0,
    "okta": plain,
    "entra": entra,
    "cognito": plain,
    "google-firebase": firebase,
    "supabase": supabase,
    "apple": plain,
    "zitadel": plain,
    "dotnet": dotnet,
    "java": java,
}


def key_set(shape: str, *keys: Signer) -> str:
    """Return the text of a key set in a provider's shape."""
    return json.dumps(SHAPES[shape](*keys), indent=2)

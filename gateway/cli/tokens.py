"""gateway token: mint a token to try things with."""

from __future__ import annotations

import json
import time
import uuid
import warnings
from pathlib import Path
from typing import Any

import click
import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.auth.jwk import public_key
from gateway.auth.keyset import ALGORITHMS, ASYMMETRIC, CURVES, HMAC, KeysRefused
from gateway.auth.secrets import secret_bytes
from gateway.cli.options import with_settings
from gateway.config.public_secret import refuse_public_secret
from gateway.config.settings import Settings, issuer_settings
from gateway.config.values import IssuerSettings

_USUAL = ("RS256", "EdDSA")
_SIGNER = jwt.PyJWS()
for _name in CURVES:  # RFC 9864's names, which PyJWT does not know
    _SIGNER.register_algorithm(_name, ALGORITHMS[_name])


@click.command()
@with_settings("issuer", "secret", "algorithms", "audience", "issuers")
@click.option("--sub", default="1001", show_default=True, help="the subject")
@click.option("--scope", help="scopes, space-separated, such as blacklist:admin")
@click.option("--lifetime", type=int, default=3600, show_default=True, help="seconds until it expires; may be negative")
@click.option(
    "--claim", "claims", multiple=True, metavar="NAME=JSON", help="one more claim; text that is not JSON is a string"
)
@click.option(
    "--key", type=click.Path(exists=True, dir_okay=False), help="PEM private key to sign with instead of the secret"
)
@click.option("--kid", help="key id for the header")
@click.option("--header", is_flag=True, help="print it as the line `Authorization: Bearer …`, for curl -H @FILE")
def token(  # noqa: PLR0913 - one for each option
    settings: Settings,
    *,
    sub: str,
    scope: str | None,
    lifetime: int,
    claims: tuple[str, ...],
    key: str | None,
    kid: str | None,
    header: bool,
) -> None:
    """Mint a token to try things with. It is signed with the first secret and algorithm."""
    named = {"sub": sub, **({"scope": scope} if scope else {}), **dict(read_claim(claim) for claim in claims)}
    text = mint(settings, named, lifetime=lifetime, key=Path(key).read_bytes() if key else None, kid=kid)
    click.echo(f"Authorization: Bearer {text}" if header else text)


def mint(
    settings: Settings, claims: dict[str, Any], *, lifetime: int, key: bytes | None = None, kid: str | None = None
) -> str:
    """Return a token of the first issuer with these claims, valid from now for `lifetime` seconds.

    `key` is a private key in PEM; without one the first secret signs. Raises click's UsageError where neither can.
    """
    now = int(time.time())
    issuer = issuer_settings(settings)[0]
    payload = {"iss": issuer.issuer, "iat": now, "exp": now + lifetime, "jti": uuid.uuid4().hex}
    if issuer.audience:
        payload["aud"] = issuer.audience[0]
    if key is None:
        refuse_public_secret(settings)
    signing_key, algorithm = _by_secret(issuer) if key is None else _by_private_key(issuer, key)
    text = json.dumps(payload | claims, separators=(",", ":")).encode()
    with warnings.catch_warnings(action="ignore"):  # a weak secret is warned of by the gateway
        return _SIGNER.encode(text, signing_key, algorithm, headers={"kid": kid} if kid else None)


def _by_secret(issuer: IssuerSettings) -> tuple[bytes, str]:
    """Return the newest secret and the first algorithm that goes with it."""
    algorithm = next((name for name in issuer.algorithms or ("HS256",) if name in HMAC), None)
    if not issuer.secret or algorithm is None:
        raise click.UsageError(f"no shared secret signs for {issuer.issuer}: give a private key with --key")
    return secret_bytes(issuer.secret[0].get_secret_value()), algorithm


def _by_private_key(issuer: IssuerSettings, pem: bytes) -> tuple[Any, str]:
    """Return the key and the issuer's first algorithm that fits it; of an issuer that names none, the usual one."""
    try:
        private: Any = load_pem_private_key(pem, None)
    except TypeError as error:
        raise click.UsageError("the key of --key has a password: decrypt it first, `openssl pkey -in KEY`") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise click.UsageError("the file of --key is no private key in PEM") from error
    named = [name for name in issuer.algorithms if name in ASYMMETRIC]
    try:
        fitting = public_key(None, private.public_key(), named or ASYMMETRIC).algorithms
    except (KeysRefused, AttributeError) as error:  # AttributeError: a key for encryption alone
        raise click.UsageError(f"the key of --key {error}") from error
    return private, next(name for name in (*named, *_USUAL, *sorted(fitting)) if name in fitting)


def read_claim(text: str) -> tuple[str, Any]:
    """Return name and value of NAME=JSON; a value that is not JSON is a string."""
    name, value = split_claim(text)
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def split_claim(text: str) -> tuple[str, str]:
    """Return name and text of NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter("must be NAME=VALUE", param_hint="--claim")
    return name, value

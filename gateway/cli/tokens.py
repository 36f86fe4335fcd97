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

from gateway.auth.secrets import secret_bytes
from gateway.cli.options import with_settings
from gateway.config.public_secret import refuse_public_secret
from gateway.config.settings import Settings


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
    text = minted(settings, named, lifetime=lifetime, key=key and Path(key).read_text(), kid=kid)
    click.echo(f"Authorization: Bearer {text}" if header else text)


def minted(
    settings: Settings, claims: dict[str, Any], *, lifetime: int, key: str | None = None, kid: str | None = None
) -> str:
    """Return a token of the first issuer with these claims, valid from now for `lifetime` seconds."""
    now = int(time.time())
    issuer = settings.issuers[0] if settings.issuers else settings
    payload = {"iss": issuer.issuer, "iat": now, "exp": now + lifetime, "jti": uuid.uuid4().hex}
    if issuer.audience:
        payload["aud"] = issuer.audience[0]
    if key is None:
        refuse_public_secret(settings)
    signing_key = key or (secret_bytes(issuer.secret[0].get_secret_value()) if issuer.secret else None)
    if signing_key is None:
        raise click.UsageError("this issuer has no shared secret: give a private key with --key")
    algorithm = issuer.algorithms[0] if issuer.algorithms else "HS256"
    try:
        with warnings.catch_warnings(action="ignore"):  # a weak secret is warned of by the gateway
            return jwt.encode(payload | claims, signing_key, algorithm, headers={"kid": kid} if kid else None)
    except (jwt.PyJWTError, TypeError, ValueError) as error:
        raise click.UsageError(
            f"cannot sign with {algorithm}: {type(error).__name__}; give a private key with --key"
        ) from error


def read_claim(text: str) -> tuple[str, Any]:
    """Return name and value of NAME=JSON; a value that is not JSON is a string."""
    name, value = split_claim(text)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def split_claim(text: str) -> tuple[str, str]:
    """Return name and text of NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter("must be NAME=VALUE", param_hint="--claim")
    return name, value

"""Secrets that must not be in force: the public one, the assignment's, and parts that were cut out of one."""

from __future__ import annotations

from gateway.auth.keyset import KeysRefused
from gateway.auth.secrets import weak_secrets
from gateway.config.files import env_file, env_file_values
from gateway.config.settings import PREFIX, PUBLIC_SECRET, SECRETS_DIR, Settings
from gateway.config.values import IssuerSettings, Part


def refuse_public_secret(settings: Settings, *, in_process: bool = False) -> None:
    """Raise KeysRefused where nobody set a secret, and the public one would be in force for an issuer of one's own.

    In process that goes for every issuer, as no demonstration runs there; and so it does where ISSUERS is an empty
    list.
    """
    uses_default = not (settings.issuers or settings.public_key or settings.jwks_url)
    has_issuer = settings.issuer != Settings.model_fields["issuer"].default or "issuers" in settings.model_fields_set
    if uses_default and (in_process or has_issuer) and "secret" not in settings.model_fields_set:
        raise KeysRefused(
            f"issuer {settings.issuer!r}: no secret is set, and the default one is public, so that anybody could sign "
            "tokens: set GATEWAY_SECRET, 32 random bytes, or the issuer's public keys" + _named_without_prefix()
        )


def _named_without_prefix() -> str:
    """Return a hint at what stands in the env file, or among the Docker secrets, under half of its name."""
    files = (path.name for path in SECRETS_DIR.glob("*"))
    given = {name.upper(): name for name in (*env_file_values(env_file()), *files)}
    meant = [given[name] for name in ("SECRET", "SECRET_FILE", "PUBLIC_KEY", "JWKS_URL", "ISSUERS") if name in given]
    return f" ({meant[0]} sets nothing; did you mean {PREFIX}{meant[0].upper()}?)" if meant else ""


def refuse_weak_parts(issuer: IssuerSettings) -> None:
    """Raise KeysRefused for a secret that is too short to be one, and was cut out of a text at a comma."""
    for number, secret in enumerate(issuer.secret, 1):
        text = secret.get_secret_value()
        if isinstance(secret, Part) and text != PUBLIC_SECRET and _is_weak(text, issuer):
            raise KeysRefused(
                f"issuer {issuer.issuer!r}: secret {number} has {len(text)} characters, and was cut out at a comma: "
                "is the comma part of a secret? Then write a JSON list, or a file with one secret a line"
            )


def _is_weak(text: str, issuer: IssuerSettings) -> bool:
    try:
        return weak_secrets([text], issuer.algorithms or ("HS256",)) > 0
    except ValueError:
        return False  # what is no base64 is refused when the keys are built

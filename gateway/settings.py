"""Every setting, read once, checked once, all faults reported together.

Sources, strongest first: keyword arguments (the command line's flags), files named by
`GATEWAY_*_FILE` (an image may have set the plain variable), the environment (`GATEWAY_*`),
an env file, Docker secrets (`/run/secrets/gateway_*`), the default.
"""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.named_files import NamedFiles, Unreadable

PREFIX = "GATEWAY_"
SECRETS_DIR = "/run/secrets"
PUBLIC_SECRET = "discogs"  # noqa: S105 - the assignment's, printed in its own text


def _listed(value: object) -> object:
    """Read `a, b` or a JSON list (for members with a comma in them) as a list; null, in JSON, is an empty one."""
    if value is None:
        return ()
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.replace("\n", ",").split(",") if part.strip()]


Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_listed)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")]


class IssuerSettings(BaseModel):
    """One member of ISSUERS: who signs, with what, and for whom."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: Annotated[str, Field(min_length=1)]
    secret: Annotated[tuple[SecretStr, ...], BeforeValidator(_listed)] = ()
    public_key: str | None = None
    jwks_url: str | None = None
    algorithms: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    audience: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()


class Settings(BaseSettings):
    """What can be set; each field's description is its line of help.

    Raises pydantic's ValidationError, which lists every fault, ValueError for an env file that is
    not there, and TypeError for a name that is none.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",
        frozen=True,
        secrets_dir=SECRETS_DIR if Path(SECRETS_DIR).is_dir() else None,
        hide_input_in_errors=True,
    )

    upstream: str = Field("http://127.0.0.1:35001", description="base URL of the service behind; its path is a prefix")
    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104 - it is a gateway
    port: int = Field(35000, ge=0, le=65535, description="port to listen on")
    workers: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=256, description="worker processes"
    )
    threads: int = Field(8, ge=1, le=256, description="threads of each worker")
    queue_timeout: Seconds = Field(5, description="seconds a request may wait for a thread before it is refused")
    drain_timeout: Seconds = Field(30, description="seconds in which requests in flight may finish at shutdown")

    issuer: str = Field("https://www.discogs.com/", min_length=1, description="the iss a token must have")
    secret: Secrets = Field(
        (SecretStr(PUBLIC_SECRET),), description="shared HMAC secrets, newest first, comma-separated"
    )
    algorithms: Listed = Field(("HS256",), min_length=1, description="allowed signature algorithms, of one family")
    public_key: str | None = Field(None, description="file with PEM public keys")
    jwks_url: str | None = Field(None, description="URL or file of a JWKS, or an OpenID configuration's URL")
    jwks_ca: str | None = Field(None, description="file of CA certificates for the JWKS's host")
    issuers: Annotated[tuple[IssuerSettings, ...], NoDecode, BeforeValidator(_listed)] = Field(
        (), description="several issuers: a JSON list of objects"
    )
    audience: Listed = Field((), description="accepted aud values; aud is checked only when set")
    leeway: float = Field(0, ge=0, le=300, description="seconds of clock difference to tolerate")
    max_token_bytes: int = Field(8192, ge=64, le=65536, description="longest token accepted")

    store: str = Field(
        "sqlite:///blacklist.sqlite3", description="where the blacklist lives: sqlite:///, redis://, rediss://, unix://"
    )
    replicas: int = Field(0, ge=0, description="Redis replicas that must have a change before it is answered")
    accept_lossy_store: bool = Field(False, description="start although the Redis server may evict or forget entries")
    blacklist_claims: Listed = Field(("jti", "sub", "sid"), description="claims that can be blacklisted")
    admin_scope: str = Field(
        "blacklist:admin",
        min_length=1,
        pattern=r"^[!#-\[\]-~]+$",
        description="scope that claim entries, lists and RESTORE=admin ask for",
    )
    restore: Literal["holder", "admin"] = Field("holder", description="who may lift a token's entry")
    max_token_age: int | None = Field(None, ge=1, description="seconds after which claim entries are forgotten")

    annotate: Listed = Field(("/info",), description="paths whose JSON gains request and token")
    public_paths: Listed = Field((), description="paths that need no token: exact, or a prefix ending in /*")
    pass_preflight: bool = Field(False, description="let CORS preflights through without a token")
    claims_field: FieldName = Field(
        "X-Token-Claims", description="request field for the upstream: the claims, base64url JSON"
    )
    subject_field: FieldName = Field("X-Token-Subject", description="request field for the upstream: sub")
    forward_authorization: bool = Field(True, description="send the Authorization field on")
    trusted_proxies: int = Field(0, ge=0, le=16, description="hops of X-Forwarded-* to believe")
    preserve_host: bool = Field(True, description="send the client's Host on")
    connect_timeout: Seconds = Field(3, description="seconds to connect to the upstream")
    read_timeout: Seconds = Field(60, description="seconds the upstream may stay silent")
    upstream_ca: str | None = Field(None, description="file of CA certificates for an https upstream")
    upstream_cert: str | None = Field(None, description="file with client certificate and key for an https upstream")

    console: bool = Field(False, description="serve the console at /-/console")
    metrics_port: int | None = Field(None, ge=0, le=65535, description="port for Prometheus metrics")
    log_format: Literal["json", "text"] = Field("json", description="json or text")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")

    def __init__(self, **values: Any) -> None:
        # Ignored, a misspelt secret would leave the public one in force. Pydantic's own names begin with `_`.
        for name in values:
            if name not in Settings.model_fields and not name.startswith("_"):
                raise TypeError(f"there is no setting {name!r}")
        super().__init__(**{"_env_file": _env_file(), **values})

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Leave out what is set to nothing, except the secret: a deployment that lost it must not get the example."""
        return {name: value for name, value in values.items() if value != "" or name == "secret"}

    @field_validator("*", mode="before")
    @classmethod
    def _was_read(cls, value: object) -> object:
        if isinstance(value, Unreadable):
            raise ValueError(value.fault)
        return value

    @field_validator("upstream")
    @classmethod
    def _is_http_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.query
            or parts.fragment
            or parts.username
        ):
            raise ValueError("must be an http:// or https:// URL without user, query or fragment")
        return value.rstrip("/")

    @field_validator("secret")
    @classmethod
    def _has_a_secret(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not value or not all(secret.get_secret_value() for secret in value):
            raise ValueError("must not be empty")
        return value

    @field_validator("annotate", "public_paths")
    @classmethod
    def _are_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not path.startswith("/") for path in value):
            raise ValueError("every path must begin with /")
        return value

    @field_validator("issuers")
    @classmethod
    def _differ(cls, value: tuple[IssuerSettings, ...]) -> tuple[IssuerSettings, ...]:
        if len({issuer.issuer for issuer in value}) < len(value):
            raise ValueError("every issuer must be there once")
        return value

    @field_validator("subject_field")
    @classmethod
    def _is_another_field(cls, value: str, info: ValidationInfo) -> str:
        if value.lower() == info.data.get("claims_field", "").lower():
            raise ValueError("must not be the field of the claims")
        return value

    @field_validator("metrics_port")
    @classmethod
    def _is_another_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and value == info.data.get("port"):
            raise ValueError("must not be the port of the gateway")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources."""
        return init_settings, NamedFiles(settings_cls), env_settings, dotenv_settings, file_secret_settings


def _env_file() -> str:
    """Return the env file's path. Raises ValueError if one is named but not there: pydantic would pass over it."""
    path = os.environ.get("GATEWAY_ENV_FILE")
    if path and not os.path.exists(path):
        raise ValueError(f"GATEWAY_ENV_FILE: cannot read {path}")
    return path or ".env"


def misspelled() -> list[str]:
    """Return a sentence for each `GATEWAY_*` variable that sets nothing, with the nearest right name."""
    known = [name.upper() for name in Settings.model_fields]
    known += [name + "_FILE" for name in known] + ["ENV_FILE"]
    named = [name.removeprefix(PREFIX) for name in os.environ if name.startswith(PREFIX)]
    return [_misspelled(name, difflib.get_close_matches(name, known, 1)) for name in named if name not in known]


def _misspelled(name: str, nearest: list[str]) -> str:
    return f"{PREFIX}{name} sets nothing" + "".join(f"; did you mean {PREFIX}{right}?" for right in nearest)

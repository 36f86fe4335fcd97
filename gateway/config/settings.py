"""Every setting, read once, checked once, all faults reported together.

Sources, strongest first: keyword arguments (the command line's flags), files named by
`GATEWAY_*_FILE` (an image may have set the plain variable), the environment (`GATEWAY_*`),
an env file, Docker secrets (`/run/secrets/gateway_*`), the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.config.files import DockerSecrets, NamedFiles, Unreadable, WhatIsSet, env_file, env_file_fault
from gateway.config.signals import Clients, Signals, check_clients, check_signals
from gateway.config.values import (
    NONE,
    ClaimNames,
    FieldName,
    Hosts,
    HttpProxy,
    HttpUrl,
    Issuers,
    IssuerSettings,
    Listed,
    MetricsHost,
    Origins,
    Paths,
    Requirements,
    ResourceUrl,
    Scope,
    Seconds,
    Secrets,
    Upgrades,
    count_cores,
    nearest,
)

PREFIX = "GATEWAY_"
SECRETS_DIR = Path("/run/secrets")
PUBLIC_SECRET = "discogs"  # noqa: S105 - the assignment's, printed in its own text
LOOPBACK = ("127.0.0.1", "::1", "localhost")
OF_ONE_ISSUER = ("issuer", "secret", "algorithms", "public_key", "jwks_url", "audience")


class Settings(BaseSettings):
    """What can be set; each field's description is its line of help.

    Raises pydantic's ValidationError, which lists every fault, ValueError for an env file that is
    not there, and TypeError for a name that is none.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True)

    upstream: HttpUrl = Field("http://127.0.0.1:35001", description="base URL of the service; its path is a prefix")
    host: str = Field(
        "0.0.0.0",  # noqa: S104 - it is a gateway
        description="address to listen on, of demo 127.0.0.1; :: for IPv6 and IPv4; unix:/path for a Unix socket",
    )
    port: int = Field(35000, ge=0, le=65535, description="port to listen on")
    workers: int = Field(
        default_factory=count_cores, ge=1, le=256, description="worker processes; one per core, if not set"
    )
    threads: int = Field(8, ge=1, le=256, description="threads of each worker")
    queue_timeout: Seconds = Field(5, description="seconds a request may wait for a thread before it is refused")
    drain_timeout: Seconds = Field(30, description="seconds in which requests in flight may finish at shutdown")
    keep_alive: Seconds = Field(75, description="seconds a client's connection may be idle between requests")

    issuer: str = Field("https://www.discogs.com/", description="the iss a token must have")
    secret: Secrets = Field((SecretStr(PUBLIC_SECRET),), description="HMAC secrets, newest first, comma-separated")
    algorithms: Listed = Field(("HS256",), min_length=1, description="allowed signature algorithms")
    public_key: str | None = Field(None, description="PEM public keys, or a file with them")
    jwks_url: str | None = Field(None, description="a JWKS or the provider's metadata: URL, file or the JSON itself")
    audience: Listed = Field((), description="accepted aud values; aud is checked only when set")
    required_claims: Requirements = Field(
        (), description="what every token must have: name, name=value or name=a|b, comma-separated"
    )
    issuers: Issuers = Field((), description="several issuers: a JSON list of objects")
    signals: Signals = Field((), description="who may send logouts, revocations and events: a JSON list of objects")
    clients: Clients = Field((), description="who may revoke and introspect tokens: a JSON list of objects")
    jwks_ca: str | None = Field(None, description="file of CA certificates for the hosts of JWKS")
    jwks_proxy: HttpProxy | None = Field(None, description="URL of an http proxy through which JWKS are fetched")
    jwks_insecure_http: Hosts = Field(
        (), description="hosts of one's own network whose JWKS may come by plain http: name, or name:port"
    )
    leeway: float = Field(0, ge=0, le=300, description="seconds of clock difference to tolerate")
    max_token_bytes: int = Field(8192, ge=64, le=65536, description="longest token accepted")

    store: str = Field(
        "sqlite:///blacklist.sqlite3", description="where the blacklist lives: sqlite:///, redis://, rediss://, unix://"
    )
    replicas: int = Field(0, ge=0, description="Redis replicas that must have a change before it is answered")
    accept_lossy_store: bool = Field(False, description="start although the Redis server may evict or forget entries")
    blacklist_claims: ClaimNames = Field(("jti", "sub", "sid"), description="claims that can be blacklisted")
    cut_off_claims: Listed = Field(("sub",), description="claims whose entries let tokens pass that are issued later")
    auth_time: bool = Field(False, description="compare cut-offs with a token's auth_time, if it has one, not its iat")
    admin_scope: Scope = Field("blacklist:admin", description="scope that may do all, and that RESTORE=admin asks for")
    admin_claims: Listed = Field(("scope", "scp"), min_length=1, description="claims in which scopes stand")
    revoke_scope: Scope = Field("blacklist:revoke", description="scope that may blacklist")
    read_scope: Scope = Field("blacklist:read", description="scope that may list and look up")
    restore: Literal["holder", "admin"] = Field("holder", description="who may lift a token's entry: holder or admin")
    max_token_age: int | None = Field(
        None, ge=1, le=10**12, description="seconds after its iat from which a token is refused"
    )

    resource: ResourceUrl | None = Field(None, description="URL of this API as its clients know it, for its metadata")

    annotate: Paths = Field(("/info",), description="paths whose JSON gains request and token")
    public_paths: Paths = Field((), description="paths that need no token: exact, or a prefix ending in /*")
    pass_preflight: bool = Field(False, description="let CORS preflights through without a token")
    cors_origins: Origins = Field((), description="origins whose pages may read refusals and use /blacklist, or *")
    claims_field: FieldName = Field(
        "X-Token-Claims", description="request field for the upstream: the token's payload, base64url JSON; or none"
    )
    subject_field: FieldName = Field("X-Token-Subject", description="request field for the upstream: sub; or none")
    forward_authorization: bool = Field(True, description="send the Authorization field on")
    trusted_proxies: int = Field(0, ge=0, le=16, description="proxies in front whose X-Forwarded-* is believed")
    preserve_host: bool = Field(True, description="send the client's Host on")
    connect_timeout: Seconds = Field(3, description="seconds to connect to the upstream")
    read_timeout: Seconds = Field(60, description="seconds the upstream may stay silent")
    stream_check: float = Field(
        1, ge=0, le=3600, description="seconds between checks of open responses' tokens; 0: none"
    )
    max_body_bytes: int = Field(1 << 30, ge=0, description="longest request body that is passed on, in bytes")
    upgrades: Upgrades = Field(("websocket",), description="protocols to which connections may be upgraded")
    upstream_ca: str | None = Field(None, description="file of CA certificates for an https upstream")
    upstream_cert: str | None = Field(None, description="file with client certificate and key for an https upstream")

    console: bool = Field(False, description="serve the console at /-/console")
    metrics_port: int | None = Field(None, ge=0, le=65535, description="port for Prometheus metrics")
    metrics_host: MetricsHost = Field("127.0.0.1", description="address to serve metrics on")
    log_format: Literal["json", "text"] = Field("json", description="json or text")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")

    _arguments: frozenset[str] = PrivateAttr(frozenset())

    def __init__(self, **values: Any) -> None:
        # Ignored, a misspelt secret would leave the public one in force. Pydantic's own names begin with `_`.
        for name in values:
            if name not in Settings.model_fields and not name.startswith("_"):
                raise TypeError(f"there is no setting {name!r}{nearest(name, Settings.model_fields, '{!r}')}")
        super().__init__(**{"_env_file": None if env_file_fault() else env_file(), **values})
        self._arguments = frozenset(values)

    @model_validator(mode="before")
    @classmethod
    def _check_env_file(cls, values: dict[str, Any]) -> dict[str, Any]:
        if fault := env_file_fault():
            raise ValueError(fault)
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _check_was_read(cls, value: object) -> object:
        if isinstance(value, Unreadable):
            raise ValueError(value.fault)
        return value

    @field_validator("port")
    @classmethod
    def _check_upstream_is_elsewhere(cls, value: int, info: ValidationInfo) -> int:
        upstream = urlsplit(info.data.get("upstream", ""))
        here = ("0.0.0.0", "::", upstream.hostname)  # noqa: S104 - compared, not listened on
        if value and value == upstream.port and upstream.hostname in LOOPBACK and info.data.get("host") in here:
            raise ValueError("must not be the port of UPSTREAM, which would be the gateway itself")
        return value

    @field_validator("issuers")
    @classmethod
    def _refuse_settings_beside(
        cls, value: tuple[IssuerSettings, ...], info: ValidationInfo
    ) -> tuple[IssuerSettings, ...]:
        """Refuse settings that a list of issuers would silently ignore, an audience above all."""
        beside = [name for name in OF_ONE_ISSUER if info.data.get(name) not in (None, cls.model_fields[name].default)]
        if value and beside:
            names = ", ".join(PREFIX + name.upper() for name in beside)
            raise ValueError(f"every issuer has its own members: put {names} there")
        return value

    @field_validator("jwks_ca", "jwks_proxy", "jwks_insecure_http")
    @classmethod
    def _check_has_jwks(cls, value: Any, info: ValidationInfo) -> Any:
        parties: tuple[IssuerSettings, ...] = (*info.data.get("issuers", ()), *info.data.get("signals", ()))
        if value and not (info.data.get("jwks_url") or any(each.jwks_url for each in parties)):
            raise ValueError("needs a JWKS_URL")
        return value

    @field_validator("signals", "clients")
    @classmethod
    def _check_parties(cls, value: Any, info: ValidationInfo) -> Any:
        if "issuers" not in info.data or "issuer" not in info.data:
            return value  # what they are is not known
        issuers = info.data["issuers"] or [IssuerSettings(issuer=info.data["issuer"])]
        return check_signals(value, issuers) if info.field_name == "signals" else check_clients(value, issuers)

    @field_validator("cut_off_claims")
    @classmethod
    def _check_cut_off_claims(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = (*info.data.get("blacklist_claims", value), "sub")  # the default does no harm
        if unknown := [name for name in value if name not in known]:
            raise ValueError(f"{unknown[0]!r} is not among BLACKLIST_CLAIMS")
        return value

    @field_validator("replicas")
    @classmethod
    def _check_has_replicas(cls, value: int, info: ValidationInfo) -> int:
        if value and info.data.get("store", "").startswith("sqlite:"):
            raise ValueError("SQLite has no replicas: STORE must be a Redis URL")
        return value

    @field_validator("upstream_ca", "upstream_cert")
    @classmethod
    def _check_has_tls(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and info.data.get("upstream", "").startswith("http:"):
            raise ValueError("needs an https:// UPSTREAM")
        return value

    @field_validator("subject_field")
    @classmethod
    def _check_fields_differ(cls, value: str, info: ValidationInfo) -> str:
        if value != NONE and value.lower() == info.data.get("claims_field", "").lower():
            raise ValueError("must not be the field of the claims")
        return value

    @field_validator("metrics_port")
    @classmethod
    def _check_ports_differ(cls, value: int | None, info: ValidationInfo) -> int | None:
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
        named, secrets = NamedFiles(settings_cls, env_file()), DockerSecrets(settings_cls, SECRETS_DIR)
        flags, environment, of_env_file = (
            WhatIsSet(settings_cls, source) for source in (init_settings, env_settings, dotenv_settings)
        )
        return flags, named, environment, of_env_file, secrets


def issuer_settings(settings: Settings) -> Sequence[IssuerSettings]:
    """Return the settings of each issuer."""
    if settings.issuers:
        return settings.issuers
    # The defaults are the assignment's; public keys that somebody set replace them.
    public = settings.public_key or settings.jwks_url
    own = settings.model_fields_set
    return [
        IssuerSettings(
            issuer=settings.issuer,
            secret=settings.secret if "secret" in own or not public else (),
            public_key=settings.public_key,
            jwks_url=settings.jwks_url,
            algorithms=settings.algorithms if "algorithms" in own or not public else (),
            audience=settings.audience,
        )
    ]

"""Settings as flags, and faults as sentences."""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

import click
from pydantic import ValidationError

from gateway.app import build_blacklist, claims_of
from gateway.auth.issuers import Issuer
from gateway.blacklist.listing import LARGEST_PAGE
from gateway.blacklist.rules import Blacklist
from gateway.blacklist.stores import Store, StoreMissing, StoreOutdated
from gateway.cli.output import store_name
from gateway.config.faults import faults
from gateway.config.files import lines_of
from gateway.config.settings import PREFIX, Settings
from gateway.config.tracing import traces_endpoint
from gateway.http.problems import Problem
from gateway.parties import build_issuers, build_senders

USAGE, UNAVAILABLE = 2, 3


def open_blacklist(settings: Settings) -> Blacklist:
    """Return the blacklist on the store that is there. Raises StoreMissing, which says where none was found."""
    try:
        return build_blacklist(settings, create=False)
    except StoreMissing as fault:
        told = f"{fault} Looked in {store_name(settings)}: --store or {PREFIX}STORE names the gateway's own."
        raise StoreMissing(told, can_be_made=fault.can_be_made) from fault


def await_keys(parties: Iterable[Issuer]) -> None:
    """Fetch keys, however long it takes: who asks for them waits a second, and a command that is run anew has none."""
    for party in parties:
        with contextlib.suppress(Exception):  # whoever needs them is told that there are none
            party.keys.ask()


class Fault(click.ClickException):
    """A fault, in one sentence. Click's own exit code, 1, would say "it is blacklisted"."""

    exit_code = USAGE


def with_settings(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that gives a command flags for the named settings, and a `Settings` first.

    Without names the flags are those of all settings, and `check_settings` tries whatever these name.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(**options: Any) -> Any:
            given = {name: value for name in chosen if (value := options.pop(name)) is not None}
            return function(Settings(**given) if names else check_settings(given), **options)

        chosen = names or tuple(Settings.model_fields)
        flagged: Callable[..., Any] = command
        for name in reversed(chosen):
            flagged = _flag(name)(flagged)
        return flagged

    return decorate


def check_settings(given: dict[str, Any]) -> Settings:
    """Return the settings. Raises ValueError with a line for each fault: of settings, files, keys and the store."""
    settings, found = _read_settings(given)
    found += _certificate_faults(settings)
    found += _faults_of(traces_endpoint)
    if not any(fault.startswith(f"{PREFIX}ISSUERS") for fault in found):  # else nobody knows whose keys there are
        found += _faults_of(lambda: build_senders(settings, build_issuers(settings)))
    if found:  # else the command opens the store itself, once
        found += _faults_of(lambda: _look_at_store(settings))
        raise ValueError("\n".join(found))
    return settings


def _read_settings(given: dict[str, Any]) -> tuple[Settings, list[str]]:
    """Return the settings, with defaults for those that are wrong, and a sentence for each fault. Raises ValueError."""
    found: list[str] = []
    reset: set[str] = set()
    while True:
        try:
            return Settings(**given), found
        except ValidationError as error:
            wrong = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
            found = found or list(faults(error))
            # The defaults do not go with the rest either; or the env file cannot be read, and nothing else is known.
            if wrong <= reset:
                raise ValueError("\n".join(found)) from error
            reset |= wrong
            fields = Settings.model_fields
            given = given | {name: fields[name].get_default(call_default_factory=True) for name in wrong}


def _faults_of(build: Callable[[], object]) -> Iterator[str]:
    try:
        build()
    except ValueError as error:
        yield from faults(error)
    except Problem as problem:
        yield problem.detail


def _look_at_store(settings: Settings) -> None:
    with contextlib.suppress(StoreOutdated):
        if store := existing_store(settings):
            store.close()


def existing_store(settings: Settings) -> Store | None:
    """Return the store; None where there is none yet, and `serve` would make it. Raises StoreRefused."""
    try:
        return build_blacklist(settings, create=False).store
    except StoreMissing as missing:
        if missing.can_be_made:
            return None
        raise


def claim_warnings(settings: Settings, store: Store) -> Iterator[str]:
    """Yield a sentence for each claim with entries that nothing asks for. All entries are looked at."""
    known, cursor, has_more = set(claims_of(settings)), "", True
    while has_more:
        entries, cursor = store.page(LARGEST_PAGE, cursor)
        for name in sorted({entry.claim[0] for entry in entries if entry.claim} - known):
            known.add(name)
            yield f"BLACKLIST_CLAIMS does not name {name!r}: its entries blacklist nothing"
        has_more = bool(cursor)


def _certificate_faults(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each file of certificates that cannot be used: only a request would show it."""
    named = [(name.upper(), getattr(settings, name)) for name in ("upstream_ca", "jwks_ca", "upstream_cert")]
    named += [
        (f"{setting}, {each.issuer}, JWKS_CA", each.jwks_ca)
        for setting, parties in (("ISSUERS", settings.issuers), ("SIGNALS", settings.signals))
        for each in parties
    ]
    for place, path in named:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's: 39 ms
        try:
            if path and place.endswith("_CA"):
                context.load_verify_locations(path)
            elif path:
                context.load_cert_chain(path, password="")
        except ssl.SSLError:
            wanted = "certificates" if place.endswith("_CA") else "a certificate and its key, which needs no password"
            yield f"{PREFIX}{place}: cannot use {path}: it must have {wanted}, in PEM"
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            yield f"{PREFIX}{place}: cannot use {path}: {getattr(error, 'strerror', '') or 'it is no path'}"


def _flag(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    if name == "secret":
        return _secret_flags
    field = Settings.model_fields[name]
    default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
    shown = "" if default in (None, "") or field.default_factory else f"  [default: {default}]"
    return click.option("--" + name.replace("_", "-"), name, metavar="VALUE", help=f"{field.description}{shown}")


def _secret_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    flag = click.option("--secret", metavar="-", callback=_read_secrets, help="`-`: the same, from standard input")
    told = "file of shared HMAC secrets, newest first, one a line"
    file = click.option("--secret-file", metavar="PATH", expose_value=False, callback=_name_secret_file, help=told)
    return file(flag(command))


def _name_secret_file(context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:  # as a variable, the file is read again when the settings are
        os.environ[f"{PREFIX}SECRET_FILE"] = value


def _read_secrets(context: click.Context, option: click.Parameter, value: str | None) -> list[str] | str | None:
    """Return the lines of standard input. Raises `Fault` for a value: every user of the machine could read it there."""
    if not value:
        return value
    if value != "-":
        raise Fault(
            "--secret takes no value, which every list of processes would show: give --secret-file, or --secret -"
        )
    return lines_of(sys.stdin.read()) or ""

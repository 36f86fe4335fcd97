"""gateway check-config: what is in force, and whether it works."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import click

from gateway.auth.issuers import Issuer
from gateway.auth.keyset import KeySet
from gateway.auth.snapshot import fault_of
from gateway.blacklist.stores import StoreOutdated, store_warnings
from gateway.cli.options import claim_warnings, existing_store, with_settings
from gateway.cli.output import echo, store_name
from gateway.config.announce import flag_warnings, given_by, in_force, mask, warnings
from gateway.config.settings import Settings
from gateway.config.tracing import traces_endpoint
from gateway.parties import build_issuers, build_senders

DEFAULT = "by default"


@click.command("check-config")
@with_settings()
def check_config(settings: Settings) -> None:
    """Check every setting, the keys and the store. What is in force is printed, and where it was set."""
    places, values = given_by(settings), in_force(settings)
    for place in (*sorted(set(places.values())), DEFAULT):
        echo(f"# {place}:")
        for name in (name for name in values if places.get(name, DEFAULT) == place):
            echo(f"GATEWAY_{name.upper()}={values[name]}")
    for warning in (*warnings(settings), *flag_warnings(settings)):
        echo(f"warning: {warning}", err=True)
    if endpoint := traces_endpoint():
        echo(f"# traces go to {mask(endpoint)}")
        from gateway.ops.traces import Traces  # late: it imports OpenTelemetry

        Traces(settings.upstream).close()  # raises ValueError for variables that the SDK does not take
    issuers = build_issuers(settings)
    senders = [sender for sender in build_senders(settings, issuers).all if sender.has_own_keys]
    faults = [fault for issuer in (*issuers, *senders) for fault in _print_keys(issuer)]
    echo(f"# store: {_describe_store(settings)}")
    for warning in store_warnings(settings.store):
        echo(f"# store: {warning}")
    if faults:
        raise ValueError("\n".join(faults))


def _describe_store(settings: Settings) -> str:
    """Return a line about the store, in which nothing is changed."""
    try:
        store = existing_store(settings)
    except StoreOutdated as outdated:
        return str(outdated)
    if not store:
        return f"none yet; serve makes {store_name(settings)}"
    store.ping()
    for warning in claim_warnings(settings, store):
        echo(f"warning: {warning}", err=True)
    return f"{store.count()} live entries"


def _print_keys(issuer: Issuer) -> Iterator[str]:
    """Print which keys an issuer has; yield a sentence where they cannot be fetched."""
    try:
        echo(f"# keys of {issuer.name}: {_describe_keys(issuer.keys.ask())}")
    except Exception as error:  # noqa: BLE001 - whatever a provider does is what to print
        yield f"issuer {issuer.name!r}: {fault_of(error)}"


def _describe_keys(keys: KeySet) -> str:
    """Return how many keys there are of which algorithms, and their first kids."""
    kinds = Counter("/".join(sorted(key.algorithms)) for key in keys.keys)
    kids = [key.kid for key in keys.keys if key.kid is not None]
    named = f"; kid {', '.join(repr(kid[:80]) for kid in kids[:5])}" + (", …" if len(kids) > 5 else "") if kids else ""
    return ", ".join(f"{count} for {kind}" for kind, count in kinds.items()) + named

"""gateway export and import: entries as JSON lines."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

import click

from gateway.app import build_blacklist
from gateway.blacklist.stores.base import LATEST, Entry, Store
from gateway.cli.entries import as_json
from gateway.cli.options import Fault, with_settings
from gateway.config.settings import Settings
from gateway.http.problems import StoreUnavailable
from gateway.http.strict_json import json_object

BATCH = 1000  # entries in one change: one sync for all of them, and a few megabytes of SQLite's log

TRIES, PAUSE_SECONDS = 10, 1.0

_KEY = re.compile(r"(token|claim):[0-9a-f]{64}")


@click.command()
@with_settings("store")
@click.argument("file", type=click.File("w"), default="-")
def export(settings: Settings, file: IO[str]) -> None:
    """Write the live entries as JSON lines."""
    store, cursor, more = build_blacklist(settings).store, "", True
    while more:
        page, cursor = store.page(BATCH, cursor)
        file.writelines(json.dumps({"key": entry.key, **entry.to_json()}) + "\n" for entry in page)
        more = bool(cursor)


@click.command("import")
@with_settings("store")
@click.argument("file", type=click.File("r"), default="-")
@as_json
def import_entries(settings: Settings, file: IO[str], as_json: bool) -> None:
    """Add entries that `export` wrote. Nothing is lowered or lifted; a bad line stops it, by number."""
    store, count = build_blacklist(settings).store, 0
    with click.progressbar(_batches(file), label="importing", file=sys.stderr) as batches:
        for batch in batches:
            _add(store, batch)
            count += len(batch)
    click.echo(json.dumps({"imported": count}) if as_json else f"{count} entries imported")


def _add(store: Store, batch: list[Entry]) -> None:
    """Add a batch, and anew while the store is too busy: what is there already does no harm."""
    for _ in range(TRIES - 1):
        with suppress(StoreUnavailable):
            store.add(batch)
            return
        time.sleep(PAUSE_SECONDS)
    store.add(batch)


def _batches(file: IO[str]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    for number, line in enumerate(file, 1):
        try:
            batch.append(_entry(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Fault(f"line {number} is not an entry; the lines before it may be imported") from error
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _entry(line: str) -> Entry:
    members = json_object(line.encode())
    entry = Entry.from_json(members.pop("key"), members)
    times = (entry.created_at, entry.expires_at or 0, entry.issued_before or 0)
    texts = (entry.issuer, entry.by, entry.reason)
    # What a store cannot read it takes for damage, and nothing passes any more.
    if (
        not _KEY.fullmatch(entry.key)
        or entry.key.startswith("claim:") != (entry.claim is not None)
        or not all(type(time) is int and 0 <= time <= LATEST for time in times)
        or not all(isinstance(text, str) for text in texts)
    ):
        raise ValueError("not an entry")
    return entry

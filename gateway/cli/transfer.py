"""gateway export and import: entries as JSON lines."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO
from uuid import uuid4

import click

from gateway.app import build_blacklist
from gateway.blacklist.entries import fingerprint_of
from gateway.blacklist.keys import claim_key, legacy_claim_keys
from gateway.blacklist.stores.base import LATEST, Added, Entry, Store
from gateway.cli.entries import actor, as_json, audit_here
from gateway.cli.options import Fault, open_blacklist, with_settings
from gateway.cli.output import echo, echo_json, store_name
from gateway.config.settings import Settings
from gateway.http.problems import StoreUnavailable
from gateway.http.strict_json import json_object
from gateway.parties import name_issuers

BATCH = 1000  # entries of an export that are read at once
# Entries of an import in one change, and a rest before it: no other change to the store waits for more than that.
AT_ONCE, REST_SECONDS = 125, 0.005
TRIES, PAUSE_SECONDS = 10, 1.0
SPOOLED = 16 << 20  # bytes of an export that are kept in memory; more are in a file


class _Refused(ValueError):
    """An entry that must not be imported; the text says why."""


_KEY = re.compile(r"(token|claim):[0-9a-f]{64}")


@click.command()
@with_settings("store")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
def export(settings: Settings, file: str) -> None:
    """Write the live entries as JSON lines. A new file is for its owner alone: it names subjects and reasons."""
    store = open_blacklist(settings).store
    is_file = file != "-" and (not os.path.exists(file) or os.path.isfile(file))
    with _replacing(file) if is_file else _writing_at_once(file) as out:
        _export(store, out)
    echo(f"in {store_name(settings)}", err=True)


@contextmanager
def _writing_at_once(file: str) -> Iterator[IO[str]]:
    """Write to a terminal or a pipe once all is known: if the store fails, nothing."""
    with SpooledTemporaryFile(SPOOLED, "w+") as whole:
        yield whole
        whole.seek(0)
        with nullcontext(sys.stdout) if file == "-" else open(file, "w") as out:
            shutil.copyfileobj(whole, out)


@contextmanager
def _replacing(file: str) -> Iterator[IO[str]]:
    """Write beside the file, and put that in its place once it is on the disk: if it fails, an older export stays."""
    path = Path(os.path.realpath(file))
    draft = path.with_name(f".gateway-export.{uuid4().hex}")
    try:
        with open(draft, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        if path.exists():
            found = path.stat()
            with suppress(PermissionError):
                os.chown(draft, found.st_uid, found.st_gid)
            draft.chmod(found.st_mode & 0o777)
        draft.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, file) from error
    finally:
        with suppress(OSError):
            draft.unlink()


def _export(store: Store, file: IO[str]) -> None:
    mark, _ = store.changes("")
    _write_all(store, file)
    # What has changed since may stand on a page that was read before. To an import it is one entry.
    _, changed = store.changes(mark)
    if changed is None:
        _write_all(store, file)
    else:
        _write(store.find([key for key in sorted(changed) if _KEY.fullmatch(key)]), file)


def _write_all(store: Store, file: IO[str]) -> None:
    cursor, more = "", True
    while more:
        page, cursor = store.page(BATCH, cursor)
        _write(page, file)
        more = bool(cursor)


def _write(entries: Sequence[Entry], file: IO[str]) -> None:
    file.writelines(json.dumps({"key": entry.key, **entry.to_json()}) + "\n" for entry in entries)


@click.command("import")
@with_settings("store")
@click.argument("file", type=click.File("rb"), default="-")
@as_json
def import_entries(settings: Settings, file: IO[bytes], as_json: bool) -> None:
    """Add entries that `export` wrote. Nothing is lowered or lifted; a bad line stops it, by number."""
    blacklist = build_blacklist(settings)
    audit_here(settings)
    count, over, kept, unknown, issuers = 0, 0, list[Entry](), set[str](), set[str]()
    try:
        with click.progressbar(_batches(file), label="importing", file=sys.stderr) as batches:
            for batch in batches:
                added = _add(blacklist.store, batch)
                live = [each for each in zip(batch, added, strict=True) if each[0].is_live(time.time())]
                kept += [entry for entry, (found, _) in live if not blacklist.is_in_force(entry, found)]
                count, over = count + len(live), over + len(batch) - len(live)
                unknown |= {entry.claim[0] for entry in batch if entry.claim} - set(blacklist.claims)
                issuers |= {entry.issuer for entry in batch if entry.claim}
    finally:
        if count:
            blacklist.record("import", actor(), imported=count - len(kept))
    if unknown:
        names = ", ".join(sorted(unknown))
        echo(f"BLACKLIST_CLAIMS does not name {names}: these entries blacklist nothing", err=True)
    name_of = name_issuers(settings).name_of
    if others := sorted(issuer for issuer in issuers if name_of(issuer) is None):
        echo(f"No issuer that is set has the name {', '.join(others)}: those entries blacklist nothing here", err=True)
    if as_json:
        echo_json({"imported": count - len(kept), "expired": over, "store": store_name(settings)})
    else:
        echo(f"{count - len(kept)} entries imported" + (f", {over} have expired" if over else ""))
        echo(f"in {store_name(settings)}", err=True)
    if kept:
        name = fingerprint_of(kept[0])
        raise Fault(
            f"{len(kept)} were not imported, that of {name} among them: its fingerprint has another issuer's entry"
        )


def _add(store: Store, batch: Sequence[Entry]) -> list[Added]:
    """Add a batch, and try again while the store is too busy: what is there already does no harm."""
    time.sleep(REST_SECONDS)
    for _ in range(TRIES - 1):
        with suppress(StoreUnavailable):
            return store.add(batch) or []
        time.sleep(PAUSE_SECONDS)
    return store.add(batch) or []


def _batches(file: IO[bytes]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    for number, line in enumerate(file, 1):
        try:
            batch.append(_entry(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f": {error}" if isinstance(error, _Refused) else ""
            raise Fault(f"line {number} is not an entry{why}; the lines before it may be imported") from error
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _entry(line: bytes) -> Entry:
    members = json_object(line)
    entry = Entry.from_json(members.pop("key"), members)
    times = (entry.created_at, entry.expires_at, entry.issued_before, entry.as_of)
    texts = (entry.issuer, entry.by, entry.reason)
    # A store takes an entry that it cannot read for damage, and then nothing passes any more.
    if (
        not _KEY.fullmatch(entry.key)
        or not entry.issuer
        or entry.key.startswith("claim:") != (entry.claim is not None)
        or (entry.claim is None and entry.issued_before is not None)
        or (entry.as_of or 0) > (entry.issued_before or 0)
        or not all(each is None or (type(each) is int and 0 <= each <= LATEST) for each in times)
        or not all(isinstance(text, str) for text in texts)
    ):
        raise ValueError("not an entry")
    return entry if entry.claim is None else _with_key(entry, *entry.claim)


def _with_key(entry: Entry, name: str, value: str) -> Entry:
    """Return a claim's entry under the key that it has today: older gateways had another one for a number."""
    key = claim_key(entry.issuer, name, value)
    if entry.key not in (key, *legacy_claim_keys(entry.issuer, name, value)):
        # It would be listed, and blacklist nothing, or another claim's tokens.
        raise _Refused("its key is not its claim's")
    return dataclasses.replace(entry, key=key)

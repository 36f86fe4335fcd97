"""Printing for the commands, escaped: a token's holder chooses subjects and reasons, and a terminal obeys them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

import click

from gateway.blacklist.entries import fingerprint_of, timestamp
from gateway.blacklist.stores.base import Entry
from gateway.config.announce import in_force
from gateway.config.settings import Settings

WIDEST = 60  # characters that a column is filled up to
HEADER = ("WHAT", "ISSUER", "ISSUED BEFORE", "SINCE", "UNTIL", "BY", "REASON")


def printable(text: str) -> str:
    """Return the text with each character that is not printable written as an escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def echo(text: str, *, err: bool = False) -> None:
    """Print one line."""
    # A lone surrogate is not printable; what the terminal's encoding lacks is replaced.
    encoding = (sys.stderr if err else sys.stdout).encoding or "utf-8"
    click.echo(printable(text).encode(encoding, "backslashreplace").decode(encoding), err=err)


def echo_json(value: Any, indent: int | None = None) -> None:
    """Print JSON, all of it ASCII."""
    click.echo(json.dumps(value, indent=indent).replace("\x7f", "\\u007f"))


def store_name(settings: Settings) -> str:
    """Return where the store is: a file's absolute path, or a URL without its password."""
    kind, _, path = settings.store.partition(":///")
    return f"sqlite:///{os.path.realpath(unquote(path))}" if kind == "sqlite" else in_force(settings)["store"]


def cells(entry: Entry) -> tuple[str, ...]:
    """Return an entry as a row under `HEADER`."""
    cut_off = timestamp(entry.issued_before) or ("" if entry.claim is None else "whenever issued")
    return (
        f"{entry.claim[0]} {entry.claim[1]}" if entry.claim else f"token {fingerprint_of(entry)[:16]}",
        entry.issuer,
        cut_off,
        timestamp(entry.created_at) or "",
        timestamp(entry.expires_at) or "it is lifted",
        entry.by,
        entry.reason,
    )


def echo_table(entries: Sequence[Entry]) -> None:
    """Print entries as a table, with a header on a terminal."""
    rows = [tuple(map(printable, cells(entry))) for entry in entries]
    if sys.stdout.isatty():
        rows.insert(0, HEADER)
    widths = [min(WIDEST, max((len(row[place]) for row in rows), default=0)) for place in range(len(HEADER))]
    for row in rows:
        echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def echo_details(named: Iterable[tuple[str, str]]) -> None:
    """Print names with their values, one a line."""
    for name, text in named:
        echo(f"  {name:<14}{text}")

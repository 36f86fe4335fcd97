"""Files nobody wrote: a store on a damaged file refuses, is unavailable, or tells the truth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from helpers import NOW
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.blacklist.stores.base import Entry, StoreRefused
from gateway.blacklist.stores.sqlite.store import SqliteStore
from gateway.http.problems import StoreUnavailable

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "50"))
PAGE = 4096  # bytes
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
ENTRIES = [
    Entry(f"token:{number:064x}", "issuer", int(NOW), int(NOW) + 600, reason="r" * number) for number in range(99)
]
LATER = Entry(f"token:{99:064x}", "issuer", int(NOW), int(NOW) + 600)


def opened(path: Path) -> SqliteStore:
    return SqliteStore(str(path), lambda: NOW)


class Left:
    def __init__(self, file: bytes, log: bytes) -> None:
        self.file, self.log = file, log


@pytest.fixture(scope="module")
def left() -> Iterator[Left]:
    """Return what a killed gateway left: a file with all entries but one, and a log with that one."""
    with TemporaryDirectory(dir=MEMORY) as directory:
        path = Path(directory, "blacklist.sqlite3")
        with closing(opened(path)) as store:
            store.add(ENTRIES)
        with closing(opened(path)) as store:
            store.add([LATER])
            yield Left(path.read_bytes(), path.with_name(path.name + "-wal").read_bytes())


class Damage(NamedTuple):
    """Bytes overwritten, a page overwritten by zeros or by another page, or the end cut off."""

    kind: str
    where: int
    source: int
    written: bytes

    def inflict(self, data: bytearray) -> None:
        start = self.where % len(data)
        page, other = (at % len(data) // PAGE * PAGE for at in (self.where, self.source))
        if self.kind == "bytes":
            data[start : start + len(self.written)] = self.written[: len(data) - start]
        elif self.kind == "end":
            del data[start:]
        else:
            new = bytes(data[other : other + PAGE]) if self.kind == "page" else bytes(PAGE)
            data[page : page + PAGE] = new[: len(data) - page]


kinds = st.sampled_from(["bytes", "bytes", "zeros", "page", "end"])
places = st.integers(0, 2**20)
several = st.lists(st.builds(Damage, kinds, places, places, st.binary(min_size=1, max_size=4)), min_size=1, max_size=3)


def missing(file: bytes, log: bytes) -> set[str]:
    """Return the keys that a store on these bytes takes for absent: none if it refuses."""
    found: set[str] = set()
    with TemporaryDirectory(dir=MEMORY) as directory, suppress(StoreRefused):
        path = Path(directory, "blacklist.sqlite3")
        path.write_bytes(file)
        path.with_name(path.name + "-wal").write_bytes(log)
        with closing(opened(path)) as store:
            for entry in [*ENTRIES, LATER]:
                with suppress(StoreUnavailable):
                    found |= {entry.key} - {each.key for each in store.find([entry.key])}
    return found


def spoil(data: bytes, damages: list[Damage]) -> bytes:
    spoilt = bytearray(data)
    for damage in damages:
        if spoilt:
            damage.inflict(spoilt)
    return bytes(spoilt)


@settings(max_examples=EXAMPLES)
@given(damages=several, has_log=st.booleans())
def test_a_store_on_a_damaged_file_takes_no_entry_for_absent(left: Left, damages: list[Damage], has_log: bool) -> None:
    if has_log:
        assert not missing(spoil(left.file, damages), left.log)
    else:
        assert missing(spoil(left.file, damages), b"") <= {LATER.key}


@settings(max_examples=EXAMPLES)
@given(damages=several)
def test_a_damaged_log_takes_back_no_more_than_it_held(left: Left, damages: list[Damage]) -> None:
    """To SQLite a log ends before its first broken frame: the rest is lost, as after a power cut amid writing it."""
    assert missing(left.file, spoil(left.log, damages)) <= {LATER.key}

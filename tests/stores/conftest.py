"""A SQLite store and its file."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from helpers import Clock

from gateway.blacklist.stores.sqlite.store import SqliteStore


@pytest.fixture
def path(store_url: str) -> Path:
    return Path(store_url.removeprefix("sqlite:///"))


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[SqliteStore]:
    with closing(SqliteStore(str(path), clock)) as store:
        yield store

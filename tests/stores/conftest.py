"""A SQLite store and its file; a Redis server, and a relay before it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from asked_again import AskedAgain
from helpers import Clock
from redis_servers import RedisServer
from relay import Relay

from gateway.blacklist.stores.sqlite.store import SqliteStore


@pytest.fixture
def path(store_url: str) -> Path:
    return Path(store_url.removeprefix("sqlite:///"))


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[SqliteStore]:
    with closing(AskedAgain(str(path), clock)) as store:
        yield store


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def relay(server: RedisServer) -> Iterator[Relay]:
    with Relay(server.port) as running:
        yield running

"""Older gateways on the same Redis, in a rolling upgrade: nothing that was taken back passes on them either."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from redis_servers import RedisServer

from gateway.blacklist.rules import NOW, Actor, Blacklist, ClaimTarget
from gateway.blacklist.stores import Store, open_store
from gateway.blacklist.stores.base import LATEST
from gateway.cli.transfer import _batches, _export

pytestmark = pytest.mark.slow
TAG = "{jwt-gateway}:"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer("--appendonly", "yes") as running:
        yield running


@pytest.fixture
def store(server: RedisServer) -> Iterator[Store]:
    server.ask("FLUSHALL")
    opened = open_store(server.url)
    yield opened
    opened.close()


def found_by_older(server: RedisServer, name: str, value: Any) -> dict[str, Any] | None:
    """Return the entry that an older gateway finds for a token with this claim: to it 7001 and "7001" differed."""
    key = "claim:" + hashlib.sha256(json.dumps(["i", name, value]).encode()).hexdigest()
    text: Any = server.client().get(TAG + key)
    return json.loads(text) if text else None


@pytest.mark.parametrize("value", [7001, 7001.0, "7001"])
def test_an_older_gateway_finds_a_number_however_it_is_written(server: RedisServer, store: Store, value: Any) -> None:
    Blacklist(store).add_targets([ClaimTarget("i", "sub", "7001", 1_800_000_000)], Actor())
    found = found_by_older(server, "sub", value)
    assert found
    assert (found["claim"], found["issued_before"]) == ({"sub": "7001"}, 1_800_000_000)


def test_what_is_kept_for_older_gateways_is_neither_listed_nor_counted(store: Store) -> None:
    Blacklist(store).add_targets([ClaimTarget("i", "sub", "7001", None)], Actor())
    assert [entry.claim for entry in store.page(10)[0]] == [("sub", "7001")]
    assert store.count() == 1


@pytest.mark.parametrize("value", [7001, 7001.0])
def test_a_number_that_an_older_gateway_kept_is_listed_until_it_is_lifted(
    server: RedisServer, store: Store, value: float
) -> None:
    store.ping()
    key = "claim:" + hashlib.sha256(json.dumps(["i", "sub", value]).encode()).hexdigest()
    kept = {"issuer": "i", "created_at": 1, "claim": {"sub": value}, "issued_before": 2}
    server.ask("SET", TAG + key, json.dumps(kept))
    for name in ("created", "expires"):
        server.ask("ZADD", TAG + name, "0" if name == "created" else "+inf", f"{1:012}:{key}")
    blacklist = Blacklist(store)
    assert [entry.claim for entry in store.page(10)[0]] == [("sub", "7001")]
    server.ask("SET", TAG + key, json.dumps(kept | {"issued_before": 1_700_000_000_000}))  # in milliseconds
    assert [entry.issued_before for entry in store.page(10)[0]] == [None]
    server.ask("SET", TAG + key, json.dumps(kept))
    blacklist.add_targets([ClaimTarget("i", "sub", "7001", 3)], Actor())  # listed once, whoever keeps it
    assert [(entry.claim, entry.issued_before) for entry in store.page(10)[0]] == [(("sub", "7001"), 3)]
    assert blacklist.remove_claims("i", "sub", ["7001"], Actor())
    assert (store.page(10)[0], store.count()) == ([], 0)


def test_an_older_gateways_cut_off_does_not_take_the_place_of_none(server: RedisServer, store: Store) -> None:
    """It keeps the later of two, and so the latest there is."""
    Blacklist(store).add_targets([ClaimTarget("i", "sid", "s1", None)], Actor())
    found = found_by_older(server, "sid", "s1")
    assert found
    assert found["issued_before"] == LATEST
    (entry,) = store.page(10)[0]
    assert entry.issued_before is None
    store.add([dataclasses.replace(entry, issued_before=1_800_000_000)])
    assert store.page(10)[0][0].issued_before is None


def test_what_the_latest_cut_off_has_become_can_be_exported_and_imported(store: Store) -> None:
    for cut_off in (NOW, LATEST):
        Blacklist(store).add_targets([ClaimTarget("i", "sub", "1001", cut_off)], Actor())
    exported = io.StringIO()
    _export(store, exported)
    assert [*_batches(io.BytesIO(exported.getvalue().encode()))] == [store.page(10)[0]]


def test_what_is_lifted_is_lifted_for_older_gateways_too(server: RedisServer, store: Store) -> None:
    blacklist = Blacklist(store)
    blacklist.add_targets([ClaimTarget("i", "sub", "7001", None)], Actor())
    assert blacklist.remove_claims("i", "sub", ["7001"], Actor())
    assert [found_by_older(server, "sub", value) for value in (7001, 7001.0, "7001")] == [None] * 3

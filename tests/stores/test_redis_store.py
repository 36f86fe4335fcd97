"""The Redis store under faults: it answers truly or not at all, on every thread, and recovers by itself."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from certificates import Certificates
from hiredis import ReplyError
from pauses import outcome_in_pauses
from processes import free_port
from recorder import until
from redis_servers import CLUSTER, PATIENCE, SAFE, SLOTS, RedisServer, Sentinel, be_patient, join
from relay import Relay

from gateway.blacklist.stores import Entry, Store, StoreMissing, StoreRefused, open_store
from gateway.blacklist.stores.base import LATEST
from gateway.blacklist.stores.redis import primary as redis_primary
from gateway.blacklist.stores.redis import store as redis_store
from gateway.blacklist.stores.redis.keys import GRACE_SECONDS, PREFIX
from gateway.blacklist.stores.redis.lossy import Lossy, is_forbidden
from gateway.http.problems import StoreUnavailable

pytestmark = pytest.mark.slow

START, HOUR = int(time.time()), 3600
TAG = f"{{{PREFIX}}}:"
RIGHTS = (
    "~{jwt-gateway}:* +getex +mget +eval +get +set +del +zadd +zrem +zrangebyscore +zrevrangebylex +zcount +time +wait"
)
ISSUER = "https://issuer.test/"
THREADS = 8


def token(number: int, expires: int | None = None, reason: str = "") -> Entry:
    return Entry(f"token:{number:064x}", ISSUER, START, expires or START + HOUR, reason=reason)


def cut_off(number: int, before: int) -> Entry:
    return Entry(f"claim:{number:064x}", ISSUER, 0, None, ("sub", str(number)), before)


REVOKED = token(1)
MESSAGE = Entry("seen:" + "0" * 64, ISSUER, START, START + HOUR)


@pytest.fixture
def opened() -> Iterator[Callable[..., Store]]:
    stores: list[Store] = []

    def make(url: str, **options: object) -> Store:
        stores.append(open_store(url, **options))  # type: ignore[arg-type]
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(relay: Relay, opened: Callable[..., Store]) -> Store:
    made = opened(relay.url)
    await_added(made, REVOKED)
    return made


def outcome(store: Store, entry: Entry = REVOKED, *, in_pauses: bool = False) -> str:
    keys, find_in_pauses = [entry.key], getattr(store, "find_in_pauses")  # noqa: B009 - not every store has it
    try:
        found = outcome_in_pauses(partial(find_in_pauses, keys)) if in_pauses else store.find(keys)
        return "found" if list(found) == [entry] else "passed"
    except StoreUnavailable:
        return "refused"


def outcomes(store: Store, asks: int = 25) -> Counter[str]:
    """Return what eight threads are told about the blacklisted token, a while long; half of them ask in pauses."""

    def ask(number: int) -> Counter[str]:
        told: Counter[str] = Counter()
        for _ in range(asks):
            told[outcome(store, in_pauses=number % 2 == 0)] += 1
            time.sleep(0.01)
        return told

    with ThreadPoolExecutor(THREADS) as threads:
        return sum(threads.map(ask, range(THREADS)), Counter())


def await_outcome(store: Store, wanted: str) -> None:
    """Wait until the store tells this about the blacklisted token, and that it never passes."""
    deadline = time.monotonic() + PATIENCE
    while (told := outcome(store)) != wanted or (told := outcome(store, in_pauses=True)) != wanted:
        assert told != "passed"
        assert time.monotonic() < deadline, f"still {told}"
        time.sleep(0.02)


def in_child(ask: Callable[[], object]) -> bool:
    """Return whether it returns something in a child process."""
    child = os.fork()
    if child == 0:  # nothing of pytest may run here
        signal.alarm(int(PATIENCE))
        with contextlib.suppress(BaseException):
            os._exit(0 if ask() else 1)
        os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def await_added(store: Store, entry: Entry) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(StoreUnavailable):
            store.add([entry])
            return
        time.sleep(0.05)
    pytest.fail("nothing can be added")


def test_a_server_without_a_blacklist_is_looked_into_and_left_as_it_is(
    server: RedisServer, opened: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    server.ask("FLUSHALL")
    with pytest.raises(StoreMissing, match="There is no store"):
        opened(server.url, create=False)
    server.ask("CONFIG", "SET", "appendonly", "no")
    try:
        with pytest.raises(StoreRefused, match="may forget: appendonly is off"):
            opened(server.url, create=False)
    finally:
        server.ask("CONFIG", "SET", "appendonly", "yes")
    assert server.ask("DBSIZE") == 0
    assert "unavailable" not in caplog.text


# --- what goes over the wire ---


def test_a_look_up_is_one_round_trip_of_two_commands(server: RedisServer, relay: Relay, store: Store) -> None:
    keys = [REVOKED.key, *(cut_off(number, 0).key for number in range(3))]
    store.find(keys)
    server.ask("CONFIG", "RESETSTAT")
    before = relay.requests
    for _ in range(100):
        assert store.find(keys)
    assert relay.requests - before == 100
    assert server.calls() == {"getex": 100, "mget": 100}


def test_the_server_forgets_an_entry_an_hour_after_its_end(server: RedisServer, store: Store) -> None:
    ends = int(time.time()) + 10
    store.add([token(2, ends), token(3, LATEST), cut_off(4, 1)])
    assert server.ask("EXPIRETIME", TAG + token(2).key) == ends + GRACE_SECONDS
    assert server.ask("EXPIRETIME", TAG + token(3).key) == LATEST + GRACE_SECONDS
    assert server.ask("EXPIRETIME", TAG + cut_off(4, 1).key) == -1


def test_what_the_server_forgot_leaves_the_lists_with_the_next_change(
    server: RedisServer, opened: Callable[..., Store]
) -> None:
    clock = [time.time() - GRACE_SECONDS]  # an hour behind the server's: its grace is used up
    store = opened(server.url, now=lambda: clock[0], accept_lossy=True)
    store.add([token(2, int(time.time()) - GRACE_SECONDS + 1)])
    assert store.count() == 1
    while server.ask("EXISTS", TAG + token(2).key):
        time.sleep(0.05)
    assert not store.find([token(2).key])
    assert store.page(10) == ([], "")
    clock[0] = time.time() + 2
    store.add([token(3)])
    assert server.ask("ZCARD", TAG + "created") == server.ask("ZCARD", TAG + "expires") == 1


def test_an_entry_that_comes_back_after_it_was_forgotten_is_listed_once(
    server: RedisServer, opened: Callable[..., Store]
) -> None:
    store = opened(server.url)
    store.add([token(2)])
    server.ask("DEL", TAG + token(2).key)  # as the server does when its time has come
    again = Entry(token(2).key, ISSUER, token(2).created_at - 5, token(2).expires_at)
    store.add([again])
    assert store.page(10) == ([again], "")


def test_a_page_of_some_entries_ends_before_all_of_a_long_list_has_been_looked_at(
    opened: Callable[..., Store], server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "LOOKED_AT", 2)
    store = opened(server.url)
    wanted = [cut_off(1, 1), dataclasses.replace(token(2), created_at=0, issuer="https://other.test/")]
    store.add([*wanted, *(token(number) for number in range(1000, 1500))])
    for only, entry in zip(({"claim": "sub"}, {"issuers": [wanted[1].issuer]}), wanted, strict=True):
        found, cursor = store.page(10, **only)  # type: ignore[arg-type]
        assert (found, bool(cursor)) == ([], True)
        while cursor:
            page, cursor = store.page(10, cursor, **only)  # type: ignore[arg-type]
            found += page
        assert found == [entry]


def test_a_short_page_does_not_ask_for_each_of_many_entries_that_have_ended(
    opened: Callable[..., Store], server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "LOOKED_AT", 2)
    clock = [START]
    store = opened(server.url, now=lambda: clock[0])
    oldest = dataclasses.replace(token(1), created_at=0)
    store.add([oldest, *(token(number, START + 1) for number in range(1000, 1500))])
    clock[0] += 2
    server.ask("CONFIG", "RESETSTAT")
    found, cursor = store.page(1)
    assert (found, bool(cursor), server.calls()["zrevrangebylex"]) == ([], True, 2)
    while cursor:
        page, cursor = store.page(1, cursor)
        found += page
    assert found == [oldest]


def test_what_an_import_changed_is_quickly_read_by_who_comes_after_it(server: RedisServer, store: Store) -> None:
    before, _ = store.changes("")
    store.add([token(number) for number in range(100, 1100)])
    assert server.ask("MEMORY", "USAGE", TAG + "history", "SAMPLES", 0) < 10_000  # type: ignore[operator]
    assert store.changes(before)[1] is None


def test_a_gateways_clock_that_is_ahead_takes_no_entry_off_the_lists_that_the_server_keeps(
    server: RedisServer, opened: Callable[..., Store]
) -> None:
    store, ahead = opened(server.url), opened(server.url, now=lambda: time.time() + 4 * HOUR)
    store.add([token(2)])
    ahead.add([token(3, START + 9 * HOUR)])
    assert ahead.purge() == 0
    assert store.count() == 2
    assert {entry.key for entry in store.page(10)[0]} == {token(2).key, token(3).key}


def test_a_purge_takes_what_has_ended_off_the_lists(server: RedisServer, opened: Callable[..., Store]) -> None:
    behind = opened(server.url, now=lambda: time.time() - 100)
    behind.add([token(2, int(time.time()) - 50), token(3)])
    assert [behind.purge(), opened(server.url).purge(), server.ask("ZCARD", TAG + "created")] == [0, 1, 1]


def test_a_cut_off_never_falls_while_eight_processes_raise_it(
    server: RedisServer, opened: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_patient(monkeypatch)
    store = opened(server.url)
    children = []
    for seed in range(8):
        child = os.fork()
        if child == 0:  # nothing of pytest may run here
            with contextlib.suppress(BaseException):
                for before in random.Random(seed).sample(range(1, 10_000), 40):
                    said = store.add([cut_off(1, before)])[0].entry.issued_before or 0
                    found = store.find([cut_off(1, 0).key])[0].issued_before or 0
                    assert found >= said >= before
                os._exit(0)
            os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8
    highest = max(max(random.Random(seed).sample(range(1, 10_000), 40)) for seed in range(8))
    assert store.find([cut_off(1, 0).key])[0].issued_before == highest


def test_a_large_batch_takes_a_script_for_each_100(server: RedisServer, store: Store) -> None:
    server.ask("CONFIG", "RESETSTAT")
    store.add([token(number) for number in range(100, 1350)])
    calls = server.calls()
    assert (calls["set"], calls["mget"], calls["eval"]) == (
        1250 + 26,
        13,
        26,
    )  # with generation and head
    assert store.count() == 1251


# --- what server it may be ---


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ((), "appendonly is off"),
        (("--appendonly", "yes", "--appendfsync", "no"), "appendfsync is no"),
        ((*SAFE, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "maxmemory-policy is allkeys-lru"),
        ((*SAFE, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"), "maxmemory-policy is volatile-ttl"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_server_that_may_forget_is_refused_unless_accepted(
    options: tuple[str, ...], fault: str, opened: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer("--save", "", *options) as server:
        with pytest.raises(StoreRefused, match=fault):
            opened(server.url)
        assert opened(server.url, accept_lossy=True).add([token(1)])[0].changed
        assert fault in caplog.text


def test_a_server_whose_clock_is_ahead_is_refused(server: RedisServer, opened: Callable[..., Store]) -> None:
    with pytest.raises(StoreRefused, match="clock"):
        opened(server.url, now=lambda: time.time() - GRACE_SECONDS)
    opened(server.url, now=lambda: time.time() + GRACE_SECONDS)


def test_a_server_that_comes_to_forget_is_not_ready_and_the_log_says_why_once(
    server: RedisServer, opened: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(server.url)
    server.ask("CONFIG", "SET", "appendonly", "no")
    time.sleep(1)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.ping()
    assert caplog.text.count("unavailable for look-ups (lossy): this Redis may forget: appendonly is off") == 1
    server.ask("CONFIG", "SET", "appendonly", "yes")
    assert until(lambda: outcome(store) != "refused", PATIENCE)
    store.ping()
    assert caplog.text.count("available again for look-ups") == 1


def test_syncing_once_a_second_is_warned_of(opened: Callable[..., Store], caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer("--save", "", "--appendonly", "yes") as server:
        opened(server.url)
    assert "may lose the last second" in caplog.text


def test_a_server_that_does_not_tell_its_configuration_is_said_to_be_unchecked(
    opened: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer("--save", "", "--rename-command", "CONFIG", "") as server:
        store = opened(server.url)
        assert store.add([token(1)])[0].changed
        store.ping()
    assert caplog.text.count("unchecked") == 1


@pytest.mark.parametrize("quote", ["'", "`"])
def test_a_command_that_is_not_there_is_known_by_the_words_of_any_server(quote: str) -> None:
    for command in ("CONFIG", "info"):
        said = f"ERR unknown command {quote}{command}{quote}, with args beginning with: {quote}GET{quote}, "
        assert is_forbidden(ReplyError(said))
    assert not is_forbidden(ReplyError(f"ERR unknown command {quote}EVAL{quote}"))


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ({"maxmemory": "0"}, ""),
        ({"maxmemory-policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru, not noeviction"),
        ({"maxmemory": "1", "appendonly": "yes"}, ""),
        ({"appendonly": "no"}, "appendonly is off"),
        ({"appendfsync": "no"}, "appendfsync is no"),
        ({}, ""),
    ],
)
def test_of_what_a_server_tells_in_part_the_rest_is_said_to_be_unchecked(
    caplog: pytest.LogCaptureFixture, told: dict[str, str], fault: str
) -> None:
    def ask(*commands: tuple[str, ...]) -> list[Any]:
        pairs = [text.encode() for pair in told.items() for text in pair]
        answers = {"TIME": (0, 0), "CONFIG": pairs, "INFO": b""}
        return [answers[command[0]] for command in commands]

    lossy = Lossy(ask, lambda: 0)
    lossy.look(0)
    lossy.look(0)
    assert (lossy.faults, caplog.text.count("unchecked")) == ([fault] if fault else [], 1)


def test_a_user_needs_no_more_than_the_documented_rights(
    server: RedisServer, opened: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    assert RIGHTS in (Path(__file__).parents[2] / "docs/redis.md").read_text()
    server.ask("ACL", "SETUSER", "gateway", "on", ">s/cr@t", *RIGHTS.split())
    with caplog.at_level("CRITICAL"):
        in_another = opened(f"redis://gateway:s%2Fcr%40t@127.0.0.1:{server.port}/1")
        assert outcome(in_another) == "refused"
        server.ask("ACL", "SETUSER", "gateway", "+select")
        await_added(in_another, token(1))
        server.ask("ACL", "SETUSER", "gateway", "-select")
    store = opened(f"redis://gateway:s%2Fcr%40t@127.0.0.1:{server.port}/0")
    assert [added.changed for added in store.add([token(1), cut_off(1, 1)])] == [True, True]
    assert len(store.find([token(1).key, cut_off(1, 0).key])) == len(store.page(10)[0]) == store.count() == 2
    assert store.remove(token(1).key)
    assert store.purge() == 0
    store.ping()
    assert "unchecked" in caplog.text
    assert "cr@t" not in caplog.text


def test_a_user_who_lacks_a_right_changes_nothing_half_way(server: RedisServer, opened: Callable[..., Store]) -> None:
    server.ask("ACL", "SETUSER", "gateway", "on", ">pw", *RIGHTS.split())
    store = opened(f"redis://gateway:pw@127.0.0.1:{server.port}/0")
    store.add([token(1)])
    for number, right in enumerate(("set", "del", "zadd", "zrem", "zrangebyscore"), 2):
        server.ask("ACL", "SETUSER", "gateway", f"-{right}")
        for change in (partial(store.add, [token(number)]), partial(store.remove, token(1).key)):
            with pytest.raises(StoreUnavailable):
                change()
        server.ask("ACL", "SETUSER", "gateway", f"+{right}")
        await_outcome(store, "found")
        assert [entry.key for entry in store.page(10)[0]] == [token(1).key]
    assert not store.find([token(number).key for number in range(2, 7)])
    assert store.add([token(2)])[0].changed
    assert (store.remove(token(1).key), store.count()) == (True, 1)


def test_the_right_to_read_the_configuration_has_it_checked(
    server: RedisServer, opened: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    server.ask("ACL", "SETUSER", "gateway", "on", ">secret", *RIGHTS.split(), "+config|get")
    opened(f"redis://gateway:secret@127.0.0.1:{server.port}/0")
    assert "unchecked" not in caplog.text


def test_a_wrong_password_refuses_and_is_not_told(
    server: RedisServer, opened: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    server.ask("CONFIG", "SET", "requirepass", "right")
    store = opened(f"redis://:wr0ng@127.0.0.1:{server.port}/0")
    assert outcomes(store, 2) == {"refused": 2 * THREADS}
    assert "wr0ng" not in caplog.text


def test_a_database_that_the_server_has_not_is_no_fault_of_the_way_to_it(
    server: RedisServer, opened: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    assert outcomes(opened(f"redis://127.0.0.1:{server.port}/99"), 1) == {"refused": THREADS}
    assert "unavailable for look-ups (refused): DB index is out of range" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "redis://host:port/0", "redis://[::1/0", "redis+sentinel://host", "redis+cluster://", "redis+cluster://h/0/x",
        "redis+other://host", "redis+sentinel:///service", "redis://host?db=x", "redis://host/x", "redis://host?unknown=x",
        "redis+cluster://host?unknown=x", "rediss://host?ssl_cert_reqs=x",
    ],
)  # fmt: skip
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(StoreRefused):
        open_store(url)


def test_a_database_and_a_socket_file(tmp_path: Path, opened: Callable[..., Store]) -> None:
    with RedisServer(*SAFE, "--unixsocket", tmp_path / "redis.sock") as server:
        urls = (f"redis://127.0.0.1:{server.port}/3", f"unix://{tmp_path}/redis.sock?db=3")
        for number, url in enumerate(urls):
            await_added(opened(url), token(number))
        for url in urls:
            assert len(opened(url).find([token(0).key, token(1).key])) == 2
        assert not opened(server.url).find([token(0).key])


@pytest.fixture
def tls(tmp_path: Path) -> list[object]:
    """Return a server's options for TLS on a port; the first two are port and authority."""
    certificates = Certificates(tmp_path)
    files = {"cert-file": "server.pem", "key-file": "server.pem", "ca-cert-file": "ca.pem"}
    options = [word for name, file in files.items() for word in (f"--tls-{name}", tmp_path / file)]
    return [free_port(), certificates.ca, *options, "--tls-auth-clients", "no"]


def test_tls(tls: list[object], opened: Callable[..., Store]) -> None:
    port, authority, *options = tls
    with RedisServer(*SAFE, "--tls-port", port, *options):
        store = opened(f"rediss://127.0.0.1:{port}/3?ssl_ca_certs={authority}")
        await_added(store, REVOKED)
        await_outcome(store, "found")
        for url in (f"rediss://127.0.0.1:{port}/3", f"rediss://localhost:{port}/3?ssl_ca_certs={authority}"):
            assert outcomes(opened(url), 2) == {"refused": 2 * THREADS}  # no authority of ours; another's certificate


def test_sentinels_over_tls_with_passwords_of_their_own(tls: list[object], opened: Callable[..., Store]) -> None:
    port, authority, *options = tls
    passwords = ("--requirepass", "s/cret", "--masterauth", "s/cret")
    with RedisServer(*SAFE, "--tls-port", port, *options, *passwords):
        over_tls = [*options, "--tls-replication", "yes", "--requirepass", "other"]
        with Sentinel(int(str(port)), 1, *over_tls, password="s/cret", tls=True) as sentinel:
            url = f"rediss+sentinel://:s%2Fcret@127.0.0.1:{sentinel.port}/blacklist/2?ssl_ca_certs={authority}"
            store = opened(f"{url}&sentinel_password=other")
            await_added(store, REVOKED)
            await_outcome(store, "found")
            assert outcomes(opened(url), 2) == {"refused": 2 * THREADS}
            await_outcome(opened(f"{url.replace('rediss', 'valkeys')}&sentinel_password=other"), "found")


def test_a_cluster_over_tls(tls: list[object], opened: Callable[..., Store]) -> None:
    port, authority, *options = tls
    ports = [int(str(port)), free_port()]
    over_tls = [*CLUSTER, *options, "--tls-cluster", "yes", "--tls-port"]
    with RedisServer(*over_tls, ports[0]) as one, RedisServer(*over_tls, ports[1]) as two:
        join(one, two, ports=ports)
        for scheme in ("rediss", "valkeys"):
            for each in ports:  # of which one sends on to the other
                store = opened(f"{scheme}+cluster://127.0.0.1:{each}?ssl_ca_certs={authority}")
                await_added(store, REVOKED)
                await_outcome(store, "found")
        assert outcomes(opened(f"rediss+cluster://127.0.0.1:{ports[0]}"), 2) == {"refused": 2 * THREADS}
        assert sorted(int(str(node.ask("DBSIZE"))) for node in (one, two)) == [0, 6]


# --- several servers ---


@pytest.fixture
def replica(server: RedisServer) -> Iterator[RedisServer]:
    with RedisServer(*SAFE, "--replicaof", "127.0.0.1", server.port) as running:
        await_replica(server)
        yield running


def await_replica(primary: RedisServer) -> None:
    with primary.client() as client:
        client.set("mark", "1")
        assert client.wait(1, int(PATIENCE * 1000)) == 1
        client.delete("mark")


def test_what_replicas_do_not_have_is_not_answered_as_done(
    server: RedisServer, replica: RedisServer, opened: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(server.url, replicas=1)
    await_added(store, REVOKED)
    assert replica.ask("EXISTS", TAG + REVOKED.key) == 1
    replica.signal(signal.SIGSTOP)
    caplog.clear()
    for _ in range(2):  # the second finds it there already, and the replica still does not have it
        with pytest.raises(StoreUnavailable):
            store.add([token(2)])
        with pytest.raises(StoreUnavailable):  # nor is a message taken, or one that was taken before
            store.add([token(3)], once=MESSAGE)
    with pytest.raises(StoreUnavailable):
        store.ping()
    await_outcome(store, "found")
    assert "available again for changes" not in caplog.text
    replica.signal(signal.SIGCONT)
    await_added(store, token(2))
    assert replica.ask("EXISTS", TAG + token(2).key, TAG + token(3).key) == 2
    assert store.add([token(3)], once=MESSAGE) is not None
    assert store.add([token(3)], once=MESSAGE) is None
    store.ping()


def test_a_message_whose_answer_was_lost_is_taken_when_it_comes_again(relay: Relay, store: Store) -> None:
    relay.loses = b"EVAL"
    with pytest.raises(StoreUnavailable):
        store.add([token(2)], once=MESSAGE)
    assert until(lambda: answers(store), PATIENCE)
    assert store.add([token(2)], once=MESSAGE) == [(token(2), False)]
    assert store.add([token(2)], once=MESSAGE) is None


def answers(store: Store) -> bool:
    with contextlib.suppress(StoreUnavailable):
        return bool(store.find([token(2).key]))
    return False


def test_a_full_server_takes_removals_that_replicas_have(
    server: RedisServer, replica: RedisServer, opened: Callable[..., Store]
) -> None:
    store = opened(server.url, replicas=1)
    await_added(store, REVOKED)
    server.ask("CONFIG", "SET", "maxmemory", 1)
    assert store.remove(REVOKED.key)
    assert not replica.ask("EXISTS", TAG + REVOKED.key)


def test_probes_that_come_at_once_are_one_question(server: RedisServer, store: Store) -> None:
    store.ping()
    server.ask("CONFIG", "RESETSTAT")
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda _: store.ping(), range(500)))
    assert sum(server.calls().values()) < 100


def test_a_primary_without_the_replicas_it_must_have_answers_nothing(
    server: RedisServer, replica: RedisServer, opened: Callable[..., Store]
) -> None:
    """Cut off from its replicas it may have been replaced: what it knows may be the past."""
    store = opened(server.url)
    await_added(store, REVOKED)
    server.ask("CONFIG", "SET", "min-replicas-max-lag", 1)
    server.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    await_outcome(store, "found")
    replica.kill()
    await_outcome(store, "refused")
    replica.start()
    await_outcome(store, "found")


def test_a_demoted_primary_is_not_asked_although_its_connection_lasts(
    server: RedisServer, replica: RedisServer, opened: Callable[..., Store]
) -> None:
    store, other = opened(server.url), opened(replica.url)
    await_added(store, REVOKED)
    assert outcome(other) == "refused"
    await_replica(server)
    replica.ask("REPLICAOF", "NO", "ONE")
    server.ask("REPLICAOF", "127.0.0.1", replica.port)
    assert outcome(store) == "refused"
    await_outcome(other, "found")


def test_sentinels_lead_to_the_new_primary(
    server: RedisServer, replica: RedisServer, tmp_path: Path, opened: Callable[..., Store]
) -> None:
    with contextlib.ExitStack() as stack:
        sentinels = [stack.enter_context(Sentinel(server.port, quorum=2)) for _ in range(3)]
        nodes = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        store = opened(f"redis+sentinel://127.0.0.1:{free_port()},{nodes}/blacklist/0", replicas=1)
        await_added(store, REVOKED)
        await_outcome(store, "found")
        for sentinel in sentinels:
            sentinel.await_knowing(others=2, replicas=1)
        server.kill()
        assert outcomes(store, 10)["passed"] == 0
        await_outcome(store, "found")
        await_outcome(store, "found")
        assert replica.ask("ROLE")[0] == "master"  # type: ignore[index]
        with pytest.raises(StoreUnavailable):  # it has no replica yet
            store.add([token(2)])
        server.start("--replicaof", "127.0.0.1", str(replica.port))  # as sentinels would make it, after eight seconds
        await_added(store, token(2))
        assert outcome(store) == "found"


@pytest.mark.skipif(not shutil.which("redis-cli"), reason="redis-cli is not installed")
def test_while_no_connection_can_be_opened_those_there_are_serve_all(
    server: RedisServer, opened: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_patient(monkeypatch)
    with Sentinel(server.port, 1) as sentinel:
        store = opened(f"redis+sentinel://127.0.0.1:{sentinel.port}/blacklist")
        await_added(store, REVOKED)
        sentinel.kill()
        assert outcomes(store, 5) == {"found": 5 * THREADS}


def test_the_runbook_asks_whether_the_replica_has_everything(server: RedisServer, replica: RedisServer) -> None:
    """WAIT alone says yes, whatever the replica lacks: it speaks of its own connection's writes."""
    page = (Path(__file__).parents[2] / "docs/redis.md").read_text()
    [line] = re.findall(r"`(printf .*WAIT.* redis-cli)`", page)

    def run() -> list[str]:
        command = ["bash", "-c", f"{line} -p {server.port}"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    await_replica(server)
    assert run() == ["OK", "1"]
    replica.signal(signal.SIGSTOP)
    try:
        assert run() == ["OK", "0"]
    finally:
        replica.signal(signal.SIGCONT)


def test_a_planned_failover_by_sentinels_without_changes_meanwhile_loses_nothing(
    server: RedisServer, replica: RedisServer, opened: Callable[..., Store]
) -> None:
    """The runbook of docs/redis.md."""
    with Sentinel(server.port, 1) as sentinel:
        store = opened(f"redis+sentinel://127.0.0.1:{sentinel.port}/blacklist/0")
        await_added(store, REVOKED)
        sentinel.await_knowing(others=0, replicas=1)
        await_replica(server)
        before = store.changes("")[0]
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                sentinel.ask("SENTINEL", "FAILOVER", "blacklist")
                break
            except redis.ResponseError:  # NOGOODSLAVE: it has not heard of the replica for a moment
                assert time.monotonic() < deadline
                time.sleep(0.1)
        while replica.ask("ROLE")[0] != "master":  # type: ignore[index]
            assert outcome(store) != "passed"
            assert time.monotonic() < deadline
        await_outcome(store, "found")
        assert store.changes(before) == (before, frozenset())
        await_added(store, token(2))


def test_a_planned_failover_to_a_replica_under_changes_loses_none_that_was_answered(
    server: RedisServer, replica: RedisServer, relay: Relay, opened: Callable[..., Store]
) -> None:
    """FAILOVER pauses writes until the replica has them all."""
    store, over, added = opened(relay.url), threading.Event(), []
    await_added(store, REVOKED)

    def change() -> None:
        number = 1000
        while not over.is_set():
            number += 1
            with contextlib.suppress(StoreUnavailable):
                store.add([token(number)])
                added.append(number)

    with ThreadPoolExecutor(2) as threads:
        changing = [threads.submit(change) for _ in range(2)]
        time.sleep(0.3)
        server.ask("FAILOVER", "TO", "127.0.0.1", replica.port, "TIMEOUT", 5000)
        deadline = time.monotonic() + PATIENCE
        while replica.ask("ROLE")[0] != "master":  # type: ignore[index]
            assert time.monotonic() < deadline
        relay.behind = replica.port
        relay.cut()
        await_outcome(store, "found")
        time.sleep(0.3)
        over.set()
        for each in changing:
            each.result()
    await_outcome(store, "found")
    assert all(store.find([token(number).key]) for number in added)


def test_a_cluster_keeps_the_blacklist_on_one_shard(opened: Callable[..., Store]) -> None:
    with RedisServer(*CLUSTER) as one, RedisServer(*CLUSTER) as two:
        join(one, two)
        stores = [opened(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{node.port}") for node in (one, two)]
        assert stores[0].add([REVOKED, cut_off(1, 1)])[0].changed
        for store in stores:
            await_outcome(store, "found")  # one that could not ask at its start refuses first
            assert len(store.page(10)[0]) == store.count() == 2
        assert stores[1].remove(REVOKED.key)
        assert sorted(int(str(node.ask("DBSIZE"))) for node in (one, two)) == [0, 6]


def test_a_user_of_a_cluster_needs_no_more_than_the_documented_rights(opened: Callable[..., Store]) -> None:
    with RedisServer(*CLUSTER) as one, RedisServer(*CLUSTER) as two:
        join(one, two)
        for node in (one, two):
            node.ask("ACL", "SETUSER", "gateway", "on", ">pw", *RIGHTS.split())
        for node in (one, two):  # of which one sends on to the other
            store = opened(f"redis+cluster://gateway:pw@127.0.0.1:{node.port}")
            await_added(store, REVOKED)
            await_outcome(store, "found")


def test_the_log_says_why_no_node_of_a_cluster_can_be_asked(
    opened: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(*CLUSTER) as node:
        join(node)
        node.ask("ACL", "SETUSER", "gateway", "on", ">pw", *RIGHTS.split(), "-get")
        assert outcome(opened(f"redis+cluster://gateway:pw@127.0.0.1:{node.port}")) == "refused"
        assert outcome(opened(f"redis+cluster://gateway:wrong@127.0.0.1:{node.port}")) == "refused"
    assert "unavailable for look-ups (refused): NOPERM" in caplog.text
    assert "unavailable for look-ups (refused): invalid username-password pair" in caplog.text


def test_look_ups_follow_the_blacklist_while_its_slot_migrates(
    opened: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.blacklist.stores.redis.server.CHECK_SECONDS", 0.0)  # each looks at the settings, too
    with RedisServer(*CLUSTER) as one, RedisServer(*CLUSTER) as two:
        join(one, two, slots=[SLOTS, 0])
        store = opened(f"redis+cluster://127.0.0.1:{one.port}")
        await_added(store, REVOKED)
        slot, source, target = (
            one.ask("CLUSTER", "KEYSLOT", TAG),
            one.ask("CLUSTER", "MYID"),
            two.ask("CLUSTER", "MYID"),
        )
        two.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source)
        one.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
        for key in sorted(one.ask("KEYS", "*")):  # type: ignore[type-var, arg-type]
            assert outcome(store) == "found"
            assert not store.find([token(2).key])
            assert store.changes("")[0]
            with pytest.raises(StoreUnavailable):
                store.add([token(2)])
            await_outcome(store, "found")
            one.ask("MIGRATE", "127.0.0.1", two.port, key, 0, 5000)
        assert outcome(store) == "found"
        await_outcome(opened(f"redis+cluster://127.0.0.1:{one.port}"), "found")  # who knows nothing yet
        for node in (two, one):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target)
        assert outcome(store) == "found"
        await_added(store, token(2))


# --- another blacklist in its place ---


def test_a_blacklist_that_was_wiped_is_refused_by_every_process(
    server: RedisServer, relay: Relay, store: Store
) -> None:
    server.ask("FLUSHALL")
    assert outcomes(store, 2) == {"refused": 2 * THREADS}
    for change in (lambda: store.add([REVOKED]), lambda: store.remove(REVOKED.key), store.ping, store.count):
        with pytest.raises(StoreUnavailable):
            change()  # type: ignore[no-untyped-call]
    assert in_child(lambda: {outcome(store) for _ in range(10)} == {"refused"})
    assert server.ask("DBSIZE") == 0


def test_a_copy_that_lacks_changes_is_refused_by_those_who_saw_them(
    server: RedisServer, relay: Relay, store: Store, opened: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    """What a failover loses that was not waited for, and what a power cut takes from a file that was not synced."""
    accepting = opened(relay.url, accept_lossy=True)
    with RedisServer(*SAFE, "--replicaof", "127.0.0.1", server.port) as copy:
        await_replica(server)
        copy.ask("REPLICAOF", "NO", "ONE")
        await_added(store, token(2))
        assert accepting.find([token(2).key])
        relay.behind = copy.port
        relay.cut()
        assert outcomes(store, 2) == {"refused": 2 * THREADS}
        assert "older copy that lacks the last 1 changes" in caplog.text
        await_outcome(accepting, "found")
        await_outcome(opened(relay.url), "found")


def test_a_copy_stays_refused_when_it_has_as_many_changes_again_until_an_operator_accepts_it(
    server: RedisServer, relay: Relay, store: Store, opened: Callable[..., Store]
) -> None:
    with RedisServer(*SAFE, "--replicaof", "127.0.0.1", server.port) as copy:
        await_replica(server)
        copy.ask("REPLICAOF", "NO", "ONE")
        await_added(store, token(2))
        newcomer = opened(copy.url)  # which had not asked before the failover
        for number in (3, 4, 5):
            await_added(newcomer, token(number))
            relay.behind = copy.port
            relay.cut()
            assert outcomes(store, 2) == {"refused": 2 * THREADS}
        operator = opened(copy.url)
        operator.accept()
        await_outcome(store, "found")
        assert not store.find([token(2).key])
        await_added(store, token(6))
        await_outcome(newcomer, "found")
        relay.behind = server.port
        relay.cut()
        assert outcomes(store, 2) == {"refused": 2 * THREADS}


def test_an_answer_that_comes_late_does_not_take_back_what_is_known(
    server: RedisServer, relay: Relay, store: Store
) -> None:
    await_outcome(store, "found")
    numbers = []
    for number in range(20):
        with ThreadPoolExecutor(2) as threads:
            relay.delay = random.choice([0, 0.002, 0.01])
            asked = threads.submit(outcome, store)
            await_added(store, token(100 + number))
            assert asked.result() != "passed"
        numbers.append(int(store.changes("")[0].split(".")[2]))
    assert numbers == sorted(set(numbers))


def test_a_server_that_becomes_lossy_while_we_run_is_refused_without_a_probe(
    server: RedisServer, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await_outcome(store, "found")
    server.ask("CONFIG", "SET", "maxmemory", "100mb")
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    deadline = time.monotonic() + 1
    while outcome(store) != "refused":
        assert time.monotonic() < deadline + PATIENCE
    assert outcomes(store, 2) == {"refused": 2 * THREADS}
    with pytest.raises(StoreUnavailable) as refusal:
        store.add([token(2)])
    assert refusal.value.cause == "lossy"
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.ping()
        assert outcome(store) == "refused"
    assert caplog.text.count("this Redis may forget: maxmemory-policy is allkeys-lru") == 1
    assert "available again" not in caplog.text
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await_outcome(store, "found")
    assert "available again" in caplog.text


def test_the_log_says_once_that_a_full_server_takes_no_changes(
    server: RedisServer, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await_added(store, REVOKED)
    caplog.clear()
    server.ask("CONFIG", "SET", "maxmemory", "1")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.add([token(2)])
        time.sleep(0.9)  # meanwhile the settings are looked at
        await_outcome(store, "found")
    assert caplog.text.count("unavailable for changes (refused): OOM") == 1
    assert "available again" not in caplog.text


def add_and_evict(server: RedisServer, store: Store) -> None:
    """Have the server evict an entry that was added."""
    await_added(store, REVOKED)
    server.ask("CONFIG", "SET", "maxmemory-policy", "volatile-ttl", "maxmemory", "1")
    with server.client() as client:
        while not client.info("stats")["evicted_keys"]:
            pass


def test_what_was_evicted_stays_noticed_when_the_settings_are_right_again(
    server: RedisServer, store: Store, opened: Callable[..., Store]
) -> None:
    add_and_evict(server, store)
    time.sleep(1)
    assert in_child(lambda: outcome(store) == "refused")  # one worker alone has seen it
    server.kill()
    server.start()  # with the right settings, and figures that begin at 0
    with contextlib.suppress(StoreUnavailable):
        store.find([REVOKED.key])
    time.sleep(0.3)  # until it is asked again
    assert set(outcomes(store, 2)) == {"refused"}
    opened(server.url).accept()
    await_outcome(store, "passed")  # it was evicted, and an operator knows


def test_a_replica_that_takes_writes_is_not_asked(
    server: RedisServer, replica: RedisServer, relay: Relay, store: Store
) -> None:
    replica.ask("CONFIG", "SET", "replica-read-only", "no")
    await_replica(server)
    relay.behind = replica.port
    relay.cut()
    assert outcomes(store, 2) == {"refused": 2 * THREADS}


def test_a_server_that_ceases_to_tell_its_configuration_is_as_lossy_as_before(
    server: RedisServer, store: Store
) -> None:
    await_outcome(store, "found")
    server.ask("CONFIG", "SET", "appendonly", "no")
    time.sleep(1)
    assert set(outcomes(store, 1)) == {"refused"}
    server.ask("ACL", "SETUSER", "default", "-config")
    time.sleep(1)
    assert set(outcomes(store, 1)) == {"refused"}


def test_a_server_that_tells_its_configuration_again_has_it_checked_again(
    server: RedisServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.blacklist.stores.redis.lossy.FORBIDDEN_SECONDS", 0.1)
    for rights in ("-config", "-info"):
        server.ask("ACL", "SETUSER", "default", rights)
    time.sleep(1)
    await_outcome(store, "found")
    server.ask("ACL", "SETUSER", "default", "+@all")
    server.ask("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
    time.sleep(1)
    assert set(outcomes(store, 1)) == {"refused"}


def test_entries_may_be_gone_after_the_servers_clock_was_ahead_until_they_have_ended_by_ours() -> None:
    ahead, ours = 0, int(time.time())
    lossy = Lossy(lambda *commands, **_: [(int(ours) + ahead, 0)] if commands == (("TIME",),) else [], lambda: ours)
    told = []
    for ahead, seconds in ((0, 0), (1800, 0), (7300, 0), (0, 0), (0, 3600), (0, 110), (7300, 0), (0, 0)):  # noqa: B007
        ours += seconds
        lossy.look(0)
        told.append(lossy.faults)
    far, gone = ["its clock is far ahead"], ["its clock was far ahead, and entries may be gone that have not ended"]
    assert told == [[], far, far, gone, gone, [], far, gone]
    lossy.look(1)  # an operator has accepted it
    assert lossy.faults == []


def test_a_gateway_that_starts_after_an_eviction_says_that_entries_may_be_gone(
    server: RedisServer, store: Store, opened: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    add_and_evict(server, store)
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "0")
    opened(server.url)
    assert re.search(
        "Redis has evicted [0-9]+ keys since it was started: entries among them count no more", caplog.text
    )


def test_a_server_that_was_started_by_a_clock_that_was_ahead_may_have_forgotten_entries() -> None:
    run, uptime, ours = "first", 100, START

    def ask(*commands: tuple[str, ...]) -> list[Any]:
        figures = f"run_id:{run}\r\nuptime_in_seconds:{uptime}\r\n".encode()
        return {"TIME": [(ours, 0)], "INFO": [figures], "CONFIG": []}[commands[0][0]]

    lossy = Lossy(ask, lambda: ours)
    told = []
    for run, uptime, ours in (("first", 100, START), ("next", -7190, START + 10), ("next", -3580, START + 3620)):  # noqa: B007
        lossy.look(0)
        told.append(lossy.faults)
    assert told == [[], ["its clock was far ahead, and entries may be gone that have not ended"], []]


def test_a_child_does_not_wait_for_a_thread_of_its_parent_that_looks_at_the_configuration(
    relay: Relay, store: Store
) -> None:
    await_outcome(store, "found")
    time.sleep(1)
    relay.delay = 0.1
    with ThreadPoolExecutor() as threads:
        before = relay.requests
        asked = threads.submit(outcome, store)
        while relay.requests == before:
            pass
        relay.delay = 0.0
        is_told = in_child(lambda: await_outcome(store, "found") is None)
        asked.result()
    assert is_told


def test_a_store_that_idled_looks_at_the_configuration_before_it_answers(server: RedisServer, store: Store) -> None:
    await_outcome(store, "found")
    time.sleep(1)
    server.ask("CONFIG", "SET", "appendonly", "no")
    assert outcomes(store, 1) == {"refused": THREADS}


def test_two_deployments_on_one_server_see_nothing_of_each_other(
    server: RedisServer, opened: Callable[..., Store]
) -> None:
    one, other = opened(f"{server.url}?prefix=shop"), opened(f"{server.url}?socket_keepalive=yes&prefix=bank")
    one.add([token(1)])
    other.add([token(2), cut_off(1, 1)])
    assert [len(store.page(10)[0]) for store in (one, other)] == [one.count(), other.count()] == [1, 2]
    assert not other.find([token(1).key])
    assert {str(key).partition("}")[0] for key in server.ask("KEYS", "*")} == {"{shop", "{bank"}  # type: ignore[attr-defined]
    assert opened(server.url).count() == 0


@pytest.mark.parametrize("query", ["prefix=", "prefix={a}", "prefix=a&prefix=b", "prefix=a%00", "prefix=" + "a" * 65])
def test_a_prefix_that_is_none_is_refused(query: str) -> None:
    with pytest.raises(StoreRefused):
        open_store(f"redis://127.0.0.1:1/0?{query}")


def test_valkeys_own_schemes(server: RedisServer, tls: list[object], opened: Callable[..., Store]) -> None:
    assert opened(server.url.replace("redis://", "valkey://")).add([REVOKED])
    port, authority, *options = tls
    with RedisServer(*SAFE, "--tls-port", port, *options), Sentinel(server.port, 1) as sentinel:
        await_added(opened(f"valkeys://127.0.0.1:{port}/3?ssl_ca_certs={authority}"), REVOKED)
        await_outcome(opened(f"valkey+sentinel://127.0.0.1:{sentinel.port}/blacklist/0"), "found")


OLD_CHANGE = """
local name, changes = string.match(redis.call('GET', '{jwt-gateway}:generation') or '', '^(%x+)%.(%d+)$')
if not name then return redis.error_reply('WIPED the generation is gone') end
if ARGV[1] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('ZADD', '{jwt-gateway}:created', 0, ARGV[2])
redis.call('ZADD', '{jwt-gateway}:expires', '+inf', ARGV[2])
redis.call('SET', '{jwt-gateway}:generation', name .. '.' .. (changes + 1))
return 1
"""


def test_gateways_of_an_older_version_change_the_same_blacklist_meanwhile(
    server: RedisServer, opened: Callable[..., Store]
) -> None:
    """They know of no marks: whoever meets their changes leaves one for them."""

    def old_change(number: int) -> None:
        text = json.dumps({"issuer": "i", "created_at": 1, "claim": {"sub": number}, "issued_before": 9})
        key = f"claim:{number:064x}"
        server.ask("EVAL", OLD_CHANGE, 1, TAG + key, text, f"000000000001:{key}")

    server.ask("SET", TAG + "generation", "ab12" * 8 + ".41")
    old_change(1)
    stores = [opened(server.url) for _ in range(2)]
    assert stores[0].find([cut_off(1, 0).key])[0].claim == ("sub", "1")
    for number in range(2, 8):
        since = stores[0].changes("")[0]
        old_change(number)
        assert all(store.find([cut_off(number, 0).key]) for store in stores)
        assert stores[1].changes(since)[1] is None
        stores[number % 2].add([token(number)])
        old_change(100 + number)
        assert server.ask("GET", TAG + "generation") == "ab12" * 8 + f".{42 + 3 * (number - 1)}"
        assert stores[(number + 1) % 2].find([token(number).key])
    assert stores[0].count() == stores[1].count() == 1 + 6 * 3


def test_another_server_in_its_place_is_refused(relay: Relay, store: Store, opened: Callable[..., Store]) -> None:
    with RedisServer() as other:
        opened(other.url).add([token(2)])
        relay.behind = other.port
        relay.cut()
        assert outcomes(store, 2) == {"refused": 2 * THREADS}


def test_a_server_that_comes_after_the_store_was_opened_is_taken(opened: Callable[..., Store]) -> None:
    server = RedisServer()
    store = opened(server.url)
    assert outcome(store) == "refused"
    with server:
        await_added(store, REVOKED)
        assert outcome(store) == "found"


# --- faults ---


def stop(server: RedisServer, relay: Relay) -> Callable[[], object]:
    server.signal(signal.SIGSTOP)
    return lambda: server.signal(signal.SIGCONT)


def kill(server: RedisServer, relay: Relay) -> Callable[[], object]:
    server.kill()
    return server.start


def refuse(server: RedisServer, relay: Relay) -> Callable[[], object]:
    relay.refuse()
    return relay.accept


def stall(server: RedisServer, relay: Relay) -> Callable[[], object]:
    relay.stalled = True

    def heal() -> None:
        relay.stalled = False

    return heal


def drip(server: RedisServer, relay: Relay) -> Callable[[], object]:
    relay.drip = 0.1

    def heal() -> None:
        relay.drip = 0.0

    return heal


def delay(server: RedisServer, relay: Relay) -> Callable[[], object]:
    relay.delay = 0.6

    def heal() -> None:
        relay.delay = 0.0

    return heal


def demand_password(server: RedisServer, relay: Relay) -> Callable[[], object]:
    with server.client() as client:
        client.config_set("requirepass", "secret")
        client.client_kill_filter(_type="normal", skipme=True)

    def heal() -> None:
        with server.client(password="secret") as client:
            client.config_set("requirepass", "")

    return heal


def load(server: RedisServer, relay: Relay) -> Callable[[], object]:
    """Restart it on a file that takes it long to load."""
    with server.client() as client:
        client.mset({f"{number}": "x" for number in range(2000)})
        client.execute_command("BGREWRITEAOF")
        while client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.02)
    server.kill()
    server.start("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    return lambda: None


def demote(server: RedisServer, relay: Relay) -> Callable[[], object]:
    server.ask("REPLICAOF", "127.0.0.1", free_port())
    return lambda: server.ask("REPLICAOF", "NO", "ONE")


FAULTS = [stop, kill, refuse, stall, drip, delay, demand_password, load, demote]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_no_fault_lets_the_token_pass_and_none_needs_a_restart(
    server: RedisServer, relay: Relay, store: Store, fault: Callable[..., Callable[[], object]]
) -> None:
    await_outcome(store, "found")
    heal = fault(server, relay)
    told = outcomes(store)
    assert told["passed"] == 0
    assert told["refused"] > 0
    with contextlib.suppress(StoreUnavailable):
        store.add([token(2)])
    heal()
    await_outcome(store, "found")
    assert outcomes(store, 3)["passed"] == 0
    store.ping()


def test_connections_cut_between_questions_refuse_nobody(relay: Relay, store: Store) -> None:
    for number in range(20):
        relay.cut()
        assert outcome(store, in_pauses=number % 2 == 0) == "found"


ANSWERS = [
    b"-LOADING Redis is loading the dataset in memory\r\n" * 2,
    b"*1\r\n$-1\r\n-READONLY You can't write against a read only replica.\r\n",
    b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n" * 2,
    b"-MOVED 3999 127.0.0.1:1\r\n" * 2,
    b"-ASK 3999 127.0.0.1:1\r\n" * 2,
    b"-CLUSTERDOWN The cluster is down\r\n" * 2,
    b"-NOAUTH Authentication required.\r\n" * 2,
    b"*1\r\n$-1\r\n-NOREPLICAS Not enough good replicas to write.\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"$-1\r\n$-1\r\n",
    b"*1\r\n$-1\r\n$-1\r\n",
    b"*1\r\n$-1\r\n+OK\r\n",
    b"*1\r\n$-1\r\n*0\r\n",
    b"*1\r\n$-1\r\n:1\r\n",
    b"$32\r\n",
    b"\x00" * 100,
    b":1\r\n" * 10_000,
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: repr(answer[:20]))
def test_an_answer_that_is_none_lets_nothing_pass(relay: Relay, store: Store, answer: bytes) -> None:
    relay.says = answer
    assert outcomes(store, 5) == {"refused": 5 * THREADS}
    with pytest.raises(StoreUnavailable):
        store.add([token(2)])
    with pytest.raises(StoreUnavailable):
        store.remove(REVOKED.key)
    relay.says = None
    await_outcome(store, "found")


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """Listen with a full queue while the block runs: the kernel drops what comes after."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_server_that_answers_no_connection_is_given_up(opened: Callable[..., Store]) -> None:
    with silent_port() as port:
        assert outcomes(opened(f"redis://127.0.0.1:{port}"), 5) == {"refused": 5 * THREADS}


def test_a_node_of_a_cluster_that_answers_no_connection_is_asked_last_from_then_on(
    opened: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_patient(monkeypatch)
    with silent_port() as port, RedisServer(*CLUSTER) as node:
        join(node)
        monkeypatch.setitem(redis_primary._OPTIONS, "socket_connect_timeout", 0.1)
        store = opened(f"redis+cluster://127.0.0.1:{port},127.0.0.1:{node.port}")
        await_added(store, REVOKED)
        monkeypatch.setitem(redis_primary._OPTIONS, "socket_connect_timeout", PATIENCE)
        with ThreadPoolExecutor(THREADS) as threads:  # more than have a connection
            assert set(threads.map(lambda _: outcome(store), range(THREADS))) == {"found"}


def test_a_name_server_that_hangs_holds_nobody_up(
    server: RedisServer, opened: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    look_up = socket.getaddrinfo

    def hang(*arguments: Any) -> Any:
        answered.wait()
        return look_up(*arguments)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    before = threading.active_count()  # earlier tests' among them
    store = opened(server.url)
    assert outcomes(store, 50) == {"refused": 50 * THREADS}
    assert threading.active_count() < before + 50
    answered.set()
    await_added(store, REVOKED)
    await_outcome(store, "found")


def test_a_full_server_refuses_what_is_new_and_keeps_what_it_has(server: RedisServer, store: Store) -> None:
    server.ask("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(StoreUnavailable):
        store.add([token(2)])
    with pytest.raises(StoreUnavailable):
        store.ping()
    await_outcome(store, "found")
    assert store.remove(REVOKED.key)
    server.ask("CONFIG", "SET", "maxmemory", 0)
    assert store.add([token(2)])[0].changed
    store.ping()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"1", b'{"issuer": "x"}', b"\xff", b'{"claim": {}}'])
def test_an_entry_that_is_none_is_not_an_absent_one(
    server: RedisServer, store: Store, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server.ask("SET", TAG + REVOKED.key, text)
    for in_pauses in (False, True):
        assert outcome(store, in_pauses=in_pauses) == "refused"
        assert outcome(store, token(2), in_pauses=in_pauses) == "passed"
    with pytest.raises(StoreUnavailable) as refusal:
        store.add([REVOKED])
    assert refusal.value.cause == "damaged"
    assert [record.message.partition(". ")[0] for record in caplog.records] == [
        f"the blacklist store is unavailable for {REVOKED.key} (damaged): what stands there is no entry"
    ]
    caplog.clear()
    server.ask("DEL", TAG + REVOKED.key)
    assert [outcome(store, in_pauses=in_pauses) for in_pauses in (True, False)] == ["passed", "passed"]
    assert caplog.messages == [f"the blacklist store is available again for {REVOKED.key}"]


@pytest.mark.parametrize("text", [b"", b"soon", b"{}"])
def test_a_message_whose_end_is_none_neither_came_nor_did_not(server: RedisServer, store: Store, text: bytes) -> None:
    server.ask("SET", TAG + MESSAGE.key, text)
    with pytest.raises(StoreUnavailable) as refusal:
        store.add([token(2)], once=MESSAGE)
    assert refusal.value.cause == "damaged"
    assert store.find([token(2).key]) == []
    server.ask("DEL", TAG + MESSAGE.key)
    assert store.add([token(2)], once=MESSAGE)


@pytest.mark.parametrize("row", ["garbage", "{head} not JSON", "{head} [[]]", "{head} 5"])
def test_a_row_of_the_history_that_is_none_hides_no_change(server: RedisServer, store: Store, row: str) -> None:
    store.add([token(2)])
    since, _ = store.changes("")
    store.add([token(3)])
    assert store.changes(since)[1] == {token(3).key}
    server.ask("ZADD", TAG + "history", 10**6, row.format(head=server.ask("GET", TAG + "head")))
    with pytest.raises(StoreUnavailable) as refusal:
        store.changes(since)
    assert refusal.value.cause == "history"
    server.ask("ZREMRANGEBYSCORE", TAG + "history", 10**6, 10**6)
    assert store.changes(since)[1] == {token(3).key}


# --- whose answer it is ---


def test_answers_never_cross_while_connections_break(relay: Relay, store: Store) -> None:
    entries = [token(number, reason=str(number)) for number in range(100, 100 + THREADS)]
    store.add(entries)
    over = threading.Event()

    def ask(number: int) -> Counter[str]:
        told: Counter[str] = Counter()
        while not over.is_set():
            told[outcome(store, entries[number], in_pauses=number % 2 == 0)] += 1
        return told

    with ThreadPoolExecutor(THREADS) as threads:
        asking = [threads.submit(ask, number) for number in range(THREADS)]
        for _ in range(100):
            relay.delay = random.choice([0, 0, 0.001, 0.15, 0.199, 0.2, 0.201, 0.25])
            time.sleep(random.uniform(0.01, 0.05))
            if random.random() < 0.3:
                relay.cut()
        relay.delay = 0.0
        over.set()
        told = sum((result.result() for result in asking), Counter[str]())
    assert told["passed"] == 0
    assert told["found"] > 0
    assert told["refused"] > 0


class Interrupt(BaseException):
    """From outside, as a time-out for a worker makes it: it comes anywhere."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it reaches destructors too
def test_answers_never_cross_when_questions_are_broken_off(relay: Relay, store: Store) -> None:
    entries = [token(number, reason=str(number)) for number in range(100, 104)]
    store.add(entries)
    relay.delay = 0.001

    def interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    told: Counter[str] = Counter()
    try:
        for number in range(1000):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.012))
                told[outcome(store, entries[number % 4])] += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                told["broken off"] += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert told["passed"] == 0
    assert told["broken off"] > 0
    assert told["found"] > 0
    await_outcome(store, "found")

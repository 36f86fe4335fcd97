"""Look-ups in Redis hold no thread of the server's, and those that come at once are one question."""

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any, cast

import pytest
from helpers import SECRET, mint
from pauses import outcome_in_pauses
from recorder import Client, Recorder, exchange, ok, request, served, until
from redis_servers import PATIENCE, RedisServer, be_patient
from relay import Relay
from running import Running

from gateway import Gateway
from gateway.blacklist.stores import Entry
from gateway.blacklist.stores.outage import Outage
from gateway.blacklist.stores.redis import lookups
from gateway.blacklist.stores.redis.client import SECONDS, RedisConnection
from gateway.blacklist.stores.redis.keys import as_answered
from gateway.blacklist.stores.redis.lookups import LookUps
from gateway.blacklist.stores.redis.server import Server
from gateway.blacklist.stores.redis.store import RedisStore
from gateway.http.problems import StoreUnavailable
from gateway.http.wsgi import Context

pytestmark = pytest.mark.slow

GOOD, TAKEN = (("Authorization", f"Bearer {mint(sub=sub, jti=sub)}") for sub in ("good", "taken"))


@pytest.fixture
def gateway(tmp_path: Path, relay: Relay) -> Iterator[Running]:
    """Return a gateway with a single thread, before which nothing but Redis can be slow."""
    flags = ("--store", relay.url, "--workers", "1", "--threads", "1")
    with Recorder(ok()) as upstream, Running(tmp_path, upstream.url, *flags) as running:
        assert exchange(running.port, request("POST /blacklist", TAKEN)).startswith(b"HTTP/1.1 200")
        yield running


def ask(gateway: Running, how_many: int) -> list[bytes]:
    """Return the status lines of requests sent at once, of a good token and of a blacklisted one in turn."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Client(gateway.port, request("GET /info", TAKEN if number % 2 else GOOD)))
            for number in range(how_many)
        ]
        return [client.read_all().partition(b"\r\n")[0] for client in clients]


def test_each_gets_its_own_answer_of_a_question_that_many_share(gateway: Running, server: RedisServer) -> None:
    server.ask("CONFIG", "RESETSTAT")
    assert ask(gateway, 100) == [b"HTTP/1.1 200 OK", b"HTTP/1.1 401 Unauthorized"] * 50
    assert server.calls()["mget"] < 50


def test_who_needs_no_look_up_is_answered_while_others_wait_for_theirs(
    server: RedisServer, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_patient(monkeypatch)
    app = Gateway(answer, secret=SECRET, store=relay.url, accept_lossy_store=True, public_paths="/open")
    with served(app, threads=1) as port, ExitStack() as stack:
        assert exchange(port, request("GET /info", GOOD)).startswith(b"HTTP/1.1 200")
        relay.stalled = True
        waiting = [stack.enter_context(Client(port, request("GET /info", GOOD))) for _ in range(20)]
        for path in ("/-/live", "/open"):
            assert exchange(port, request(f"GET {path}")).startswith(b"HTTP/1.1 200")
        for client in waiting:
            client.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.sock.recv(1)


def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def test_a_client_that_leaves_during_its_look_up_takes_no_answer_from_another(gateway: Running, relay: Relay) -> None:
    relay.delay = 0.05
    for _ in range(10):
        with Client(gateway.port, request("GET /info", GOOD)) as client:
            client.sock.close()
        assert ask(gateway, 2) == [b"HTTP/1.1 200 OK", b"HTTP/1.1 401 Unauthorized"]


def test_a_server_that_does_not_answer_closes_all_and_the_log_says_why(gateway: Running, relay: Relay) -> None:
    relay.stalled = True
    assert set(ask(gateway, 40)) == {b"HTTP/1.1 503 Service Unavailable"}
    assert b"urn:jwt-gateway:store-unavailable" in exchange(gateway.port, request("GET /info", GOOD))
    assert until(lambda: "the blacklist store is unavailable for look-ups (unreachable)" in gateway.log)
    relay.stalled = False
    relay.cut()
    assert until(lambda: ask(gateway, 2) == [b"HTTP/1.1 200 OK", b"HTTP/1.1 401 Unauthorized"])
    assert gateway.log.count("unavailable for look-ups (unreachable)") == 1


def look_up(look_ups: LookUps, key: str = "token:1") -> list[Any]:
    return outcome_in_pauses(partial(look_ups.find, [key]))


def asked_by_thread(find: Callable[[Collection[str]], list[Any]]) -> LookUps:
    """Return the look-ups of a server with no open connection."""
    server: Any = SimpleNamespace(find=find, begin=lambda lookups: None, outage=Outage())
    return LookUps(server)


@pytest.mark.interpreted
def test_what_nobody_thought_of_refuses_and_the_next_one_is_looked_up(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = [[b"{}"], RuntimeError("what nobody thought of")]

    def find(keys: Collection[str]) -> list[Any]:
        answer = answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    look_ups = asked_by_thread(find)
    with pytest.raises(StoreUnavailable) as refusal:
        look_up(look_ups)
    assert refusal.value.cause == "damaged"
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "look-ups failed",
        "the blacklist store is unavailable for look-ups (damaged)",
    ]
    assert look_up(look_ups) == [b"{}"]


@pytest.mark.interpreted
def test_who_waits_too_long_for_its_look_up_is_refused_and_the_log_says_why_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.blacklist.stores.redis.lookups.LONGEST_SECONDS", 0.05)
    over = Event()
    look_ups = asked_by_thread(lambda keys: over.wait() and [b"{}"] * len(keys))
    for _ in range(3):
        with pytest.raises(StoreUnavailable) as refusal:
            look_up(look_ups)
        assert refusal.value.cause == "unreachable"
    over.set()
    assert caplog.text.count("unavailable for look-ups (unreachable): no answer in time. What to do: look whether") == 1


@pytest.fixture
def asked(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return a server that has an open connection, and whose settings need no new look."""
    monkeypatch.setattr("gateway.blacklist.stores.redis.server.CHECK_SECONDS", PATIENCE)
    asked = Server(relay.url, time.time, replicas=0, accept_lossy=True, create=True)
    with closing(asked):
        asked.find(["token:1"])
        yield asked


@pytest.mark.interpreted
def test_no_thread_asks_where_a_connection_is_open_and_that_nothing_is_found_is_not_parsed(
    asked: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Server, "find")
    monkeypatch.delattr(RedisConnection, "_read")
    look_ups = LookUps(asked)
    assert [look_up(look_ups, f"token:{number}") for number in range(20)] == [[None]] * 20


def test_an_answer_that_comes_byte_by_byte_is_whole(
    asked: Server, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_patient(monkeypatch)
    look_ups = LookUps(asked)
    asked.ask(("SET", asked.keys.tag + "token:2", "two"), again=False)
    relay.drip = 0.0001
    assert [look_up(look_ups, f"token:{number}") for number in (1, 2, 3)] == [[None], [b"two"], [None]]


def test_keys_that_are_not_equally_long_are_found(asked: Server) -> None:
    asked.ask(("SET", asked.keys.tag + "token:10", "ten"), again=False)
    assert outcome_in_pauses(partial(LookUps(asked).find, ["token:1", "token:10"])) == [None, b"ten"]


@pytest.mark.interpreted
@pytest.mark.parametrize("texts", [[], [None], [None] * 3])
def test_an_answer_with_fewer_or_more_texts_than_were_asked_for_is_none(
    asked: Server, relay: Relay, monkeypatch: pytest.MonkeyPatch, texts: list[None]
) -> None:
    monkeypatch.setattr("gateway.blacklist.stores.redis.server.PAUSE_SECONDS", 0.0)
    generation, head = as_answered(asked.known.newest())
    parts = [*[b"$-1"] * len(texts), b"$%d\r\n%b" % (len(generation), generation)]
    relay.says = b"*%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(parts), b"\r\n".join(parts), len(head), head)
    for find in (asked.find, lambda keys: outcome_in_pauses(partial(LookUps(asked).find, keys))):
        with pytest.raises(StoreUnavailable):
            find(["token:1", "token:2"])


def test_a_change_that_others_made_is_found_at_once_and_costs_no_connection(
    asked: Server, server: RedisServer, relay: Relay
) -> None:
    look_ups = LookUps(asked)
    with closing(RedisStore(relay.url, accept_lossy=True)) as other, server.client() as counting:
        before = counting.info("stats")["total_connections_received"]
        for number in range(5):
            entry = Entry(f"token:{number:064x}", "https://issuer.test/", 0, None)
            assert look_up(look_ups, entry.key) == [None]
            other.add([entry])
            assert look_up(look_ups, entry.key) != [None]
        assert counting.info("stats")["total_connections_received"] == before


def test_a_late_answer_refuses_and_reaches_nobody(asked: Server, relay: Relay) -> None:
    look_ups = LookUps(asked)
    asked.ask(("SET", asked.keys.tag + "token:2", "two"), again=False)
    relay.delay = 2 * SECONDS
    with pytest.raises(StoreUnavailable):
        look_up(look_ups)
    relay.delay = 0.0
    assert until(lambda: _found(look_ups, "token:2") == [b"two"])
    assert _found(look_ups, "token:1") == [None]


def _found(look_ups: LookUps, key: str) -> list[Any]:
    try:
        return look_up(look_ups, key)
    except StoreUnavailable:
        return []


@pytest.mark.parametrize("steps", [1, 2])
def test_who_ends_while_it_asks_for_others_leaves_them_their_answer(asked: Server, relay: Relay, steps: int) -> None:
    look_ups, about = LookUps(asked), Context()
    about.pause, about.resume = lambda *_, **__: None, lambda: None
    relay.delay = 0.05
    asker = look_ups.find(["token:1"], about)
    next(asker)
    with ThreadPoolExecutor() as threads:
        other = threads.submit(look_up, look_ups, "token:2")
        assert until(lambda: len(look_ups._waiting) == 2)
        for _ in range(steps - 1):
            next(asker)
        asker.close()
        assert other.result(PATIENCE) == [None]
    assert look_up(look_ups, "token:3") == [None]


@pytest.mark.interpreted
def test_threads_that_come_first_at_once_start_one_thread_for_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise StoreUnavailable("unreachable")

    look_ups, started = LookUps(cast(Server, SimpleNamespace(begin=refuse))), list[Thread]()

    def ask() -> None:
        with pytest.raises(StoreUnavailable):
            list(look_ups.find(["token:x"], about))

    def start(*_: object, **__: object) -> Thread:
        started.append(Thread(target=ask))
        started[-1].start()
        started[-1].join(0.1)  # it waits for us
        return started[-1]

    about = Context()
    about.pause, about.resume, about.is_alone = lambda *_: None, lambda: None, True
    monkeypatch.setattr(lookups, "start_thread", start)
    ask()
    assert len(started) == 1
    started[0].join()

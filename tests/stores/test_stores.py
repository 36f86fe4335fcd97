"""What every store keeps: one suite, run against each backend."""

import dataclasses
import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers import Clock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_servers import RedisServer, be_patient

from gateway.blacklist.stores import Entry, Store, StoreRefused, open_store
from gateway.blacklist.stores.base import LATEST

ISSUER = "https://issuer.test/"
START = 4_000_000_000  # in 2096, ahead of the clock of any server: it forgets by its own


@dataclass
class World:
    """One blacklist: `open` gives another worker's view of it, `advance` moves the time of all of them."""

    url: str
    advance: Callable[[float], None]
    now: Clock
    opened: list[Store] = field(default_factory=list)

    def open(self) -> Store:
        self.opened.append(open_store(self.url, now=self.now))
        return self.opened[-1]


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.slow)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Return an empty blacklist in the backend: `<backend>_world` is the fixture that makes it."""
    made: World = request.getfixturevalue(f"{request.param}_world")
    yield made
    for store in made.opened:
        store.close()


@pytest.fixture
def sqlite_world(store_url: str, clock: Clock) -> World:
    return World(store_url, clock.advance, clock)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_world(redis_server: RedisServer, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> World:
    be_patient(monkeypatch)
    redis_server.ask("FLUSHALL")
    return World(redis_server.url, clock.advance, clock)


@pytest.fixture
def store(world: World) -> Store:
    return world.open()


def token(number: int, *, expires: int | None = 600, created: int = 0, **members: str) -> Entry:
    """Return a token's entry; times are seconds from the clock's start."""
    return Entry(f"token:{number:064x}", ISSUER, START + created, expires and START + expires, **members)


def claim(number: int, cut_off: int = 0, *, expires: int | None = None, created: int = 0) -> Entry:
    """Return a claim's entry; times are seconds from the clock's start."""
    return Entry(
        f"claim:{number:064x}",
        ISSUER,
        START + created,
        expires and START + expires,
        ("sub", str(number)),
        START + cut_off,
    )


def pages(store: Store, limit: int) -> Iterator[list[Entry]]:
    cursor = ""
    while True:
        entries, cursor = store.page(limit, cursor)
        yield entries
        if not cursor:
            return


def everything(store: Store, limit: int = 1000) -> list[Entry]:
    return [entry for page in pages(store, limit) for entry in page]


def test_an_empty_store_has_nothing(store: Store) -> None:
    assert list(store.find([])) == list(store.find([token(1).key, claim(1).key])) == []
    assert store.page(10) == ([], "")
    assert store.count() == store.purge() == 0
    assert not store.remove(token(1).key)


@pytest.mark.parametrize(
    "entry",
    [
        token(1, by="operator", reason="lost laptop"),
        token(2, expires=None),
        Entry(token(3).key, ISSUER, START, LATEST),
        Entry(claim(1).key, ISSUER, START, None, ("sub", "7001"), START),
        Entry(claim(2).key, ISSUER, START, None, ("sub", "\u0000"), START),
        Entry(claim(3).key, ISSUER, START, None, ("sub", "1" + "0" * 400), START),
        Entry(claim(4).key, ISSUER, START, None, ("score", "0.1"), START),
        Entry(claim(5).key, "\udfff\ud800", START, None, ("\x00", "\ud800 \x00 \u2028 ' \" \\ %s é 🙈"), START),
        token(4, by="\udc80\x00", reason="x" * 100_000),
    ],
    ids=lambda entry: ascii(entry.claim or entry.key[-1]),
)
def test_what_was_added_is_found_whole(store: Store, world: World, entry: Entry) -> None:
    assert store.add([entry]) == [(entry, True)]
    for view in (store, world.open()):
        assert list(view.find([entry.key])) == [entry]
        assert everything(view) == [entry]
        assert type(view.find([entry.key])[0].claim) is type(entry.claim)


def test_an_entry_counts_until_the_second_it_expires(store: Store, world: World) -> None:
    store.add([token(1, expires=10), token(2, expires=None)])
    world.advance(9.999)
    assert len(store.find([token(1).key, token(2).key])) == store.count() == len(everything(store)) == 2
    world.advance(0.001)
    assert [entry.key for entry in store.find([token(1).key, token(2).key])] == [token(2).key]
    assert store.count() == len(everything(store)) == 1
    assert not store.remove(token(1).key)
    world.advance(10**9)
    assert store.find([token(2).key])


@pytest.mark.parametrize("jumps", [(3590, -3590), (-3590, 3590), (3590, -7180, 3590), (-(10**8), 10**8)])
def test_a_clock_that_jumps_and_comes_back_takes_nothing_back(
    store: Store, world: World, jumps: tuple[int, ...]
) -> None:
    """Backwards by any time, forwards by up to the hour in which expired entries are kept."""
    store.add([token(0, expires=1), claim(1, expires=1), claim(2)])
    for number, seconds in enumerate(jumps, 3):
        world.advance(seconds)
        store.add([token(number, expires=10**9)])  # which forgets what has expired
        world.open().find([token(0).key])
    keys = [token(0).key, claim(1).key, claim(2).key, *(token(number).key for number in range(3, 3 + len(jumps)))]
    assert {entry.key for entry in world.open().find(keys)} == set(keys)


def test_an_entry_that_has_expired_already_is_not_added(store: Store, world: World) -> None:
    world.advance(10)
    added = store.add([token(1, expires=9), token(2, expires=10), token(3, expires=11)])
    assert [changed for _, changed in added] == [False, False, True]
    assert [entry.key for entry in everything(store)] == [token(3).key]


def test_adding_twice_changes_nothing(store: Store) -> None:
    first, again = token(1, by="first"), token(1, by="second", created=5)
    assert [*store.add([first]), *store.add([again])] == [(first, True), (first, False)]
    assert list(store.find([first.key])) == [first]


def test_the_latest_cut_off_and_the_latest_expiry_win(store: Store) -> None:
    store.add([claim(1, 100, expires=500)])
    assert store.add([claim(1, 50, expires=400)]) == [(claim(1, 100, expires=500), False)]
    assert store.add([claim(1, 50, expires=600)]) == [(claim(1, 100, expires=600), True)]
    assert store.add([claim(1, 150, expires=400)]) == [(claim(1, 150, expires=600), True)]
    assert store.add([claim(1, 50)]) == [(claim(1, 150), True)]
    assert list(store.find([claim(1).key])) == [claim(1, 150)]


def test_an_expired_entry_has_no_say_in_what_comes_after_it(store: Store, world: World) -> None:
    store.add([claim(1, 100, expires=10)])
    world.advance(10)
    assert store.add([claim(1, 50, expires=20)]) == [(claim(1, 50, expires=20), True)]


def test_an_entry_that_has_expired_already_changes_nothing_of_one_that_is_there(store: Store, world: World) -> None:
    known = claim(1, 100)
    store.add([known])
    world.advance(10)
    assert store.add([claim(1, 200, expires=10)]) == [(known, False)]
    assert list(store.find([known.key])) == [known]


def test_entries_that_will_have_expired_are_not_counted_among_the_lasting(store: Store) -> None:
    store.add([token(1, expires=600), token(2, expires=601), claim(1)])
    assert (store.count(), store.count(600), store.count(601)) == (3, 2, 1)


def test_one_batch_may_name_an_entry_twice(store: Store) -> None:
    added = store.add([claim(1, 100), claim(1, 50), claim(1, 200), token(1)])
    assert [changed for _, changed in added] == [True, False, True, True]
    assert list(store.find([claim(1).key])) == [claim(1, 200)]
    assert store.count() == 2


def test_a_question_has_many_keys_and_an_answer_each_entry_once(store: Store) -> None:
    store.add([token(1), token(3), claim(1)])
    keys = [entry.key for entry in (token(1), token(2), token(3), token(1), claim(1), claim(2))]
    assert sorted(entry.key for entry in store.find(keys)) == sorted({token(1).key, token(3).key, claim(1).key})
    assert list(store.find(tuple(keys[:1]))) == [token(1)]


def test_a_question_may_have_more_keys_than_a_store_takes_at_once(store: Store) -> None:
    store.add([token(1), token(999)])
    found = store.find([token(number).key for number in range(1000)])
    assert [entry.key for entry in found] == [token(1).key, token(999).key]


def test_a_large_batch_is_added_whole(store: Store) -> None:
    entries = [token(number, created=number // 7) for number in range(2500)]
    assert all(changed for _, changed in store.add(entries))
    assert not any(changed for _, changed in store.add(entries))
    assert store.count() == 2500
    assert sorted(everything(store, 999), key=lambda entry: entry.key) == entries


def test_removing_tells_whether_an_entry_was_there(store: Store) -> None:
    store.add([token(1), token(2)])
    assert [store.remove(token(1).key), store.remove(token(1).key)] == [True, False]
    assert everything(store) == [token(2)]
    assert store.add([token(1)]) == [(token(1), True)]


def test_of_an_issuer_alone_no_others_entry_is_removed(store: Store) -> None:
    store.add([token(1)])
    removed = [store.remove(token(1).key, issuer) for issuer in ("another", token(1).issuer, token(1).issuer)]
    assert removed == [False, True, False]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10, 11])
def test_pages_list_each_entry_once_and_the_newest_first(store: Store, limit: int) -> None:
    entries = [token(number, created=number // 4) for number in range(10)]
    store.add(random.sample(entries, 10))
    listed = everything(store, limit)
    assert [entry.created_at for entry in listed] == sorted((entry.created_at for entry in entries), reverse=True)
    assert sorted(entry.key for entry in listed) == sorted(entry.key for entry in entries)
    assert all(len(page) <= limit for page in pages(store, limit))


def test_what_is_added_while_pages_are_turned_hides_no_entry(store: Store) -> None:
    store.add([token(number, created=number) for number in range(10)])
    listed, cursor = store.page(4)
    store.add([token(100 + number, created=100 + number) for number in range(10)])
    while cursor:
        entries, cursor = store.page(4, cursor)
        listed += entries
    assert [entry.created_at - START for entry in listed] == list(range(9, -1, -1))


@pytest.mark.parametrize("cursor", ["x", "1", "1.2.3", "-1.0", " 1.1", "1.1\n", "9" * 50 + ".1", "1." + "9" * 50])
def test_a_cursor_that_no_page_gave_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        store.page(10, cursor)


def test_pages_can_be_of_one_issuer_or_of_one_claim(store: Store) -> None:
    other = 'https://\udfff"other'
    entries = [
        dataclasses.replace(entry, issuer=issuer, claim=name and (name, "1"))
        for number, (issuer, name) in enumerate(itertools.product((ISSUER, other), ("sub", 'od"d.é', None)))
        for entry in (token(number), token(100 + number, created=number))
    ]
    store.add(entries)
    some = ((ISSUER,), (other,), ("nobody",), ("nobody", other), (ISSUER, other), ())
    for issuers, name in itertools.product(some, ("sub", 'od"d.é', "sid", None)):
        listed, cursor = [], ""
        while True:
            page, cursor = store.page(1, cursor, issuers=issuers, claim=name)
            listed += page
            if not cursor:
                break
        assert sorted(entry.key for entry in listed) == sorted(
            entry.key
            for entry in entries
            if (not issuers or entry.issuer in issuers)
            and (name is None or (entry.claim is not None and entry.claim[0] == name))
        )


def test_a_fingerprints_beginning_finds_its_entry_or_two(store: Store, world: World) -> None:
    alike = [Entry(f"token:{'a' * 20}{number:044x}", ISSUER, START, START + 60 * (1 + number)) for number in range(3)]
    store.add([*alike, token(1), claim(1)])
    assert store.matching(token(1).key[:18]) == store.matching(token(1).key) == [token(1)]
    assert store.matching(claim(1).key) == [claim(1)]
    assert len(store.matching(alike[0].key[:26])) == 2
    assert store.matching(alike[2].key) == [alike[2]]
    assert store.matching("token:" + "b" * 12) == store.matching(claim(2).key) == []
    world.advance(120)
    assert store.matching("token:" + "a" * 12) == [alike[2]]
    world.advance(60)
    assert store.matching("token:" + "a" * 12) == store.matching(alike[2].key) == []


def message(number: int, expires: int = 600) -> Entry:
    return Entry(f"seen:{number:064x}", ISSUER, START, START + expires)


def test_a_message_is_taken_once(store: Store, world: World) -> None:
    assert store.add([token(1), claim(1)], once=message(1)) == [(token(1), True), (claim(1), True)]
    store.remove(token(1).key)
    for view in (store, world.open()):
        assert view.add([token(1), token(2)], once=message(1)) is None
        assert [entry.key for entry in view.find([token(1).key, token(2).key, claim(1).key])] == [claim(1).key]
    assert store.add([], once=message(2)) == []
    assert store.add([], once=message(2)) is None
    assert store.add([token(1)], once=message(3, 3600)) == [(token(1), True)]
    assert store.count() == len(everything(store)) == 2
    world.advance(599)
    assert store.add([token(2)], once=message(1)) is None
    world.advance(1)
    assert store.add([claim(2)], once=message(1, 1200)) == [(claim(2), True)]
    assert store.add([], once=message(3)) is None


def test_of_threads_that_take_one_message_one_has_it(store: Store) -> None:
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda number: store.add([token(number)], once=message(1)), range(8)))
    assert sum(added is not None for added in taken) == store.count() == 1


def test_the_newest_mark_changes_with_every_change_and_with_nothing_else(store: Store, world: World) -> None:
    marks = [store.changes("")[0]]
    assert store.changes(marks[0]) == (marks[0], frozenset())
    assert store.changes("never a mark")[1] is None
    for change in (lambda: store.add([token(1), claim(1)]), lambda: store.remove(token(1).key)):
        change()
        for view in (store, world.open()):
            mark, keys = view.changes(marks[-1])
            assert mark not in marks
            assert keys is None or keys in ({token(1).key, claim(1).key}, {token(1).key})
        marks.append(mark)
    store.find([claim(1).key])
    store.remove(token(1).key)
    store.add([claim(1)])
    assert store.changes(marks[-1]) == (marks[-1], frozenset())


def test_a_store_that_is_not_there_is_made_only_if_wanted(world: World) -> None:
    with pytest.raises(StoreRefused, match="no store"):
        open_store(world.url, create=False)
    made = world.open()
    made.add([token(1)])
    world.opened.append(open_store(world.url, now=world.now, create=False))
    assert world.opened[-1].count() == 1


def test_purging_deletes_what_has_expired_and_nothing_else(store: Store, world: World) -> None:
    store.add([token(number, expires=10 + number % 2) for number in range(3000)] + [token(5000, expires=None)])
    world.advance(10)
    store.purge()
    assert store.count() == len(everything(store)) == 1501
    world.advance(1)
    store.purge()
    assert [entry.key for entry in everything(store)] == [token(5000).key]
    assert store.purge() == 0


def test_every_worker_sees_a_change_at_once(store: Store, world: World) -> None:
    other = world.open()
    for number in range(20):
        store.add([token(number)])
        assert list(other.find([token(number).key])) == [token(number)]
        assert other.remove(token(number).key)
        assert not store.find([token(number).key])


def test_a_store_that_works_answers_a_ping(store: Store) -> None:
    for _ in range(3):
        store.ping()
    assert store.count() == 0


def test_a_store_is_closed_more_than_once(store: Store) -> None:
    store.close()
    store.close()


def test_threads_that_add_one_entry_agree_on_the_latest_cut_off(store: Store) -> None:
    cut_offs = random.sample(range(64), 64)
    with ThreadPoolExecutor(8) as threads:
        changes = list(threads.map(lambda cut_off: store.add([claim(1, cut_off)])[0], cut_offs))
    assert list(store.find([claim(1).key])) == [claim(1, 63)]
    in_force = [added.entry.issued_before or 0 for added in changes]
    assert all(said >= START + asked for said, asked in zip(in_force, cut_offs, strict=True))


def test_of_threads_that_add_or_remove_one_entry_as_many_add_as_remove(store: Store) -> None:
    together = threading.Barrier(8)

    def work(number: int) -> int:
        together.wait()
        if number % 2:
            return sum(store.add([token(1)])[0].changed for _ in range(25))
        return -sum(store.remove(token(1).key) for _ in range(25))

    with ThreadPoolExecutor(8) as threads:
        balance = sum(threads.map(work, range(8)))
    assert balance == len(store.find([token(1).key])) in (0, 1)


def test_a_store_opened_before_a_fork_serves_parent_and_child(store: Store) -> None:
    store.add([token(1)])
    child = os.fork()
    if child == 0:  # nothing of pytest may run here
        try:
            seen = list(store.find([token(1).key])) == [token(1)]
            os._exit(0 if seen and store.add([token(2)])[0].changed and store.remove(token(1).key) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert everything(store) == [token(2)]


actions = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 3), st.integers(0, 9), st.none() | st.integers(1, 30)),
    st.tuples(st.just("remove"), st.integers(0, 3)),
    st.tuples(st.just("advance"), st.floats(0, 9)),
    st.tuples(st.just("purge")),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(actions, max_size=12))
def test_a_store_is_a_mapping_that_merges_and_forgets(store: Store, world: World, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    for entry in everything(store):
        store.remove(entry.key)
    model: dict[str, Entry] = {}
    for name, *args in steps:
        model = {key: entry for key, entry in model.items() if entry.is_live(world.now())}
        if name == "add":
            number, cut_off, life = args
            past = int(world.now()) - START
            entry = claim(number, cut_off, expires=None if life is None else past + life, created=past)
            known = model.get(entry.key)
            merged = known.merged(entry) if known else entry
            changed = merged != known and merged.is_live(world.now())
            assert store.add([entry]) == [(merged, changed)]
            model |= {merged.key: merged} if changed else {}
        elif name == "remove":
            assert store.remove(claim(args[0]).key) == (model.pop(claim(args[0]).key, None) is not None)
        elif name == "advance":
            world.advance(args[0])
        else:
            store.purge()
        live = {key: entry for key, entry in model.items() if entry.is_live(world.now())}
        found = {entry.key: entry for entry in store.find([claim(number).key for number in range(4)])}
        assert found == {entry.key: entry for entry in everything(store)} == live
        assert store.count() == len(live)


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///blacklist.sqlite3", now=clock)
    store.add([token(1)])
    store.close()
    monkeypatch.chdir("/")
    assert list(store.find([token(1).key])) == [token(1)]
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["blacklist.sqlite3"]

"""The SQLite store under faults: broken is never taken for absent, nothing hangs, and repair is noticed.

Faults are done by another process: this one, closing a file it opened itself, would drop the
locks that SQLite holds on it.
"""

import hashlib
import itertools
import json
import os
import pickle
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from asked_again import AskedAgain
from helpers import NOW, Clock

from gateway.blacklist.keys import claim_key
from gateway.blacklist.stores.base import Entry, StoreOutdated, StoreRefused
from gateway.blacklist.stores.sqlite import file
from gateway.blacklist.stores.sqlite import store as sqlite_store
from gateway.blacklist.stores.sqlite.statements import EARLIER, FORGET, SAME_SECOND, lookup
from gateway.blacklist.stores.sqlite.store import GRACE_SECONDS, SqliteStore
from gateway.http.problems import StoreUnavailable
from gateway.http.values import value_text

START = int(NOW)


def tokens(first: int, count: int) -> list[Entry]:
    return [Entry(f"token:{number:064x}", "issuer", START, START + 600) for number in range(first, first + count)]


ENTRIES = tokens(0, 200)
(ABSENT,) = tokens(10**9, 1)
THREADS, QUESTIONS = 8, 40

PRELUDE = "import glob, os, shutil, sqlite3, sys\npath, other = sys.argv[1:]\n"
SQL = PRELUDE + "db = sqlite3.connect(path, isolation_level=None)\n"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[SqliteStore]:
    """Return a store of `ENTRIES`, opened anew: all of them are in the file, none in the log or a cache."""
    with closing(SqliteStore(str(path), clock)) as first:
        first.add(ENTRIES)
    with closing(AskedAgain(str(path), clock)) as store:
        yield store


@pytest.fixture
def other(path: Path, clock: Clock) -> Path:
    """Return the file of another blacklist, as long as the store's, without entries of it."""
    other = path.with_name("other")
    with closing(SqliteStore(str(other), clock)) as store:
        store.add(tokens(500, 200))
    return other


def inflict(code: str, path: Path, other: Path | str = "") -> None:
    subprocess.run([sys.executable, "-c", code, str(path), str(other)], check=True, timeout=60)


def ask(store: SqliteStore, entry: Entry) -> str:
    try:
        return "found" if entry in store.find([ABSENT.key, entry.key]) else "ABSENT"
    except StoreUnavailable:
        return "unavailable"


def ask_all(store: SqliteStore, times: int = QUESTIONS) -> Counter[str]:
    """Return what so many threads got to know about entries that are there, asked so many times each."""

    def work(first: int) -> Counter[str]:
        return Counter(ask(store, ENTRIES[(first + 7 * count) % len(ENTRIES)]) for count in range(times))

    with ThreadPoolExecutor(THREADS) as threads:
        return sum(threads.map(work, range(THREADS)), Counter())


def ask_during(store: SqliteStore, fault: Callable[[], None]) -> Counter[str]:
    """Return what threads got to know that asked before, while and after the fault came about."""
    over = threading.Event()

    def work(first: int) -> Counter[str]:
        answers, count, left = Counter[str](), first, QUESTIONS
        while left:
            answers[ask(store, ENTRIES[count % len(ENTRIES)])] += 1
            count += 7
            left -= over.is_set()
            time.sleep(0)  # what is cached is told without giving up the interpreter's lock, which the fault needs
        return answers

    with ThreadPoolExecutor(THREADS) as threads:
        running = [threads.submit(work, first) for first in range(THREADS)]
        try:
            fault()
        finally:
            over.set()
        return sum((future.result() for future in running), Counter())


def assert_broken(store: SqliteStore) -> None:
    """Assert that every part of the store says so."""
    for part in (
        store.ping,
        store.count,
        lambda: store.page(10),
        lambda: store.add([ABSENT]),
        lambda: store.remove(ABSENT.key),
        lambda: store.find([]),
    ):
        with pytest.raises(StoreUnavailable):
            part()


FAULTS = {
    "emptied": "os.truncate(path, 0)",
    "removed": "os.remove(path)",
    "removed with its log": "for name in glob.glob(path + '*'): os.remove(name)",
    "replaced by another blacklist": "os.replace(other, path)",
    "replaced by a database": "sqlite3.connect(other).execute('DROP TABLE unnamed'); os.replace(other, path)",
    "replaced by an empty file": "open(other, 'w').close(); os.replace(other, path)",
    "replaced by a directory": "os.remove(path); os.mkdir(path)",
    "overwritten by another blacklist": "shutil.copyfile(other, path)",
    "overwritten by another blacklist, not truncated": (
        "os.pwrite(os.open(path, os.O_WRONLY), open(other, 'rb').read(), 0)"
    ),
    "overwritten by noise": "size = os.path.getsize(path); open(path, 'wb').write(os.urandom(size))",
    "overwritten by zeros": "size = os.path.getsize(path); open(path, 'wb').write(bytes(size))",
    "overwritten by noise but for its first page": (
        "size = os.path.getsize(path) - 4096; os.pwrite(os.open(path, os.O_WRONLY), os.urandom(size), 4096)"
    ),
    "cut off after its first page": "os.truncate(path, 4096)",
    "written to with text": "os.pwrite(os.open(path, os.O_WRONLY), b'oops' * 5000, 0)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_lets_no_blacklisted_token_through(
    store: SqliteStore, path: Path, other: Path, fault: str
) -> None:
    assert ask_all(store) == {"found": THREADS * QUESTIONS}
    answers = ask_during(store, lambda: inflict(PRELUDE + FAULTS[fault], path, other))
    assert set(answers) == {"found", "unavailable"}
    assert ask_all(store, 10) == {"unavailable": THREADS * 10}
    assert_broken(store)


CHANGES = {
    "table dropped": "db.execute('DROP TABLE unnamed')",
    "rows deleted": "db.execute('DELETE FROM unnamed')",
    "head deleted": "db.execute('DELETE FROM unnamed WHERE key = ?', ('head',))",
    "head spoilt": "db.execute('UPDATE unnamed SET value = 7 WHERE key = ?', ('head',))",
    "head another's": (
        "db.execute('ATTACH ? AS other', (other,)); "
        "db.execute('REPLACE INTO unnamed SELECT * FROM other.unnamed WHERE key = ?', ('head',))"
    ),
    "table renamed": "db.execute('ALTER TABLE unnamed RENAME TO mislaid')",
}


@pytest.mark.parametrize("fault", CHANGES)
def test_a_spoilt_table_lets_no_blacklisted_token_through(
    store: SqliteStore, path: Path, other: Path, fault: str
) -> None:
    answers = ask_during(store, lambda: inflict(SQL + CHANGES[fault], path, other))
    assert set(answers) == {"found", "unavailable"}
    assert ask_all(store, 10) == {"unavailable": THREADS * 10}
    assert_broken(store)


NO_TIME = '{"issuer": "issuer", "created_at": 1, "expires_at": "later"}'
NO_ENTRIES = ["oops", "[]", "{}", '{"issuer": "i"}', NO_TIME, "[" * 5000, "null", pickle.dumps({}), 7, None]


@pytest.mark.parametrize("value", NO_ENTRIES, ids=lambda value: repr(value)[:12])
def test_a_row_that_is_no_entry_is_not_taken_for_absent(store: SqliteStore, path: Path, value: object) -> None:
    code = SQL + (
        "db.executescript('DROP INDEX expiry; DROP INDEX creation; DROP TRIGGER update_by_hand')\n"
        f"db.execute('UPDATE unnamed SET value = ? WHERE key != ?', ({value!r}, 'head'))"
    )
    inflict(code, path)
    assert ask_all(store, 10) == {"unavailable": THREADS * 10}


def test_an_older_copy_of_the_file_is_noticed(store: SqliteStore, path: Path, other: Path) -> None:
    inflict(PRELUDE + "shutil.copyfile(path, other)", path, other)
    store.add([ABSENT])
    store.close()
    answers = ask_during(store, lambda: inflict(PRELUDE + "shutil.copyfile(other, path)", path, other))
    assert answers["unavailable"]
    assert not answers["ABSENT"]
    assert ask(store, ABSENT) == "unavailable"
    assert_broken(store)


def test_a_file_that_comes_back_is_used_again(store: SqliteStore, path: Path) -> None:
    inflict(PRELUDE + "os.rename(path, path + '.away')", path)
    assert_broken(store)
    inflict(PRELUDE + "os.rename(path + '.away', path)", path)
    assert ask_all(store) == {"found": THREADS * QUESTIONS}
    store.ping()
    assert store.add([ABSENT])[0].changed


def test_a_spoilt_table_that_is_mended_is_used_again(store: SqliteStore, path: Path) -> None:
    inflict(SQL + "db.execute('ALTER TABLE unnamed RENAME TO mislaid')", path)
    assert_broken(store)
    inflict(SQL + "db.execute('ALTER TABLE mislaid RENAME TO unnamed')", path)
    assert ask_all(store) == {"found": THREADS * QUESTIONS}


@pytest.mark.parametrize("again", ["", "; open(path + '-wal', 'w').close()"])
def test_no_change_is_acknowledged_that_a_restart_would_lose(store: SqliteStore, path: Path, again: str) -> None:
    store.ping()
    inflict(PRELUDE + "os.remove(path + '-wal')" + again, path)
    with pytest.raises(StoreUnavailable):
        store.add([ABSENT])
    assert set(ask_all(store)) <= {"found", "unavailable"}


# What cannot be written to


HOLD = SQL + "db.execute(other); print(flush=True); sys.stdin.read()"


def test_a_lock_held_by_another_process_delays_no_look_up_and_one_probe_asks_for_all_who_ask(
    store: SqliteStore, path: Path
) -> None:
    asked: list[object] = []
    ask = store._takes_changes._ask
    store._takes_changes._ask = lambda: asked.append(None) or ask()

    def is_refused(_: int) -> bool:
        try:
            store.ping()
        except StoreUnavailable:
            return True
        return False

    # In this mode of SQLite's an exclusive lock is the same.
    command = [sys.executable, "-c", HOLD, str(path), "BEGIN IMMEDIATE"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with ThreadPoolExecutor(17) as threads:
            change = threads.submit(store.add, [ABSENT])
            pings = threads.map(is_refused, range(64))
            assert ask_all(store) == {"found": THREADS * QUESTIONS}
            assert isinstance(change.exception(), StoreUnavailable)
            assert all(pings)
        assert len(asked) == 1
        holder.communicate()
    assert store.add([ABSENT])[0].changed
    store.ping()


@pytest.mark.parametrize("change", ["INSERT", "UPDATE"])
def test_a_change_that_fails_half_way_changes_nothing(store: SqliteStore, path: Path, change: str) -> None:
    trigger = f"CREATE TRIGGER fault BEFORE {change} ON unnamed BEGIN SELECT RAISE(FAIL, 'fault'); END"
    inflict(SQL + f"db.execute({trigger!r})", path)
    with pytest.raises(StoreUnavailable):
        store.add([ABSENT])
    with pytest.raises(StoreUnavailable):
        store.remove(ENTRIES[0].key) if change == "UPDATE" else store.add([ABSENT])
    assert ask_all(store) == {"found": THREADS * QUESTIONS}
    inflict(SQL + "db.execute('DROP TRIGGER fault')", path)
    assert store.count() == len(ENTRIES)
    assert store.add([ABSENT])[0].changed


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def fill(path: Path, clock: Clock) -> None:
    """Run in a process of its own: add until the file system takes no more, and then some."""
    store, acknowledged, large = SqliteStore(str(path), clock), [], tokens(50_000, 2000)
    limit_files(200_000)
    with suppress(StoreUnavailable):
        for entry in tokens(1000, 10_000):
            store.add([entry])
            acknowledged.append(entry)
    assert len(acknowledged) < 10_000
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.add(large)
    assert all(list(store.find([entry.key])) == [entry] for entry in acknowledged)
    assert not store.find([entry.key for entry in large[:100]])
    limit_files(0)
    with pytest.raises(StoreUnavailable):
        store.ping()
    limit_files(resource.RLIM_INFINITY)
    assert all(changed for _, changed in store.add(large))
    store.ping()
    assert store.count() == len(acknowledged) + len(large)


def fill_without_folding(path: Path, clock: Clock) -> None:
    """Run in a process of its own: add until the file cannot grow any more, but its log can."""
    store, reason = SqliteStore(str(path), clock), "x" * 100_000
    store.add([replace(entry, reason=reason) for entry in tokens(0, 60)])
    store.purge()  # folds the log in
    limit_files(path.stat().st_size)
    number, failed = 100, False
    while not failed:
        number += 1
        (entry,), message = tokens(number, 1), Entry(f"seen:{number:064x}", "issuer", START, START + 600)
        try:
            assert store.add([replace(entry, reason=reason)], once=message)
        except StoreUnavailable:
            failed = True
    assert number > 130, "the log is long enough to be folded in"
    assert len(store.find([entry.key for entry in tokens(101, number - 100)])) == number - 101
    limit_files(resource.RLIM_INFINITY)
    assert store.add(tokens(number, 1), once=message), "what was refused can come again"


def in_a_child(work: Callable[..., None], *args: object) -> None:
    """Run `work` in a child that has this process's modules, and fail as it fails."""
    child = os.fork()
    if child == 0:
        try:
            work(*args)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is, it is told
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_full_disk_refuses_changes_and_forgets_nothing(path: Path, clock: Clock) -> None:
    in_a_child(fill, path, clock)


def test_a_log_that_cannot_be_folded_in_makes_no_change_that_lasts_a_failure(path: Path, clock: Clock) -> None:
    in_a_child(fill_without_folding, path, clock)


def unprivileged(path: Path, clock: Clock, expected: str) -> None:
    os.setgroups([])
    os.setuid(65534)
    with pytest.raises(StoreRefused, match=expected):
        SqliteStore(str(path), clock)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a process gives up its rights only if it has some")


@needs_root
def test_a_directory_that_cannot_be_written_to_is_refused(path: Path, clock: Clock) -> None:
    path.parent.chmod(0o755)
    told = rf"unable to open it, for user 65534 may not write to {path.parent}, which belongs to user 0 \(mode 755\)"
    in_a_child(unprivileged, path, clock, told)


def test_a_directory_that_is_not_there_is_refused(path: Path, clock: Clock) -> None:
    with pytest.raises(StoreRefused, match=r"for there is no folder .*/missing: make it"):
        SqliteStore(str(path.parent / "missing" / path.name), clock)


@needs_root
def test_a_file_that_cannot_be_written_to_is_refused(store: SqliteStore, path: Path, clock: Clock) -> None:
    store.close()
    path.parent.chmod(0o777)
    path.chmod(0o444)
    in_a_child(unprivileged, path, clock, rf"may not write to {path}, which belongs to user 0 \(mode 444\): chown it")


def refuses(store: SqliteStore) -> None:
    assert_broken(store)
    assert_broken(store)


def test_a_child_forked_while_a_thread_was_asking_refuses(store: SqliteStore) -> None:
    """It would hold no locks of its own, and miss what others change once the parent is gone."""
    inside, forked = threading.Event(), threading.Event()

    def ask() -> bool:
        with store.conn.lend():
            inside.set()
            return forked.wait()

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(ask)
        inside.wait()
        in_a_child(refuses, store)
        forked.set()
        assert asking.result()
    assert ask_all(store) == {"found": THREADS * QUESTIONS}


# At start


def test_a_new_file_is_whole_or_not_there(path: Path, clock: Clock) -> None:
    with closing(SqliteStore(str(path), clock)):
        assert sorted(found.name for found in path.parent.glob("[!.]*.sqlite3")) == [path.name]
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def open_once(path: Path, clock: Clock) -> None:
    with closing(SqliteStore(str(path), clock)) as store:
        store.ping()


def test_many_processes_make_one_file(path: Path, clock: Clock) -> None:
    with ThreadPoolExecutor(6) as threads:
        for running in [threads.submit(in_a_child, open_once, path, clock) for _ in range(6)]:
            running.result()
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_log_without_its_file_is_no_reason_to_start_anew(store: SqliteStore, path: Path, clock: Clock) -> None:
    store.ping()
    inflict(PRELUDE + "os.remove(path)", path)
    with pytest.raises(StoreRefused, match="is gone"):
        SqliteStore(str(path), clock)
    assert not path.exists()


START_FAULTS = {
    "emptied": ("os.truncate(path, 0)", "was emptied"),
    "of noise": ("open(path, 'wb').write(os.urandom(20000))", "not a database"),
    "of text": ("open(path, 'w').write('hello')", "not a database"),
    "a directory": ("os.remove(path); os.mkdir(path)", "unable to open"),
    "cut off": ("os.truncate(path, 4096)", "cannot hold|damaged"),
    "damaged": ("os.pwrite(os.open(path, os.O_WRONLY), os.urandom(30000), 9000)", "cannot hold|damaged"),
    "damaged within a page": (
        "at = open(path, 'rb').read().rindex(b'token:') + 6; os.pwrite(os.open(path, os.O_WRONLY), b'f', at)",
        "damaged",
    ),
    "damaged in its schema": (
        "at = open(path, 'rb').read().index(b'CREATE TABLE'); os.pwrite(os.open(path, os.O_WRONLY), b'\\x80', at + 3)",
        "cannot hold",
    ),
    "without its head": ("db().execute('DELETE FROM unnamed')", "was emptied"),
    "of a newer version": ("db().execute('PRAGMA user_version=3')", "newer version"),
    "not a blacklist": ("db().execute('ALTER TABLE unnamed RENAME TO users')", "not a blacklist"),
    "an empty database": ("os.remove(path); db().execute('VACUUM')", "was emptied|not a blacklist"),
}


@pytest.mark.parametrize("fault", START_FAULTS)
def test_a_file_that_cannot_be_trusted_is_refused_and_left_alone(
    store: SqliteStore, path: Path, clock: Clock, fault: str
) -> None:
    store.close()
    code, sentence = START_FAULTS[fault]
    inflict(PRELUDE + f"db = lambda: sqlite3.connect(path, isolation_level=None)\n{code}", path)
    before = path.is_file() and path.read_bytes()
    with pytest.raises(StoreRefused, match=sentence) as refusal:
        SqliteStore(str(path), clock)
    assert str(path) in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert (path.is_file() and path.read_bytes()) == before


def test_a_missing_directory_is_refused(path: Path, clock: Clock) -> None:
    with pytest.raises(StoreRefused, match="unable to open"):
        SqliteStore(str(path / "missing" / "blacklist.sqlite3"), clock)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["with space", "with?mode=ro", "with%20", "with#hash", "é'\"", "-"])
def test_any_name_of_a_file_will_do(path: Path, clock: Clock, name: str) -> None:
    with closing(SqliteStore(str(path.with_name(name)), clock)) as store:
        store.add(ENTRIES[:1])
        assert ask(store, ENTRIES[0]) == "found"
    assert [found.name for found in path.parent.iterdir()] == [name]


PLAIN = """
from sqlitedict import SqliteDict
import json
with SqliteDict(path, encode=json.dumps, decode=json.loads) as old:
    old[other] = {"issuer": "issuer", "created_at": 1799999000, "expires_at": 1800000600, "by": "an older version"}
    old.commit()
"""


def test_who_makes_no_store_leaves_a_file_of_an_older_version_as_it_is(path: Path, clock: Clock) -> None:
    """The gateway of that version may be running on it, and would refuse everything."""
    inflict(PRELUDE + PLAIN, path, ENTRIES[0].key)
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(StoreOutdated, match="older version: `gateway serve`"):
        SqliteStore(str(path), clock, create=False)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (before, 0o644)


def test_a_file_of_an_older_version_is_brought_up_to_date(path: Path, clock: Clock) -> None:
    entry = Entry(ENTRIES[0].key, "issuer", 1799999000, 1800000600, by="an older version")
    inflict(PRELUDE + PLAIN, path, entry.key)
    for _ in range(2):
        with closing(SqliteStore(str(path), clock)) as store:
            assert store.find([entry.key]) == [entry]
            assert store.page(10) == ([entry], "")
            assert store.count() == 1
    clock.seconds = 1800000600
    with closing(SqliteStore(str(path), clock)) as store:
        assert store.purge() == 1


VERSION_1 = """
db = sqlite3.connect(path, isolation_level=None)
for statement in (
    "CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB)",
    "CREATE INDEX beginning ON unnamed (substr(key, 1, 14))",
    "CREATE INDEX generation ON unnamed (key, value) WHERE key = 'generation'",
    "CREATE INDEX expiry ON unnamed (json_extract(value, '$.expires_at'))",
    "CREATE INDEX creation ON unnamed (json_extract(value, '$.created_at'))",
    "INSERT INTO unnamed VALUES ('generation', json_object('generation', lower(hex(randomblob(16))), 'changes', 7))",
    "PRAGMA user_version=1",
    "PRAGMA journal_mode=WAL",
):
    db.execute(statement)
import hashlib, json
for value in json.loads(other):
    key = "claim:" + hashlib.sha256(json.dumps(["i", "sub", value]).encode()).hexdigest()
    cut_off = (1799999000 + len(str(value))) * (1000 if value == "alice" else 1)
    members = {"issuer": "i", "created_at": 1, "claim": {"sub": value}, "issued_before": cut_off}
    db.execute("INSERT INTO unnamed VALUES (?, ?)", (key, json.dumps(members, separators=(",", ":"))))
"""


def test_claims_that_were_numbers_to_an_older_version_are_found_by_their_text(path: Path, clock: Clock) -> None:
    values = [7001, 7001.0, "7001", 10**30, 0.25, -3, "alice"]
    inflict(PRELUDE + VERSION_1, path, json.dumps(values))
    with closing(SqliteStore(str(path), clock)) as store:
        for value in values:
            text = value_text(value)
            assert text
            (entry,) = store.find([claim_key("i", "sub", text)])
            assert entry.claim == ("sub", text)
        assert store.find([claim_key("i", "sub", "7001")])[0].issued_before == 1799999000 + len("7001.0")
        assert store.find([claim_key("i", "sub", "alice")])[0].issued_before is None  # it was in milliseconds
        assert store.count() == len(store.page(100)[0]) == 5


ASK_LIKE_VERSION_1 = SQL + (
    "print(db.execute(\"SELECT value FROM unnamed INDEXED BY generation WHERE key = 'generation'\").fetchall())"
)


def test_a_running_gateway_of_an_older_version_refuses_the_file_once_it_is_brought_up_to_date(
    path: Path, clock: Clock
) -> None:
    inflict(PRELUDE + VERSION_1, path, "[7001]")
    inflict(ASK_LIKE_VERSION_1, path)
    with closing(SqliteStore(str(path), clock)), pytest.raises(subprocess.CalledProcessError):
        inflict(ASK_LIKE_VERSION_1, path)


def test_many_processes_bring_one_file_up_to_date(path: Path, clock: Clock) -> None:
    inflict(PRELUDE + VERSION_1, path, json.dumps(list(range(500))))
    with ThreadPoolExecutor(6) as threads:
        for running in [threads.submit(in_a_child, open_once, path, clock) for _ in range(6)]:
            running.result()
    with closing(SqliteStore(str(path), clock)) as store:
        assert store.count() == 500


def upgrade_killed_at(step: int, path: Path, clock: Clock) -> bool:
    """Bring the file up to date in a child that is killed after so many of SQLite's steps; return whether it was."""
    child = os.fork()
    if child == 0:
        steps = itertools.count()
        connect = file._connect

        def killing(uri: str) -> sqlite3.Connection:
            conn = connect(uri)
            conn.set_progress_handler(lambda: next(steps) == step and os.kill(os.getpid(), signal.SIGKILL), 1000)
            return conn

        file._connect = killing
        SqliteStore(str(path), clock)
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def test_a_process_killed_while_it_brings_a_file_up_to_date_has_changed_nothing_or_all(
    path: Path, clock: Clock
) -> None:
    inflict(PRELUDE + VERSION_1, path, json.dumps(list(range(1000))))
    before, kills = path.read_bytes(), 0
    for step in itertools.count(2, 30):
        for left in path.parent.iterdir():
            left.unlink()
        path.write_bytes(before)
        was_killed = upgrade_killed_at(step, path, clock)
        with closing(SqliteStore(str(path), clock)) as store:
            assert store.count() == 1000
            assert all(store.find([claim_key("i", "sub", str(value))]) for value in range(0, 1000, 100))
        if not was_killed:
            break
        kills += 1
    assert kills > 2


# Who else may use it, and from where


def modes(path: Path) -> set[int]:
    return {file.stat().st_mode & 0o777 for file in path.parent.iterdir()}


def test_only_its_owner_reads_the_file_its_log_and_its_index(path: Path, clock: Clock) -> None:
    before = os.umask(0)
    try:
        with closing(SqliteStore(str(path), clock)) as store:
            store.add(ENTRIES[:1])
            assert len(list(path.parent.iterdir())) == 3
            assert modes(path) == {0o600}
    finally:
        os.umask(before)
    path.chmod(0o664)
    with closing(SqliteStore(str(path), clock)) as store:
        store.add(ENTRIES[1:2])
        assert modes(path) == {0o600}


@pytest.mark.parametrize("kind", ["folder", "text", "database", "nothing"])
def test_what_is_no_blacklist_is_refused_and_left_as_it_is(path: Path, clock: Clock, kind: str) -> None:
    """Whoever writes STORE=sqlite:////tmp must not find /tmp closed to everybody else."""
    path.parent.mkdir(exist_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "database":
        with closing(sqlite3.connect(path)) as conn:
            conn.execute("CREATE TABLE other (it)")
    else:
        path.write_text({"text": "of somebody else", "nothing": ""}[kind])
    path.chmod(0o755)
    before = path.stat()
    with pytest.raises(StoreRefused):
        SqliteStore(str(path), clock)
    after = path.stat()
    assert (after.st_mode, after.st_size) == (before.st_mode, before.st_size)


def test_whoever_ends_last_folds_the_log_into_the_file(path: Path, clock: Clock) -> None:
    with closing(SqliteStore(str(path), clock)) as store:
        in_a_child(lambda: store.add(ENTRIES[:10]))  # which ends without closing anything
        assert path.with_name(path.name + "-wal").stat().st_size
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM unnamed WHERE key LIKE 'token:%'").fetchone() == (10,)


@pytest.mark.slow
@pytest.mark.slow
def test_the_log_stays_short_although_somebody_always_reads(store: SqliteStore, path: Path) -> None:
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            store.page(100)

    longest = 0
    with ThreadPoolExecutor(3) as threads:
        for _ in range(3):
            threads.submit(read)
        try:
            for first in range(0, 60_000, 2000):
                digests = (hashlib.sha256(str(number).encode()).hexdigest() for number in range(first, first + 2000))
                store.add([Entry(f"token:{digest}", "issuer", START, START + 600) for digest in digests])
                longest = max(longest, path.with_name(path.name + "-wal").stat().st_size)
        finally:
            over.set()
    assert longest < 64 << 20


# Why


def test_the_log_says_why_once_and_what_to_do_and_when_it_is_over(
    store: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        caplog.clear()
        inflict(PRELUDE + "os.rename(path, path + '.away')", path)
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as refusal:
                store.find([ABSENT.key])
        assert refusal.value.cause == "replaced"
        (record,) = caplog.records
        assert record.getMessage() == (
            "the blacklist store is unavailable for look-ups (replaced): [Errno 2] No such file or directory: "
            f"'{path}'. What to do: put the right file in place, end everything that uses it, then start it again"
        )
        inflict(PRELUDE + "os.rename(path + '.away', path)", path)
        assert not store.find([ABSENT.key])
        assert caplog.records[-1].getMessage() == "the blacklist store is available again for look-ups"


def test_a_pickle_in_the_file_is_not_executed(path: Path, clock: Clock, tmp_path: Path) -> None:
    """CVE-2024-35515: by itself SqliteDict unpickles, and so executes, what it finds in its file."""
    code = "import sqlitedict; sqlitedict.SqliteDict(path)['key'] if other == 'read' else exec(other)"
    pickled = f"cos\nsystem\n(S'touch {tmp_path}/executed'\ntR.".encode()
    plant = (
        "db = sqlite3.connect(path); db.execute('CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB)')\n"
        f"db.execute('INSERT INTO unnamed VALUES (?, ?)', ({ENTRIES[0].key!r}, {pickled!r})); db.commit()"
    )
    inflict(PRELUDE + plant, path)
    with pytest.raises(StoreRefused, match="cannot hold the blacklist"):
        SqliteStore(str(path), clock)
    assert not (tmp_path / "executed").exists()
    inflict(PRELUDE + code.replace("'key'", repr(ENTRIES[0].key)), path, "read")
    assert (tmp_path / "executed").exists(), "the pickle was a harmless one"


# Forgetting, and space


def test_expired_entries_are_pruned_beside_changes_once_the_grace_is_over(path: Path, clock: Clock) -> None:
    def rows() -> int:
        with closing(sqlite3.connect(path)) as db:
            return int(db.execute("SELECT count(*) - 1 FROM unnamed").fetchone()[0])

    with closing(SqliteStore(str(path), clock)) as store:
        store.add(ENTRIES)
        clock.advance(600 + GRACE_SECONDS - 1)
        store.add([Entry(ABSENT.key, "issuer", START, None)])
        assert (rows(), store.count()) == (201, 1)
        clock.advance(-1000)  # the clock is set back
        assert store.count() == 1
        clock.advance(1001)
        store.remove(ABSENT.key)
        assert rows() == 200
        for left in (101, 2, 3):
            store.add([Entry(f"token:{clock() + left:064.0f}", "issuer", START, None)])
            assert rows() == left


def test_space_is_given_back(path: Path, clock: Clock) -> None:
    with closing(SqliteStore(str(path), clock)) as store:
        store.add(ENTRIES[:1])
        store.purge()
        small = path.stat().st_size
        store.add(tokens(0, 5000))
        store.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert path.stat().st_size > 10 * small
        clock.advance(600)
        assert store.purge() == 5000
        assert path.stat().st_size <= 2 * small
        assert path.with_name(path.name + "-wal").stat().st_size == 0
        assert store.count() == 0


def test_an_index_finds_what_has_expired_and_what_is_new(store: SqliteStore) -> None:
    for statement, values, index in (
        (FORGET, 2, "expiry"),
        (SAME_SECOND, 8, "creation"),
        (EARLIER, 7, "creation"),
        (lookup(4), 8, "beginning"),
    ):
        plan = store.conn.select("EXPLAIN QUERY PLAN " + statement, [1] * values)
        assert any(f"SEARCH unnamed USING INDEX {index}" in row[3] for row in plan), plan
        assert not any("TEMP" in row[3] or "SCAN unnamed" in row[3] for row in plan if "INDEX head" not in row[3]), plan


def test_a_page_of_some_entries_ends_before_a_long_list_has_been_looked_at(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten who asked at once for some of a million entries held all others up for ten seconds."""
    monkeypatch.setattr(sqlite_store, "LOOKED_AT", 30)
    key = claim_key("other", "sub", "1")
    older = Entry(key, "other", START - 1, None, ("sub", "1"))
    store.add([older])
    for only in ({"claim": "sub"}, {"issuers": ["other"]}):
        found, cursor, pages = [], "", 0
        while pages == 0 or cursor:
            page, cursor = store.page(10, cursor, **only)  # type: ignore[arg-type]
            found, pages = found + page, pages + 1
        assert (found, pages) == ([older], 7)
    assert len(store.page(50, issuers=["issuer"])[0]) == 50


# As it grows

WORKER = """
import json, random, sys, threading
from gateway.http.values import value_text
from gateway.blacklist.keys import claim_key
from gateway.blacklist.stores.base import Entry
from gateway.blacklist.stores.sqlite.store import SqliteStore

path, worker, threads, questions = sys.argv[1], *map(int, sys.argv[2:])
store, wrong, left = SqliteStore(path, lambda: 1000.0), [], []

def work(thread):
    chance, mine = random.Random(f"{worker}.{thread}"), set()
    keys = [f"token:{worker:02x}{thread:02x}{number:060x}" for number in range(20)]
    for _ in range(questions):
        key, dice = chance.choice(keys), chance.random()
        if dice < 0.06:
            wrong.extend([key] * (store.add([Entry(key, "issuer", 1000, None)])[0].changed == (key in mine)))
            mine.add(key)
        elif dice < 0.1:
            wrong.extend([key] * (store.remove(key) != (key in mine)))
            mine.discard(key)
        else:
            wrong.extend([key] * ([entry.key for entry in store.find([key])] != [key] * (key in mine)))
    left.extend(mine)

running = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
for thread in running: thread.start()
for thread in running: thread.join()
print(json.dumps([len(wrong), left]))
"""


@pytest.mark.slow
def test_many_workers_lose_and_invent_nothing(path: Path) -> None:
    """Each thread of each worker knows what its own keys must be; a tenth of what it asks are changes."""
    commands = [[sys.executable, "-c", WORKER, str(path), str(worker), "4", "500"] for worker in range(8)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
    answers = [json.loads(worker.communicate()[0]) for worker in workers]
    assert sum(wrong for wrong, _ in answers) == 0
    with closing(SqliteStore(str(path), lambda: 1000.0)) as store:
        assert sorted(entry.key for entry in store.page(10_000)[0]) == sorted(
            key for _, left in answers for key in left
        )


# The mapping underneath


def test_sqlitedict_reads_the_table_as_its_own(store: SqliteStore) -> None:
    assert len(store) == len(ENTRIES) + 1  # and the head
    assert store[ENTRIES[0].key] == ENTRIES[0].to_json()
    assert json.loads(store.conn.select_one("SELECT value FROM unnamed WHERE key = ?", [ENTRIES[0].key])[0])


def test_what_is_put_in_as_into_a_mapping_is_an_entry(store: SqliteStore) -> None:
    store.update({entry.key: entry for entry in tokens(1000, 2)})
    store[ABSENT.key] = ABSENT
    assert store.find([ABSENT.key, tokens(1001, 1)[0].key]) == [ABSENT, *tokens(1001, 1)]


@pytest.mark.parametrize("pragma", ["synchronous=NORMAL", "journal_mode=DELETE"])
def test_a_store_that_would_not_sync_is_refused(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, pragma: str
) -> None:
    monkeypatch.setattr("gateway.blacklist.stores.sqlite.connections._PRAGMAS", [pragma])
    with pytest.raises(StoreRefused, match="would not be synced"):
        SqliteStore(str(path), clock)


def test_every_connection_syncs_its_changes(store: SqliteStore) -> None:
    assert store.conn.select_one("PRAGMA synchronous") == (2,)
    assert store.conn.select_one("PRAGMA journal_mode") == ("wal",)

"""What is cached of an SQLite store holds exactly until somebody commits, whoever that is."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from asked_again import AskedAgain
from helpers import NOW, Clock
from recorder import until

from gateway.blacklist.stores.base import Entry
from gateway.blacklist.stores.sqlite.index import LOOK_SECONDS, SAVED_SECONDS, Index, is_sound, join, leave
from gateway.blacklist.stores.sqlite.store import SqliteStore
from gateway.http.problems import StoreUnavailable

KEYS = ("token:" + "a" * 64, "claim:" + "b" * 64)
ENTRY = Entry(KEYS[0], "issuer", int(NOW), int(NOW) + 600)
MANY = round(2 * SAVED_SECONDS / LOOK_SECONDS)  # look-ups, after which not every one looks at the file

# Reads `+` and `-`, and puts the entry in or takes it out; answers each when it is committed.
SOMEBODY = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.create_function("sqlite_source_id", 0, lambda: "gateway")  # as gateways do, whose changes are not by hand
for line in sys.stdin:
    if line == "+\\n":
        db.execute("REPLACE INTO unnamed (key, value) VALUES (?, ?)", sys.argv[2:4])
    else:
        db.execute("DELETE FROM unnamed WHERE key = ?", sys.argv[2:3])
    print("done", flush=True)
"""

Change = Callable[[str], None]


@pytest.fixture
def change(path: Path, store: SqliteStore) -> Iterator[Change]:
    """Return what lets another process change the file, without a mark."""
    value = f'{{"issuer": "issuer", "created_at": {int(NOW)}, "expires_at": {int(NOW) + 600}}}'
    command = [sys.executable, "-c", SOMEBODY, str(path), ENTRY.key, value]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout

        def do(what: str) -> None:
            print(what, file=process.stdin, flush=True)
            assert process.stdout
            assert process.stdout.readline() == "done\n"

        yield do
        process.stdin.close()


def questions(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that grows with each question that SQLite is asked."""
    asked: list[object] = []
    entries = store._entries
    monkeypatch.setattr(store, "_entries", lambda *args: asked.append(args) or entries(*args))
    return asked


def test_what_is_known_is_not_asked_again(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = questions(store, monkeypatch)
    assert [len(store.find(KEYS)) for _ in range(50)] == [0] * 50
    assert len(asked) <= 2  # the first one opened the connection


def test_a_change_by_anybody_is_seen_by_the_very_next_question(store: SqliteStore, change: Change) -> None:
    for _ in range(300):
        assert not store.find(KEYS)
        change("+")
        assert store.find(KEYS) == [ENTRY]
        change("-")


def test_what_is_known_expires_all_the_same(store: SqliteStore, clock: Clock) -> None:
    store.add([ENTRY])
    assert store.find(KEYS) == [ENTRY]
    clock.advance(600)
    assert not store.find(KEYS)


def test_the_longest_checkpoint_hides_nothing(store: SqliteStore, change: Change) -> None:
    assert not store.find(KEYS)
    change("+")
    assert store.find(KEYS) == [ENTRY]
    store.purge()  # empties the log
    change("-")
    assert not store.find(KEYS)


def test_nothing_is_cached_while_no_connection_holds_the_index(store: SqliteStore, change: Change) -> None:
    assert not store.find(KEYS)
    store.close()
    assert store.conn.index.stamp() is None
    change("+")
    assert store.find(KEYS) == [ENTRY]


def test_a_connection_that_is_only_being_opened_holds_no_index(store: SqliteStore) -> None:
    """It may be the one that truncates it: reading would end the process."""
    store.find(KEYS)
    database = store.conn._identity
    join(database)
    store.close()
    assert store.conn.index.stamp() is None
    leave(database)


def test_an_index_made_anew_is_read_anew(path: Path, clock: Clock) -> None:
    forgotten = AskedAgain(str(path), clock)
    forgotten.find(KEYS)
    forgotten.find(KEYS)
    del forgotten  # nobody closed it: the index goes with its last connection
    gc.collect()
    with closing(AskedAgain(str(path), clock)) as first, closing(AskedAgain(str(path), clock)) as second:
        assert not first.find(KEYS)
        assert not first.find(KEYS)
        second.add([ENTRY])
        assert first.find(KEYS) == [ENTRY]


def locks(path: Path) -> int:
    """Return how many locks this process has on a file."""
    inode, pid = os.stat(path).st_ino, str(os.getpid())
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sum(fields[4] == pid and fields[5].endswith(f":{inode}") for fields in lines if len(fields) > 5)


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="Linux tells which locks there are")
def test_one_store_does_not_give_up_the_locks_of_another(path: Path, clock: Clock, store: SqliteStore) -> None:
    """Closing any descriptor of a file would (fcntl(2)); others would then remove the log beneath us."""
    index = Path(f"{path}-shm")
    store.find(KEYS)
    held = locks(index)
    assert held
    for _ in range(3):
        with closing(SqliteStore(str(path), clock)) as other:
            other.find(KEYS)
            other.find(KEYS)
    assert locks(index) == held


def test_all_that_nothing_is_known_of_share_one_answer(store: SqliteStore) -> None:
    store.find(())  # opens the connection
    answers = [store.find_again([f"token:{number:064x}"], None)[0] for number in range(100)]
    assert answers[0]
    assert all(answer is answers[0] for answer in answers)


@pytest.mark.parametrize("content", [bytes(200), b"\x18\xe2\x2d\x00" + bytes(44) + b"\x18\xe2\x2d\x00" + b"1" * 44])
def test_an_index_of_another_layout_or_half_written_tells_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "file-wal").touch()
    (tmp_path / "file-shm").write_bytes(content)
    index = Index()
    index.opened(str(tmp_path / "file"), str(tmp_path / "file"))
    stamp = index.stamp()
    assert stamp
    assert not is_sound(stamp)
    index.close()


FAULTS: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
    "replaced": lambda path: (
        path.with_name("other").write_bytes(path.read_bytes()) and path.with_name("other").replace(path)
    ),
    "away": lambda path: path.rename(path.with_name("away")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_done_to_the_file_is_noticed_although_all_is_known(store: SqliteStore, path: Path, fault: str) -> None:
    store.find(KEYS)
    store.find(KEYS)
    FAULTS[fault](path)
    with pytest.raises(StoreUnavailable):
        store.find(KEYS)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_busy_process_notices_soon_what_is_done_to_the_file(store: SqliteStore, path: Path, fault: str) -> None:
    for _ in range(MANY):
        store.find(KEYS)
    FAULTS[fault](path)

    def is_noticed() -> bool:
        try:
            return bool(store.find(KEYS))
        except StoreUnavailable:
            return True

    assert until(is_noticed)
    with pytest.raises(StoreUnavailable):
        store.find(KEYS)


def test_a_busy_process_sees_every_change_at_once(store: SqliteStore, change: Change) -> None:
    for _ in range(5):
        for _ in range(MANY):
            assert not store.find(KEYS)
        change("+")
        for _ in range(MANY):
            assert store.find(KEYS) == [ENTRY]
        change("-")

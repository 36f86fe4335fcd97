"""A copy that lacks a change is refused by all who could know, and stays so, until an operator takes it as it is."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import NOW, Clock

from gateway.blacklist.stores.base import Entry, StoreRefused
from gateway.blacklist.stores.history import WINDOW, Head, HistoryLost, Known, new_mark
from gateway.blacklist.stores.sqlite.store import SqliteStore
from gateway.http.problems import StoreUnavailable


def entry(number: int) -> Entry:
    return Entry(f"token:{number:064x}", "issuer", int(NOW), int(NOW) + 600)


# By another process: this one, closing a file it opened itself, would drop the locks that SQLite holds on it.
COPY = """
import sqlite3, sys
source, target = (sqlite3.connect(path) for path in sys.argv[1:])
source.backup(target)
"""


def copy(source: Path, target: Path) -> None:
    """Copy as an operator does, by SQLite's backup: into the same file, that is the same inode."""
    subprocess.run([sys.executable, "-c", COPY, str(source), str(target)], check=True)


def told(store: SqliteStore, number: int) -> str:
    try:
        return "found" if store.find([entry(number).key]) else "passed"
    except StoreUnavailable as error:
        return error.cause


def in_a_child(work: Callable[[], bool]) -> bool:
    """Return what `work` returns in a forked child that never asked before."""
    child = os.fork()
    if child == 0:  # nothing of pytest may run here
        with suppress(BaseException):
            os._exit(0 if work() else 1)
        os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_one_worker_knows_all_know_also_those_that_never_asked(store: SqliteStore, path: Path) -> None:
    older = path.with_name("older")
    copy(path, older)
    assert in_a_child(lambda: store.add([entry(1)])[0].changed)  # type: ignore[index]
    copy(older, path)
    assert told(store, 1) == "history"
    assert in_a_child(lambda: told(store, 1) == "history")


def test_a_wiped_table_is_refused_by_workers_that_are_born_later(store: SqliteStore, path: Path) -> None:
    in_a_child(lambda: bool(store.add([entry(1)])))
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute('DELETE FROM unnamed')"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert in_a_child(lambda: told(store, 1) == "history")


@pytest.mark.parametrize("more", [1, 2, 30])
def test_an_older_copy_stays_refused_when_it_has_as_many_changes_again(
    store: SqliteStore, path: Path, clock: Clock, more: int
) -> None:
    older = path.with_name("older")
    store.add([entry(1)])
    copy(path, older)
    store.add([entry(2)])
    copy(older, path)
    with closing(SqliteStore(str(path), clock)) as newcomer:  # on another machine, say: it cannot know
        for number in range(more):
            newcomer.add([entry(10 + number)])
        assert told(store, 2) == "history"
        assert in_a_child(lambda: told(store, 2) == "history")
        with pytest.raises(StoreUnavailable):
            store.add([entry(2)])
        assert told(newcomer, 10) == "found"


def test_what_was_restored_is_served_again(store: SqliteStore, path: Path) -> None:
    older, newer = path.with_name("older"), path.with_name("newer")
    copy(path, older)
    store.add([entry(1)])
    copy(path, newer)
    copy(older, path)
    assert told(store, 1) == "history"
    copy(newer, path)
    assert told(store, 1) == "found"


def test_an_operator_takes_a_copy_as_it_is_for_all_who_refuse_it(store: SqliteStore, path: Path, clock: Clock) -> None:
    older = path.with_name("older")
    store.add([entry(1)])
    copy(path, older)
    store.add([entry(2)])
    copy(older, path)
    assert told(store, 2) == "history"
    with closing(SqliteStore(str(path), clock)) as operator:
        operator.accept()
    assert told(store, 2) == "passed"
    assert told(store, 1) == "found"
    assert store.add([entry(2)])[0].changed  # type: ignore[index]
    copy(older, path)  # which nobody has accepted since
    assert told(store, 2) == "history"


BY_HAND = [
    "DELETE FROM unnamed WHERE key LIKE 'token:%'",
    "UPDATE unnamed SET value = json_set(value, '$.expires_at', 1) WHERE key LIKE 'token:%'",
    "REPLACE INTO unnamed SELECT key, json_set(value, '$.expires_at', 1) FROM unnamed WHERE key LIKE 'token:%'",
]


@pytest.mark.parametrize("statement", BY_HAND)
def test_rows_that_are_changed_by_hand_are_noticed_by_all_who_know_until_an_operator_accepts_it(
    store: SqliteStore, path: Path, clock: Clock, statement: str
) -> None:
    store.add([entry(1), entry(2)])
    assert told(store, 1) == "found"
    by_hand = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute(sys.argv[2])"
    subprocess.run([sys.executable, "-c", by_hand, str(path), statement], check=True)
    assert told(store, 1) == told(store, 3) == "history"
    assert in_a_child(lambda: told(store, 1) == "history")
    with pytest.raises(StoreUnavailable):
        store.add([entry(3)])
    with closing(SqliteStore(str(path), clock)) as operator:
        operator.add([entry(1)])  # as an import does
        assert told(store, 1) == "history"
        operator.accept()
    assert told(store, 1) == "found"
    assert told(store, 2) == "passed"
    assert store.remove(entry(1).key)  # which is not by hand
    clock.advance(10**9)
    store.purge()
    assert told(store, 1) == "passed"


def test_a_file_that_was_made_without_them_gets_the_triggers_that_notice_hands(path: Path, clock: Clock) -> None:
    triggers = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger'"
    for drop in (True, False):
        SqliteStore(str(path), clock).close()
        with closing(sqlite3.connect(path)) as db:
            assert db.execute(triggers).fetchone() == (3,)
            for change in ("delete", "update", "replace") if drop else ():
                db.execute(f"DROP TRIGGER {change}_by_hand")


def test_the_keys_that_changed_since_a_mark_are_known(store: SqliteStore, path: Path, clock: Clock) -> None:
    marks = [store.changes("")[0]]
    with closing(SqliteStore(str(path), clock)) as other:
        for number in range(3):
            other.add([entry(number), entry(100)])
            marks.append(store.changes(marks[-1])[0])
        other.remove(entry(0).key)
        last = store.changes(marks[0])[0]
        changed = [store.changes(mark)[1] for mark in marks]
        assert changed[3] == {entry(0).key}
        assert changed[2] == {entry(0).key, entry(2).key}
        assert changed[0] == {entry(100).key, *(entry(number).key for number in range(3))}
        other.add([entry(number) for number in range(1000, 2000)])
        assert store.changes(last)[1] is None
        other.add([entry(4000)])
        assert store.changes(marks[0])[1] is None


def test_no_more_marks_are_kept_than_are_of_use(store: SqliteStore, path: Path) -> None:
    first = store.changes("")[0]
    for number in range(WINDOW + 150):
        store.add([entry(number)])
    with closing(sqlite3.connect(path)) as db:
        assert WINDOW <= db.execute("SELECT count(*) FROM history").fetchone()[0] < WINDOW + 150
    assert store.changes(first)[1] is None
    assert told(store, 1) == "found"


@pytest.mark.parametrize("files", [["-shm"], ["-wal"], ["-shm", "-wal"]])
def test_what_is_removed_beneath_us_is_noticed_by_look_ups(store: SqliteStore, path: Path, files: list[str]) -> None:
    store.add([entry(1)])
    assert told(store, 2) == told(store, 2) == "passed"
    for file in files:
        path.with_name(path.name + file).unlink()
    revoke = f"from {SqliteStore.__module__} import *; s = SqliteStore(sys.argv[1]); print(s.add([e])); s.close()"
    code = f"import sys; from gateway.blacklist.stores.base import Entry; e = Entry({entry(2).key!r}, 'i', 1, None); "
    done = subprocess.run([sys.executable, "-c", code + revoke, str(path)], check=False, capture_output=True)
    if b"True" in done.stdout:
        assert told(store, 2) == "replaced"
        with pytest.raises(StoreUnavailable):
            store.add([entry(3)])
        store.close()  # which must not fold an old log over the new one
        code = "import sys; print(len(SqliteStore(sys.argv[1]).find([sys.argv[2]])))"
        command = [sys.executable, "-c", f"from {SqliteStore.__module__} import *; {code}", str(path), entry(2).key]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        assert found.stdout == "1\n"
    assert told(store, 1) in ("found", "replaced")


# --- the rules alone ---


def heads(*all_heads: Head) -> dict[int, str]:
    return {head.number: str(head) for head in all_heads}


def refusal(path: Path, clock: Clock) -> str:
    try:
        SqliteStore(str(path), clock).close()
    except StoreRefused as error:
        return str(error)
    return ""


FOLD = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchall()"


def test_an_older_copy_put_beneath_the_log_is_refused_also_by_who_starts_anew(
    store: SqliteStore, path: Path, clock: Clock
) -> None:
    """The newest mark is in the log: what was folded in before it is what the copy lacks."""
    older, newer = path.with_name("older"), path.with_name("newer")
    store.add([entry(1)])
    subprocess.run([sys.executable, "-c", FOLD, str(path)], check=True)
    subprocess.run(["cp", path, older], check=True)
    store.add([entry(number) for number in range(2, 200)])
    store.add([entry(200)])
    subprocess.run([sys.executable, "-c", FOLD, str(path)], check=True)
    subprocess.run(["cp", path, newer], check=True)
    store.add([entry(201)])
    subprocess.run(["cp", older, path], check=True)
    assert {told(store, number) for number in (1, 2, 200, 201)} == {"replaced"}
    assert in_a_child(lambda: told(store, 2) == "replaced")
    store.close()  # which must not fold the log into it
    assert in_a_child(lambda: "is not the file that blacklist.sqlite3-wal continues" in refusal(path, clock))
    subprocess.run(["cp", newer, path], check=True)
    with closing(SqliteStore(str(path), clock)) as again:
        assert {told(again, number) for number in (1, 2, 200, 201)} == {"found"}


VACUUM = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute(*sys.argv[2:3], sys.argv[3:])"


def test_a_copy_of_the_newest_state_on_other_pages_is_refused_beneath_the_log(store: SqliteStore, path: Path) -> None:
    store.add([entry(number) for number in range(300)])
    subprocess.run([sys.executable, "-c", FOLD, str(path)], check=True)
    store.add([entry(300)])
    subprocess.run([sys.executable, "-c", VACUUM, str(path), "VACUUM"], check=True)  # in place, which is as good
    store.add([entry(301)])
    assert {told(store, number) for number in (1, 300, 301)} == {"found"}
    copied = str(path.with_name("copy"))
    subprocess.run([sys.executable, "-c", VACUUM, str(path), "VACUUM INTO ?", copied], check=True)
    subprocess.run(["cp", copied, path], check=True)
    assert {told(store, number) for number in (1, 300, 301)} == {"replaced"}


def test_a_log_that_was_cut_takes_no_more_changes(store: SqliteStore, path: Path) -> None:
    store.add([entry(1)])
    os.truncate(path.with_name(path.name + "-wal"), 5000)
    with pytest.raises(StoreUnavailable):
        store.add([entry(2)])
    assert told(store, 1) == "replaced"
    assert told(store, 2) == "replaced"


def test_a_name_that_goes_in_time_is_none(store: SqliteStore, path: Path, clock: Clock) -> None:
    """File systems in user space tell of names that are gone already."""
    other = path.with_name("other")
    os.link(path, other)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(lambda: time.sleep(0.2) or other.unlink())
        SqliteStore(str(path), clock).close()


def test_a_file_with_two_names_is_refused_whichever_is_used(
    store: SqliteStore, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would have a log of its own: what is blacklisted through the one passes where the other is used."""
    monkeypatch.setattr("gateway.blacklist.stores.sqlite.file.NAMES_SECONDS", 0.0)
    other = path.with_name("other")
    os.link(path, other)
    for name in (path, other):
        with pytest.raises(StoreRefused, match="a hard link"):
            SqliteStore(str(name), clock)
    other.unlink()
    os.link(path, path.with_name(f".{path.name}.draft"))  # as left by a process that was killed while it made the file
    SqliteStore(str(path), clock).close()


def test_a_link_that_comes_to_lead_elsewhere_is_noticed(path: Path, clock: Clock) -> None:
    links = [path.with_name("link"), path.with_name("folder") / "file"]
    links[0].symlink_to(path)
    links[1].parent.symlink_to(path.parent)
    other = path.with_name("other")
    other.mkdir()
    path.with_name("file").symlink_to(path)
    (other / "file").symlink_to(path.with_name("elsewhere"))
    SqliteStore(str(path.with_name("elsewhere")), clock).close()
    for link, at, elsewhere in ((links[0], links[0], "elsewhere"), (links[1], links[1].parent, "other")):
        with closing(SqliteStore(str(link), clock)) as store:
            store.add([entry(1)])
            assert told(store, 1) == "found"
            at.unlink()
            at.symlink_to(path.with_name(elsewhere))
            assert told(store, 1) == "replaced"


def test_what_a_clock_that_was_ahead_has_forgotten_is_not_taken_for_absent(
    store: SqliteStore, path: Path, clock: Clock
) -> None:
    with closing(SqliteStore(str(path), clock)) as operator:
        store.add([entry(1), entry(2)])
        clock.advance(2 * 3600)
        operator.add([replace(entry(3), expires_at=None)])  # which forgets the two
        assert told(store, 1) == "passed"
        clock.advance(-2 * 3600)
        assert {told(store, number) for number in (1, 2, 3)} == {"clock"}
        assert in_a_child(lambda: told(store, 1) == "clock")
        clock.advance(600)
        assert [told(store, number) for number in (1, 3)] == ["passed", "found"]
        clock.advance(-1)
        assert told(store, 1) == "clock"
        operator.accept()
        assert [told(store, number) for number in (1, 3)] == ["passed", "found"]


def test_an_answer_that_comes_late_takes_nothing_back() -> None:
    known, first = Known(), Head("a" * 32, 0, 6, new_mark())
    second = first.next()
    known.check(str(first), "", heads(first))
    known.check(str(second), str(first), heads(first, second))
    known.check(str(first), str(first), heads(first))  # asked for before the second change
    assert known.newest() == str(second)
    with pytest.raises(HistoryLost, match="lacks the last 1 changes"):
        known.check(str(first), known.newest(), heads(first))


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="elsewhere a file on a disk is needed")
def test_a_store_is_opened_though_no_disk_takes_temporary_files(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null/full")
    SqliteStore(path, now=clock).ping()


def test_of_two_histories_that_part_while_they_are_asked_one_is_refused() -> None:
    known, first = Known(), Head("a" * 32, 0, 6, new_mark())
    one, other = first.next(), first.next()
    known.check(str(first), "", heads(first))
    known.check(str(one), str(first), heads(first, one))
    with pytest.raises(HistoryLost):
        known.check(str(other), str(first), heads(first, other))


def test_marks_that_another_server_gave_do_not_vouch_for_an_answer() -> None:
    known, first = Known(), Head("a" * 32, 0, 6, new_mark())
    ours = first.next()
    theirs = first.next().next()
    known.check(str(first), "", heads(first))
    known.check(str(ours), str(first), heads(first, ours))
    with pytest.raises(HistoryLost):
        known.check(str(theirs), str(ours), heads(first, ours))


def test_what_is_known_from_before_all_kept_marks_is_taken_if_it_is_the_same_blacklist() -> None:
    known, first = Known(), Head("a" * 32, 0, 6, new_mark())
    known.check(str(first), "", heads(first))
    late = Head("a" * 32, 0, 6 + WINDOW + 1, new_mark())
    with pytest.raises(HistoryLost, match="another"):
        known.check(str(late._replace(blacklist="b" * 32)), str(first), {})
    known.check(str(late), str(first), heads(late))
    assert known.newest() == str(late)


def test_a_copy_made_before_a_store_was_accepted_is_refused() -> None:
    known, first = Known(), Head("a" * 32, 0, 6, new_mark())
    known.check(str(first), "", heads(first))
    accepted = Head("b" * 32, 0, 3, new_mark()).next(accepted=True)
    known.check(str(accepted), str(first), heads(accepted))
    with pytest.raises(HistoryLost):
        known.check(str(first), str(accepted), heads(first))
    with pytest.raises(HistoryLost):
        known.check(str(first._replace(number=50)), str(accepted), {})


@pytest.mark.parametrize("text", ["", "7", "a.b.c.d", f"{'a' * 32}.0.1"])
def test_a_head_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(HistoryLost):
        Known().check(text, "", {})

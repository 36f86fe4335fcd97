"""The SQLite file under the blacklist: made durably, for its owner alone, checked and brought up to date at start."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import time
import uuid
from contextlib import closing, suppress
from pathlib import Path

from gateway.blacklist.stores.base import StoreMissing, StoreOutdated, StoreRefused
from gateway.blacklist.stores.history import number_of
from gateway.blacklist.stores.sqlite.beneath import Replaced, check_continues, write_number
from gateway.blacklist.stores.sqlite.index import is_open
from gateway.blacklist.stores.sqlite.place import check_locks, check_mount, fault_of_rights
from gateway.blacklist.stores.sqlite.statements import NOTICE_HANDS, WRITE
from gateway.blacklist.stores.sqlite.upgrade import VERSION, upgrade
from gateway.http.blocking import blocking

log = logging.getLogger(__name__)

BUSY_SECONDS = 2.0  # to wait for the changes of others
START_SECONDS = 30.0  # to wait for another process that brings the file up to date
NAMES_SECONDS = 1.5  # file systems in user space (FUSE) may tell a number of names that is a second old
CHECKED_BYTES = 8 << 20  # a check takes 44 ms for each MB; what is larger is checked as it is read
# What SQLite says of a damaged schema quotes it, and Python's sqlite3 takes that for UTF-8.
FAILURES = (sqlite3.Error, OSError, UnicodeDecodeError)


def begin(conn: sqlite3.Connection, seconds: float = BUSY_SECONDS) -> None:
    """Begin a transaction that changes something, once others have ended theirs. Raises sqlite3.Error."""
    run_alone(conn, "BEGIN IMMEDIATE", seconds)


def run_alone(conn: sqlite3.Connection, statement: str, seconds: float) -> None:
    """Run a statement that nobody else's lock allows beside it, as soon as there is none. Raises sqlite3.Error.

    SQLite waits in steps that grow to 100 ms: of 32 writers some had no turn in 2 s. In steps
    this small all had, and made twice as many changes. For the lock of `journal_mode` it does not wait at all.
    """
    last_try = time.monotonic() + seconds
    conn.execute("PRAGMA busy_timeout=0")
    with blocking():  # for the wait here; and for the disk, as the turn is not taken again before the change is made
        while True:
            try:
                conn.execute(statement)
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > last_try:
                    raise
            time.sleep(random.uniform(0, 0.002))  # noqa: S311 - apart from each other is all they must be
    conn.execute(f"PRAGMA busy_timeout={seconds * 1000:.0f}")


def prepare(path: Path, *, create: bool = True) -> None:
    """Check the file; if `create`, make one where there is none, and bring it up to date. Raises `StoreRefused`."""
    log_file = path.with_name(path.name + "-wal")
    check_mount(path)
    try:
        fault = fault_of_rights(path)
        if log_file.exists() and not path.exists():  # in this order: another process may be making both
            raise StoreRefused(
                f"{path} is gone, but entries may be in {log_file}: restore the one or remove the other."
            )
        if not path.exists() and not create:
            why = f", and cannot be made: {fault}" if fault else ""
            raise StoreMissing(f"There is no store: {path} does not exist{why}.", can_be_made=not fault)
        if fault:
            raise StoreRefused(f"{path} cannot hold the blacklist: {fault}.")
        check_locks(path)
        if not path.exists():
            _create(path)
        if not path.is_file():
            raise StoreRefused(f"{path} cannot hold the blacklist: unable to open it, for it is no file.")
        size = path.stat().st_size
        if not size:
            raise StoreRefused(_emptied(path))
        _check_names(path)
        _check_log(path, log_file)
        with closing(_connect(f"{path.as_uri()}?mode=rw")) as conn:
            _check(path, conn, thoroughly=size <= CHECKED_BYTES, may_upgrade=create)
    except FAILURES as error:
        why = str(error)
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMMAP:
            why = "on its file system processes share no memory; use a local disk, or Redis"
        elif isinstance(error, OSError):
            why = f"its folder takes no such file ({error.strerror}): name one on a local disk that has room"
        raise StoreRefused(f"{path} cannot hold the blacklist: {why}.") from error


def _create(path: Path) -> None:
    """Make the file under another name first: under its own it is whole, or not there."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with closing(_connect(draft.as_uri())) as conn:
            draft.chmod(0o600)  # SQLite gives log and index the same mode
            conn.execute("PRAGMA auto_vacuum=INCREMENTAL")
            conn.execute("CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB)")  # as SqliteDict does
            upgrade(conn)
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was faster
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # SQLite syncs what is in the file; the name is ours to sync
    finally:
        os.close(directory)


def _keep_private(path: Path) -> None:
    """Take from others what they may do with the file, its log and its index.

    They would read subjects and reasons, and with one read lock on the index stop every change.
    """
    for name in ("", "-wal", "-shm"):
        file = path.with_name(path.name + name)
        with suppress(FileNotFoundError):
            mode = file.stat().st_mode
            if mode & 0o077:
                try:
                    file.chmod(mode & 0o700)
                    log.warning("%s was open to other users, and is not any more", file)
                except PermissionError:
                    log.warning("%s is open to other users, and belongs to another: chmod 600 it", file)


def _check_names(path: Path) -> None:
    """Raise `StoreRefused` if the file has two names: who uses the other has a log of its own."""
    deadline = time.monotonic() + NAMES_SECONDS
    while (found := path.stat()).st_nlink > 1:
        for draft in path.parent.iterdir():  # of a process that was killed, or is about to remove it
            with suppress(FileNotFoundError):
                if draft.name.startswith(f".{path.name}.") and os.path.samestat(draft.stat(), found):
                    draft.unlink()
                    break
        else:
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise StoreRefused(
                f"{path} has another name, too (a hard link): who uses that has a log of its own, and neither sees the "
                "other's changes. Remove one of the two, or copy the file instead."
            )


def _check_log(path: Path, log_file: Path) -> None:
    """Raise `StoreRefused` if the file is not the one that its log continues; SQLite would fold the log into it."""
    if not log_file.exists() or is_open(path):
        return  # if open: to close another descriptor would give up this process's locks; and it was checked before
    for is_last in (False, False, True):
        try:
            with path.open("rb") as file, log_file.open("rb") as log_bytes:
                check_continues(file.fileno(), log_bytes.fileno())
        except FileNotFoundError:
            return  # folded in by whoever closed it last
        except Replaced as error:  # or others change the one while we read the other
            if is_last:
                raise StoreRefused(
                    f"{path} is not the file that {log_file.name} continues: another copy was put in its place. "
                    "Put back the one that was there; or remove the log and its index (-shm), restore the newest "
                    "backup, and import the newest export."
                ) from error
            time.sleep(0.05)
        else:
            return


def _check(path: Path, conn: sqlite3.Connection, *, thoroughly: bool, may_upgrade: bool) -> None:
    if not conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'unnamed' AND type = 'table'").fetchone():
        raise StoreRefused(f"{path} is a database, but not a blacklist.")
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise StoreRefused(f"{path} was written by a newer version of the gateway.")
    if version < VERSION and not may_upgrade:
        raise StoreOutdated(f"{path} is of an older version: `gateway serve` of this one brings it up to date.")
    _keep_private(path)  # not before: the path may name a file of somebody else's by mistake
    if not version:
        conn.execute("PRAGMA auto_vacuum=INCREMENTAL")
        conn.execute("VACUUM")
    if version < VERSION:
        try:
            upgrade(conn)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreRefused(f"{path} has a row that is not an entry: restore it from a backup.") from error
    if not conn.execute("SELECT 1 FROM unnamed WHERE key = 'head'").fetchone():
        raise StoreRefused(_emptied(path))
    if thoroughly and conn.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
        raise StoreRefused(f"{path} is damaged: restore it from a backup.")
    run_alone(conn, "PRAGMA journal_mode=WAL", START_SECONDS)
    begin(conn, START_SECONDS)
    conn.execute(WRITE)  # raises if it cannot be written
    for trigger in NOTICE_HANDS if may_upgrade else ():
        conn.execute(trigger)
    (head,) = conn.execute("SELECT value FROM unnamed WHERE key = 'head'").fetchone() or ("",)
    write_number(conn, number_of(str(head).strip('"')))
    conn.execute("COMMIT")


def _connect(uri: str) -> sqlite3.Connection:
    conn = sqlite3.connect(uri, uri=True, timeout=START_SECONDS, isolation_level=None)
    try:
        conn.execute("PRAGMA synchronous=FULL")
    except BaseException:
        conn.close()
        raise
    return conn


def _emptied(path: Path) -> str:
    return f"{path} was emptied: restore it from a backup, or remove it to start with an empty blacklist."

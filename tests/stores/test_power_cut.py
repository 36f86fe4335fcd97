"""Lasting: neither a power cut nor a kill takes back a change that was acknowledged."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from powercut import CALLS, Disk, can_trace

from gateway.blacklist.stores.base import StoreRefused
from gateway.blacklist.stores.sqlite.store import SqliteStore
from gateway.http.problems import StoreUnavailable

pytestmark = pytest.mark.slow


def key(number: int) -> str:
    return f"token:{number:064x}"


# What the writer does: add (the number), or remove (the number's complement). Each is acknowledged by a dot.
STEPS = [step for number in range(60) for step in ((number, ~(number - 2)) if number % 5 == 4 else (number,))]
# The keys that are there after so many steps.
STATES = list(
    accumulate(
        STEPS, lambda keys, step: keys - {key(~step)} if step < 0 else keys | {key(step)}, initial=frozenset[str]()
    )
)
WRITER = """
import json, os, sys
from gateway.blacklist.stores.base import Entry
from gateway.blacklist.stores.sqlite import connections
from gateway.blacklist.stores.sqlite.store import SqliteStore

path, steps, synchronous = sys.argv[1:]
as_it_is = connections.Connections._open

def opened(self):
    conn = as_it_is(self)
    conn.execute(f"PRAGMA synchronous={synchronous}")
    return conn

if synchronous != "as it is":
    connections.Connections._open = opened
store = SqliteStore(path, now=lambda: 1000.0)
for count, step in enumerate(json.loads(steps), 1):
    if step < 0:
        assert store.remove(f"token:{~step:064x}")
    else:
        store.add([Entry(f"token:{step:064x}", "issuer", 1000, None, reason="r" * (step % 7 * 1000))])
    os.write(1, b".")
    if count % 20 == 10:
        store.purge()  # which empties the log into the file
    if count % 20 == 0:
        store.close()  # which removes the log
"""


def writer(path: Path, steps: list[int], synchronous: str = "as it is") -> list[str]:
    return [sys.executable, "-c", WRITER, str(path), json.dumps(steps), synchronous]


@pytest.fixture
def directory() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name).resolve()


def keys_in(path: Path) -> set[str]:
    with closing(SqliteStore(str(path), now=lambda: 1000.0)) as store:
        listed = {entry.key for entry in store.page(1000)[0]}
        assert listed == {entry.key for entry in store.find([key(number) for number in range(60)])}
        return listed


def power_cuts(directory: Path, synchronous: str = "as it is") -> Iterator[tuple[str, int, set[str]]]:
    """Trace the writer and cut its power after each sync and each answer, in several ways.

    Yield the call after which that was, how many steps had been acknowledged, and the keys that were left.
    """
    trace, path = directory / "trace", directory / "disk" / "blacklist.sqlite3"
    path.parent.mkdir()
    strace = ["strace", "-qq", "-xx", "-y", "-s", "9999999", "-e", f"trace={CALLS}", "-o", str(trace)]
    subprocess.run([*strace, *writer(path, STEPS, synchronous)], check=True, stdout=subprocess.PIPE)
    disk, chance = Disk(path.parent), random.Random(1)
    for call in disk.replay(trace):
        if call in ("write", "fsync", "fdatasync") and disk.said:
            for image in disk.images(chance):
                with TemporaryDirectory(dir=directory) as after:
                    for name, content in image.items():
                        Path(after, name).write_bytes(content)
                    yield call, len(disk.said), keys_in(Path(after, path.name))
    assert len(disk.said) == len(STEPS)


needs_strace = pytest.mark.skipif(not can_trace(), reason="strace is missing or forbidden")


@needs_strace
def test_no_power_cut_takes_back_what_was_acknowledged(directory: Path) -> None:
    for call, count, left in power_cuts(directory):
        # While a step is under way, it may have been made or not; once acknowledged, it has.
        assert left in STATES[count : count + (1 if call == "write" else 2)]


@needs_strace
@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_a_power_cut_would_take_back_what_was_not_synced(directory: Path, synchronous: str) -> None:
    """The replay can tell: with less syncing it finds losses."""
    cuts = power_cuts(directory, synchronous)
    with suppress(StoreRefused, StoreUnavailable):  # the file did not even survive
        assert any(left not in STATES[count : count + 2] for _, count, left in cuts)


def test_no_kill_takes_back_what_was_acknowledged(directory: Path) -> None:
    path, chance = directory / "blacklist.sqlite3", random.Random(1)
    for _ in range(10):
        with closing(SqliteStore(str(path), now=lambda: 1000.0)) as store:
            for left in keys_in(path):
                store.remove(left)
        patience = chance.randrange(1, len(STEPS))
        with subprocess.Popen(writer(path, STEPS), stdout=subprocess.PIPE) as process:
            assert process.stdout
            count = len(process.stdout.read(patience))
            process.kill()
            count += len(process.stdout.read())
        assert count >= patience
        assert keys_in(path) in STATES[count : count + 2]

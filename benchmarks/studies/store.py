"""`python -m benchmarks.studies.store`: what the SQLite store costs with no entries and with a million.

A look-up asks for four keys, a token's and three claims', as a request does. Rounds alternate
between the two files; figures are medians of CPU time, so that what waits for the disk does not count.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.blacklist.stores.base import Entry
from gateway.blacklist.stores.sqlite.store import SqliteStore

ENTRIES, BATCH = 1_000_000, 10_000
ROUNDS, LOOKUPS = 21, 5_000
NOW = 1_800_000_000


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ENTRIES
    clock = [float(NOW)]
    with TemporaryDirectory(dir=".") as directory:
        none, many = (SqliteStore(f"{directory}/{name}.sqlite3", lambda: clock[0]) for name in ("none", "many"))
        print(f"{count:,} entries, added {BATCH:,} at a time: {_fill(many, count)}")
        many.close()
        size = Path(f"{directory}/many.sqlite3").stat().st_size
        print(f"size of the file: {size / 1e6:.0f} MB, {size / count:.0f} bytes an entry")
        print(f"{'look-up, CPU':44}{'none':>10}{count:>12,}   ratio (range)")
        for name, keys in _lookups(count):
            print(f"{name:44}" + _compare(none, many, keys))
        bad = [_keys(number * (count // LOOKUPS)) for number in range(LOOKUPS)]
        costs = [_cost(many, bad) for _ in range(ROUNDS)]
        print(f"{'blacklisted tokens':44}{'':10}{statistics.median(costs):12.1f} µs")
        print(f"count: {_timed(many.count)}; first page of 1,000: {_timed(lambda: many.page(1000))}")
        print(f"a change: {_timed(lambda: many.add([_entry(count)]))}")
        clock[0] += 10**6
        print(f"all purged: {_timed(many.purge)}; then {Path(f'{directory}/many.sqlite3').stat().st_size:,} bytes")


def _entry(number: int) -> Entry:
    return Entry(_keys(number)[0], "https://www.discogs.com/", NOW + number // 1000, NOW + 86_400 + number % 86_400)


def _keys(number: int) -> list[str]:
    return [
        ("claim:" if part else "token:") + hashlib.sha256(f"{number}.{part}".encode()).hexdigest() for part in range(4)
    ]


def _fill(store: SqliteStore, count: int) -> str:
    def fill() -> None:
        for first in range(0, count, BATCH):
            store.add([_entry(number) for number in range(first, first + BATCH)])

    return _timed(fill)


def _lookups(count: int) -> Iterable[tuple[str, Callable[[int], list[list[str]]]]]:
    """Yield what is looked up, and which keys in which round."""
    good = [_keys(number) for number in range(count + 1, count + 1 + LOOKUPS)]
    yield "good tokens that come again and again", lambda _: good
    yield (
        "good tokens never seen before",
        lambda part: [_keys(-number) for number in range(1 + part * LOOKUPS, 1 + (part + 1) * LOOKUPS)],
    )


def _compare(none: SqliteStore, many: SqliteStore, keys: Callable[[int], list[list[str]]]) -> str:
    costs: list[tuple[float, float]] = []
    for part in range(ROUNDS):
        wanted = keys(part)
        costs.append((_cost(none, wanted), _cost(many, wanted)))
    first, second = (statistics.median(column) for column in zip(*costs, strict=True))
    ratios = sorted(b / a for a, b in costs)
    middle = statistics.median(ratios)
    return f"{first:7.1f} µs{second:9.1f} µs{middle:8.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"


def _cost(store: SqliteStore, wanted: list[list[str]]) -> float:
    """Return the CPU time of a look-up in microseconds."""
    started = time.process_time()
    for keys in wanted:
        store.find(keys)
    return (time.process_time() - started) / len(wanted) * 1e6


def _timed(work: Callable[[], object]) -> str:
    started, cpu = time.monotonic(), time.process_time()
    work()
    return f"{time.monotonic() - started:.3g} s ({time.process_time() - cpu:.3g} s CPU)"


if __name__ == "__main__":
    print(f"load average at the start: {os.getloadavg()[0]:.2f}")
    main()

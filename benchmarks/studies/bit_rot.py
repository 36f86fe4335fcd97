"""What one flipped bit beneath a running SQLite store does: `python -m benchmarks.studies.bit_rot`.

SQLite's pages have no checksums. At start the store checks its file whole and refuses; what rots later
is noticed only where the page makes no sense any more.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.blacklist.stores import Entry, StoreRefused, open_store
from gateway.http.problems import StoreUnavailable

TRIALS, ENTRIES = 2000, 100


def main() -> None:
    chance, running, at_start = random.Random(1), Counter[str](), Counter[str]()
    now = int(time.time())
    entries = [Entry(f"token:{number:064x}", "issuer", now, now + 10**6) for number in range(ENTRIES)]
    with TemporaryDirectory() as directory:
        path = Path(directory, "blacklist.sqlite3")
        with closing(open_store(f"sqlite:///{path}")) as store:
            store.add(entries)
        clean = path.read_bytes()
        with closing(open_store(f"sqlite:///{path}")) as store, path.open("r+b", buffering=0) as file:
            for _ in range(TRIALS):
                place = chance.randrange(len(clean))
                os.pwrite(file.fileno(), bytes([clean[place] ^ 1 << chance.randrange(8)]), place)
                told = asked(store, entries)
                running[told] += 1
                if told == "an entry is absent":
                    at_start[started(path)] += 1
                os.pwrite(file.fileno(), clean, 0)
    print(f"{TRIALS} bits flipped beneath a running store of {len(clean)} bytes: {dict(running)}")
    print(f"a store that starts on a file in which an entry is absent: {dict(at_start)}")


def asked(store: object, entries: list[Entry]) -> str:
    told = set()
    for entry in entries:
        try:
            told.add(bool(store.find([entry.key])))  # type: ignore[attr-defined]
        except StoreUnavailable:
            told.add(None)
    return "an entry is absent" if False in told else "unavailable" if None in told else "all are found"


def started(path: Path) -> str:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    try:
        open_store(f"sqlite:///{copy}").close()
    except StoreRefused:
        return "refused"
    return "NOT refused"


if __name__ == "__main__":
    main()

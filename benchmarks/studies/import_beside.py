"""`python -m benchmarks.studies.import_beside [entries]`: an import beside a gateway.

Prints how long SQLite's log became, and how long other requests took before and meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers import mint
from processes import ROOT
from recorder import Recorder
from running import Running, ask

ENTRIES = 1_000_000
BEFORE_SECONDS, PAUSE_SECONDS = 10, 0.005


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ENTRIES
    with TemporaryDirectory(dir=".") as name, Recorder() as api:
        directory = Path(name).resolve()
        path, export = directory / "blacklist.sqlite3", directory / "entries.jsonl"
        with export.open("w") as file:
            for number in range(count):
                key = "token:" + hashlib.sha256(str(number).encode()).hexdigest()
                members = {"issuer": "i", "created_at": 1_700_000_000 + number // 100, "expires_at": 4_000_000_000}
                file.write(json.dumps({"key": key, **members}) + "\n")
        with Running(directory, api.url, "--workers", "2") as gateway:
            log = path.with_name(path.name + "-wal")
            end = time.monotonic() + BEFORE_SECONDS
            before, _ = _ask_while(gateway.port, log, lambda: time.monotonic() < end)
            command = [sys.executable, "-m", "gateway", "import", "--store", f"sqlite:///{path}", str(export)]
            began = time.monotonic()
            importing = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            meanwhile, longest = _ask_while(gateway.port, log, lambda: importing.poll() is None)
            seconds = time.monotonic() - began
        print(f"{count:,} entries in {seconds:.0f} s; exit code {importing.returncode}; longest log {longest >> 20} MB")
        for when, times in (("before", before), ("meanwhile", meanwhile)):
            cuts = statistics.quantiles(times, n=100)
            print(f"{when}: {len(times)} requests, median {cuts[49] * 1e3:.1f} ms, p99 {cuts[98] * 1e3:.1f} ms")


def _ask_while(port: int, log: Path, goes_on: Callable[[], bool]) -> tuple[list[float], int]:
    """Return what requests took, one in ten of them a change, and the longest log seen."""
    times: list[float] = []
    longest = 0
    lock = threading.Lock()

    def work(client: int) -> None:
        nonlocal longest
        number = 0
        while goes_on():
            number += 1
            token = mint(jti=f"{client}.{number}.{time.time()}")
            line = "POST /blacklist" if number % 10 == 0 else "GET /info"
            began = time.monotonic()
            status = ask(port, line, ("Authorization", f"Bearer {token}")).status
            with lock:
                if status == 200:
                    times.append(time.monotonic() - began)
                else:
                    print(f"{line}: {status}")
                longest = max(longest, log.stat().st_size if log.exists() else 0)
            time.sleep(PAUSE_SECONDS)

    threads = [threading.Thread(target=work, args=(client,)) for client in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, longest


if __name__ == "__main__":
    main()

"""`python -m benchmarks.studies.sizing [entries]`: the figures of "Sizing" in docs/operations.md.

Prints what each process of a gateway takes of memory, at the start and after 80,000 requests with 10,000 tokens in
turn; what an entry takes in SQLite's file and in Redis, with a million of them; and how long `gateway serve` takes
until it is ready, with none and with these. Needs wrk, nginx and redis-server. Its files lie in the folder it runs in.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.bench import Row, upstream
from benchmarks.processes import free_port
from benchmarks.rows import gateway, gateway_compiled
from benchmarks.runner import MANY_TOKENS, measure
from benchmarks.studies.scale import ENTRIES, fill, size
from benchmarks.studies.scale_server import Server
from benchmarks.web import ask
from gateway.blacklist.stores import open_store

REQUESTS, STARTS = 80_000, 7
ROLES = ("above the workers", "that serves metrics", "a worker")


def memory(pid: int) -> str:
    """Return what a process has for itself, and with its part of the pages that others have, too."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = {name: int(kib) for name, kib in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
    own = found["Private_Dirty"] + found["Private_Clean"]
    return f"{own / 1024:.0f} MiB of its own, {found['Pss'] / 1024:.0f} with its share"


def processes(row: Row) -> None:
    """Print the memory of a gateway's processes, before and after the requests."""
    with upstream() as bench:
        running = row.start(bench)
        pids = running.tested[0].pids()
        print(f"{row.name}, at the start: " + "; ".join(map(told, ROLES, pids)))
        asked = 0.0
        while asked < REQUESTS:
            asked += 2 * measure(row, running, MANY_TOKENS, 2, bench.work).rate
        print(f"{row.name}, after {REQUESTS:,} requests and more: {told(ROLES[-1], pids[-1])}", flush=True)


def told(role: str, pid: int) -> str:
    return f"{role}: {memory(pid)}"


def until_ready(store: str) -> float:
    """Return the seconds from `gateway serve` until it is ready."""
    port = free_port()
    flags = f"--store {store} --host 127.0.0.1 --port {port} --workers 1 --accept-lossy-store true"
    command = [sys.executable, "-m", "gateway", "serve", *flags.split()]
    began = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                with suppress(OSError):
                    if ask(port, "/-/ready")[0] == 200:
                        return time.monotonic() - began
                time.sleep(0.005)
            raise SystemExit("the gateway does not start")
        finally:
            process.terminate()


def starts(name: str, store: str) -> None:
    seconds = sorted(until_ready(store) for _ in range(STARTS))
    print(f"ready with {name}: {statistics.median(seconds):.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f})", flush=True)


def filled(store: str, count: int, sizes: Callable[[], str]) -> None:
    """Fill a store, print its size, and time starts with it."""
    starts(f"an empty {store.partition(':')[0]}", store)
    opened = open_store(store, accept_lossy=True)
    fill(opened, count)
    opened.close()
    print(f"{count:,} entries in {store.partition(':')[0]}: {sizes()}", flush=True)
    starts(f"{count:,} entries", store)


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ENTRIES
    for name, start in (("interpreted", gateway), ("compiled", gateway_compiled)):
        processes(Row(name, name, lambda bench, start=start: start(bench, metrics_port=str(free_port()))))
    with TemporaryDirectory(dir=".") as directory:
        file = Path(directory).absolute() / "blacklist.sqlite3"
        filled(f"sqlite:///{file}", count, lambda: f"{file.stat().st_size / count:.0f} bytes an entry")
    with TemporaryDirectory(dir=".") as directory:
        server = Server(directory)
        try:
            empty = server.info("used_memory")

            def sizes() -> str:
                server.rewrite()
                taken = (server.info("used_memory") - empty) / count
                return f"{taken:.0f} bytes of memory an entry, {size(directory) / count:.0f} of file"

            filled(server.url, count, sizes)
        finally:
            server.client.close()
            server.stop()


if __name__ == "__main__":
    main()

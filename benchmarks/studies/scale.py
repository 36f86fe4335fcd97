"""`python -m benchmarks.studies.scale [entries]`: the constants of a large blacklist in Redis, and what they come to.

Starts a redis-server of its own (REDIS_SERVER names another, such as valkey-server) and fills it. Then prints what
an entry takes in memory and on disk, what a look-up and a change cost the server and this process, what a connection
takes, how long loading, rewriting and the fork for it last, and from all that a table for 1, 10 and 1,000 nodes. For
each it simulates so many: do any let a token pass after another has answered that it is blacklisted?
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.studies.scale_server import Server
from gateway.blacklist.stores import Entry, Store, open_store
from gateway.http.problems import StoreUnavailable

ENTRIES, BATCH, LOOKUPS, CHANGES, CONNECTIONS = 1_000_000, 10_000, 20_000, 2_000, 1_000
NODES = (1, 10, 1_000)
REQUESTS = 1_000  # a second, of each node in the table
WORKERS, THREADS = 4, 8  # of each node in the table
LIVE = 10**8  # entries, in what is worked out
SIMULATED = 300  # tokens blacklisted, by each number of nodes


def entry(number: int) -> Entry:
    now = int(time.time())
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return Entry(f"token:{digest}", "https://www.discogs.com/", now, now + 86_400 + number % 86_400)


def add(store: Store, entries: list[Entry]) -> None:
    while True:
        with suppress(StoreUnavailable):  # a busy disk
            store.add(entries)
            return


def fill(store: Store, count: int) -> None:
    for first in range(0, count, BATCH):
        add(store, [entry(number) for number in range(first, first + BATCH)])


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def size(directory: str) -> int:
    return sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())


def cost(server: Server, calls: list[Callable[[], object]]) -> str:
    """Return what a call costs: round trips, CPU of the server and of this process, time, and bytes."""
    traffic, cpu, own, started = server.traffic(), server.cpu(), time.process_time(), time.monotonic()
    for call in calls:
        call()
    own, took, cpu = time.process_time() - own, time.monotonic() - started, server.cpu() - cpu
    trips, there, back = [(now - before) / len(calls) for before, now in zip(traffic, server.traffic(), strict=True)]
    cpu, own, took = [seconds / len(calls) * 1e6 for seconds in (cpu, own, took)]
    return (
        f"{trips:.2f} round trips, {there:.0f} bytes there, {back:.0f} back; "
        f"{cpu:.0f} µs CPU of the server, {own:.0f} of ours, {took:.0f} µs in all"
    )


def busy_cost(server: Server) -> tuple[float, float]:
    """Return the CPU microseconds that a look-up takes of a server asked by 50 at once, and those in its kernel."""
    pairs, keys = 100_000, [f"{{jwt-gateway}}:{entry(-number).key}" for number in range(1, 5)]
    command = ["redis-benchmark", "-p", str(server.port), "-n", str(2 * pairs), "-c", "50", "-P", "2", "-q"]
    cpu, kernel = server.cpu(), server.info("used_cpu_sys")
    subprocess.run([*command, "MGET", *keys], check=True, stdout=subprocess.DEVNULL)
    return (server.cpu() - cpu) / pairs * 1e6, (server.info("used_cpu_sys") - kernel) / pairs * 1e6


def connection_bytes(server: Server) -> float:
    before = server.info("used_memory")
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(CONNECTIONS)]
    for each in sockets:
        each.sendall(b"PING\r\n")
        each.recv(100)
    taken = (server.info("used_memory") - before) / CONNECTIONS
    for each in sockets:
        each.close()
    return taken


def late_passes(url: str, nodes: int) -> tuple[int, int]:
    """Blacklist at each of many nodes in turn, while all ask; return look-ups started after an answer, and passes."""
    stores = [open_store(url) for _ in range(nodes)]
    revoked: list[str] = []
    counts, over = [[0, 0] for _ in range(THREADS)], threading.Event()

    def ask(thread: int) -> None:
        while not over.is_set():
            for store in stores[thread::THREADS]:
                known = revoked[-1:]  # blacklisted before this look-up started
                with suppress(StoreUnavailable):  # a busy machine
                    found = store.find(known)
                    counts[thread][0] += len(known)
                    counts[thread][1] += len(known) - len(found)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(min(THREADS, nodes))]
    for thread in threads:
        thread.start()
    for number in range(SIMULATED):
        new = entry(-1_000_000 * nodes - number)
        add(stores[number % nodes], [new])
        revoked.append(new.key)
    over.set()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    return sum(asked for asked, _ in counts), sum(passed for _, passed in counts)


def main() -> None:
    logging.disable(logging.WARNING)  # that it syncs once a second: what a disk takes is not measured
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ENTRIES
    with TemporaryDirectory(dir=".") as directory:
        server = Server(directory)
        try:
            measure(server, directory, count)
        finally:
            server.client.close()
            server.stop()


def measure(server: Server, directory: str, count: int) -> None:
    told = server.client.info("server")
    version = f"Valkey {told['valkey_version']}" if "valkey_version" in told else f"Redis {told['redis_version']}"
    print(f"{version}; {count:,} entries; load average at the start: {os.getloadavg()[0]:.2f}")
    store, empty, cpu = open_store(server.url), server.info("used_memory"), server.cpu()
    seconds = timed(lambda: fill(store, count)) / count * 1e6
    cpu = (server.cpu() - cpu) / count * 1e6
    print(f"adding {BATCH:,} at a time: {seconds:.0f} µs an entry, {cpu:.0f} of them the server")
    memory = (server.info("used_memory") - empty) / count
    print(f"memory: {memory:.0f} bytes an entry (resident: {server.info('used_memory_rss') / count:.0f})")
    grown = size(directory) / count
    rewriting = timed(server.rewrite)
    disk = size(directory) / count
    print(f"file: {disk:.0f} bytes an entry, {grown:.0f} before it is rewritten; rewriting took {rewriting:.1f} s")
    fork = server.info("latest_fork_usec") / 1e6 / count
    print(f"the fork for it, in which nobody is answered: {fork * count * 1e3:.1f} ms")
    store.close()
    server.stop()
    loading = timed(server.start) / count
    print(f"loading the file: {loading * 1e6:.1f} µs an entry")
    keys = [[entry(count + 4 * number + part).key for part in range(4)] for number in range(LOOKUPS)]
    print(f"a look-up by four keys: {cost(server, [partial(store.find, four) for four in keys])}")
    new = [[entry(-number)] for number in range(1, 1 + CHANGES)]
    print(f"a blacklisting: {cost(server, [partial(add, store, one) for one in new])}")
    store.close()
    print(f"\n{LIVE:.0e} live entries:")
    print(f"{memory * LIVE / 1e9:.0f} GB of memory, {disk * LIVE / 1e9:.0f} GB of file", end=", ")
    print(f"{loading * LIVE / 60:.0f} min to load, {fork * LIVE:.1f} s without an answer at a fork\n")
    simulate(server)


def simulate(server: Server) -> None:
    busy, kernel = sorted(busy_cost(server) for _ in range(5))[2]
    print("a look-up of a busy server (redis-benchmark, 50 connections, two commands at a time):", end=" ")
    print(f"{busy:.1f} µs CPU, {kernel:.1f} of them in the kernel")
    connection = connection_bytes(server)
    print(f"a connection: {connection:,.0f} bytes\n")
    print("| nodes | look-ups/s | cores of Redis | connections | their memory | simulated: passed late |")
    print("| --- | --- | --- | --- | --- | --- |")
    for nodes in NODES:
        rate, lines = nodes * REQUESTS, nodes * WORKERS * THREADS
        asked, passed = late_passes(server.url, nodes)
        print(f"| {nodes:,} | {rate:,} | {rate * busy / 1e6:.2f} | {lines:,}", end="")
        print(f" | {lines * connection / 1e6:,.0f} MB | {passed} of {asked:,} |")


if __name__ == "__main__":
    main()

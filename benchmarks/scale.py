"""`python -m benchmarks.scale [entries]`: the constants of a large blacklist in Redis, and what they come to.

Starts a redis-server of its own (REDIS_SERVER names another, such as valkey-server) and fills it. Then prints what
an entry takes in memory and on disk, what a look-up costs the server and this process, what a connection takes,
how long loading and rewriting last, whether any of many nodes lets a token pass after its blacklisting was
answered, and from all that a table for 1, 10 and 1,000 nodes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

from gateway.blacklist.stores import Entry, Store, open_store
from gateway.problems import StoreUnavailable

ENTRIES, BATCH, LOOKUPS, NODES, CONNECTIONS = 1_000_000, 10_000, 20_000, 50, 1_000
REQUESTS = 1_000  # a second, of each node in the table
LIVE = 10**8  # entries, in the table
WORKERS, THREADS = 4, 8  # of each node in the table


class Server:
    """A redis-server with its files in a directory."""

    def __init__(self, directory: str) -> None:
        program = shutil.which(os.environ.get("REDIS_SERVER", "redis-server"))
        if program is None:
            raise SystemExit("redis-server is not installed")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        options = ["--appendonly", "yes", "--save", "", "--maxclients", "20000", "--auto-aof-rewrite-percentage", "0"]
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", directory, *options]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client: Any = redis.Redis(port=self.port, decode_responses=True, protocol=2)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it has loaded its file."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        while True:
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.01)

    def stop(self) -> None:
        """Stop it, its file synced."""
        self._process.terminate()
        self._process.wait()

    def info(self, name: str) -> float:
        """Return a figure of INFO."""
        return float(self.client.info("everything")[name])

    def cpu(self) -> float:
        """Return the CPU seconds it has used."""
        return self.info("used_cpu_user") + self.info("used_cpu_sys")

    def rewrite(self) -> None:
        """Write the file anew."""
        self.client.bgrewriteaof()
        while self.info("aof_rewrite_in_progress") or self.info("aof_rewrite_scheduled"):
            time.sleep(0.05)


def entry(number: int) -> Entry:
    now = int(time.time())
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return Entry(f"token:{digest}", "https://www.discogs.com/", now, now + 86_400 + number % 86_400)


def fill(store: Store, count: int) -> None:
    for first in range(0, count, BATCH):
        batch = [entry(number) for number in range(first, first + BATCH)]
        while True:
            with suppress(StoreUnavailable):  # a busy disk
                store.add(batch)
                break


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def size(directory: str) -> int:
    return sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())


def look_up(server: Server, store: Store, count: int) -> tuple[float, float, float]:
    """Return the CPU microseconds of a look-up by four keys, the server's and ours, and how long it takes."""
    keys = [[entry(count + 4 * number + part).key for part in range(4)] for number in range(LOOKUPS)]
    server_cpu, own_cpu, started = server.cpu(), time.process_time(), time.monotonic()
    for each in keys:
        store.find(each)
    own = time.process_time() - own_cpu
    took = time.monotonic() - started
    return (server.cpu() - server_cpu) / LOOKUPS * 1e6, own / LOOKUPS * 1e6, took / LOOKUPS * 1e6


def busy_cost(server: Server) -> float:
    """Return the CPU microseconds that a look-up takes of a server that is asked by 50 at once."""
    pairs, keys = 100_000, [f"{{jwt-gateway}}:{entry(-number).key}" for number in range(1, 5)]
    command = ["redis-benchmark", "-p", str(server.port), "-n", str(2 * pairs), "-c", "50", "-P", "2", "-q"]
    before = server.cpu()
    subprocess.run([*command, "MGET", *keys], check=True, stdout=subprocess.DEVNULL)
    return (server.cpu() - before) / pairs * 1e6


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


def late_passes(url: str) -> tuple[int, int]:
    """Blacklist tokens at one of many nodes while the others ask for them; return look-ups begun later, and passes."""
    stores = [open_store(url) for _ in range(NODES)]
    revoked: list[str] = []
    counts, over = [0, 0], threading.Event()

    def ask(store: Store) -> None:
        while not over.is_set():
            known = list(revoked)  # blacklisted before this question began
            if known:
                counts[0] += 1
                counts[1] += not store.find(known[-1:])

    threads = [threading.Thread(target=ask, args=(store,)) for store in stores[1:]]
    for thread in threads:
        thread.start()
    for number in range(200):
        new = entry(-1 - number)
        stores[0].add([new])
        revoked.append(new.key)
    over.set()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    return counts[0], counts[1]


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
    store = open_store(server.url)
    empty = server.info("used_memory")
    print(f"redis-server {server.client.info('server')['redis_version']}; {count:,} entries, {BATCH:,} at a time")
    cpu = server.cpu()
    seconds = timed(lambda: fill(store, count))
    print(
        f"adding: {seconds / count * 1e6:.0f} µs an entry, of which the server {(server.cpu() - cpu) / count * 1e6:.1f}"
    )
    memory = (server.info("used_memory") - empty) / count
    print(f"memory: {memory:.0f} bytes an entry (resident: {server.info('used_memory_rss') / count:.0f})")
    grown = size(directory) / count
    rewriting = timed(server.rewrite)
    disk = size(directory) / count
    print(f"file: {disk:.0f} bytes an entry, {grown:.0f} before it is rewritten; rewriting took {rewriting:.1f} s")
    store.close()
    server.stop()
    loading = timed(server.start)
    print(f"loading the file: {loading:.1f} s, {loading / count * 1e6:.1f} µs an entry")
    costs = sorted(look_up(server, store, count) for _ in range(5))[2]
    print(
        f"a look-up by four keys: {costs[0]:.1f} µs CPU of the server, {costs[1]:.1f} of ours, {costs[2]:.0f} µs in all"
    )
    busy = sorted(busy_cost(server) for _ in range(5))[2]
    print(f"the same of a busy server (redis-benchmark, 50 connections, two commands at a time): {busy:.1f} µs")
    connection = connection_bytes(server)
    print(f"a connection: {connection:,.0f} bytes")
    asked, passed = late_passes(server.url)
    print(f"{NODES} nodes, {asked:,} look-ups begun after a blacklisting was answered: {passed} passed")
    store.close()
    print(
        f"\n{LIVE:.0e} live entries: {memory * LIVE / 1e9:.0f} GB of memory, {disk * LIVE / 1e9:.0f} GB of file", end=""
    )
    print(f", {loading / count * LIVE / 60:.0f} min to load\n")
    print(f"| nodes, {REQUESTS:,} requests/s each | look-ups/s | cores of Redis | connections | their memory |")
    print("| --- | --- | --- | --- | --- |")
    for nodes in (1, 10, 1_000):
        rate, lines = nodes * REQUESTS, nodes * WORKERS * THREADS
        print(f"| {nodes:,} | {rate:,} | {rate * busy / 1e6:.2f} | {lines:,} | {lines * connection / 1e6:,.0f} MB |")


if __name__ == "__main__":
    main()

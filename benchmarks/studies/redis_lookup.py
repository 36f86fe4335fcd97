"""What a look-up in the Redis store costs this process, beside redis-py's plain EXISTS and the SQLite store.

    python -m benchmarks.studies.redis_lookup [--rounds 15] [--calls 2000]

Starts a redis-server of its own. Every round asks each in turn, over loopback and one connection; the figures
are medians of CPU time per call, this process's alone, and of the rounds' ratios. A look-up asks for a token
that is not blacklisted, by four keys: its own, jti, sub and sid.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import redis

from benchmarks.studies.scale_server import Server
from gateway.blacklist.stores import Entry, open_store

KEYS = ("token:" + "a" * 64, "claim:" + "b" * 64, "claim:" + "c" * 64, "claim:" + "d" * 64)
BASE = "redis-py: EXISTS of one key"


def cost_us(call: Callable[[], object], calls: int) -> float:
    """Return this process's CPU microseconds per call, user and system."""
    started = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - started) / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=2000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        server = Server(directory)
        stack.callback(server.stop)
        server.client.config_set("appendfsync", "always")
        client = stack.enter_context(redis.Redis(port=server.port, protocol=2))
        shared = open_store(server.url)
        local = open_store(f"sqlite:///{Path(directory) / 'blacklist.sqlite3'}")
        expires = int(time.time()) + 3600
        for store in (shared, local):
            store.add([Entry(f"token:{number:064x}", "issuer", expires - 3600, expires) for number in range(1000)])
        rows: dict[str, Callable[[], object]] = {
            BASE: lambda: client.exists(KEYS[0]),
            "redis-py: MGET of the same five keys": lambda: client.mget("generation", *KEYS),
            "Redis store: a look-up by four keys": lambda: shared.find(KEYS),
            "SQLite store: a look-up by four keys": lambda: local.find(KEYS),
        }
        samples: dict[str, list[float]] = {name: [] for name in rows}
        for number in range(chosen.rounds + 1):
            for name, call in rows.items():
                cost = cost_us(call, chosen.calls)
                if number:  # the first round warms up
                    samples[name].append(cost)
        shared.close()
        local.close()
    for name, costs in samples.items():
        ratio = statistics.median(cost / base for cost, base in zip(costs, samples[BASE], strict=True))
        median = statistics.median(costs)
        print(f"{name:40} {median:7.1f} µs  {ratio:5.2f}  (rounds {min(costs):.1f} to {max(costs):.1f})")


if __name__ == "__main__":
    main()

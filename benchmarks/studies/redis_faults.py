"""How long eight threads wait for a refusal: `python -m benchmarks.studies.redis_faults`.

The faults are those of `tests/stores/test_redis_store.py`. Each lasts three seconds, in which the threads ask for a
blacklisted token again and again, with 5 ms between.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

from redis_servers import RedisServer
from relay import Relay
from test_redis_store import FAULTS, REVOKED, THREADS, await_added, await_outcome, outcome

from gateway.blacklist.stores import Store, open_store

SECONDS = 3


def ask(store: Store) -> list[tuple[str, float]]:
    """Return what was told, and after how many milliseconds."""
    told, ends = [], time.monotonic() + SECONDS
    while (started := time.monotonic()) < ends:
        told.append((outcome(store), (time.monotonic() - started) * 1000))
        time.sleep(0.005)
    return told


def main() -> None:
    logging.disable(logging.CRITICAL)
    print(f"{'fault':16}{'asked':>8}{'passed':>8}{'refused':>9}{'median':>11}{'99 %':>10}{'longest':>11}")
    for fault in FAULTS:
        with RedisServer() as server, Relay(server.port) as relay, ThreadPoolExecutor(THREADS) as threads:
            store = open_store(relay.url)
            await_added(store, REVOKED)
            heal = fault(server, relay)
            told = [each for thread in threads.map(ask, [store] * THREADS) for each in thread]
            waits = sorted(wait for what, wait in told if what == "refused")
            passed = sum(what == "passed" for what, _ in told)
            shown = [waits[int((len(waits) - 1) * share)] for share in (0.5, 0.99, 1)]
            print(f"{fault.__name__:16}{len(told):8}{passed:8}{len(waits):9}", end="")
            print("".join(f"{wait:8.1f} ms" for wait in shown), flush=True)
            heal()
            await_outcome(store, "found")
            store.close()


if __name__ == "__main__":
    main()

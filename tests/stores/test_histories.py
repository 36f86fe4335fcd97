"""Processes that share a store see one entry change in one order, whatever becomes of the server meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from failovers import by_hand, evaluate
from histories import Operation, is_linearizable
from processes import ROOT
from redis_servers import RedisServer


def test_the_model_tells_right_from_wrong() -> None:
    add, lost = Operation("add", 0, 10, False), Operation("find", 20, 30, False)
    assert is_linearizable([[add], [Operation("find", 5, 30, False)]])
    assert is_linearizable([[add, Operation("find", 20, 30, True)]])
    assert is_linearizable([[add._replace(told=None), lost]])
    assert not is_linearizable([[add], [lost]])
    assert not is_linearizable([[add], [add]])
    assert not is_linearizable([[Operation("remove", 0, 10, True)]])


def test_what_passed_after_its_blacklisting_was_answered_is_noticed() -> None:
    add, found, passed = ("0.1", ["add", 0, 1, False]), ("0.1", ["find", 2, 3, True]), ("0.1", ["find", 4, 5, False])
    assert evaluate([[add], [found]])[3:] == (0, 1, 0)
    assert evaluate([[add], [found, passed]])[3:] == (1, 1, 1)
    late = ("0.1", ["add", 0, 1, None])  # its bytes were held back
    assert evaluate([[late], [("0.1", ["find", 2, 3, False]), ("0.1", ["find", 4, 5, True])]])[3:] == (0, 1, 0)


WORKER = """
import json, random, sys, time
from gateway.blacklist.stores import Entry, open_store
from gateway.http.problems import StoreUnavailable
from histories import timed

store, chance, pause = open_store(sys.argv[1]), random.Random(sys.argv[2]), float(sys.argv[3])
entry = Entry("token:" + "0" * 64, "issuer", 1000, None)
acts = {
    "add": lambda: not store.add([entry])[0].changed,
    "remove": lambda: store.remove(entry.key),
    "find": lambda: bool(store.find([entry.key])),
}

def act(kind):
    try:
        return acts[kind]()
    except StoreUnavailable:
        return None

done = []
for kind in chance.choices(list(acts), [2, 2, 6], k=300):
    done.append(timed(kind, lambda: act(kind)))
    time.sleep(pause)
    if len(done) == 30:
        print(flush=True)
print(json.dumps(done))
"""


def history(url: str, *, meanwhile: Callable[[], None] = lambda: None, pause: float = 0) -> list[list[Operation]]:
    """Return what four processes did with an entry, and were told; `meanwhile` happens once all are at it."""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests/support"}
    commands = [[sys.executable, "-c", WORKER, url, str(seed), str(pause)] for seed in range(4)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) for command in commands]
    for process in running:
        assert process.stdout
        process.stdout.readline()
    meanwhile()
    return [[Operation(*each) for each in json.loads(process.communicate()[0])] for process in running]


def told(clients: list[list[Operation]]) -> set[bool | None]:
    return {operation.told for client in clients for operation in client}


@pytest.mark.slow
def test_processes_that_change_one_entry_agree_on_an_order(tmp_path: Path) -> None:
    clients = history(f"sqlite:///{tmp_path}/x.sqlite3")
    assert is_linearizable(clients)
    assert told(clients) == {True, False}


@pytest.mark.slow
def test_processes_that_change_one_entry_in_redis_agree_on_an_order() -> None:
    with RedisServer() as server:
        clients = history(server.url)
    assert is_linearizable(clients)
    assert {True, False} <= told(clients)


@pytest.mark.slow
def test_processes_agree_on_an_order_although_redis_is_killed_and_comes_back() -> None:
    with RedisServer() as server:

        def fail() -> None:
            for _ in range(3):
                server.kill()
                server.start()
                time.sleep(0.1)

        clients = history(server.url, meanwhile=fail, pause=0.005)
    assert is_linearizable(clients)
    assert told(clients) == {True, False, None}


@pytest.mark.slow
def test_what_replicas_have_is_not_lost_with_a_primary_whose_bytes_were_held_back() -> None:
    outcome = by_hand(replicas=1)
    assert outcome.acknowledged
    assert (outcome.let_through, outcome.without_order) == (0, 0)

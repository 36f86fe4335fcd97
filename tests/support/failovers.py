"""What four processes do with a blacklist and are told, while Redis fails over and proxies hold bytes back.

Each process is a machine of its own: it blacklists tokens, lifts them and asks for them. Of each token it is searched
whether an order of the operations explains all answers (linearizability), and whether a token passed after its
blacklisting was answered.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import redis
from histories import Operation, is_linearizable
from processes import ROOT
from recorder import until
from redis_servers import CLUSTER, PATIENCE, SAFE, SLOTS, RedisServer, Sentinel, join
from relay import HoldingRelay

PROCESSES = 4
TAG = "{jwt-gateway}:"

WORKER = """
import json, random, sys, threading, time
from gateway.blacklist.stores import Entry, open_store
from gateway.http.problems import StoreUnavailable
from histories import timed

url, replicas, own = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store, chance = open_store(url, replicas=replicas), random.Random(own)
acts = {
    "add": lambda entry: not store.add([entry])[0].changed,
    "remove": lambda entry: store.remove(entry.key),
    "find": lambda entry: bool(store.find([entry.key])),
}

def act(kind, entry):
    try:
        return acts[kind](entry)
    except StoreUnavailable:
        return None

print("ready", flush=True)
began, done = float(sys.stdin.readline()), []
waiting = threading.Thread(target=sys.stdin.readline, daemon=True)
waiting.start()
while waiting.is_alive():
    turn = int((time.monotonic() - began) / 0.1)
    kind, token = chance.choice([
        ("add", f"{own}.{turn}"),
        ("find", f"{chance.randrange(4)}.{max(0, turn - chance.randrange(30))}"),
        ("find", f"{chance.randrange(4)}.{max(0, turn - chance.randrange(3))}"),
        (chance.choice(["add", "remove", "find"]), f"shared {turn // 50}.{chance.randrange(4)}"),
    ])
    entry = Entry("token:" + token.encode().hex().ljust(64, "0"), "issuer", 1000, None)
    done.append((token, timed(kind, lambda: act(kind, entry))))
    time.sleep(1.5 if chance.random() < 0.01 else 0.01)  # some know less than the others, for a while
print(json.dumps(done))
"""


class Node(NamedTuple):
    """A server, and the proxy by which all others know it."""

    server: RedisServer
    relay: HoldingRelay

    @property
    def role(self) -> str:
        with suppress(redis.RedisError, OSError):
            return role(self.server)
        return ""


class Servers(NamedTuple):
    """Servers of which one is the primary, the sentinels that watch them, and the store's URL."""

    nodes: list[Node]
    sentinels: list[Sentinel]
    url: str

    def primary(self) -> Node:
        """Return the one that the sentinels name."""
        _, port = ask(self.sentinels[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "blacklist")
        return next(node for node in self.nodes if node.relay.port == int(port))


class Shard(NamedTuple):
    """The servers of a cluster that have the blacklist, and the store's URL."""

    nodes: list[Node]
    url: str

    def primary(self) -> Node:
        """Return the one that was made primary last; a dead one has no role."""
        return max((node for node in self.nodes if node.role == "master"), key=epoch, default=self.nodes[0])

    def settle(self) -> None:
        """Wait until all others follow the primary."""
        wait_for(lambda: sorted(node.role for node in self.nodes) == ["master"] + ["slave"] * (len(self.nodes) - 1))
        wait_for(lambda: in_sync(self.primary()).endswith(f":{len(self.nodes) - 1}"))
        time.sleep(1)


def epoch(node: Node) -> int:
    """Return when the node of a cluster was made primary, in the cluster's own count."""
    found = str(node.server.ask("CLUSTER", "INFO"))
    return int(found.partition("cluster_my_epoch:")[2].split()[0])


class Outcome(NamedTuple):
    """What came of a run, in numbers of operations and of tokens."""

    operations: int
    refused: int
    acknowledged: int
    let_through: int
    tokens: int
    without_order: int


def role(server: RedisServer) -> str:
    return str(ask(server, "ROLE")[0])


def ask(server: RedisServer, *command: object) -> Any:
    return server.ask(*command)


def wait_for(condition: Callable[[], object]) -> None:
    if not until(condition, PATIENCE):
        raise TimeoutError("the servers do not come to what is waited for")


@contextmanager
def watched(replicas: int) -> Iterator[Servers]:
    """Run a primary with so many replicas, at least one, and three sentinels."""
    # As docs/redis.md has it, where changes wait for replicas.
    lag = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "1") if replicas else ()
    with ExitStack() as stack:
        nodes: list[Node] = []
        for _ in range(1 + max(replicas, 1)):
            server = RedisServer(*SAFE, *lag)
            relay = stack.enter_context(HoldingRelay(server.port))
            server._options += ["--replica-announce-ip", "127.0.0.1", "--replica-announce-port", str(relay.port)]
            stack.enter_context(server)
            if nodes:
                server.ask("REPLICAOF", "127.0.0.1", nodes[0].relay.port)
            nodes.append(Node(server, relay))
        wait_for(lambda: f"connected_slaves:{len(nodes) - 1}" in in_sync(nodes[0]))
        sentinels = [stack.enter_context(Sentinel(nodes[0].relay.port, quorum=2)) for _ in range(3)]
        for sentinel in sentinels:
            sentinel.await_knowing(others=2, replicas=len(nodes) - 1)
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        yield Servers(nodes, sentinels, f"redis+sentinel://{hosts}/blacklist/0")


def in_sync(node: Node) -> str:
    with node.server.client() as client:
        found = client.info("replication")
    states = {str(value.get("state")) for name, value in found.items() if name.startswith("slave") and name != "slaves"}
    return f"connected_slaves:{found['connected_slaves']}" if states <= {"online"} else ""


def settle(servers: Servers, old: Node) -> None:
    """Wait until the old primary follows the new one."""
    wait_for(lambda: servers.primary() is not old)
    wait_for(lambda: old.role == "slave" and servers.primary().role == "master")
    time.sleep(1)


def kill_primary(group: Servers | Shard) -> Node:
    """Let replicas get nothing more, kill the primary, and return it once another has its place."""
    old = group.primary()
    old.relay.held = {"replica"}
    time.sleep(0.4)
    old.server.kill()
    old.relay.held = set()
    wait_for(lambda: group.primary() is not old)
    time.sleep(0.5)
    return old


def killed(servers: Servers) -> None:
    """The replicas get nothing more, then the primary is killed; it comes back once another is chosen."""
    old = kill_primary(servers)
    old.server.start("--replicaof", "127.0.0.1", str(servers.primary().relay.port))
    settle(servers, old)


def cut_off(servers: Servers) -> None:
    """Replicas and sentinels get nothing from the primary, clients do; later all that was held back arrives."""
    old = servers.primary()
    old.relay.held = {"replica", "sentinel"}
    wait_for(lambda: servers.primary() is not old)
    time.sleep(0.5)
    old.relay.held = {"replica", "sentinel", "client"}
    time.sleep(0.3)
    old.relay.held = set()
    settle(servers, old)


def planned(servers: Servers) -> None:
    """`SENTINEL FAILOVER`, amid changes."""
    old = servers.primary()
    wait_for(lambda: _fail_over(servers.sentinels[0]))
    settle(servers, old)


def _fail_over(sentinel: Sentinel) -> bool:
    try:
        sentinel.ask("SENTINEL", "FAILOVER", "blacklist")
        return True
    except redis.ResponseError:  # NOGOODSLAVE, INPROG
        return False


def by_sentinels(fault: Callable[[Servers], None], replicas: int, rounds: int) -> Outcome:
    """Return what came of a fault that happens so often."""
    with watched(replicas) as servers:

        def strike() -> None:
            for _ in range(rounds):
                fault(servers)

        return judge(servers.url, replicas, strike)


def by_command(replicas: int, rounds: int) -> Outcome:
    """Return what came of `FAILOVER TO`, to and fro, amid changes; the clients know one address."""
    with ExitStack() as stack:
        servers = [stack.enter_context(RedisServer()) for _ in range(1 + max(replicas, 1))]
        relay = stack.enter_context(HoldingRelay(servers[0].port))

        def follow(primary: RedisServer) -> None:
            for server in servers:
                if server is not primary:
                    server.ask("REPLICAOF", "127.0.0.1", primary.port)
            wait_for(lambda: f"connected_slaves:{len(servers) - 1}" in in_sync(Node(primary, relay)))

        def fail_over() -> None:
            for number in range(rounds):
                old, new = servers[number % 2], servers[(number + 1) % 2]
                old.ask("FAILOVER", "TO", "127.0.0.1", new.port, "TIMEOUT", 5000)
                wait_for(partial(is_primary, new))
                relay.behind = new.port
                relay.cut()
                follow(new)
                time.sleep(1)

        follow(servers[0])
        return judge(relay.url, replicas, fail_over)


def by_hand(replicas: int) -> Outcome:
    """Return what came of a primary that was killed while its replica got nothing, which then took its place."""
    with ExitStack() as stack:
        primary, replica = (stack.enter_context(RedisServer()) for _ in range(2))
        relay = stack.enter_context(HoldingRelay(primary.port))
        replica.ask("REPLICAOF", "127.0.0.1", relay.port)
        wait_for(lambda: in_sync(Node(primary, relay)) == "connected_slaves:1")

        def promote() -> None:
            relay.held = {"replica"}
            time.sleep(0.5)
            primary.kill()
            relay.held = set()
            replica.ask("REPLICAOF", "NO", "ONE")
            relay.behind = replica.port
            relay.cut()

        return judge(relay.url, replicas, promote)


def is_primary(server: RedisServer) -> bool:
    return role(server) == "master"


def by_migration(rounds: int) -> Outcome:
    """Return what came of the blacklist's slot moving from one node of a cluster to the other, and back."""
    with RedisServer(*CLUSTER) as one, RedisServer(*CLUSTER) as two:
        join(one, two)  # a node that has no slots left would become a replica
        slot = ask(one, "CLUSTER", "KEYSLOT", TAG)

        def migrate() -> None:
            source, target = (one, two) if slot < 8192 else (two, one)
            for _ in range(rounds):
                names = source.ask("CLUSTER", "MYID"), target.ask("CLUSTER", "MYID")
                target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
                source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
                while keys := ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
                    for key in keys:
                        source.ask("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
                for node in (target, source):
                    node.ask("CLUSTER", "SETSLOT", slot, "NODE", names[1])
                time.sleep(1)
                source, target = target, source

        return judge(f"redis+cluster://127.0.0.1:{one.port},127.0.0.1:{two.port}", 0, migrate)


@contextmanager
def sharded(replicas: int) -> Iterator[Shard]:
    """Run a cluster of three primaries, that of the blacklist with so many replicas, at least one."""
    with ExitStack() as stack:
        nodes: list[Node] = []
        for _ in range(3 + max(replicas, 1)):
            server = RedisServer(*CLUSTER)
            relay = stack.enter_context(HoldingRelay(server.port))
            options = {
                "node-timeout": 1500,
                "replica-validity-factor": 0,  # also one from which bytes were held back may be chosen
                "migration-barrier": 9,  # no replica goes to another primary
                "announce-ip": "127.0.0.1",
                "announce-port": relay.port,
                "announce-bus-port": server.port + 10_000,
            }
            for name, value in options.items():
                server._options += [f"--cluster-{name}", str(value)]
            nodes.append(Node(stack.enter_context(server), relay))
        primaries, others = nodes[:3], nodes[3:]
        join(*(node.server for node in primaries))
        slot = ask(primaries[0].server, "CLUSTER", "KEYSLOT", TAG)
        own = [primaries[3 * slot // SLOTS], *others]
        for node in others:
            node.server.ask("CLUSTER", "MEET", "127.0.0.1", own[0].server.port)
            wait_for(partial(follow, node.server, ask(own[0].server, "CLUSTER", "MYID")))
        wait_for(lambda: in_sync(own[0]) == f"connected_slaves:{len(others)}")
        yield Shard(own, "redis+cluster://" + ",".join(f"127.0.0.1:{node.relay.port}" for node in nodes))


def follow(node: RedisServer, primary: str) -> bool:
    """Make the node of a cluster follow one that it may not know yet; return whether it does."""
    with suppress(redis.ResponseError):
        return bool(node.ask("CLUSTER", "REPLICATE", primary))
    return False


def owner_killed(shard: Shard) -> None:
    """Replicas get nothing more, then the primary is killed; it comes back once another has its place."""
    kill_primary(shard).server.start()
    shard.settle()


def owner_replaced(shard: Shard) -> None:
    """`CLUSTER FAILOVER` amid changes: the primary pauses them until the replica has them all."""
    old = shard.primary()
    next(node for node in shard.nodes if node is not old).server.ask("CLUSTER", "FAILOVER")
    wait_for(lambda: shard.primary() is not old)
    shard.settle()


def in_cluster(fault: Callable[[Shard], None], replicas: int, rounds: int) -> Outcome:
    """Return what came of a fault of the blacklist's primary that happens so often."""
    with sharded(replicas) as shard:

        def strike() -> None:
            for _ in range(rounds):
                fault(shard)

        return judge(shard.url, replicas, strike)


def judge(url: str, replicas: int, meanwhile: Callable[[], object]) -> Outcome:
    """Return what came of what the processes did `meanwhile`."""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests/support"}
    command = [sys.executable, "-c", WORKER, url, str(replicas)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, str(number)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environ,
                    text=True,
                )
            )
            for number in range(PROCESSES)
        ]
        for process in processes:
            assert process.stdout
            process.stdout.readline()
        for process in processes:
            print(time.monotonic(), file=process.stdin, flush=True)
        time.sleep(1)
        try:
            meanwhile()
            time.sleep(1)
        finally:
            for process in processes:
                print("over", file=process.stdin, flush=True)
            told = [process.communicate()[0] for process in processes]
    return evaluate([json.loads(each) for each in told])


def evaluate(told: list[list[tuple[str, list[Any]]]]) -> Outcome:
    """Return what the processes' operations amount to."""
    histories: dict[str, list[list[Operation]]] = defaultdict(lambda: [[] for _ in told])
    for number, done in enumerate(told):
        for token, operation in done:
            histories[token][number].append(Operation(*operation))
    operations = [operation for done in told for _, operation in done]
    through = {token: passed for token, clients in histories.items() if (passed := let_through(token, clients))}
    return Outcome(
        operations=len(operations),
        refused=sum(told is None for *_, told in operations),
        acknowledged=sum(kind == "add" and told is not None for kind, _, _, told in operations),
        let_through=sum(through.values()),
        without_order=sum(not is_linearizable(clients) for clients in histories.values()),
        tokens=len(histories),
    )


def let_through(token: str, clients: list[list[Operation]]) -> int:
    """Return how often a token that nobody lifts passed after its blacklisting was answered."""
    operations = [operation for client in clients for operation in client]
    ends = [operation.ended for operation in operations if operation.kind == "add" and operation.told is not None]
    if token.startswith("shared") or not ends:
        return 0
    return sum(each.kind == "find" and each.told is False and each.began > min(ends) for each in operations)

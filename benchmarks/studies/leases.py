"""What would nodes gain that answer from a copy of their own, under a lease that each blacklisting waits for?

    python -m benchmarks.studies.leases [--nodes 1000] [--seconds 300] [--seed 1]

A simulation, of no code of the gateway: nothing of this is built, docs/scale.md says why. Its protocol:

- A node asks the hub (the primary) every third of a lease for what has changed. The answer brings the changes, and a
  lease from when the node *sent* its question, by the node's clock. While it lasts, the node answers from its copy.
- A blacklisting is written, sent to all nodes, and answered once each node has confirmed it, or the last lease that it
  was given before has run out by the hub's clock, which allows for clocks that run apart by up to `DRIFT`.
- A node without a lease asks at each request, as every node does today; where it cannot reach the hub, it refuses.

Nodes pause, are cut off, and have clocks that run fast or slow. Counted as late are nodes that would let a request
pass that begins after a blacklisting was answered.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

DRIFT = 0.001  # clocks run apart by no more: that of a bad quartz is a tenth of it
CHANGES = 0.5  # blacklistings a second
PAUSES = 1 / 200  # of each node, a second: a collection, a busy host
CUTS = 1 / 600  # of each node, a second
DELAY = 0.0005  # seconds, median; one in a thousand takes a hundred times as long


@dataclass
class Node:
    """One gateway. `rate` is how fast its clock runs, `lost` what it did not count (a suspended machine)."""

    rate: float
    lost: float = 0.0
    applied: int = 0  # the newest change in its copy
    lease_end: float = 0.0  # by its own clock
    granted: float = 0.0  # the end of its newest lease, by the hub's
    paused_from: float = 0.0
    paused_until: float = 0.0
    cut_until: float = 0.0

    def clock(self, now: float) -> float:
        return (now - self.lost) * self.rate

    def has_lease(self, now: float) -> bool:
        return self.clock(now) < self.lease_end


@dataclass
class Change:
    """A blacklisting that waits: for whom, and until when at most."""

    number: int
    begun: float
    awaited: dict[int, float]  # ends of leases by the hub's clock, by node


@dataclass
class Run:
    """One simulated stretch of time."""

    nodes: list[Node]
    lease: float
    random: random.Random
    clocks_stop: bool  # whether a node's clock stands still while it pauses
    now: float = 0.0
    newest: int = 0
    asked: int = 0  # questions of nodes
    late: int = 0  # nodes that would let pass what was blacklisted
    without: float = 0.0  # seconds of nodes without a lease
    seconds: list[float] = field(default_factory=list)  # that blacklistings took
    waiting: list[Change] = field(default_factory=list)
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _number: itertools.count[int] = field(default_factory=itertools.count)

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._number), what))

    def run(self, seconds: float) -> None:
        for number in range(len(self.nodes)):
            self.at(self.random.random() * self.lease / 3, lambda number=number: self.ask(number))
            self.at(self.random.expovariate(PAUSES), lambda number=number: self.pause(number))
            self.at(self.random.expovariate(CUTS), lambda number=number: self.cut(number))
        self.at(2 * self.lease, self.blacklist)
        self.at(self.lease, self.look)
        while self._events and self._events[0][0] < seconds:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def send(self, number: int, what: Callable[[], None], *, to_node: bool = False) -> None:
        """Carry a message between a node and the hub; one that is cut off loses it, one that pauses takes it later."""
        delay = self.random.lognormvariate(0, 1) * DELAY * (100 if self.random.random() < 0.001 else 1)
        arrival = self.now + delay
        if to_node:
            arrival = max(arrival, self.nodes[number].paused_until)
        if self.now >= self.nodes[number].cut_until:
            self.at(arrival, what)

    def ask(self, number: int) -> None:
        node = self.nodes[number]
        self.at(max(self.now, node.paused_until) + self.lease / 3, lambda: self.ask(number))
        if self.now < node.paused_until:
            return
        sent, has = node.clock(self.now), node.applied
        self.asked += 1
        self.send(number, lambda: self.answer(number, sent, has))

    def answer(self, number: int, sent: float, has: int) -> None:
        """Confirm what the node has, and grant a lease with what it has not."""
        self.confirm(number, has)
        newest = self.newest
        self.nodes[number].granted = max(self.nodes[number].granted, self.now + self.lease * (1 + 2 * DRIFT))
        self.send(number, lambda: self.take(number, newest, sent), to_node=True)

    def take(self, number: int, newest: int, sent: float) -> None:
        node = self.nodes[number]
        if self.now < node.paused_until:
            self.at(node.paused_until, lambda: self.take(number, newest, sent))
            return
        node.applied = max(node.applied, newest)
        if sent >= 0:
            node.lease_end = max(node.lease_end, sent + self.lease)
        self.send(number, lambda: self.confirm(number, node.applied))

    def confirm(self, number: int, has: int) -> None:
        for change in self.waiting:
            if change.number <= has:
                change.awaited.pop(number, None)
        self.settle()

    def settle(self) -> None:
        for change in list(self.waiting):
            if all(end <= self.now for end in change.awaited.values()):
                self.waiting.remove(change)
                self.seconds.append(self.now - change.begun)
                self.count_late(change.number)

    def count_late(self, number: int) -> None:
        """Count nodes that would let the token pass from now on, or when they wake."""
        for node in self.nodes:
            # A clock that stopped says on waking what it said when the pause began.
            pauses = node.paused_until > self.now
            when = (node.paused_from if self.clocks_stop else node.paused_until) if pauses else self.now
            if node.applied < number and node.clock(when) < node.lease_end:
                self.late += 1

    def blacklist(self) -> None:
        self.newest += 1
        change = Change(
            self.newest, self.now, {n: node.granted for n, node in enumerate(self.nodes) if node.granted > self.now}
        )
        self.waiting.append(change)
        newest = self.newest
        for number in change.awaited:
            self.send(number, lambda number=number: self.take(number, newest, -1.0), to_node=True)
        for end in change.awaited.values():
            self.at(end, self.settle)
        self.at(self.now + self.random.expovariate(CHANGES), self.blacklist)

    def pause(self, number: int) -> None:
        """Stop a node: mostly for some milliseconds, sometimes for seconds."""
        node, length = self.nodes[number], min(self.random.paretovariate(1.0) * 0.01, 20.0)
        node.paused_from, node.paused_until = self.now, self.now + length
        if self.clocks_stop:
            self.at(node.paused_until, lambda: setattr(node, "lost", node.lost + length))
        self.at(node.paused_until + self.random.expovariate(PAUSES), lambda: self.pause(number))

    def cut(self, number: int) -> None:
        node = self.nodes[number]
        node.cut_until = self.now + self.random.expovariate(1 / 3)
        self.at(node.cut_until + self.random.expovariate(CUTS), lambda: self.cut(number))

    def look(self) -> None:
        self.without += sum(not node.has_lease(self.now) for node in self.nodes)
        self.at(self.now + 1, self.look)


def main() -> None:
    """Simulate, and print a line for each length of a lease."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print(f"{args.nodes} nodes, {args.seconds:g} simulated seconds, seed {args.seed}")
    columns = ["lease", "clocks while a node pauses", "blacklistings", "p50", "p99", "longest", "late nodes"]
    columns += ["questions a second", "without a lease"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for clocks_stop in (False, True):
        for lease in (0.3, 1.0, 3.0):
            chance = random.Random(args.seed)
            nodes = [Node(1 + chance.uniform(-DRIFT, DRIFT)) for _ in range(args.nodes)]
            run = Run(nodes, lease, chance, clocks_stop)
            run.run(args.seconds)
            taken = sorted(run.seconds)
            p99 = statistics.quantiles(taken, n=100, method="inclusive")[98]
            cells = [f"{lease:g} s", "stop" if clocks_stop else "go on", str(len(taken))]
            cells += [f"{seconds * 1000:.0f} ms" for seconds in (taken[len(taken) // 2], p99, taken[-1])]
            cells += [f"{run.late} of {len(taken) * args.nodes}", f"{run.asked / args.seconds:,.0f}"]
            cells += [f"{run.without / args.nodes / (args.seconds - lease):.2%}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

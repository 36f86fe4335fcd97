"""Histories across failovers: `python -m benchmarks.studies.failovers [rounds [word]]`.

What is done and judged stands in `tests/support/failovers.py`. Two rounds of everything take some seven minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from failovers import (
    Outcome,
    by_command,
    by_migration,
    by_sentinels,
    cut_off,
    in_cluster,
    killed,
    owner_killed,
    owner_replaced,
    planned,
)


def main() -> None:
    """Run all, or those whose names have a word in them, and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    word = sys.argv[2] if len(sys.argv) > 2 else ""
    print(f"{'':28} REPLICAS  {'  '.join(Outcome._fields)}")
    runs: list[tuple[str, int, Callable[[], Outcome]]] = []
    for replicas in (0, 1, 2):
        for fault in (killed, cut_off, planned):
            runs.append((fault.__name__, replicas, partial(by_sentinels, fault, replicas, rounds)))
        runs.append(("FAILOVER TO", replicas, partial(by_command, replicas, rounds)))
        for case in (owner_killed, owner_replaced):
            runs.append((f"in a cluster: {case.__name__}", replicas, partial(in_cluster, case, replicas, rounds)))
    runs.append(("a slot of a cluster migrates", 0, partial(by_migration, rounds)))
    for name, replicas, run in runs:
        if word not in name:
            continue
        print(
            f"{name:28} {replicas:8}  {'  '.join(f'{value:{len(field)}}' for field, value in run()._asdict().items())}",
            flush=True,
        )


if __name__ == "__main__":
    main()

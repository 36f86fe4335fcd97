"""Histories across failovers: `PYTHONPATH=.:tests/support python -m benchmarks.studies.failovers [rounds]`.

What is done and judged stands in `tests/support/failovers.py`. Two rounds of everything take some seven minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from failovers import Outcome, by_command, by_migration, by_sentinels, cut_off, killed, planned


def main() -> None:
    """Run all, and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    print(f"{'':28} REPLICAS  {'  '.join(Outcome._fields)}")
    runs: list[tuple[str, int, Callable[[], Outcome]]] = []
    for replicas in (0, 1, 2):
        for fault in (killed, cut_off, planned):
            runs.append((fault.__name__, replicas, partial(by_sentinels, fault, replicas, rounds)))
        runs.append(("FAILOVER TO", replicas, partial(by_command, replicas, rounds)))
    runs.append(("a slot of a cluster migrates", 0, partial(by_migration, rounds)))
    for name, replicas, run in runs:
        print(
            f"{name:28} {replicas:8}  {'  '.join(f'{value:{len(field)}}' for field, value in run()._asdict().items())}",
            flush=True,
        )


if __name__ == "__main__":
    main()

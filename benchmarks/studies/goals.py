"""`python -m benchmarks.studies.goals [turns]`: the benchmark's goals, each in turns of a second.

What is measured and what it is compared to take turns (12 each), so that a machine whose speed changes within minutes
disturbs both alike. Needs what `python -m benchmarks` has installed. Prints each goal, the median of the turns' ratios
of CPU per request, and the middle half of them.
"""

from __future__ import annotations

import os
import statistics
import sys
from math import inf

from benchmarks.bench import upstream
from benchmarks.report import GOALS
from benchmarks.rows import ROWS
from benchmarks.runner import BROWSER, measure, started

TURNS = 12
PAIRS = (*GOALS, ("tls", BROWSER, "gateway", BROWSER, inf))  # the last is no goal


def main() -> None:
    """Measure, and print a line for each."""
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else TURNS
    print(f"load average at the start: {os.getloadavg()[0]:.2f}")
    rows = {row.name: row for row in ROWS if row.name in {name for pair in PAIRS for name in (pair[0], pair[2])}}
    with upstream() as bench:
        running = {name: started(row, bench) for name, row in rows.items()}
        for name, cell, other, its_cell, goal in PAIRS:
            ratios = []
            for _ in range(turns):
                its, others = (
                    measure(rows[each], running[each], where, 1, bench.work).cpu_us
                    for each, where in ((name, cell), (other, its_cell))
                )
                ratios.append(its / others)
            low, middle, high = statistics.quantiles(ratios, n=4)
            told = other if cell is its_cell else f"{other}, {its_cell.name}"
            print(f"{name}, {cell.name}, of {told}: {middle:.2f} ({low:.2f} to {high:.2f}); at most {goal}", flush=True)


if __name__ == "__main__":
    main()

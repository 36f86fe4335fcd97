"""The run: every row started and checked, then measured cell by cell, all rows within each round."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import HERE, LARGE, SMALL, Bench, Row, Running, upstream
from benchmarks.processes import LOAD, Failed, Server
from benchmarks.tokens import Tokens
from benchmarks.web import ask


@dataclass(frozen=True)
class Cell:
    """One column: what is asked for, over how many connections."""

    name: str
    path: str
    connections: int


CELLS = (
    Cell("small JSON, 1 connection", "/small", 1),
    Cell("small JSON, 32 connections", "/small", 32),
    Cell("1 MiB, 1 connection", "/large", 1),
    Cell("1 MiB, 32 connections", "/large", 32),
)
REFUSALS = (401, 403, 422)  # 422 is flask-jwt-extended's word for a signature that does not verify
WARM_UP = CELLS[1]
BODIES = {"/small": SMALL, "/large": LARGE}


@dataclass(frozen=True)
class Sample:
    """One measurement. `cpu_us` and `beside_us` are microseconds per request, `busy` the tested core's share."""

    cpu_us: float
    beside_us: float
    rate: float
    p50_ms: float
    p99_ms: float
    busy: float


@dataclass(frozen=True)
class Result:
    """The medians of a row in a cell, how far the rounds' CPU lay apart (a share of the median), and the rounds."""

    median: Sample
    spread: float
    rounds: tuple[Sample, ...]

    def cpu_ratio(self, other: Result) -> float:
        """Return the median of the rounds' ratios: what disturbs a round disturbs both."""
        return statistics.median(a.cpu_us / b.cpu_us for a, b in zip(self.rounds, other.rounds, strict=True))


Results = dict[Cell, dict[Row, Result]]


def run(rows: Sequence[Row], cells: Sequence[Cell], *, rounds: int, seconds: int) -> Results:
    """Start and check all rows, measure them in all cells, round by round, and return the medians.

    Each round has servers of its own, for how one happens to lie in memory costs or saves it up to 5 %.
    Raises `Failed` if the first row does not work, or if any stops working; others that do not start are left out.
    """
    samples: dict[tuple[Cell, Row], list[Sample]] = defaultdict(list)
    rows = list(rows)
    for number in range(rounds):
        with upstream() as bench:
            running = {row: servers for row in rows if (servers := _started(row, bench, must=row is rows[0]))}
            rows = list(running)  # what did not start will not
            for cell in cells:
                print(f"round {number + 1} of {rounds}: {cell.name}", file=sys.stderr, flush=True)
                # Each time another row begins: the first after a change of cells pays for it.
                for row in rows[number % len(rows) :] + rows[: number % len(rows)]:
                    if (row.path is None and row.large) or cell.path == "/small":
                        samples[cell, row].append(measure(row, running[row], cell, seconds, bench.work))
    return {cell: {row: _result(samples[cell, row]) for row in rows if (cell, row) in samples} for cell in cells}


def _started(row: Row, bench: Bench, *, must: bool) -> Running | None:
    try:
        running = row.start(bench)
        check(row, running.port, bench.tokens)
    except Failed as failure:
        if must:
            raise
        print(f"left out: {failure}", file=sys.stderr)
        return None
    measure(row, running, WARM_UP, row.warm_up, bench.work)  # compilers and caches
    return running


def check(row: Row, port: int, tokens: Tokens) -> None:
    """Raise `Failed` unless the row does what it is measured for."""
    for path, body in BODIES.items():
        status, answer = ask(port, row.path or path, tokens.good[-1])
        if status != 200 or answer != (b"" if row.path else body):
            raise Failed(f"{row.name}: {path} with a good token: {status}, {len(answer)} bytes: {answer[:200]!r}")
    bad = tokens.bad if row.verifies else {}
    if row.blacklists:
        bad["blacklisted"] = tokens.blacklisted
    for kind, token in bad.items():
        status, _ = ask(port, row.path or "/small", token)
        if status not in REFUSALS:
            raise Failed(f"{row.name}: a token that is {kind} was answered {status}")


def measure(row: Row, running: Running, cell: Cell, seconds: int, work: Path) -> Sample:
    """Put load on a row and return what it cost. Raises `Failed` if any answer was not good."""
    before, before_beside = _cpu(running.tested), _cpu(running.beside)
    figures = _load(running.port, row.path or cell.path, cell.connections, seconds, work)
    cpu, beside = _cpu(running.tested) - before, _cpu(running.beside) - before_beside
    requests, duration_us, received, errors, p50_us, p99_us = figures
    if errors or received < requests * len(b"" if row.path else BODIES[cell.path]):
        raise Failed(f"{row.name}, {cell.name}: {errors} of {requests} answers were not good")
    # Large answers that are on their way when the time is up count by their part.
    served = received / len(LARGE) if cell.path == "/large" else requests
    return Sample(
        cpu * 1e6 / served,
        beside * 1e6 / served,
        served * 1e6 / duration_us,
        p50_us / 1e3,
        p99_us / 1e3,
        cpu * 1e6 / duration_us,
    )


def _cpu(servers: Iterable[Server]) -> float:
    return sum(server.cpu_seconds() for server in servers)


def _load(port: int, path: str, connections: int, seconds: int, work: Path) -> list[int]:
    command = ["taskset", "--cpu-list", str(LOAD), "wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", "10s", "--script", str(HERE / "load.lua")]
    command += [f"http://127.0.0.1:{port}{path}", "--", str(work / "tokens")]
    output = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False).stdout
    found = re.search(r"^figures (.*)$", output, re.MULTILINE)
    if not found or not int(found[1].split()[0]):
        raise Failed(f"wrk measured nothing: {output[-500:]}")
    return [int(figure) for figure in found[1].split()]


def _result(samples: list[Sample]) -> Result:
    middle = Sample(*map(statistics.median, zip(*map(_figures, samples), strict=True)))
    costs = [sample.cpu_us for sample in samples]
    return Result(middle, (max(costs) - min(costs)) / middle.cpu_us, tuple(samples))


def _figures(sample: Sample) -> tuple[float, ...]:
    return sample.cpu_us, sample.beside_us, sample.rate, sample.p50_ms, sample.p99_ms, sample.busy

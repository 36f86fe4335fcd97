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

from benchmarks import machine
from benchmarks.bench import BODIES, HERE, LARGE, Bench, Row, Running, upstream
from benchmarks.processes import LOAD, Failed, Server
from benchmarks.tokens import MANY, MORE_THAN_CACHED, USERS, Tokens, expired, good
from benchmarks.web import ask


@dataclass(frozen=True)
class Cell:
    """One column: what is asked for, how, over how many connections.

    With "browser" heads each request has a browser's eleven fields, and a query, an id and a cookie of its own; with
    "equal" ones all are alike but for the token. `tokens` are how many users ask in turn.
    """

    name: str
    connections: int = 32
    path: str = "/small"
    heads: str = "browser"
    method: str = "GET"
    body: int = 0  # bytes of the request's
    tokens: int = USERS
    refused: bool = False  # asked with expired tokens

    @property
    def is_large(self) -> bool:
        return self.path == "/large" or self.body > 1 << 16


BROWSER_ALONE = Cell("browser heads, 1 connection", 1)
BROWSER = Cell("browser heads, 32 connections")
EQUAL_ALONE = Cell("equal heads, 1 connection", 1, heads="equal")
EQUAL = Cell("equal heads, 32 connections", heads="equal")
POST = Cell("POST of 1 KiB, 32 connections", method="POST", body=1024)
POST_LARGE = Cell("POST of 1 MiB, 32 connections", method="POST", body=1 << 20)
MEDIUM = Cell("10 KiB answers, 32 connections", path="/medium")
LARGE_ANSWERS = Cell("1 MiB answers, 32 connections", path="/large")
MANY_TOKENS = Cell(f"{MANY:,} tokens in turn, 32 connections", tokens=MANY)
REFUSED = Cell("refused with 401, 32 connections", refused=True)
CELLS = (
    BROWSER_ALONE, BROWSER, EQUAL_ALONE, EQUAL, POST, POST_LARGE, MEDIUM, LARGE_ANSWERS, MANY_TOKENS, REFUSED,
)  # fmt: skip
QUICK = (BROWSER, EQUAL, POST)
REFUSALS = (401, 403, 422)  # 422 is flask-jwt-extended's word for a signature that does not verify
WARM_UP = BROWSER


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
Tails = dict[Cell, float]  # the machine's own p99 / p50 while the cell was measured


def run(rows: Sequence[Row], cells: Sequence[Cell], *, rounds: int, seconds: int) -> tuple[Results, Tails]:
    """Start and check all rows, measure them in all cells, round by round, and return the medians.

    Each round has servers of its own, for how one happens to lie in memory costs or saves it up to 5 %.
    Raises `Failed` if the first row does not work, or if any stops working; others that do not start are left out.
    """
    samples: dict[tuple[Cell, Row], list[Sample]] = defaultdict(list)
    tails: dict[Cell, list[float]] = defaultdict(list)
    rows = list(rows)
    for number in range(rounds):
        with upstream() as bench:
            running = {}
            for row in rows:
                try:
                    running[row] = started(row, bench)
                except Failed as failure:
                    if row is rows[0]:
                        raise
                    print(f"left out: {failure}", file=sys.stderr)
            rows = list(running)  # what did not start will not
            for cell in cells:
                print(f"round {number + 1} of {rounds}: {cell.name}", file=sys.stderr, flush=True)
                tails[cell].append(machine.tail())
                # Each time another row begins: the first after a change of cells pays for it.
                for row in rows[number % len(rows) :] + rows[: number % len(rows)]:
                    if _is_measured(row, cell):
                        samples[cell, row].append(measure(row, running[row], cell, seconds, bench.work))
    measured = {cell: [row for row in rows if (cell, row) in samples] for cell in cells}
    results = {
        cell: {row: _result(samples[cell, row]) for row in column} for cell, column in measured.items() if column
    }
    return results, {cell: statistics.median(tails[cell]) for cell in results}


def _is_measured(row: Row, cell: Cell) -> bool:
    if row.cells:
        return cell.name in row.cells
    if row.path is not None:
        return cell.path == "/small" and not cell.body
    return (row.large or not cell.is_large) and (row.verifies or not cell.refused)


def started(row: Row, bench: Bench) -> Running:
    """Start a row, check that it does what it is measured for, and warm it up. Raises `Failed`."""
    running = row.start(bench)
    check(row, running.port, bench.tokens)
    _load(running, row, WARM_UP, row.warm_up, bench.work)  # compilers and caches
    return running


def check(row: Row, port: int, tokens: Tokens) -> None:
    """Raise `Failed` unless the row does what it is measured for."""
    for path, body in BODIES.items():
        status, answer = ask(port, row.path or path, good(row.tokens, USERS)[-1])
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
    begun = running.asked
    while running.asked - begun < cell.tokens:  # a second at least: its connections to the upstream are made
        _load(running, row, cell, 1, work)
    before, before_beside = _cpu(running.tested), _cpu(running.beside)
    figures = _load(running, row, cell, seconds, work)
    cpu, beside = _cpu(running.tested) - before, _cpu(running.beside) - before_beside
    requests, duration_us, received, refused, errors, p50_us, p99_us = figures
    short = not (row.path or cell.refused) and received < requests * len(BODIES[cell.path])
    if errors or short or refused != (requests if cell.refused else 0):
        raise Failed(f"{row.name}, {cell.name}: of {requests} answers {refused} were refusals, {errors} none")
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


def _load(running: Running, row: Row, cell: Cell, seconds: int, work: Path) -> list[int]:
    path = row.path or cell.path
    command = ["taskset", "--cpu-list", str(LOAD), "wrk", "--threads", "1", "--connections", str(cell.connections)]
    command += ["--duration", f"{seconds}s", "--timeout", "10s", "--script", str(HERE / "load.lua")]
    command += [f"http://127.0.0.1:{running.port}{path}", "--", str(_tokens(row, cell, work))]
    command += [cell.heads, cell.method, str(cell.body), path, str(running.asked)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False).stdout
    found = re.search(r"^figures (.*)$", output, re.MULTILINE)
    if not found or not int(found[1].split()[0]):
        raise Failed(f"wrk measured nothing: {output[-500:]}")
    figures = [int(figure) for figure in found[1].split()]
    running.asked += figures[0]
    return figures


def _tokens(row: Row, cell: Cell, work: Path) -> Path:
    """Return the file of the tokens to ask with."""
    count = cell.tokens if row.tokens == "HS256" else MORE_THAN_CACHED
    file = work / ("expired" if cell.refused else f"{row.tokens}-{count}")
    if not file.exists():
        file.write_text("\n".join(expired() if cell.refused else good(row.tokens, count)) + "\n")
    return file


def _result(samples: list[Sample]) -> Result:
    middle = Sample(*map(statistics.median, zip(*map(_figures, samples), strict=True)))
    costs = [sample.cpu_us for sample in samples]
    return Result(middle, (max(costs) - min(costs)) / middle.cpu_us, tuple(samples))


def _figures(sample: Sample) -> tuple[float, ...]:
    return sample.cpu_us, sample.beside_us, sample.rate, sample.p50_ms, sample.p99_ms, sample.busy

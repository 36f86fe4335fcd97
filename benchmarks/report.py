"""Results as tables: all of them for RESULTS.md, the most asked for for the README."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.bench import Row
from benchmarks.runner import (
    BROWSER,
    BROWSER_ALONE,
    EQUAL,
    EQUAL_ALONE,
    MANY_TOKENS,
    POST,
    Cell,
    Result,
    Results,
    Sample,
    Tails,
)
from benchmarks.studies.first_seen import Cost

# A row's CPU per request in a cell, as a share of another's in that cell or another, that is to be kept.
GOALS: tuple[tuple[str, Cell, str, Cell, float], ...] = (
    ("gateway", BROWSER, "envoy", BROWSER, 1.25),
    ("gateway", BROWSER, "fastify", BROWSER, 0.70),
    ("compiled", BROWSER, "envoy", BROWSER, 1.25),
    ("compiled", BROWSER, "fastify", BROWSER, 0.70),
    ("gateway", BROWSER, "bare", BROWSER, 1.10),
    ("gateway", EQUAL, "envoy", EQUAL, 1.00),
    ("compiled", EQUAL, "envoy", EQUAL, 1.00),
    ("gateway", EQUAL, "bare", EQUAL, 1.10),
    ("gateway", POST, "gateway", BROWSER, 1.30),
    ("compiled", POST, "compiled", BROWSER, 1.30),
    ("gateway", MANY_TOKENS, "gateway", BROWSER, 1.05),
    ("compiled", MANY_TOKENS, "compiled", BROWSER, 1.05),
    ("logging", BROWSER, "gateway", BROWSER, 1.15),
    ("logging-compiled", BROWSER, "compiled", BROWSER, 1.15),
    ("filled", BROWSER, "gateway", BROWSER, 1.10),
    ("redis", BROWSER, "gateway", BROWSER, 1.25),
    ("redis-compiled", BROWSER, "compiled", BROWSER, 1.25),
    ("redis", BROWSER_ALONE, "gateway", BROWSER_ALONE, 1.30),
    ("redis", EQUAL_ALONE, "gateway", EQUAL_ALONE, 1.30),
    ("redis-compiled", BROWSER_ALONE, "compiled", BROWSER_ALONE, 1.30),
    ("auth-request", BROWSER, "envoy", BROWSER, 0.90),
    ("auth-request-compiled", BROWSER, "envoy", BROWSER, 0.90),
)
# The p99 of each row but the peers' (by how their names begin), as a share of its p50, to be kept.
TAIL, PEER_ROWS = 2.00, ("flask", "fastify", "envoy", "haproxy", "nginx")
README_ROWS = ("compiled", "gateway", "redis", "envoy", "haproxy", "fastify", "flask")
START, END = "<!-- bench:start -->", "<!-- bench:end -->"


def page(results: Results, tails: Tails, costs: list[Cost], about: list[str]) -> str:
    """Return RESULTS.md."""
    parts = (about, tables(results), goal_table(results, tails), token_table(costs))
    return "# Measured\n" + "".join("\n" + "\n".join(part) + "\n" for part in parts)


def tables(results: Results) -> list[str]:
    """Return one table for each cell."""
    lines: list[str] = []
    for cell, column in results.items():
        lines += ["", f"## {cell.name}", "", *_table(column)]
    return lines[1:]


def _table(column: dict[Row, Result]) -> list[str]:
    own = next(iter(column.values())).median
    head = ["", "CPU/request", "ratio", "spread", "requests/s", "ratio", "p50", "ratio", "p99", "ratio", "core busy"]
    return _markdown(head, [_line(row, result, own) for row, result in column.items()])


def _line(row: Row, result: Result, own: Sample) -> list[str]:
    it = result.median
    beside = f" (+ {it.beside_us:.0f} beside)" if it.beside_us else ""
    return [
        row.title,
        f"{it.cpu_us:.0f} µs{beside}",
        _ratio(it.cpu_us, own.cpu_us),
        f"{result.spread:.0%}",
        f"{it.rate:,.0f}",
        _ratio(it.rate, own.rate),
        f"{it.p50_ms:.2f} ms",
        _ratio(it.p50_ms, own.p50_ms),
        f"{it.p99_ms:.2f} ms",
        _ratio(it.p99_ms, own.p99_ms),
        f"{it.busy:.0%}",
    ]


def goal_table(results: Results, tails: Tails) -> list[str]:
    """Return what is aimed at, and what was reached."""
    found = {(row.name, cell): result for cell, column in results.items() for row, result in column.items()}
    lines = [
        [
            f"{name}, {cell.name}",
            other if cell is its_cell else f"{other}, {its_cell.name}",
            f"{goal:.2f}",
            f"{found[name, cell].cpu_ratio(found[other, its_cell]):.2f}",
        ]
        for name, cell, other, its_cell, goal in GOALS
        if {(name, cell), (other, its_cell)} <= found.keys()
    ]
    shares = [_tail(cell, column, tails[cell]) for cell, column in results.items()]
    head = ["p99, as a share of p50", "at most", "of this gateway's rows", "of the peers'", "of this machine"]
    return [
        *("## Goals", "", *_markdown(["CPU/request of", "as a share of", "at most", "measured"], lines)),
        *("", *_markdown(head, shares)),
    ]


def _tail(cell: Cell, column: dict[Row, Result], machine: float) -> list[str]:
    shares = {row.name: f"{it.median.p99_ms / it.median.p50_ms:.2f}" for row, it in column.items()}
    own = [f"{name} {share}" for name, share in shares.items() if not name.startswith(PEER_ROWS)]
    peers = [f"{name} {share}" for name, share in shares.items() if name.startswith(PEER_ROWS)]
    return [cell.name, f"{TAIL:.2f}", ", ".join(own), ", ".join(peers), f"{machine:.2f}"]


def token_table(costs: list[Cost]) -> list[str]:
    """Return the table of what tokens cost."""
    head = ["a token's CPU", "PyJWT's decode", "here, first seen", "ratio", "here, cached"]
    return ["## Tokens", "", *_markdown(head, [_token_line(cost) for cost in costs])]


def _token_line(cost: Cost) -> list[str]:
    pyjwt, first, again = (f"{value:.1f} µs" for value in (cost.pyjwt_us, cost.first_us, cost.again_us))
    return [cost.algorithm, pyjwt, first, _ratio(cost.first_us, cost.pyjwt_us), again]


def readme_table(results: Results) -> list[str]:
    """Return the README's table: what a request costs that is like a user's, beside the best known of the others."""
    head = ["CPU for a request", "GET", "POST of 1 KiB", "p50 of GETs", "p99"]
    shown = {row.name: (row, result.median) for row, result in results[BROWSER].items()}
    lines = []
    for row, it in (shown[name] for name in README_ROWS if name in shown):
        cpus = [f"{sample.cpu_us:.0f} µs" for sample in (it, results[POST][row].median)]
        lines.append([row.title, *cpus, f"{it.p50_ms:.1f} ms", f"{it.p99_ms:.1f} ms"])
    return _markdown(head, lines)


def insert(path: Path, lines: list[str]) -> None:
    """Put the lines between the file's markers."""
    block = "\n".join([START, *lines, END])
    pattern = f"{re.escape(START)}.*?{re.escape(END)}"
    path.write_text(re.sub(pattern, lambda _: block, path.read_text(), count=1, flags=re.DOTALL))


def _ratio(value: float, own: float) -> str:
    return f"{value / own:.2f}"


def _markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]

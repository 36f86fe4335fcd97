"""Results as tables: all of them for RESULTS.md, one for the README."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.bench import Row
from benchmarks.runner import CELLS, Cell, Result, Results, Sample
from benchmarks.studies.first_seen import Cost

# A row's CPU per request, as a share of another's, that is to be kept.
GOALS = (
    ("gateway", "bare", 1.10),
    ("gateway", "flask", 0.30),
    ("gateway", "fastify", 0.80),
    ("gateway", "envoy", 2.00),
    ("auth-request", "envoy", 0.85),
    ("decision", "haproxy", 1.20),
)
START, END = "<!-- bench:start -->", "<!-- bench:end -->"


def page(results: Results, costs: list[Cost], about: list[str]) -> str:
    """Return RESULTS.md."""
    parts = (about, tables(results), goal_table(results), token_table(costs))
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


def goal_table(results: Results) -> list[str]:
    """Return what is aimed at, and what was reached, for small answers."""
    cells = [cell for cell in results if cell.path == "/small"]
    found = [{row.name: result for row, result in results[cell].items()} for cell in cells]
    lines = [
        [f"{name} / {other}", f"{goal:.2f}", *(f"{row[name].cpu_ratio(row[other]):.2f}" for row in found)]
        for name, other, goal in GOALS
        if all({name, other} <= row.keys() for row in found)
    ]
    return ["## Goals", "", *_markdown(["CPU/request of", "at most", *(cell.name for cell in cells)], lines)]


def token_table(costs: list[Cost]) -> list[str]:
    """Return the table of what tokens cost."""
    head = ["a token's CPU", "PyJWT's decode", "here, first seen", "ratio", "here, remembered"]
    return ["## Tokens", "", *_markdown(head, [_token_line(cost) for cost in costs])]


def _token_line(cost: Cost) -> list[str]:
    pyjwt, first, again = (f"{value:.1f} µs" for value in (cost.pyjwt_us, cost.first_us, cost.again_us))
    return [cost.algorithm, pyjwt, first, _ratio(cost.first_us, cost.pyjwt_us), again]


def readme_table(results: Results) -> list[str]:
    """Return the README's table: ratios to this gateway, its own line in figures too."""
    alone, busy, large = CELLS[0], CELLS[1], CELLS[3]
    head = ["ratio to this gateway", "CPU/request", "at 1 connection", "1 MiB", "requests/s", "p50", "p99"]
    own = {cell: next(iter(column.values())).median for cell, column in results.items()}
    lines = []
    for row, result in results[busy].items():
        it, its = result.median, own[busy]
        cpus = [_cpu(results, cell, row, own[cell]) for cell in (busy, alone, large)]
        others = [_ratio(it.rate, its.rate), _ratio(it.p50_ms, its.p50_ms), _ratio(it.p99_ms, its.p99_ms)]
        lines.append([row.title, *cpus, *others])
    return _markdown(head, lines)


def _cpu(results: Results, cell: Cell, row: Row, own: Sample) -> str:
    result = results[cell].get(row)
    return f"{_ratio(result.median.cpu_us, own.cpu_us)} ({result.median.cpu_us:.0f} µs)" if result else "–"


def insert(path: Path, lines: list[str]) -> bool:
    """Put the lines between the file's markers; tell whether it has them."""
    text = path.read_text() if path.exists() else ""
    block = "\n".join([START, *lines, END])
    new = re.sub(f"{re.escape(START)}.*?{re.escape(END)}", lambda _: block, text, count=1, flags=re.DOTALL)
    if START in text:
        path.write_text(new)
    return START in text


def _ratio(value: float, own: float) -> str:
    return f"{value / own:.2f}"


def _markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]

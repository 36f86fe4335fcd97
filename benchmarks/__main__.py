"""`python -m benchmarks`: measure, print the tables, and write them where they are shown."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys

from benchmarks import machine, report
from benchmarks.bench import HERE, PEERS_BIN, Row
from benchmarks.processes import CORES, Failed
from benchmarks.rows import ROWS
from benchmarks.runner import CELLS, QUICK, run
from benchmarks.studies import first_seen

PACKAGES = ("wrk", "nginx", "haproxy", "redis-server", "util-linux", "nodejs", "npm")
FASTIFY = HERE / "peers" / "fastify"


def main() -> int:
    """Run the benchmarks; return the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended too
    load = os.getloadavg()[0]
    if load > 0.5:
        _say(f"The load average is {load:.2f}: what else runs here is in the figures too.")
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    try:
        _require(rows)
        _install(rows)
        cells = QUICK if options.quick else CELLS
        results, tails = run(rows, cells, rounds=options.rounds, seconds=options.seconds)
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    costs = first_seen.measure()
    page = report.page(results, tails, costs, machine.about(options.rounds, options.seconds, load))
    print(page)
    if left_out := [row.name for row in rows if all(row not in column for column in results.values())]:
        _say(f"Left out, so nothing is written: {', '.join(left_out)}")
        return 1
    if not (options.only or options.quick):
        (HERE / "RESULTS.md").write_text(page)
        report.insert(HERE.parent / "README.md", report.readme_table(results))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, epilog="A run with --only or --quick is printed, not written."
    )
    names = ", ".join(row.name for row in ROWS)
    parser.add_argument("--only", metavar="NAME,…", type=lambda text: text.split(","), help=names)
    parser.add_argument("--quick", action="store_true", help="one short round, at 32 connections only")
    parser.add_argument("--rounds", type=int, help="how often each cell is measured (6)")
    parser.add_argument("--seconds", type=int, default=1, help="how long each measurement takes (1)")
    options = parser.parse_args()
    unknown = set(options.only or ()) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    options.rounds = options.rounds or (1 if options.quick else 6)
    return options


def _require(rows: list[Row]) -> None:
    if len(CORES) < 2:
        raise Failed("Two cores are needed: one for the process under test, one for the load.")
    programs = {"wrk", "nginx", "taskset"}.union(*(row.programs for row in rows))
    missing = sorted(program for program in programs if not shutil.which(program))
    if missing:
        raise Failed(f"Not installed: {', '.join(missing)}. On Debian: apt install {' '.join(PACKAGES)}")


def _install(rows: list[Row]) -> None:
    """Install what the peers need, pinned, under benchmarks/ (once)."""
    names = {row.name for row in rows}
    if any(name.startswith(("flask", "envoy")) for name in names) and not PEERS_BIN.exists():
        _say("installing the Python peers")
        _call(sys.executable, "-m", "venv", str(PEERS_BIN.parent))
        pip = [str(PEERS_BIN / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        _call(*pip, "--require-hashes", "-r", str(HERE / "requirements.lock"))
    if "fastify" in names and not (FASTIFY / "node_modules").exists():
        _say("installing fastify")
        _call("npm", "ci", "--silent", "--prefix", str(FASTIFY))


def _call(*command: str) -> None:
    try:
        subprocess.run(command, check=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        raise Failed(f"{' '.join(command)} failed") from error


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

"""What a result depends on: the machine, the versions, the day."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.bench import HERE, PEERS_BIN
from benchmarks.processes import LOAD, TESTED, pinned
from benchmarks.tokens import MANY, USERS

OWN = ("werkzeug", "pycurl", "PyJWT", "cryptography", "requests", "redis")
PEERS = ("Flask", "Flask-JWT-Extended", "gunicorn", "requests", "Werkzeug", "PyJWT")
PROGRAMS = {
    "node": "--version",
    str(PEERS_BIN / "envoy"): "--version",
    "haproxy": "-v",
    "nginx": "-v",
    "redis-server": "--version",
    "wrk": "-v",
}


def about(rounds: int, seconds: int, load: float) -> list[str]:
    """Return the lines that say how, where, when and with what the figures were measured."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    machine = f"{os.cpu_count()} cores of {model[1] if model else platform.machine()}"
    return [
        f"`{shlex.join(['python', '-m', 'benchmarks', *sys.argv[1:]])}` on {time.strftime('%Y-%m-%d', time.gmtime())}, "
        f"at commit {_output('git', '-C', str(HERE), 'rev-parse', '--short', 'HEAD')}: medians of {rounds} interleaved "
        f"rounds of {seconds} s each.",
        "",
        f"- {machine}, {platform.system()} {platform.release()}; load average at the start {load:.2f}",
        f"- the process under test alone on core {TESTED}; wrk, the upstream and redis-server on core {LOAD}",
        f"- one worker and no access log unless named, connections kept; the HS256 tokens of {USERS} users in turn",
        "- browser heads: eleven fields as Chromium sends them, and a query, an id and a cookie unlike each time;",
        "  equal heads: nothing but Host and Authorization",
        "- each load ran for a second just before it is measured, so that its connections to the upstream are there",
        f"  (for a POST one of each user's own); with {MANY:,} tokens until all of them have been seen",
        "- this gateway asks its store at every request, SQLite unless another is named; the peers' lists are in RAM",
        "- CPU/request: user and system time of the processes under test, by completed requests; spread: the rounds'",
        "  range; beside: CPU of redis-server, which is not counted",
        "- ratios are to the first row: CPU and latency below 1 are better than this gateway, requests/s above 1",
        "- core busy: below about 90 % at 32 connections, requests/s and latency say more about the other core",
        "- this machine's p99: of a fixed piece of work, a millisecond or two, done again and again on the tested core",
        "  while the other one is busy; a second of it before each cell in each round, and the median of their shares",
        "",
        f"Python {platform.python_version()}; " + ", ".join(f"{name} {version(name)}" for name in OWN) + ".",
        f"Peers: {', '.join([*_peers(), *map(_version, PROGRAMS, PROGRAMS.values())])}.",
    ]


def tail() -> float:
    """Return p99 as a share of p50 of one piece of work, a millisecond or two, done again and again: the machine's own.

    The work runs for a second on the tested core, while the other core is busy.
    """
    times, end = [], time.monotonic() + 1
    with subprocess.Popen(["taskset", "--cpu-list", str(LOAD), sys.executable, "-c", "while True: pass"]) as other:
        try:
            with pinned(TESTED):
                while (began := time.monotonic()) < end:
                    sum(range(50_000))
                    times.append(time.monotonic() - began)
        finally:
            other.kill()
    return statistics.quantiles(times, n=100)[98] / statistics.median(times)


def _peers() -> list[str]:
    """Return the versions in the peers' own environments."""
    code = f"from importlib.metadata import version; print(*[n + ' ' + version(n) for n in {PEERS}], sep=', ')"
    package = json.loads((HERE / "peers" / "fastify" / "package.json").read_text())
    fastify = [f"{name} {number}" for name, number in package["dependencies"].items()]
    return [_output(str(PEERS_BIN / "python"), "-c", code), *fastify]


def _version(program: str, option: str) -> str:
    found = re.search(r"\d+\.\d+\.\d+", _output(program, option))
    return f"{Path(program).name} {found[0] if found else 'not installed'}"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (done.stdout + done.stderr).strip()

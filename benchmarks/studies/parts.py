"""Where a request's processor time goes, by part: the kernel by kind of call, and each library.

Run as `python -m benchmarks.studies.parts [SECONDS]`: a browser's heads over 32 connections, GET beside POSTs of
1 KiB and of 1 MiB, interpreted and compiled.
Needs perf, wrk and nginx, and the right to sample (`kernel.perf_event_paranoid` at most 1).
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from benchmarks.bench import Row, upstream
from benchmarks.rows import ROWS
from benchmarks.runner import BROWSER, POST, POST_LARGE, Cell, measure

# The first that a frame's name or file has tells the part; of the kernel's frames the innermost known call counts.
CALLS = {
    "futex": "kernel: futex (threads)",
    "epoll": "kernel: epoll",
    "sendto|sendmsg|tcp_sendmsg": "kernel: send",
    "recvfrom|recvmsg|tcp_recvmsg": "kernel: receive",
    "poll": "kernel: poll",
}
FILES = {
    "_pycurl|libcurl": "libcurl and pycurl",
    "native__mypyc|gateway": "this gateway, compiled",
    "sqlite": "SQLite",
    "libcrypto|libssl|_rust": "cryptography",
    "libc\\.|libm\\.|ld-": "libc",
    "vdso": "clock",
    "python": "CPython: interpreter, dicts, texts, memory",
}


def part(sample: str) -> str:
    """Return the part that one sample of `perf script` belongs to: its innermost frame says where it was taken."""
    frames = [line.strip() for line in sample.splitlines()[1:]]
    if frames and ("kernel" in frames[0] or frames[0].endswith("([unknown])")):
        stack = "\n".join(frames)
        return next((name for call, name in CALLS.items() if re.search(call, stack)), "kernel: all else")
    return next((name for file, name in FILES.items() if frames and re.search(file, frames[0].split("(")[-1])), "other")


def profile(row: Row, cell: Cell, seconds: int) -> tuple[float, Counter[str]]:
    """Return a row's microseconds per request, and the samples by part."""
    with upstream() as bench:
        running = row.start(bench)
        measure(row, running, cell, 2, bench.work)
        data = Path(bench.work) / "perf.data"
        pids = ",".join(str(pid) for server in running.tested for pid in server.pids())
        command = ["perf", "record", "--quiet", "-e", "cpu-clock", "-F", "1999", "-g", "-o", str(data), "-p", pids]
        with subprocess.Popen([*command, "--", "sleep", str(seconds)]) as recording:
            sample = measure(row, running, cell, seconds, bench.work)
            recording.wait()
        script = subprocess.run(["perf", "script", "-i", str(data)], capture_output=True, text=True, check=True).stdout
    return sample.cpu_us, Counter(part(sample) for sample in script.split("\n\n") if sample.strip())


def main(seconds: int) -> None:
    """Print a table."""
    rows = [row for row in ROWS if row.name in ("gateway", "compiled")]
    found = [profile(row, cell, seconds) for row in rows for cell in (BROWSER, POST, POST_LARGE)]
    kinds = "GET | POST of 1 KiB | POST of 1 MiB"
    print(f"| µs per request | interpreted: {kinds} | compiled: {kinds} |\n|", "--- |" + " ---: |" * len(found))
    print("| all | " + " | ".join(f"{cpu_us:.0f}" for cpu_us, _ in found) + " |")
    for name in sorted({name for _, counts in found for name in counts}):
        shares = (cpu_us * counts[name] / counts.total() for cpu_us, counts in found)
        print(f"| {name} | " + " | ".join(f"{share:.1f}" for share in shares) + " |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)

"""Faults put beneath running processes: strace makes their system calls fail, wait or kill them.

with Injected("fdatasync:error=EIO", gateway.workers, directory) as faults:
    ...
assert faults.count
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from glob import glob
from pathlib import Path

import pytest
from powercut import can_trace
from recorder import until


class Injected:
    """While the block runs, what strace's `inject` takes happens to all threads of the processes."""

    def __init__(self, fault: str, pids: list[int], directory: Path) -> None:
        self._trace = directory / "injected"
        calls = fault.partition(":")[0]
        attach = [word for pid in pids for word in ("-p", str(pid))]
        self._command = ["strace", "-f", "-qq", "-o", str(self._trace), "-e", f"trace={calls}", "-e", f"inject={fault}"]
        self._command += attach
        self._tasks = [f"/proc/{pid}/task" for pid in pids]

    def __enter__(self) -> Injected:
        if not can_trace():
            pytest.skip("strace is not installed, or forbidden")
        self._strace = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        until(lambda: self._strace.poll() is not None or self._are_all_traced())
        if self._strace.poll() is not None:
            pytest.skip(f"strace may not attach: {self._strace.communicate()[1]}")
        return self

    def __exit__(self, *_: object) -> None:
        # Asked to, strace lets the processes go; but for one that was killed just now it may wait for ever.
        self._strace.terminate() if self._are_alive() else self._strace.kill()
        try:
            self._strace.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self._strace.kill()
            self._strace.communicate()

    def _are_alive(self) -> bool:
        states = self._statuses()
        return bool(states) and not any("State:\tZ" in text for text in states)

    def _are_all_traced(self) -> bool:
        return not any("TracerPid:\t0\n" in text for text in self._statuses())

    def _statuses(self) -> list[str]:
        found = []
        # Not Path.glob: it raises where a process goes meanwhile.
        for path in (path for tasks in self._tasks for path in glob(f"{tasks}/*/status")):
            with suppress(OSError):  # it has just gone
                found.append(Path(path).read_text())
        return found

    @property
    def count(self) -> int:
        """How many calls were made to fail or wait."""
        return self._trace.read_text().count("(INJECTED)") + self._trace.read_text().count("(DELAYED)")

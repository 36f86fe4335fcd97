"""Faults put beneath running processes: strace makes their system calls fail, wait or kill them.

with Injected("fdatasync:error=EIO", gateway.workers, directory) as faults:
    ...
assert faults.count
"""

from __future__ import annotations

import subprocess
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
        self._strace.terminate()  # which lets the processes go
        try:
            self._strace.communicate(timeout=2)
        except subprocess.TimeoutExpired:  # it may wait for ever for one that was killed just now
            self._strace.kill()
            self._strace.communicate()

    def _are_all_traced(self) -> bool:
        statuses = [status.read_text() for tasks in self._tasks for status in Path(tasks).glob("*/status")]
        return not any("TracerPid:\t0\n" in status for status in statuses)

    @property
    def count(self) -> int:
        """How many calls were made to fail or wait."""
        return self._trace.read_text().count("(INJECTED)") + self._trace.read_text().count("(DELAYED)")

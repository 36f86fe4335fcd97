"""Processes of a run: started on one core, asked for their CPU time, ended by their ids."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

# The process under test has a core for itself; load generator, upstream and redis-server share the other.
CORES = sorted(os.sched_getaffinity(0))
TESTED, LOAD = CORES[0], CORES[-1]

START_SECONDS = 20
STOP_SECONDS = 5


class Failed(Exception):
    """A peer did not start, or does not do what it should; the text says which and why."""


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep this process on one core while the block runs."""
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, CORES)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """A server process and its children, pinned to a core and writing to `<work>/<name>.log`.

    Returns from construction when something listens on `port`, which may be a Unix socket's path. Raises `Failed` with
    the log's end otherwise.
    """

    def __init__(
        self, name: str, command: list[str], *, work: Path, port: int | Path, core: int, env: Mapping[str, str]
    ) -> None:
        self.name, self.port = name, port
        self._log = work / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["taskset", "--cpu-list", str(core), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=work,
                env={**os.environ, **env},
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                _connect(self.port)
                return
            except OSError:
                time.sleep(0.05)
        raise Failed(f"{self.name} did not start:\n{self._log.read_text(errors='replace')[-1500:]}")

    def cpu_seconds(self) -> float:
        """Return the CPU time (user and system) that the process and its children have used."""
        return sum(map(_cpu_ns, self.pids())) / 1e9

    def pids(self) -> list[int]:
        """Return the process and its children."""
        return list(_tree(self._process.pid))

    def stop(self) -> None:
        pids = self.pids()
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in pids[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _connect(port: int | Path) -> None:
    if isinstance(port, int):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(port))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:
        return
    for child in children.split():
        yield from _tree(int(child))


def _cpu_ns(pid: int) -> int:
    # The process's CPU clock (clock_getcpuclockid(3)): /proc/<pid>/stat has the same sum, but cut down to 10 ms.
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0

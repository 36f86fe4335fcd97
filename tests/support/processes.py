"""Processes and ports of this machine: a server of a test's own, and what /proc tells of processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from recorder import until

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds after which a server that does not start or end has failed


class ServerProcess:
    """A server that runs while the block does, in `directory`, and writes where it listens into a log there."""

    ends_by = signal.SIGTERM

    def __init__(self, command: list[str], directory: Path, **environ: str) -> None:
        self._log = directory / f"{time.monotonic_ns()}.log"
        with self._log.open("wb") as output:
            environ = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
            self._process = subprocess.Popen(command, stdout=output, stderr=output, cwd=directory, env=environ)
        self.pid = self._process.pid
        self.port = 0

    def __enter__(self) -> Self:
        if not until(lambda: "listening at" in self.log or self._process.poll() is not None, PATIENCE):
            self.__exit__()
            raise AssertionError(self.log)
        if found := re.search(r"listening at \S+:(\d+)", self.log):
            self.port = int(found[1])
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.signal(self.ends_by)
        self.wait()

    def wait(self) -> int:
        """Return the exit status, once it ends."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def metrics_port(self) -> int:
        """The port that figures are served on, with METRICS_PORT 0, by the latest process that does so."""
        found: list[str] = []
        assert until(lambda: found.extend(re.findall(r"metrics at \S+:(\d+)", self.log)) or found), self.log
        return int(found[-1])

    @property
    def workers(self) -> list[int]:
        """The worker processes' ids."""
        return children(self.pid)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


def free_port() -> int:
    """Return a port of this host that nothing uses, nor the one 10,000 above, which a Redis cluster's nodes take."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = int(unused.getsockname()[1])
        if port < 55_536:
            return port


def listens(port: int) -> bool:
    """Return whether something listens on a port of this host."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE):
        return True
    return False


def children(parent: int) -> list[int]:
    """Return the process ids of `parent`'s children.

    `/proc/PID/task/PID/children` would leave out living ones while another is taken away (proc(5)).
    """
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            # The name, in parentheses, may hold anything; after it come the state and the parent.
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return sorted(found)


def memory(pid: int) -> int:
    """Return a process's resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

"""Redis servers of a test's own: on a free port, with their own directory, as their options say."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType

import pytest
import redis
from processes import free_port, listens
from recorder import until

from gateway.blacklist.stores.redis import client as redis_client
from gateway.blacklist.stores.redis import primary as redis_primary
from gateway.blacklist.stores.redis import store as redis_store

COMMAND = os.environ.get("REDIS_SERVER", "redis-server")  # or Valkey's
SAFE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--repl-diskless-sync-delay", "0")
CLUSTER = (*SAFE, "--cluster-enabled", "yes")
SLOTS = 16384  # of a cluster
MEMORY = Path("/dev/shm")  # servers are killed here, machines are not: what disks do is tested elsewhere
PATIENCE = 20.0  # seconds after which a server that does not start has failed


def program() -> str:
    """Return the server's path; skip the test where it is not installed."""
    found = shutil.which(COMMAND)
    if found is None:
        pytest.skip(f"{COMMAND} is not installed")
    return found


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give stores opened from now on more time: the test is of what they answer, however busy the machine."""
    monkeypatch.setattr(redis_client, "SECONDS", PATIENCE)
    for name in ("socket_timeout", "socket_connect_timeout"):
        monkeypatch.setitem(redis_primary._OPTIONS, name, PATIENCE)
    monkeypatch.setattr(redis_store, "CONTEST_SECONDS", PATIENCE)


class RedisServer:
    """A server that runs while the block does; `start` starts it again, on the same port and files."""

    def __init__(self, *options: object) -> None:
        self._options = [str(option) for option in options or SAFE]
        self.port = free_port()
        self.directory = Path(mkdtemp(prefix="redis-", dir=MEMORY if MEMORY.is_dir() else None))
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, *options: str) -> None:
        self._process = subprocess.Popen([*self.command(), *options], stdout=subprocess.DEVNULL)
        assert until(lambda: listens(self.port) or self._process.poll() is not None, PATIENCE), "it does not answer"
        assert self._process.poll() is None, "it does not start"

    def command(self) -> list[str]:
        address = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        return [program(), *address, *self._options]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, also when it is stopped."""
        self._process.kill()
        self._process.wait()

    def client(self, **options: object) -> redis.Redis:
        """Return redis-py's client of it, to be used as a context manager."""
        return redis.Redis(port=self.port, socket_timeout=PATIENCE, decode_responses=True, protocol=2, **options)  # type: ignore[arg-type]

    def ask(self, *command: object) -> object:
        """Return the answer to one command."""
        with self.client() as client:
            return client.execute_command(*command)

    def calls(self) -> dict[str, int]:
        """Return how often each command was called since CONFIG RESETSTAT, by others than us."""
        with self.client() as client:
            stats = client.info("commandstats")
        ours = ("info", "config|resetstat", "client|setinfo", "select")
        return {
            name.removeprefix("cmdstat_"): figures["calls"]
            for name, figures in stats.items()
            if name.removeprefix("cmdstat_") not in ours
        }


def join(*nodes: RedisServer, slots: Sequence[int] = (), ports: Sequence[int] = ()) -> None:
    """Make the nodes a cluster, each with so many slots, by default its share, and by these ports if not its own."""
    ends = list(accumulate(slots or [SLOTS // len(nodes)] * (len(nodes) - 1)))
    ends += [SLOTS] * (len(nodes) - len(ends))
    for node, first, end in zip(nodes, [0, *ends], ends, strict=False):
        if end > first:
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
    for port in (ports or [node.port for node in nodes])[1:]:
        nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", port)
    wanted = {"cluster_state:ok", f"cluster_known_nodes:{len(nodes)}"}
    assert until(lambda: all(wanted <= {*str(node.ask("CLUSTER", "INFO")).split()} for node in nodes), PATIENCE)


class Sentinel(RedisServer):
    """A sentinel of the service `blacklist`, whose primary is on a port of this host."""

    def __init__(self, primary: int, quorum: int, *options: object, password: str = "", tls: bool = False) -> None:
        super().__init__(*options)
        lines = [
            f"port 0\ntls-port {self.port}" if tls else f"port {self.port}",
            f"dir {self.directory}",
            f"sentinel monitor blacklist 127.0.0.1 {primary} {quorum}",
            "sentinel down-after-milliseconds blacklist 500",
            "sentinel failover-timeout blacklist 2000",
            f"sentinel auth-pass blacklist {password}" if password else "",
        ]
        self._options = [str(option) for option in options]
        self._file = self.directory / "sentinel.conf"
        self._file.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [program(), str(self._file), "--sentinel", *self._options]

    def await_knowing(self, *, others: int, replicas: int) -> None:
        """Wait until it knows so many other sentinels and replicas."""
        wanted = {"num-other-sentinels": others, "num-slaves": replicas}
        with self.client() as client:
            assert until(lambda: wanted.items() <= client.sentinel_master("blacklist").items(), PATIENCE)

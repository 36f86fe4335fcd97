"""A Redis server that a benchmark starts, stops and asks for its figures."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import Any

import redis

from benchmarks.processes import free_port


class Server:
    """A redis-server with its files in a directory."""

    def __init__(self, directory: str) -> None:
        program = shutil.which(os.environ.get("REDIS_SERVER", "redis-server"))
        if program is None:
            raise SystemExit("redis-server is not installed")
        self.port = free_port()
        options = ["--appendonly", "yes", "--save", "", "--maxclients", "20000", "--auto-aof-rewrite-percentage", "0"]
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", directory, *options]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client: Any = redis.Redis(port=self.port, decode_responses=True, protocol=2)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it has loaded its file."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        while True:
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.01)

    def stop(self) -> None:
        """Stop it, its file synced."""
        self._process.terminate()
        self._process.wait()

    def info(self, name: str) -> float:
        """Return a figure of INFO."""
        return float(self.client.info("everything")[name])

    def cpu(self) -> float:
        """Return the CPU seconds it has used."""
        return self.info("used_cpu_user") + self.info("used_cpu_sys")

    def traffic(self) -> list[float]:
        """Return how often it has read what a client sent, and the bytes it has received and sent."""
        return [self.info(f"total_{name}") for name in ("reads_processed", "net_input_bytes", "net_output_bytes")]

    def rewrite(self) -> None:
        """Write the file anew."""
        self.client.bgrewriteaof()
        while self.info("aof_rewrite_in_progress") or self.info("aof_rewrite_scheduled"):
            time.sleep(0.05)

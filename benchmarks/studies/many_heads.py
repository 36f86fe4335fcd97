"""`python -m benchmarks.studies.many_heads [connections]`: heads that are never whole.

Opens so many connections (10,000), sends on each as much of a head as is taken, at most 250 KB, and prints the workers'
memory, and whether a good request is answered meanwhile.
"""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers import mint
from recorder import Recorder
from running import Running

from benchmarks.studies.idle_streams import WORKERS, held

CONNECTIONS = 10_000
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"y" * 490) for n in range(500))


def main() -> None:
    """Open the connections, and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else CONNECTIONS
    with TemporaryDirectory() as name, Recorder() as api, ExitStack() as stack:
        gateway = stack.enter_context(Running(Path(name), api.url, "--workers", str(WORKERS)))
        gateway.get("/info", mint())  # there are workers by now
        before, refused, largest = held(gateway), 0, 0
        socks = []
        for number in range(count):
            sock = socket.create_connection(("127.0.0.1", gateway.port), 30, (f"127.0.0.{2 + number % 8}", 0))
            socks.append(stack.enter_context(sock))
            sock.setblocking(False)
            with suppress(OSError):
                sock.send(HEAD)
            if number % 500 == 0:
                largest = max(largest, held(gateway))
        status = gateway.get("/info", mint()).status
        largest = max(largest, held(gateway))
        for sock in socks:
            with suppress(BlockingIOError):
                refused += b" 503 " in sock.recv(100)
        print(f"{count:,} connections, {refused:,} of them refused; {WORKERS} workers held {before:,} KiB before,")
        print(f"{largest:,} KiB at most; a good request beside them was answered {status}")


if __name__ == "__main__":
    main()

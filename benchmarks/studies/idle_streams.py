"""`python -m benchmarks.studies.idle_streams [streams] [sqlite|redis]`: what they cost.

Opens so many event streams (10,000) through a gateway, each with a token of its own, on which nothing is sent. Prints
what the workers use of a core: with streams left alone, checked every second, and checked while a token that is none of
theirs is blacklisted every second; then how long a stream outlives the blacklisting of its subject.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers import mint
from recorder import request, response
from redis_servers import RedisServer
from running import Running

STREAMS, WORKERS = 10_000, 4
SECONDS = 20.0  # of each measurement
HEAD = response(b"", ("Content-Type", "text/event-stream"))


def serve() -> None:
    """Be the upstream: answer each request with a head, and say nothing more."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    chosen = selectors.DefaultSelector()
    chosen.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in chosen.select():
            if key.fileobj is listener:
                chosen.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock.recv(65536):
                sock.sendall(HEAD)
            else:
                chosen.unregister(sock)
                sock.close()


@contextmanager
def upstream() -> Iterator[str]:
    """Run the upstream in a process of its own; the value is its address."""
    command = [sys.executable, "-m", "benchmarks.studies.idle_streams", "--upstream"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def open_stream(port: int, number: int) -> socket.socket:
    """Return a client whose answer has started, from one of several addresses."""
    token = mint(sub=f"user-{number}", jti=str(number), sid=f"s{number}", iat=int(time.time()) - 10)
    asked = request("GET /events", ("Authorization", f"Bearer {token}"))
    for _ in range(10):  # a store on a busy machine may be late, and the answer then is 503
        sock = socket.create_connection(("127.0.0.1", port), 60, (f"127.0.0.{2 + number % 8}", 0))
        sock.sendall(asked)
        if sock.recv(4096).startswith(b"HTTP/1.1 200 "):
            return sock
        sock.close()
        time.sleep(1)
    raise AssertionError("no stream")


def used(gateway: Running) -> float:
    """Return the seconds of processor time that the workers have used."""
    # Linux's CPU clock of another process, in nanoseconds: /proc counts in hundredths of a second.
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in gateway.workers)


def held(gateway: Running) -> int:
    """Return the resident KiB of all workers."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in gateway.workers]
    return sum(int(text.partition("VmRSS:")[2].split()[0]) for text in texts)


def share_of_core(gateway: Running, *, changes: bool = False) -> float:
    """Return the percentage of a core that the workers use, minus what changes themselves take."""
    began, known, spent = time.monotonic(), used(gateway), 0.0
    while time.monotonic() < began + SECONDS:
        time.sleep(1)
        if changes:
            before = used(gateway)
            gateway.request("POST", "/blacklist", mint(jti=os.urandom(8).hex()))
            spent += used(gateway) - before
    return 100 * (used(gateway) - known - spent) / (time.monotonic() - began)


def measure(count: int, store: str, directory: Path, api: str, check: str) -> None:
    """Open the streams, measure, and print."""
    flags = ["--workers", str(WORKERS), "--read-timeout", "900", "--stream-check", check, "--store", store]
    with ExitStack() as stack:
        gateway = stack.enter_context(Running(directory, api, *flags))
        before = held(gateway)
        streams = [stack.enter_context(open_stream(gateway.port, number)) for number in range(count)]
        time.sleep(3)
        size = (held(gateway) - before) / count
        print(f"STREAM_CHECK={check}: {share_of_core(gateway):.2f} % of a core, {size:.0f} KiB a stream", flush=True)
        if check == "0":
            return
        print(f"with a change a second beside them: {share_of_core(gateway, changes=True):.2f} %", flush=True)
        admin = mint(scope="blacklist:admin", sub="admin", iat=int(time.time()) - 10)
        for number in range(0, count, count // 5):
            began = time.monotonic()
            gateway.request("POST", "/blacklist", admin, {"sub": f"user-{number}"})
            try:
                while streams[number].recv(4096):
                    pass
            except ConnectionResetError:
                print(f"a stream outlived its subject by {time.monotonic() - began:.2f} s", flush=True)


def main() -> None:
    """Measure on one store, and print."""
    if sys.argv[1:] == ["--upstream"]:
        serve()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else STREAMS
    for check in ("0", "1"):
        with TemporaryDirectory() as name, ExitStack() as stack, upstream() as api:
            store = f"sqlite:///{name}/streams.sqlite3"
            if sys.argv[2:] == ["redis"]:
                store = stack.enter_context(RedisServer()).url
            measure(count, store, Path(name), api, check)


if __name__ == "__main__":
    main()

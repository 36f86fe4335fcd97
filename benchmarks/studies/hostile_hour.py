"""`python -m benchmarks.studies.hostile_hour [minutes]`: hostile and good traffic, mixed.

A gateway of two workers before an upstream that answers well or badly, for so many minutes (60): first good clients
alone, then hostile ones beside them, then good ones alone again. Prints what good requests took and which of them
failed, whether a blacklisted token passed, how long open streams outlived their tokens, and what the workers
held at the begin and at the end. All is on this machine; ten hostile connections or so at a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers import mint
from recorder import request
from running import Running
from websocket_bytes import handshake

CLIENTS, PAUSE = 3, 0.15  # good clients, and the seconds between two requests of one
KEPT = 5000  # blacklisted tokens that are asked with again
WAYS = ("token", "sub", "sid", "exp")
HERE = "benchmarks.studies"


class Run:
    """What was seen so far."""

    def __init__(self, gateway: Running) -> None:
        self.gateway = gateway
        self.phase = "alone"
        self.seconds: defaultdict[tuple[str, str], list[float]] = defaultdict(list)  # by phase and kind
        self.wrong: Counter[str] = Counter()  # whatever was not as it must be
        self.blacklisted: list[str] = []  # tokens
        self.asked = 0  # requests with one
        self.outlived: defaultdict[str, list[float]] = defaultdict(list)  # seconds, by kind of stream

    async def ask(self, client: Client, kind: str, data: bytes, *expected: int, says: bytes = b"") -> int:
        """Send a request, and note how long it took and whether the answer is right."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(30):
                status, body = await client.ask(data)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.wrong[f"{self.phase}: {kind}: {type(error).__name__}"] += 1
            client.close()
            return 0
        self.seconds[self.phase, kind].append(time.monotonic() - began)
        if status not in expected or says not in body:
            self.wrong[f"{self.phase}: {kind}: {status} {body[:60]!r}"] += 1
        return status


class Client:
    """A connection that is kept, and opened again once it has ended."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, data: bytes) -> tuple[int, bytes]:
        """Return the answer's status and body."""
        if self._writer is None or self._reader.at_eof():
            self.close()
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(data)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        body = await self._reader.readexactly(int(length or 0))
        if b"\r\nconnection: close" in head:
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        """Close the connection."""
        if self._writer:
            self._writer.close()
            self._writer = None


def kept(line: str, *fields: tuple[str, str], body: bytes = b"") -> bytes:
    """Return a request whose connection goes on."""
    return request(line, *fields, ("Connection", "keep-alive"), body=body)


def bearer(token: str) -> tuple[str, str]:
    """Return the field."""
    return "Authorization", f"Bearer {token}"


async def ask_for_good(run: Run, number: int) -> None:
    """Ask as users do: reads, writes, and what only the gateway answers."""
    client = Client(run.gateway.port)
    tokens = [mint(sub=f"good-{number}-{each}") for each in range(50)]
    while True:
        nonce, field = os.urandom(8).hex(), bearer(random.choice(tokens))
        asks = {
            "GET": kept(f"GET /good?{nonce}", field),
            "POST": kept(f"POST /good?{nonce}", field, body=b"x" * 1024),
            "/-/auth": kept("GET /-/auth", field),
            "/-/live": kept("GET /-/live"),
        }
        kind = random.choice(["GET", "GET", "GET", "POST", "/-/auth", "/-/live"])
        await run.ask(client, kind, asks[kind], 200, says=b"" if "-" in kind else nonce.encode())
        await asyncio.sleep(random.random() * 2 * PAUSE)


async def blacklist(run: Run) -> None:
    """Blacklist tokens, and ask with them at once, on a kept and a new connection, and again later."""
    client = Client(run.gateway.port)
    while True:
        token = mint(jti=os.urandom(8).hex())
        await run.ask(client, "GET", kept("GET /good", bearer(token)), 200)
        if await run.ask(client, "POST /blacklist", kept("POST /blacklist", bearer(token)), 200) == 200:
            run.blacklisted.append(token)
            if len(run.blacklisted) > KEPT:
                run.blacklisted.pop(random.randrange(KEPT))
        other = Client(run.gateway.port)
        for who, each in [(client, token), (other, token), (client, random.choice(run.blacklisted or [mint("no")]))]:
            run.asked += 1
            status = await run.ask(who, "blacklisted", kept("GET /good", bearer(each)), 401)
            if status == 200:
                run.wrong["PASSED THOUGH BLACKLISTED"] += 1
        other.close()
        await asyncio.sleep(1)


async def follow_streams(run: Run, path: str) -> None:
    """Open a stream, blacklist its token, and see when and how it ends."""
    while True:
        for way in WAYS:
            await follow(run, path, way)
            await asyncio.sleep(3)


async def follow(run: Run, path: str, way: str) -> None:
    """Follow one stream to its end."""
    now = int(time.time())
    claims = {"sub": os.urandom(6).hex(), "sid": os.urandom(6).hex(), "iat": now - 10, "jti": os.urandom(6).hex()}
    token = mint(**claims, **({"exp": now + 4} if way == "exp" else {}))
    reader, writer = await asyncio.open_connection("127.0.0.1", run.gateway.port)
    try:
        async with asyncio.timeout(30):
            writer.write(handshake(path, bearer(token)) if path == "/ws" else request(f"GET {path}", bearer(token)))
            await reader.readuntil(b"hello" if path == "/ws" else b"tick")
            began = float(now + 4)
            if way != "exp":
                admin = mint(scope="blacklist:admin", sub="admin", iat=now)
                body = json.dumps({"token": token} if way == "token" else {way: claims[way]}).encode()
                fields = [bearer(admin), ("Content-Type", "application/json")]
                await run.ask(
                    Client(run.gateway.port), "POST /blacklist", request("POST /blacklist", *fields, body=body), 200
                )
                began = time.time()
            rest = b""
            with suppress(ConnectionError):
                while data := await reader.read(65536):
                    rest = data
            run.outlived[path].append(time.time() - began)
            if rest.endswith(b"\r\n0\r\n\r\n"):
                run.wrong[f"{path}: a clean end"] += 1
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        run.wrong[f"{run.phase}: {path} by {way}: {type(error).__name__}"] += 1
    finally:
        writer.close()


async def scrape(run: Run, port: int) -> None:
    """Ask for the metrics every 15 s, as Prometheus does."""
    while True:
        await asyncio.sleep(15)
        client = Client(port)
        await run.ask(client, "metrics", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200)
        client.close()


def held(run: Run) -> str:
    """Return what each worker holds."""
    texts = []
    for pid in run.gateway.workers:
        process = Path(f"/proc/{pid}")
        status = process.joinpath("status").read_text()
        kib = int(status.partition("VmRSS:")[2].split()[0])
        files, threads = len(list(process.joinpath("fd").iterdir())), len(list(process.joinpath("task").iterdir()))
        texts.append(f"process {pid}: {kib:,} KiB, {files} descriptors, {threads} threads")
    return "; ".join(texts)


@contextmanager
def upstream() -> Iterator[str]:
    """Run the upstream; the value is its address."""
    with subprocess.Popen([sys.executable, "-m", f"{HERE}.hostile_upstream"], stdout=subprocess.PIPE, text=True) as api:
        assert api.stdout
        try:
            yield f"http://127.0.0.1:{int(api.stdout.readline())}"
        finally:
            api.terminate()


async def go(run: Run, metrics: int, minutes: float) -> None:
    """Let the phases pass, and print what was seen."""
    quiet = 60 * max(minutes / 20, 0.25)
    work = [ask_for_good(run, number) for number in range(CLIENTS)]
    work += [blacklist(run), follow_streams(run, "/events"), follow_streams(run, "/ws"), scrape(run, metrics)]
    tasks = [asyncio.create_task(each) for each in work]
    await asyncio.sleep(quiet)
    print("begin:", held(run), flush=True)
    run.phase = "attacked"
    seconds = str(60 * minutes - 2 * quiet)
    command = [sys.executable, "-m", f"{HERE}.hostile_clients", str(run.gateway.port), str(metrics), seconds]
    attackers = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    while attackers.returncode is None:
        with suppress(TimeoutError):
            await asyncio.wait_for(attackers.wait(), 60)
        print(f"{time.strftime('%H:%M')}:", held(run), dict(run.wrong), flush=True)
    assert attackers.stdout
    attacks = json.loads(await attackers.stdout.read())
    run.phase = "after"
    await asyncio.sleep(quiet)
    print("end:", held(run))
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    report(run, attacks)


def report(run: Run, attacks: dict[str, dict[str, int]]) -> None:
    """Print what was seen."""
    print(f"\n{sum(attacks['attacks'].values()):,} attacks; what each was answered:")
    for kind, count in sorted(attacks["attacks"].items()):
        print(f"  {kind}: {count:,}; {attacks['statuses'][kind]}")
    print("\ngood requests, ms:")
    for (phase, kind), times in sorted(run.seconds.items()):
        cuts = statistics.quantiles([*times, times[-1]], n=100)
        print(f"  {phase}: {kind}: {len(times):,}, median {cuts[49] * 1e3:.1f}, p99 {cuts[98] * 1e3:.1f}")
    print(f"\n{run.asked:,} requests with blacklisted tokens")
    for path, seconds in run.outlived.items():
        median, longest = statistics.median(seconds), max(seconds)
        print(f"{path}: {len(seconds)} streams outlived their token by {median:.2f} s, at most {longest:.2f} s")
    records = run.gateway.records
    print("not as it must be:", dict(run.wrong))
    print("log:", dict(Counter(record.get("level") for record in records)))
    errors = Counter(
        str(record.get("message"))[:100] for record in records if record.get("level") in ("error", "critical")
    )
    print("errors in the log:", dict(errors))


def main() -> None:
    """Run, and print."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    flags = ["--workers", "2", "--read-timeout", "10", "--keep-alive", "20", "--metrics-port", "0"]
    with TemporaryDirectory() as name, upstream() as api, Running(Path(name), api, *flags) as gateway:
        asyncio.run(go(Run(gateway), gateway.metrics_port, minutes))


if __name__ == "__main__":
    main()

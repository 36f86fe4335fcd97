"""Autobahn's WebSocket suite, straight and through a gateway: `… websocket_suite WSTEST [case …]`.

Run as `python -m benchmarks.studies.websocket_suite WSTEST '1.*' '2.*'` (no case: all of
them, some 25 minutes). WSTEST is the suite's program, which needs Python 2.7 (`pip install autobahntestsuite`). First
it is a client of PyPI's `websockets`, then a server for it; prints each case that the gateway makes a difference to.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from processes import free_port
from running import Running
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

LARGEST = 1 << 25  # bytes of a message; the suite sends 16 MiB
# The suite sends no token, and its server answers for its own port alone.
FLAGS = ["--workers", "1", "--public-paths", "/*", "--preserve-host", "no"]


def main() -> None:
    program, cases = sys.argv[1], sys.argv[2:] or ["*"]
    with TemporaryDirectory() as name:
        for side in (as_client, as_server):
            directory = Path(name, side.__name__)
            directory.mkdir()
            asyncio.run(side(program, cases, directory))
            show(side.__name__, json.loads((directory / "reports" / "index.json").read_text()))


def show(side: str, reports: dict[str, dict[str, Any]]) -> None:
    """Print how the cases ended, and which ended otherwise through the gateway."""
    straight, through = (
        {case: verdict(told) for case, told in reports[agent].items()} for agent in ("straight", "through")
    )
    print(f"Autobahn {side}: {len(straight)} cases, straight", dict(Counter(told[0] for told in straight.values())))
    print("  through the gateway", dict(Counter(told[0] for told in through.values())))
    for case in sorted(straight | through):
        if straight.get(case) != through.get(case):
            print("  differs:", case, straight.get(case), through.get(case))
    print("  failed either way:", *(case for case in straight if "FAILED" in (straight[case][0], through[case][0])))


def verdict(told: dict[str, Any]) -> tuple[Any, ...]:
    return told["behavior"], told["behaviorClose"], told["remoteCloseCode"]


async def as_client(program: str, cases: list[str], directory: Path) -> None:
    """Have the suite ask a server that echoes."""
    async with serve(echo, "127.0.0.1", 0, max_size=LARGEST, ping_interval=None) as server:
        port = server.sockets[0].getsockname()[1]
        with Running(directory, f"http://127.0.0.1:{port}", *FLAGS) as gateway:
            ports = {"straight": port, "through": gateway.port}
            servers = [{"agent": agent, "url": f"ws://127.0.0.1:{port}"} for agent, port in ports.items()]
            spec = write_spec(directory, cases, servers=servers)
            suite = await asyncio.create_subprocess_exec(
                program, "-m", "fuzzingclient", "-s", spec, stdout=subprocess.DEVNULL
            )
            await suite.wait()


async def as_server(program: str, cases: list[str], directory: Path) -> None:
    """Have a client that echoes ask the suite."""
    port = free_port()
    spec = write_spec(directory, cases, url=f"ws://127.0.0.1:{port}")
    suite = await asyncio.create_subprocess_exec(
        program, "-m", "fuzzingserver", "-w", str(free_port()), "-s", spec, stdout=subprocess.DEVNULL
    )
    try:
        with Running(directory, f"http://127.0.0.1:{port}", *FLAGS) as gateway:
            for agent, at in (("straight", port), ("through", gateway.port)):
                await ask_all(f"ws://127.0.0.1:{at}", agent)
    finally:
        suite.terminate()
        await suite.wait()


async def ask_all(url: str, agent: str) -> None:
    for _ in range(100):
        with suppress(ConnectionRefusedError):
            async with connect(f"{url}/getCaseCount", proxy=None) as suite:
                count = int(await suite.recv())
                break
        await asyncio.sleep(0.1)
    for case in range(1, count + 1):
        async with connect(f"{url}/runCase?case={case}&agent={agent}", max_size=LARGEST, proxy=None) as suite:
            await echo(suite)
    async with connect(f"{url}/updateReports?agent={agent}", proxy=None):
        pass


async def echo(connection: Any) -> None:
    """Send each message back as it came."""
    with suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


def write_spec(directory: Path, cases: list[str], **members: Any) -> str:
    path = directory / "spec.json"
    options = {"failByDrop": False}
    spec = {
        "options": options,
        "outdir": str(directory / "reports"),
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    path.write_text(json.dumps({**spec, **members}))
    return str(path)


if __name__ == "__main__":
    main()

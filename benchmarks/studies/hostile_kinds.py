"""`python -m benchmarks.studies.hostile_kinds [KIND …]`: what a kind of attack costs others.

Each kind of `hostile_clients` (default: all; `mixed` is all at once) beside good clients, in slices: the attackers are
stopped and go on again, so that whatever else the machine does falls on both. Prints the medians of the slices' p99.
`honest` are as many clients that mean no harm and ask as fast as they are answered: a load of more CPU than any kind.
"""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers import mint
from running import Running

from benchmarks.studies import hostile_clients
from benchmarks.studies.hostile_hour import Client, bearer, kept, upstream

SLICES, SECONDS, SETTLE = 8, 2.0, 0.3
GOOD = {"GET": "GET /good", "/-/auth": "GET /-/auth"}  # the second is answered by the gateway alone
Times = defaultdict[str, list[float]]  # milliseconds, by what was asked


async def ask_for_good(port: int, kind: str, times: list[Times]) -> None:
    """Ask some hundred and fifty times a second, and note in the last of `times` how long it took."""
    client, tokens = Client(port), [mint(sub=f"good-{number}") for number in range(20)]
    while True:
        began = time.monotonic()
        async with asyncio.timeout(20):
            await client.ask(kept(GOOD[kind], bearer(random.choice(tokens))))
        times[-1][kind].append((time.monotonic() - began) * 1e3)
        await asyncio.sleep(random.random() * 0.01)


def worked(pids: list[int]) -> float:
    """Return the seconds of CPU that processes have taken."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / 100


def p99(times: list[Times], kind: str) -> float:
    """Return the median of the slices' p99."""
    return statistics.median(statistics.quantiles(each[kind], n=100)[98] for each in times)


async def study(gateway: Running, name: str) -> None:
    """Have one kind attack in every other slice, and print."""
    slices: list[Times] = [defaultdict(list)]
    good = [asyncio.create_task(ask_for_good(gateway.port, kind, slices)) for kind in [*GOOD] * 2]
    command = [
        sys.executable,
        "-m",
        hostile_clients.__name__,
        str(gateway.port),
        str(gateway.metrics_port),
        "3600",
        name,
    ]
    attackers = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    found: dict[bool, list[Times]] = {False: [], True: []}
    cpu = {False: 0.0, True: 0.0}
    await asyncio.sleep(2)
    for number in range(2 * SLICES):
        attacked = number % 2 == 1
        attackers.send_signal(signal.SIGCONT if attacked else signal.SIGSTOP)
        await asyncio.sleep(SETTLE)
        slices.append(defaultdict(list))
        found[attacked].append(slices[-1])
        before = worked(gateway.workers)
        await asyncio.sleep(SECONDS)
        cpu[attacked] += (worked(gateway.workers) - before) / SECONDS / SLICES
        slices.append(defaultdict(list))
    attackers.kill()
    attackers.wait()
    for task in good:
        task.cancel()
    times = "; ".join(f"{kind} p99 {p99(found[False], kind):.1f} -> {p99(found[True], kind):.1f} ms" for kind in GOOD)
    print(f"{name}: {times}; the workers took {cpu[False]:.2f} -> {cpu[True]:.2f} of a core", flush=True)


def main() -> None:
    """Study the kinds that were named, or all."""
    names = sys.argv[1:] or [*hostile_clients.NAMED, "mixed"]
    flags = ["--workers", "2", "--read-timeout", "10", "--keep-alive", "20", "--metrics-port", "0"]
    with TemporaryDirectory() as directory, upstream() as api, Running(Path(directory), api, *flags) as gateway:
        for name in names:
            asyncio.run(study(gateway, name))


if __name__ == "__main__":
    main()

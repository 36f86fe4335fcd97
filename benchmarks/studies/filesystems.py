"""A gateway whose SQLite store lies in a folder.

`python -m benchmarks.studies.filesystems FOLDER ...`

Mount something there first. Tokens are blacklisted by the gateway and by a command beside it, workers and the master
are killed, and the gateway is started again: what was answered must be refused by every worker each time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import mint
from processes import ROOT
from recorder import Recorder, until
from running import Running

TOKENS = 100


def told(gateway: Running, tokens: list[str]) -> str:
    """Return what the workers say to the tokens, and to one that is good."""
    said = sorted({gateway.get("/info", token).status for token in tokens})
    return f"{'/'.join(map(str, said))} of {len(tokens)}, good {gateway.get('/info', mint(jti='good')).status}"


def revoke(store: str, token: str) -> int:
    command = [sys.executable, "-m", "gateway", "revoke", "--store", store, token]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode


def try_folder(folder: Path, logs: Path, upstream: str) -> None:
    """Print what comes of a store in the folder."""
    store = f"sqlite:///{folder}/blacklist.sqlite3"
    tokens = [mint(jti=f"{folder} {number} {os.getpid()}") for number in range(TOKENS + 1)]
    flags = ("--store", store, "--workers", "2")
    try:
        with Running(logs, upstream, *flags) as gateway:
            posted = {gateway.request("POST", "/blacklist", token).status for token in tokens[1:]}
            print(f"  POST {posted}, gateway revoke exit {revoke(store, tokens[0])}, GET {told(gateway, tokens)}")
            before = gateway.workers
            for worker in before:
                os.kill(worker, signal.SIGKILL)
            until(lambda: len({*gateway.workers} - {*before}) == len(before))
            print(f"  workers killed: GET {told(gateway, tokens)}")
            for process in (gateway.pid, *gateway.workers):
                os.kill(process, signal.SIGKILL)
        with Running(logs, upstream, *flags) as gateway:
            print(f"  all killed and started: GET {told(gateway, tokens)}")
        with Running(logs, upstream, *flags) as gateway:
            print(f"  ended and started: GET {told(gateway, tokens)}")
    except OSError as error:
        print(f"  {error}")
    except AssertionError as log:
        print("  does not start:", str(log).strip().splitlines()[-1].strip())


def main() -> None:
    """Try each folder."""
    with Recorder() as upstream, tempfile.TemporaryDirectory() as logs:
        for folder in map(Path, sys.argv[1:]):
            print(folder)
            try_folder(folder, Path(logs), upstream.url)


if __name__ == "__main__":
    main()

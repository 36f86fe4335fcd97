"""SQLite stores as containers mount them.

`python -m benchmarks.studies.mounts IMAGE [kind ...]`

Needs root and a Docker engine whose containers can share this machine's network. Of each mount: what is answered, what
is left after `docker restart`, `docker kill` and in a new container, and what the gateway says.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from helpers import mint
from processes import free_port
from recorder import Recorder, until
from running import ask

OWNER = "10001:10001"  # the image's user
INIT = "import sys; from gateway.blacklist.stores import open_store; open_store('sqlite:///' + sys.argv[1]).close()"


class Mount(NamedTuple):
    """How a store is mounted: `arguments` of docker run, in which {} is a new folder of the host's."""

    arguments: tuple[str, ...]
    store: str = "/data/blacklist.sqlite3"
    prepare: Callable[[Path], object] = lambda folder: None


def own(folder: Path, owner: str = OWNER) -> None:
    run("chown", "-R", owner, str(folder))


def make_store(folder: Path) -> None:
    """Make the file that is to be mounted alone."""
    run(sys.executable, "-c", INIT, str(folder / "blacklist.sqlite3"))
    own(folder)


def make_empty(folder: Path) -> None:
    (folder / "blacklist.sqlite3").touch()
    own(folder)


def make_deep(folder: Path) -> None:
    (folder / "team/gateway").mkdir(parents=True)
    own(folder)


KINDS = {
    "a named volume": Mount(("-v", "store-mounts:/data")),
    "the same, the root file system read-only": Mount(("--read-only", "--tmpfs", "/tmp", "-v", "store-mounts:/data")),
    "no volume: the image's anonymous one": Mount(()),
    "a folder": Mount(("-v", "{}:/data"), prepare=own),
    "a sub-folder (subPath)": Mount(("-v", "{}/team/gateway:/data"), prepare=make_deep),
    "a folder within a mounted folder": Mount(("-v", "{}:/data"), "/data/team/gateway/b.sqlite3", make_deep),
    "a folder of another user's (root)": Mount(("-v", "{}:/data"), prepare=lambda folder: own(folder, "0:0")),
    "the same, opened to all (0777)": Mount(("-v", "{}:/data"), prepare=lambda folder: folder.chmod(0o777)),
    "a folder, read-only": Mount(("-v", "{}:/data:ro"), prepare=own),
    "a folder with a store, read-only": Mount(("-v", "{}:/data:ro"), prepare=make_store),
    "the file alone (subPath)": Mount(("-v", "{}/blacklist.sqlite3:/data/blacklist.sqlite3"), prepare=make_store),
    "the file alone, empty": Mount(("-v", "{}/blacklist.sqlite3:/data/blacklist.sqlite3"), prepare=make_empty),
    "the file alone, which is not there": Mount(("-v", "{}/blacklist.sqlite3:/data/blacklist.sqlite3")),
    "the container's own layer": Mount((), "/tmp/blacklist.sqlite3"),
    "tmpfs": Mount(("--tmpfs", "/data:uid=10001,gid=10001"), "/data/blacklist.sqlite3"),
    "read-only root, no volume for the store": Mount(("--read-only",), "/srv/blacklist.sqlite3"),
    "a folder, by a user that has no name": Mount(
        ("--user", "20002:20002", "-v", "{}:/data"), prepare=lambda folder: own(folder, "20002:20002")
    ),
    "a volume that nobody made for this user": Mount(("--user", "20002:20002", "-v", "store-others:/data")),
}


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")
    return done.stdout + done.stderr


class Container:
    """A gateway in a container of its own, on this machine's network."""

    def __init__(self, image: str, mount: Mount, folder: Path, upstream: str) -> None:
        self.image, self.mount, self.upstream = image, mount, upstream
        self.arguments = [each.replace("{}", str(folder)) for each in mount.arguments]
        self.port = free_port()
        self.name = f"store-mounts-{self.port}"

    def options(self) -> list[str]:
        members = {
            "HOST": "127.0.0.1", "PORT": str(self.port), "WORKERS": "2", "UPSTREAM": self.upstream,
            "STORE": f"sqlite:///{self.mount.store}",
        }  # fmt: skip
        return [*(f"--env=GATEWAY_{name}={value}" for name, value in members.items()), *self.arguments, self.image]

    def start(self) -> bool:
        """Return whether it serves."""
        run("docker", "run", "--detach", "--network=host", "--name", self.name, *self.options())
        return self.is_ready()

    def is_ready(self) -> bool:
        return until(lambda: self.status("GET", "/-/ready") == 200 or not self.runs(), 20) and self.runs()

    def runs(self) -> bool:
        return run("docker", "inspect", "--format={{.State.Running}}", self.name).strip() == "true"

    def status(self, method: str, path: str, token: str = "") -> int:
        try:
            fields = [("Authorization", f"Bearer {token}")] if token else []
            return ask(self.port, f"{method} {path}", *fields).status
        except OSError:
            return 0

    def statuses(self, method: str, path: str, token: str) -> str:
        """Return what both workers say, a few times."""
        return "/".join(map(str, sorted({self.status(method, path, token) for _ in range(8)})))

    def check_config(self) -> str:
        found = run("docker", "run", "--rm", "--network=host", *self.options(), "gateway", "check-config", check=False)
        return next((line for line in found.splitlines() if "store" in line.lower() and "=" not in line), "")

    def remove(self) -> None:
        run("docker", "rm", "--force", self.name, check=False)

    def said(self) -> list[str]:
        """Return its warnings, and what is no record."""
        found = []
        for line in run("docker", "logs", self.name).splitlines():
            record = json.loads(line) if line.startswith("{") else {"level": "", "message": line}
            if record["level"] in ("", "warning", "error", "critical") and record["message"] not in found:
                found.append(record["message"])
        return found


def try_mount(image: str, mount: Mount, upstream: str) -> None:
    """Print what comes of a mount."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        mount.prepare(folder)
        gateway, token = Container(image, mount, folder, upstream), mint(jti=name)
        try:
            print(f"  check-config: {gateway.check_config()}")
            if gateway.start():
                told = [f"POST {gateway.status('POST', '/blacklist', token)}", said(gateway, token)]
                for command in (["restart"], ["kill"], ["stop"]):
                    run("docker", *command, gateway.name)
                    run("docker", "start", gateway.name)
                    told.append(f"after docker {command[0]} {said(gateway, token) if gateway.is_ready() else 'none'}")
                run("docker", "kill", gateway.name)
                print("  says:", *gateway.said(), sep="\n    ")
                gateway.remove()
                told.append(f"in a new container {said(gateway, token) if gateway.start() else 'none'}")
                print("  " + ", ".join(told))
            print("  says:", *gateway.said(), sep="\n    ")
        finally:
            gateway.remove()


def said(gateway: Container, token: str) -> str:
    return gateway.statuses("GET", "/info", token)


def main() -> None:
    """Try all kinds, or those that are named."""
    image, *wanted = sys.argv[1:]
    with ExitStack() as stack:
        upstream = stack.enter_context(Recorder())
        for volume in ("store-mounts", "store-others"):
            stack.callback(run, "docker", "volume", "rm", volume, check=False)
        for name, mount in KINDS.items():
            if not wanted or any(word in name for word in wanted):
                print(name, flush=True)
                try_mount(image, mount, upstream.url)


if __name__ == "__main__":
    main()

"""Every command of docs/operations.md, run as it stands there but for its paths, beside a running gateway."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM

import pytest
from helpers import mint
from processes import ROOT
from recorder import Recorder, ok, until
from running import Running

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/operations.md").read_text()
COMMANDS = [
    (heading, block)
    for heading, section in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    for block in re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
]
OLD = "the old secret of more than 32 bytes"
TOKEN, LATER = mint(OLD, sub="1001"), mint(OLD, sub="1002")


class Host:
    """Directories that stand for the page's, and a gateway in them."""

    def __init__(self, directory: Path, upstream: str) -> None:
        self._directory, self._upstream = directory, upstream
        self.places = {
            name: directory / name.strip("/") for name in ("/var/lib/gateway", "/var/backups/gateway", "/etc/gateway")
        }
        for place in self.places.values():
            place.mkdir(parents=True)
        self.secret = self.places["/etc/gateway"] / "secret"
        self.secret.write_text(OLD + "\n")
        self.store = self.places["/var/lib/gateway"] / "blacklist.sqlite3"
        self.other_store = directory / "other.sqlite3"
        self.environ = {"GATEWAY_STORE": f"sqlite:///{self.store}", "GATEWAY_SECRET_FILE": str(self.secret)}

    def gateway(self, store: Path | None = None) -> Running:
        flags = ("--workers", "1", "--store", f"sqlite:///{store or self.store}")
        return Running(self._directory, self._upstream, *flags, **self.environ)

    def run(self, heading: str, number: int = 0, **environ: str) -> None:
        """Run a block of the page."""
        script = [block for title, block in COMMANDS if title == heading][number]
        for name, place in self.places.items():
            script = script.replace(name, str(place))
        script = script.replace("redis://store:6379/0", f"sqlite:///{self.other_store}")
        script = f'set -euo pipefail\ngateway() {{ "{sys.executable}" -m gateway "$@"; }}\n{script}'
        known = {**os.environ, **self.environ, "PYTHONPATH": str(ROOT), **environ}
        subprocess.run(["bash", "-c", script], check=True, env=known, cwd=self._directory)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Recorder(ok()) as upstream:
        yield Host(tmp_path, upstream.url)


def test_every_command_of_the_page_is_run_here() -> None:
    assert [heading for heading, _ in COMMANDS] == [
        "Back up",
        "Restore",
        "Restore",
        "Move to another store",
        "Rotate a secret",
        "Rotate a secret",
    ]


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="sqlite3 is not installed")
def test_what_is_backed_up_while_it_runs_can_be_restored(host: Host) -> None:
    with host.gateway() as gateway:
        gateway.request("POST", "/blacklist", TOKEN)
        host.run("Back up")
        assert gateway.get("/", TOKEN).status == 401
        gateway.request("DELETE", "/blacklist", TOKEN)
        host.run("Restore")
        assert gateway.get("/", TOKEN).status == 401
        gateway.request("POST", "/blacklist", LATER)
        host.store.unlink()
        assert {gateway.get("/", token).status for token in (TOKEN, LATER, mint(OLD))} == {503}
    host.run("Restore", 1)
    with host.gateway() as gateway:
        assert [gateway.get("/", token).status for token in (TOKEN, LATER)] == [401, 200]


def test_a_blacklist_moves_to_another_store(host: Host) -> None:
    with host.gateway() as gateway:
        gateway.request("POST", "/blacklist", TOKEN)
        host.run("Move to another store")
        gateway.request("POST", "/blacklist", LATER)
        host.run("Move to another store")
    with host.gateway(host.other_store) as gateway:
        assert [gateway.get("/", token).status for token in (TOKEN, LATER)] == [401, 401]


def test_a_secret_is_rotated(host: Host) -> None:
    with host.gateway() as gateway:
        assert gateway.get("/", TOKEN).status == 200
        host.run("Rotate a secret", PID=str(gateway.pid))
        newest = host.secret.read_text().splitlines()[0]
        new = mint(newest)
        assert until(lambda: {gateway.get("/", new).status for _ in range(10)} == {200}, 30)
        assert gateway.get("/", TOKEN).status == 200
        host.run("Rotate a secret", 1, PID=str(gateway.pid))
        assert host.secret.read_text() == newest + "\n"
        assert until(lambda: {gateway.get("/", TOKEN).status for _ in range(10)} == {401}, 30)
        assert gateway.get("/", new).status == 200
        gateway.signal(SIGTERM)


def test_the_page_tells_every_member_of_a_record(host: Host) -> None:
    with host.gateway() as gateway:
        gateway.get("/", TOKEN)
        assert until(lambda: [record for record in gateway.records if record["logger"] == "gateway.access"])
        members = gateway.records[-1].keys()
    assert [member for member in members if f"`{member}`" not in PAGE] == []

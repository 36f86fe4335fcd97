"""Where a SQLite store may lie: what is refused and what is warned of, by its folder and by its mount."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import pytest
from injected import Injected
from powercut import can_trace
from processes import ROOT

from gateway.blacklist.stores import StoreRefused, open_store, store_warnings
from gateway.blacklist.stores.sqlite import place

MOUNTED = """
import subprocess, sys
from gateway.blacklist.stores import StoreRefused, open_store, store_warnings
path, *mounts = sys.argv[1:]
open_store("sqlite:///" + path).close()
for mount in mounts:
    subprocess.run(["mount", *mount.split()], check=True)
print(*store_warnings("sqlite:///" + path))
try:
    open_store("sqlite:///" + path).close()
except StoreRefused as refusal:
    print(refusal)
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="a mount of one's own needs util-linux")
@pytest.mark.parametrize(
    ("mounts", "told"),
    [
        # Its log would stay in the container, with the newest entries.
        (["--bind {path} {path}"], "is itself a mount point"),
        (
            ["--bind {folder} {folder}", "-o remount,bind,ro {folder}"],
            "is mounted read-only, and SQLite writes",
        ),
        (["-t tmpfs store {folder}"], "the blacklist is in memory"),
    ],
)
def test_what_a_mount_does_to_the_store_is_said(path: Path, mounts: list[str], told: str) -> None:
    mounts = [mount.format(path=path, folder=path.parent) for mount in mounts]
    command = ["unshare", "--mount", "--map-root-user", sys.executable, "-c", MOUNTED, str(path), *mounts]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr[-200:]}")
    assert told in done.stdout


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that takes no files of ours is Linux's")
def test_a_folder_that_takes_no_files_is_named_with_what_to_do() -> None:
    with pytest.raises(StoreRefused, match=r"^/proc/x cannot .* no such file \(.*\): name one on a local disk"):
        open_store("sqlite:////proc/x")


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], str]:
    """Return what pretends that the store's folder is mounted so, and returns the store's URL."""

    def pretend(root: str, kind: str) -> str:
        table, folder = tmp_path / "mounts with spaces", tmp_path / "a folder"
        folder.mkdir()
        table.write_text(
            "21 1 254:0 / / rw,relatime - overlay overlay rw,lowerdir=/l\n"
            f"99 21 254:0 {root} {str(folder).replace(' ', chr(92) + '040')} rw shared:1 - {kind} {kind} rw\n"
            "30 21 0:5 / /dev rw - devtmpfs udev rw\n"
        )
        monkeypatch.setattr(place, "_MOUNTS", table)
        return f"sqlite:///{folder}/blacklist.sqlite3"

    return pretend


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "fuse.sshfs", "fuse.glusterfs"])
def test_a_network_file_system_is_refused(mounted: Callable[[str, str], str], kind: str) -> None:
    with pytest.raises(StoreRefused, match=rf"is on a network file system \({kind}\)"):
        open_store(mounted("/", kind))


ANONYMOUS = "/docker/volumes/" + "0a" * 32 + "/_data"
PODS = "/var/lib/kubelet/pods/62dca55a-0b8b-4d5e-9b5a-6b7a0a0e0d8e/volumes/"


@pytest.mark.parametrize(
    ("root", "kind", "told"),
    [
        ("/", "tmpfs", "is in memory"),
        ("/", "overlay", "is in a container's own layer"),
        (f"/var/lib{ANONYMOUS}", "ext4", "is in a volume without a name"),
        (PODS + "kubernetes.io~empty-dir/data", "ext4", "is in an emptyDir"),
        ("/var/lib/docker/volumes/shop_blacklist/_data", "ext4", ""),
        (PODS + "kubernetes.io~csi/pvc-62dca55a/mount", "xfs", ""),
        ("/home/me/blacklist", "virtiofs", ""),
        ("/", "btrfs", ""),
    ],
)
def test_a_store_that_a_new_container_begins_without_is_warned_of(
    mounted: Callable[[str, str], str], root: str, kind: str, told: str
) -> None:
    warnings = store_warnings(mounted(root, kind))
    assert len(warnings) == bool(told)
    assert all(told in warning and "Keep " in warning for warning in warnings)


def test_nothing_is_said_of_stores_that_are_no_files() -> None:
    assert store_warnings("redis://127.0.0.1:1/0") == store_warnings("nonsense") == []


@pytest.mark.slow
@pytest.mark.parametrize(("locks", "why"), [("retval=0", "two would change it at once"), ("error=ENOLCK", "No locks")])
def test_a_file_system_whose_locks_do_not_work_is_refused(path: Path, tmp_path: Path, locks: str, why: str) -> None:
    open_store(f"sqlite:///{path}").close()
    code = "import sys; from gateway.blacklist.stores import *; input(print(flush=True)); open_store(sys.argv[1])"
    command = [sys.executable, "-c", code, f"sqlite:///{path}"]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout
        process.stdout.readline()
        with Injected(f"fcntl:{locks}", [process.pid], tmp_path):
            _, told = process.communicate("\n", timeout=30)
    assert "whose locks do not work: " in told
    assert why in told


@pytest.mark.slow
@pytest.mark.skipif(not can_trace(), reason="memory that cannot be shared needs strace")
def test_a_file_system_without_shared_memory_is_refused(path: Path) -> None:
    open_store(f"sqlite:///{path}").close()
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", f"{path}-shm", "-e", "inject=mmap:error=ENODEV"]
    code = "import sys; from gateway.blacklist.stores import *; open_store(sys.argv[1])"
    command = [*trace, sys.executable, "-c", code, f"sqlite:///{path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert "processes share no memory; use a local disk" in done.stderr

"""Where an SQLite file lies: what its mount or its folder makes impossible, and what goes with a container."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import tempfile
from pathlib import Path
from typing import NamedTuple

from gateway.blacklist.stores.base import StoreRefused

# SQLite's log needs memory and locks that all its users share: https://www.sqlite.org/wal.html
_REMOTE = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afs|ceph|ncpfs|9p|lustre|gfs2|ocfs2|gpfs|beegfs|orangefs|coda"
    r"|fuse\.(sshfs|glusterfs|ceph(-fuse)?|s3fs|rclone|gcsfuse|blobfuse2?|mount-s3|juicefs|moosefs|mfs|davfs.*|nfs.*)"
)
_MOUNTS = Path("/proc/self/mountinfo")  # Linux's; elsewhere nothing is known of mounts


class Mount(NamedTuple):
    """A mount: its place, which folder of its file system is there, and the file system's kind."""

    place: str
    root: str
    kind: str


def mounts() -> list[Mount]:
    """Return the mounts that this process sees, in order (proc_pid_mountinfo(5))."""
    found = []
    for line in _MOUNTS.read_bytes().splitlines() if _MOUNTS.exists() else []:
        before, _, after = line.partition(b" - ")
        root, place = (
            os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), field))
            for field in before.split()[3:5]
        )
        found.append(Mount(place, root, os.fsdecode(after.split()[0])))
    return found


def mount_of(path: Path) -> Mount:
    """Return the mount that has the file's folder."""
    above = [mount for mount in mounts() if str(path).startswith(mount.place.rstrip("/") + "/")]
    # The last of those at one place hides the others.
    return max(reversed(above), key=lambda mount: len(mount.place), default=Mount("", "", ""))


def check_mount(path: Path) -> None:
    """Raise `StoreRefused` where log and index would not lie beside the file, or would not be shared."""
    if any(mount.place == str(path) for mount in mounts()):
        if path.is_dir():  # which Docker makes where there is no file to be mounted
            raise StoreRefused(f"{path} is a folder that was mounted, not a file: name a file within it.")
        raise StoreRefused(
            f"{path} is itself a mount point: its log, with the newest entries, would stay behind. "
            "Mount the folder it is in."
        )
    kind = mount_of(path).kind
    if _REMOTE.fullmatch(kind):
        raise StoreRefused(
            f"{path} is on a network file system ({kind}): SQLite's locks and its log cannot be relied on there. "
            "Use a local disk, or Redis."
        )


def fault_of_rights(path: Path) -> str:
    """Return why the file, if it is there, or its folder cannot be written, and what to do; "" if they can."""
    folder = path.parent
    if not folder.is_dir():
        return f"unable to open it, for there is no folder {folder}: make it"
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return f"{folder} is mounted read-only, and SQLite writes its log beside the file: mount it to be written"
    for each, rights in ((folder, os.W_OK | os.X_OK), (path, os.R_OK | os.W_OK)):
        if each.exists() and not os.access(each, rights):  # in this order: another process may be making it
            found = each.stat()
            return (
                f"unable to open it, for user {os.geteuid()} may not write to {each}, which belongs to user "
                f"{found.st_uid} (mode {found.st_mode & 0o7777:o}): chown it, or run the gateway as its owner"
            )
    return ""


def check_locks(path: Path) -> None:
    """Raise `StoreRefused` where those who lock a file do not exclude each other, as on some file systems."""
    if not hasattr(fcntl, "F_OFD_SETLK"):
        return  # only Linux has this kind of lock, by which a single process can try
    with tempfile.TemporaryFile(dir=path.parent) as one, open(f"/proc/self/fd/{one.fileno()}", "r+b") as other:
        why = "two would change it at once"
        try:
            fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # ENOLCK of NFS without its lock server, ENOSYS of some in user space
            why = str(error)
        else:
            try:
                fcntl.fcntl(other, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            except BlockingIOError:
                return
    raise StoreRefused(
        f"{path} is on a file system ({mount_of(path).kind}) whose locks do not work: {why}. "
        "Use a local disk, or Redis."
    )


def how_it_ends(path: Path) -> str:
    """Return what takes the file away, as far as its mount shows; "" where nothing does."""
    mount = mount_of(path)
    if mount.kind in ("tmpfs", "ramfs"):
        return "is in memory: a restart of the container, or of the machine, empties it"
    if mount.kind in ("overlay", "aufs"):
        return "is in a container's own layer: a new container begins with an empty one"
    if re.search(r"/volumes/[0-9a-f]{64}(/|$)", mount.root):  # Docker's, Podman's and containerd's
        return "is in a volume without a name: a new container begins with an empty one"
    if "/kubernetes.io~empty-dir/" in mount.root:
        return "is in an emptyDir: a new pod begins with an empty one"
    return ""

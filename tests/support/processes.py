"""The processes of a gateway that runs, as /proc tells them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def children(parent: int) -> list[int]:
    """Return the process ids of `parent`'s children.

    `/proc/PID/task/PID/children` would leave out living ones while another is taken away (proc(5)).
    """
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            # The name, in parentheses, may hold anything; after it come the state and the parent.
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return sorted(found)


def workers_at(port: int) -> list[int]:
    """Return the process ids of the workers of the gateway that serves `port`."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            serves = words[-2:-1] == [str(port).encode()] and b"serve" in words
            # The workers have the same command line; only the master has children.
            if serves and (found := children(int(path.parent.name))):
                return found
    raise AssertionError("no workers")

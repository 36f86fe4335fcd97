"""The kept connections of one process to the upstream, and whom each of them may serve."""

from __future__ import annotations

import os
from collections.abc import Generator
from threading import Lock
from time import monotonic
from urllib.parse import urlsplit

from gateway.proxy.curl import Handle
from gateway.proxy.outbound import Peer
from gateway.proxy.resolve import Resolver

KEPT = 100  # idle connections
OWN_SECONDS = 10.0  # how long one that serves a single user is kept idle
LOOK_SECONDS = 1.0  # how often the files with certificates are looked at


class Pool:
    """Idle handles: those that anybody may use, and those that serve the user alone whose body they have carried.

    An upstream that leaves a body unread takes it for the next request, and answers that to whoever comes next.
    """

    def __init__(self, origin: str, connect_seconds: float, verify: bool | str, cert: str | None) -> None:
        self.pid = os.getpid()
        parts = urlsplit(origin)
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._resolver = Resolver(self._host, self._port, connect_seconds)
        self._origin, self._connect = origin, connect_seconds
        self._verify, self._cert = verify, cert
        self._files = (verify if isinstance(verify, str) else None, cert)
        self._peer: Peer | None = None
        self._looked = 0.0
        # By user, "" for anybody; the one used last comes last, and is the least likely to be stale.
        self._lock = Lock()
        self._idle: dict[str, list[Handle]] = {}
        self._since: dict[Handle, float] = {}  # since when each is idle, the longest first

    def peer(self) -> Peer | None:
        """Return whom to connect to; None while the name is being looked up, and `wait` helps."""
        if not self._resolver.current():
            return None
        now = monotonic()
        known = self._peer
        if known is None or known.addresses != self._resolver.addresses or now - self._looked > LOOK_SECONDS:
            self._looked = now
            found = self._found()
            if known is None or known != found:
                known = self._peer = found
        return known

    def wait(self) -> Generator[float, None, Peer]:
        """Yield seconds to wait until the name has been looked up anew. Raises `UpstreamFailed`."""
        yield from self._resolver.wait()
        known = self._peer = self._found()
        return known

    def take(self, peer: Peer, user: str | None, *, has_body: bool) -> Handle:
        """Return a handle for a user, None for one who is not known; for a request with a body it is theirs alone."""
        while (handle := self._pop(user)) is not None:
            if self._fits(handle, peer):
                break
            handle.close()
        else:
            handle = Handle(peer, self._connect)
        if has_body:
            handle.user = user
        return handle

    def give_back(self, handle: Handle) -> None:
        """Keep a handle whose answer is complete."""
        user = handle.user
        if user is None:
            handle.close()
            return
        handle.stop()
        with self._lock:
            self._idle.setdefault(user, []).append(handle)
            self._since[handle] = now = monotonic()
            surplus = self._surplus(now) if user or len(self._since) > KEPT else ()
        for idle in surplus:
            idle.close()

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle = list(self._since)
            self._since.clear()
            self._idle.clear()
        for handle in idle:
            handle.close()

    def _pop(self, user: str | None) -> Handle | None:
        with self._lock:
            name = user if user and user in self._idle else ""
            idle = self._idle.get(name)
            if not idle:
                return None
            handle = idle.pop()
            if name and not idle:
                del self._idle[name]
            del self._since[handle]
            return handle

    def _surplus(self, now: float) -> list[Handle]:
        """Take out those that are too many, and those of single users that were idle for too long."""
        found = []
        for handle, since in list(self._since.items()):
            if len(self._since) > KEPT or (handle.user and now - since > OWN_SECONDS):
                del self._since[handle]
                found.append(handle)
                idle = self._idle[handle.user or ""]
                idle.remove(handle)
                if handle.user and not idle:
                    del self._idle[handle.user]
            elif now - since <= OWN_SECONDS:
                break
        return found

    def _fits(self, handle: Handle, peer: Peer) -> bool:
        known = handle.peer
        if known is peer:
            return True
        if known.stamp != peer.stamp or handle.address() not in peer.addresses:
            return False
        handle.point_to(peer)
        return True

    def _found(self) -> Peer:
        return Peer(
            self._origin,
            self._host,
            self._port,
            self._resolver.addresses,
            self._verify,
            self._cert,
            _stamp(self._files),
        )


def _stamp(files: tuple[str | None, ...]) -> tuple[object, ...]:
    """Return what changes whenever one of the files does."""
    found: list[object] = []
    for path in files:
        try:
            known = os.stat(path) if path else None
        except OSError:
            known = None
        found.append(known and (known.st_ino, known.st_size, known.st_mtime_ns))
    return tuple(found)

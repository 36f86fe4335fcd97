"""The kept connections of one process to the upstream, and whom each of them may serve."""

from __future__ import annotations

import os
from collections.abc import Generator
from threading import Lock
from time import monotonic
from urllib.parse import urlsplit

import pycurl

from gateway.proxy.curl import Handle
from gateway.proxy.failures import UpstreamFailed
from gateway.proxy.files import Files
from gateway.proxy.outbound import Outbound, Peer, Wait
from gateway.proxy.resolve import Resolver

KEPT = 100  # idle connections that anybody may use, and as many that serve a single user
DESCRIPTORS_EACH = 12  # that the process may have, for each pair of these, which takes six at most
OWN_SECONDS = 10.0  # how long one that serves a single user is kept idle


class Pool:
    """Idle handles: those that anybody may use, and those that serve the user alone whose body they have carried.

    An upstream that leaves a body unread may take it for the next request, and give its answer to whoever comes next.
    One that has a body behind an answer without one (to HEAD, 204, 304) may send that while the next request is on its
    way. Credentials that are neither a token nor Basic count as a body does: some of them (NTLM, Negotiate) sign in all
    that follows on the connection.
    """

    def __init__(self, origin: str, connect_seconds: float, files: Files) -> None:
        parts = urlsplit(origin)
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._resolver = Resolver(self._host, self._port, connect_seconds)
        self._origin, self._connect = origin, connect_seconds
        self._files = Files(*files.paths, files.contents)
        self._peer: Peer | None = None
        # The one used last is taken first: it is the least likely to be stale. Lists need no lock to append and pop.
        self._shared: list[Handle] = []
        limit = os.sysconf("SC_OPEN_MAX")  # below 0 for none
        self._kept = KEPT if limit < 0 else min(KEPT, limit // DESCRIPTORS_EACH)
        self._lock = Lock()  # of those that serve a single user
        self._by_user: dict[str, list[Handle]] = {}
        self._oldest_first: dict[Handle, None] = {}  # all of these

    def peer(self) -> Peer | None:
        """Return whom to connect to; None while the name is being looked up, and `wait` helps."""
        if not self._resolver.current():
            return None
        files, known = self._files, self._peer
        if files.are_any:
            files.look()
        if known is None or known.addresses != self._resolver.addresses or known.stamp is not files.contents.stamp:
            known = self._peer = self._make_peer()
        return known

    def wait(self) -> Generator[Wait, None, Peer]:
        """Yield what to wait for until the name has been looked up anew. Raises `UpstreamFailed`."""
        yield from self._resolver.wait()
        yield from self._files.wait(self._connect)
        known = self._peer = self._make_peer()
        return known

    def take(self, peer: Peer, user: str | None, request: Outbound) -> Handle:
        """Return a handle for a user (None: unknown); after a body or a HEAD request it is that user's alone.

        Raises `UpstreamFailed`.
        """
        while (handle := self._pop(user)) is not None:
            if (handle.peer is peer or self._fits(handle, peer)) and (request.is_repeatable or not handle.is_doubtful):
                break
            handle.close()
        else:
            try:
                handle = Handle(peer, self._connect)
            except pycurl.error as error:  # libcurl takes some descriptors before it connects
                cause = f"connection failed: {error}; maybe no descriptor is left (ulimit -n)"
                raise UpstreamFailed("overloaded", cause, was_connected=False) from error
        handle.taker = user
        if request.body is not None or request.method == "HEAD":
            handle.user = user
        return handle

    def give_back(self, handle: Handle) -> None:
        """Keep a handle whose answer is complete."""
        user = handle.user
        handle.stop()
        if user is None:
            handle.drop()
            return
        handle.is_doubtful = False
        if not user:
            self._shared.append(handle)
            surplus = [self._shared.pop(0)] if len(self._shared) > self._kept else []
        else:
            with self._lock:
                self._by_user.setdefault(user, []).append(handle)
                self._oldest_first[handle] = None
                surplus = self._surplus(handle.idle_since)
        for idle in surplus:
            idle.drop()

    def doubt_idle(self) -> None:
        """Note that a kept connection turned out to be dead: where the upstream has moved, all are.

        Those that are idle now get no request that may not be sent twice, until another one has been answered there.
        """
        with self._lock:
            for handle in (*self._shared, *self._oldest_first):
                handle.is_doubtful = True

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle = [*self._shared, *self._oldest_first]
            self._shared.clear()
            self._oldest_first.clear()
            self._by_user.clear()
        for handle in idle:
            handle.close()

    def _pop(self, user: str | None) -> Handle | None:
        if self._by_user and user in self._by_user:
            with self._lock:
                if own := self._by_user.get(user):
                    handle = own.pop()
                    is_old = monotonic() - handle.idle_since > OWN_SECONDS  # its client's port may be another's now
                    self._forget(handle)
                    if not is_old:
                        return handle
                    handle.close()
        try:
            return self._shared.pop()
        except IndexError:
            return None

    def _surplus(self, now: float) -> list[Handle]:
        """Take out those of single users that are too many, or were idle for too long."""
        found = []
        while self._oldest_first:
            handle = next(iter(self._oldest_first))  # a list of all would cost 4 % of a request
            if len(self._oldest_first) <= self._kept and now - handle.idle_since <= OWN_SECONDS:
                break
            self._by_user[handle.user or ""].remove(handle)
            self._forget(handle)
            found.append(handle)
        return found

    def _forget(self, handle: Handle) -> None:
        """Forget one that is idle no more, and its user with the last one."""
        del self._oldest_first[handle]
        if handle.user and not self._by_user[handle.user]:
            del self._by_user[handle.user]

    def _fits(self, handle: Handle, peer: Peer) -> bool:
        """Return whether a handle that was made for another peer is as good for this one."""
        if handle.peer.stamp != peer.stamp or handle.address() not in peer.addresses:
            return False
        handle.point_to(peer)
        return True

    def _make_peer(self) -> Peer:
        return Peer(self._origin, self._host, self._port, self._resolver.addresses, *self._files.contents)

"""Keys that may change, of a provider or a file: read in the background, never in a request's own thread."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from gateway.auth.fetch import FetchPolicy
from gateway.auth.keyset import KeySet
from gateway.auth.snapshot import Snapshot
from gateway.http.blocking import blocking
from gateway.http.problems import Problem
from gateway.http.threads import at_fork, start_thread


class WatchedKeys:
    """Keys that `load` gets, kept fresh by one daemon thread in each process that asks for them.

    The thread starts by `start`, or with the first use, so keys may be built before workers are forked.
    """

    def __init__(
        self,
        algorithms: frozenset[str],
        snapshot: Snapshot,
        load: Callable[[], bytes],
        policy: FetchPolicy,
        now: Callable[[], float],
    ) -> None:
        self.algorithms = algorithms
        self._snapshot, self._load, self._policy, self._now = snapshot, load, policy, now
        self._closed = False
        self._forget_thread()
        at_fork(after_in_child=self._forget_thread)

    def _forget_thread(self) -> None:
        """Start again in a forked child: it has no thread, and its lock may have been held by another."""
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._asked = self._done = 0  # numbers of the newest fetch asked for, and of the newest one made
        self._asked_at = 0.0
        self._is_awaited = False  # by a request

    def current(self) -> KeySet:
        """Return the keys in force, at first after a moment's wait.

        Raises `Problem` keys-unavailable where there never were any, or the last good ones are too old.
        """
        if self._thread is None:
            self.start()
        try:
            return self._snapshot.current()
        except Problem:
            self._ask(if_missing=True)
            return self._snapshot.current()

    def renew(self) -> KeySet:
        """Return the keys after a fetch, for a token that none verifies: one may be new, or replaced under its kid.

        Within the cool-down after one fetch there is no other.
        """
        self.current()
        self._ask()
        return self.current()

    def age(self) -> float:
        """Return the seconds since the last good fetch."""
        return self._snapshot.age()

    def ask(self) -> KeySet:
        """Return the keys, loaded now and in this thread. Raises KeysRefused, OSError or ValueError."""
        return self._snapshot.take(self._load)

    def close(self) -> None:
        """Let the thread end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def start(self) -> None:
        """Have the keys fetched from now on, in this process."""
        with self._changed:
            if self._thread is None:
                self._asked, self._asked_at = 1, self._now()
                self._thread = start_thread(self._run, name="gateway-keys")

    def _ask(self, *, if_missing: bool = False) -> None:
        """Have the thread fetch, unless it was asked within the cool-down, and wait for it, but not for long.

        With `if_missing`, do neither where keys have come since the caller looked.
        All who wait share one time limit: however many forged tokens come while the provider hangs, they hold our
        threads for one time limit per cool-down.
        """
        with blocking(), self._changed:
            if if_missing and self.age() <= self._policy.limit:
                return
            self._is_awaited = True
            elapsed = self._now() - self._asked_at
            if not 0 <= elapsed < self._policy.cool_down:
                elapsed = 0.0
                self._asked, self._asked_at = self._asked + 1, self._now()
                self._changed.notify_all()
            ticket = self._asked
            self._changed.wait_for(lambda: self._done >= ticket, self._policy.wait - elapsed)

    def _run(self) -> None:
        delay = 0.0
        while not self._closed:
            number = self._asked
            renewed = self._snapshot.renew(self._load)
            delay = 0.0 if renewed else min(2 * delay or self._policy.retry, self._policy.max_retry)
            with self._changed:
                self._done = number
                if number == 1 and (renewed or not self._is_awaited):
                    # No token brought this first fetch about: one that needs newer keys need not wait a cool-down.
                    self._asked_at = -math.inf
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._asked > self._done or self._closed, delay or self._policy.refresh)

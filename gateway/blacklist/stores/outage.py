"""Why a store is unavailable, logged at each change, with what to do; and one probe for all who ask."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from gateway.http.blocking import blocking
from gateway.http.problems import StoreUnavailable
from gateway.http.threads import at_fork

log = logging.getLogger(__name__)

# What to do about each cause; its name is a label for metrics and alerts.
WHAT_TO_DO: Final = {
    "busy": "another process holds the store's lock: find it (fuser on the file) and end it",
    "clock": "set this machine's clock right; if it is, wait until then, or run `gateway accept-store`",
    "damaged": "restore the newest backup, import the newest export",
    "disk": "look at the disk, and at the kernel's log",
    "full": "make room",
    "history": "restore what is missing; or import the newest export, then run `gateway accept-store`",
    "lossy": "correct the server's settings, then import the newest export: entries may be gone",
    "refused": "correct what the server reports: its role, its replicas, its rights, its memory",
    "replaced": "put the right file in place, end everything that uses it, then start it again",
    "replicas": "look at the replicas, and at the way to them",
    "rights": "let the gateway's user read and write the file and its folder",
    "unreachable": "look whether the server runs, and at the way to it",
}
PROBE_SECONDS = 1.0  # probes come without a token: no more often than this do they make the store sync
WAIT_SECONDS = 0.2  # for the first probe's outcome
LOOKUPS, CHANGES, PROBES = "look-ups", "changes", "probes"
HISTORY, FOLDING = "what changed last", "folding its log into it"


class Outage:
    """Whether look-ups and changes work, as last seen by this process."""

    def __init__(self) -> None:
        self.causes: dict[str, str] = {}
        self.version = 0  # how often the state has changed

    def begin(self, what: str, cause: str, error: object) -> StoreUnavailable:
        """Note that `what` (look-ups, changes) fails; return what to raise. The log has each change of the cause."""
        if self.causes.get(what) != cause:
            self.causes[what] = cause
            self.version += 1
            log.warning(
                "the blacklist store is unavailable for %s (%s): %s. What to do: %s",
                what,
                cause,
                str(error).rstrip("."),
                WHAT_TO_DO[cause],
                extra={"record": {"cause": cause}},
            )
        return StoreUnavailable(cause)

    def end(self, what: str) -> None:
        """Note that `what` works."""
        if self.causes and self.causes.pop(what, ""):
            self.version += 1
            log.warning("the blacklist store is available again for %s", what)


class Probe:
    """Asks once for all callers that ask at about the same time.

    A good outcome holds for `PROBE_SECONDS`, unless the store's state has changed since; a bad one only for those who
    ask while another asks anew.
    """

    def __init__(self, ask: Callable[[], object], outage: Outage) -> None:
        self._ask = ask
        self._outage = outage
        self._begin_anew()
        at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._outcome: tuple[float, int, Exception | None] | None = None

    def __call__(self) -> None:
        """Return if the last outcome was good. Raises what `ask` raised."""
        if not self._is_fresh():
            # While another thread asks, the last outcome counts; only where there is none yet does anybody wait.
            with blocking():
                is_first = self._lock.acquire(timeout=0 if self._outcome else WAIT_SECONDS)
            if is_first:
                try:
                    if not self._is_fresh():
                        self._outcome = self._new_outcome()
                finally:
                    self._lock.release()
            elif not self._outcome:
                raise self._outage.begin(PROBES, "busy", "the first look at it takes long")
        error = self._outcome and self._outcome[2]
        if error:
            raise error.with_traceback(None)

    def _is_fresh(self) -> bool:
        if self._outcome is None:
            return False
        when, version, error = self._outcome
        return not error and version == self._outage.version and time.monotonic() - when < PROBE_SECONDS

    def _new_outcome(self) -> tuple[float, int, Exception | None]:
        found: Exception | None = None
        try:
            self._ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, all who ask get it
            found = error
        self._outage.end(PROBES)
        return time.monotonic(), self._outage.version, found

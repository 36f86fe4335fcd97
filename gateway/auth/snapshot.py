"""The last good keys of a source, and their age."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from gateway.auth.keyset import KeySet, KeysRefused, NoUsableKey
from gateway.http.problems import Problem

_log = logging.getLogger(__name__)


class Ignored(NamedTuple):
    """Why a key is left out; one that is no key for signatures is expected, and no fault."""

    reason: str
    expected: bool = False


Read = Callable[[bytes], tuple[KeySet, list[Ignored]]]


class Snapshot:
    """The last good keys of one source and their age. Each change, good or bad, is logged once.

    `read` turns the source's text into keys and the reasons why others are ignored; good keys
    serve for `limit` seconds after the source last gave them, unless it says that there are none any more.
    """

    def __init__(self, issuer: str, read: Read, limit: float, now: Callable[[], float]) -> None:
        self._issuer, self._read, self._limit, self._now = issuer, read, limit, now
        # Replaced as a whole, and read once by each reader, so that no thread sees half a change.
        self._good: tuple[bytes, KeySet, float] | None = None
        self._fault = ""
        self._ignored: list[Ignored] = []

    def current(self) -> KeySet:
        """Return the last good keys. Raises `Problem` keys-unavailable where there are none young enough."""
        good = self._good
        if good is None or self._now() - good[2] > self._limit:
            raise Problem("keys-unavailable")
        return good[1]

    def age(self) -> float:
        """Return the seconds since the last good keys were asked for; infinity where there never were any."""
        good = self._good
        return self._now() - good[2] if good else float("inf")

    def take(self, load: Callable[[], bytes]) -> KeySet:
        """Load and read the keys, and return them. Raises whatever `load` and `read` raise.

        The same text keeps the same KeySet, and with it the tokens that are cached under it.
        """
        began = self._now()
        text = load()
        if self._good and self._good[0] == text:
            keys = self._good[1]
        else:
            try:
                keys, ignored = self._read(text)
            except NoUsableKey:
                # An answer, not a failure: whoever empties a key set wants its tokens to end now, not in a day.
                self._good = None
                raise
            self._log_ignored(ignored)
        self._good = (text, keys, began)
        return keys

    def _log_ignored(self, ignored: list[Ignored]) -> None:
        """Log what was not ignored before: some providers' texts differ each time, in order or in a date."""
        for each in ignored:
            if each not in self._ignored:
                level = logging.DEBUG if each.expected else logging.WARNING
                _log.log(level, "issuer %r: %s; it is ignored", self._issuer, each.reason)
        self._ignored = ignored

    def renew(self, load: Callable[[], bytes]) -> bool:
        """Take newer keys and return whether it worked; where it did not, the last good ones stay."""
        fault = ""
        try:
            self.take(load)
        except Exception as error:  # noqa: BLE001 - whatever a provider sends is a failed fetch, never a crash
            fault = fault_of(error)
        if fault != self._fault:
            _log.warning("issuer %r: %s", self._issuer, f"no newer keys: {fault}" if fault else "keys are renewed")
        self._fault = fault
        return not fault


def fault_of(error: Exception) -> str:
    """Return what the log says of the error: never a text that somebody else wrote."""
    if isinstance(error, KeysRefused):
        return str(error)
    return (
        f"cannot be read: {error.strerror}" if isinstance(error, OSError) and error.strerror else type(error).__name__
    )

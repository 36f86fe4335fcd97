"""Protocols of what the server and the gate put into a request's context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Pause(Protocol):
    """What a response calls before it yields b"" because it has to wait; then it holds no thread.

    The server asks for the next part as soon as one of the descriptors is ready (`select.POLLIN`, `select.POLLOUT`
    or both, by descriptor), with `body` as soon as more of the request's body has come or it has ended, and at the
    latest after `seconds`. It may be asked early, too: whoever paused looks again at what it waits for.

    A pause holds until the response is asked again: each one names all that it waits for, and what an earlier one
    named is forgotten. A descriptor may be closed, or serve another, as soon as the response has been asked again.
    The server itself notices when the client leaves in a pause: it closes the response within two seconds.
    """

    def __call__(self, seconds: float, descriptors: Mapping[int, int] | None = None, *, body: bool = False) -> None:
        """Note what the response waits for."""


class Credential(Protocol):
    """A verified token, as far as the server, the log and the metrics know it."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the signing input, in hexadecimal."""

    @property
    def claims(self) -> dict[str, Any]:
        """The token's claims."""

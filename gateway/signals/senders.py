"""Who may send signals, about whose tokens, and which claims of those tokens have the user or the session."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from gateway.auth.issuers import Issuer, Issuers
from gateway.auth.keyset import TENANT
from gateway.auth.secrets import is_same_secret
from gateway.auth.signed import Message, read_message
from gateway.http.wsgi import Context
from gateway.signals.answers import Refusal

LOGOUT, REVOCATION, EVENTS = "logout", "revocation", "events"


@dataclass(frozen=True, slots=True)
class Poll:
    """Where a sender's events are fetched (RFC 8936), with which Authorization field, CA's file and proxy, if any."""

    url: str
    authorization: str = field(repr=False)
    ca_file: str | None
    proxy: str | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sender(Issuer):
    """An issuer of messages: `audience` is what it calls us, `about` names the issuers whose tokens it speaks about.

    `claims` says which claim of those tokens has a user, a session, an email, a device or a tenant; a part that is not
    there cannot be matched. `joined` are claims looked up together, `within` the tenants that all those tokens have.
    `takes` are the kinds of message taken from it, `extra_events` the optional events acted on. `by_subject` blacklists
    a session's user as well. `without_exp` is how many seconds a logout token without `exp` is good; 0: none is taken.
    `without_typ` takes events whose header has no `typ`, or `JWT`. `state` is what a verification must say, if set.
    """

    about: tuple[str, ...]
    takes: frozenset[str]
    claims: Mapping[str, str]
    joined: frozenset[str]
    by_subject: bool
    without_exp: int
    without_typ: bool
    authorization: str = field(repr=False)
    within: frozenset[str]
    extra_events: frozenset[str]
    state: str
    poll: Poll | None
    has_own_keys: bool

    def issuers_about(self) -> tuple[str, ...]:
        """Return the names of the issuers it speaks about; those of a tenant are its own tenant's."""
        return (self.name,) if any(TENANT in name for name in self.about) else self.about

    def is_authorized(self, value: str) -> bool:
        """Return whether an Authorization field is the one that was agreed on, or has it as its Bearer token."""
        ours = self.authorization
        return bool(ours) and any([is_same_secret(ours, value), is_same_secret(f"Bearer {ours}", value)])


class Senders:
    """Finds who sent a message."""

    def __init__(self, senders: Iterable[Sender]) -> None:
        self.all = tuple(senders)
        self._issuers = Issuers(self.all)

    def read(self, text: str, types: Collection[str], kind: str, about: Context) -> tuple[Sender, Message]:
        """Return the message and its sender, whom the log names if the message is refused further on.

        Raises `Problem` as `read_message` does, `Refusal` access_denied.
        """
        message = read_message(text, self._issuers, types)
        sender = cast(Sender, message.issuer)
        about.refusal_log = {"sender": sender.name}
        if kind not in sender.takes:
            raise Refusal("access_denied", "This issuer may not send such messages.")
        return sender, message

    def by_authorization(self, value: str, kind: str) -> Sender | None:
        """Return the sender whose Authorization field it is; every one is compared, in constant time."""
        found = [sender for sender in self.all if sender.is_authorized(value)]
        return next((sender for sender in found if kind in sender.takes), None)

"""Which events blacklist something: CAEP 1.0 section 3, RISC 1.0 section 2, SSF 1.0 sections 8.1.4 and 8.1.5."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from gateway.signals.answers import Refusal

Event = dict[str, Any]

_SCHEMAS = "https://schemas.openid.net/secevent/"
_CAEP, _RISC, _SSF, _OAUTH = (f"{_SCHEMAS}{name}/event-type/" for name in ("caep", "risc", "ssf", "oauth"))
VERIFICATION, STREAM_UPDATED = _SSF + "verification", _SSF + "stream-updated"

log = logging.getLogger("gateway.signals")


class Action(NamedTuple):
    """What an event of one kind does: `acts` checks it, and returns whether tokens end by it.

    `opaque` is what a subject of that format names, "" what the event calls its principal; an optional one counts only
    for senders that have its name set. `formats` are those that a subject must have, where the document says so.
    """

    acts: Callable[[Event], bool] = lambda _: True
    opaque: str = "user"
    is_optional: bool = False
    formats: frozenset[str] = frozenset()


def _credential(event: Event) -> bool:
    """Return whether it is another change than a new credential, which ends no token."""
    _text(event, "credential_type")
    return _text(event, "change_type", "create", "revoke", "update", "delete") != "create"


def _claims(event: Event) -> bool:
    if not isinstance(event.get("claims"), dict) or not event["claims"]:
        raise Refusal("invalid_request", "The event's claims must be an object that is not empty.")
    return True


def _assurance(event: Event) -> bool:
    _text(event, "namespace")
    _text(event, "current_level")
    if "change_direction" not in event:
        return True
    return _text(event, "change_direction", "increase", "decrease") == "decrease"


def _risk(event: Event) -> bool:
    _text(event, "principal")
    return _text(event, "current_level", "LOW", "MEDIUM", "HIGH") == "HIGH"


def _compliance(event: Event) -> bool:
    states = ("compliant", "not-compliant")
    _text(event, "previous_status", *states)
    return _text(event, "current_status", *states) == "not-compliant"


def _text(event: Event, name: str, *allowed: str) -> str:
    value = event.get(name)
    if not isinstance(value, str) or not value or (allowed and value not in allowed):
        raise Refusal("invalid_request", f"The event's {name} must be {' or '.join(allowed) or 'text'}.")
    return value


_IDENTIFIERS = frozenset(("email", "phone_number"))

ACTIONS = {
    _CAEP + "session-revoked": Action(opaque="session"),
    _CAEP + "credential-change": Action(_credential),
    _CAEP + "token-claims-change": Action(_claims),
    _CAEP + "assurance-level-change": Action(_assurance, is_optional=True),
    _CAEP + "device-compliance-change": Action(_compliance, "device", is_optional=True),
    _CAEP + "risk-level-change": Action(_risk, "", is_optional=True),
    _RISC + "account-disabled": Action(),
    _RISC + "account-purged": Action(),
    _RISC + "sessions-revoked": Action(),
    _RISC + "credential-compromise": Action(lambda event: bool(_text(event, "credential_type"))),
    _RISC + "identifier-changed": Action(formats=_IDENTIFIERS),
    _RISC + "identifier-recycled": Action(formats=_IDENTIFIERS),
    # Google's, of a draft that never became a standard: all of a user's tokens.
    _OAUTH + "tokens-revoked": Action(),
}


def log_update(sender: str, event: Event) -> None:
    """Log that a transmitter has paused, stopped or resumed its stream: nobody would notice that events are missing."""
    status = _text(event, "status", "enabled", "paused", "disabled")
    log.warning("the event stream of %s is %s", sender, status)

"""POST /-/events: Security Event Tokens (RFC 8417) pushed by RFC 8935, with what SSF, CAEP and RISC 1.0 say."""

from __future__ import annotations

import math
from typing import Any

from gateway.auth.issuers import Issuers
from gateway.auth.signed import Message
from gateway.auth.tokens import is_time
from gateway.blacklist.rules import CutOff
from gateway.blacklist.target import LONGEST_REASON
from gateway.http.body import media_type
from gateway.http.wsgi import Context, Environ, context
from gateway.signals.answers import Answer, Refusal
from gateway.signals.event_kinds import ACTIONS, STREAM_UPDATED, VERIFICATION, log_update
from gateway.signals.record import Notice, Recorder
from gateway.signals.senders import EVENTS, Sender
from gateway.signals.subjects import Subject, find_subjects, read_subject

TYPE = "secevent+jwt"
UNTYPED = frozenset(("jwt", ""))
MEDIA_TYPE = "application/secevent+jwt"
# An event does not expire. Its `jti` is kept for so long, and an older one is not taken: so none counts twice.
LONGEST_SECONDS = 90 * 86_400
# RFC 8935 section 2.4, from the codes of problems.
ERRORS = {
    "wrong-issuer": "invalid_issuer",
    "wrong-audience": "invalid_audience",
    "bad-signature": "authentication_failed",
    "unknown-key": "invalid_key",
    "algorithm-not-allowed": "invalid_key",
    "": "invalid_request",
}


class Events:
    """Takes Security Event Tokens, however they come."""

    def __init__(self, recorder: Recorder, issuers: Issuers) -> None:
        self._recorder, self._issuers = recorder, issuers

    def __call__(self, environ: Environ, body: bytes) -> Answer:
        """Return 202 once the entries last, also for a token that came before. Raises `Refusal` or `Problem`."""
        if media_type(environ) != MEDIA_TYPE:
            raise Refusal("invalid_request", f"The body must be {MEDIA_TYPE}.")
        text = body.decode("ascii", "replace").strip()
        self.take(text, context(environ), environ.get("HTTP_AUTHORIZATION", ""))
        return Answer("202 Accepted")

    def take(self, text: str, about: Context, authorization: str | None) -> None:
        """Record what the token says. `authorization` is the field it was pushed with, None where it was fetched."""
        sender, message = self._recorder.senders.read(text, UNTYPED | {TYPE}, EVENTS, about)
        if authorization is not None and sender.authorization and not sender.is_authorized(authorization):
            raise Refusal("authentication_failed", "The Authorization field is not the one that was agreed on.")
        self._check(sender, message)
        events = message.claims["events"]
        found = {uri: self._subjects(uri, event, sender, message) for uri, event in events.items()}
        acting = {uri: events[uri] for uri, subjects in found.items() if subjects}
        notice = Notice(
            kind=EVENTS,
            sender=sender,
            subjects=[subject for subjects in found.values() for subject in subjects],
            cut_off=self._cut_off(acting, message),
            reason=_reason(acting or events),
            jti=message.text("jti"),
            kept_until=message.time("iat") + LONGEST_SECONDS,
        )
        self._recorder.record(notice, about)

    def _check(self, sender: Sender, message: Message) -> None:
        """Check what RFC 8417 section 2.2 and SSF 1.0 section 4.1 say of every event."""
        claims, now = message.claims, self._recorder.now()
        if message.typ != TYPE and not sender.without_typ:
            raise Refusal("invalid_request", f"The header must have the typ {TYPE}.")
        message.check(sender.audience, self._recorder.latest())
        if message.time("iat") < now - LONGEST_SECONDS:
            raise Refusal("invalid_request", "The event is too old.")
        for name in ("sub", "exp"):
            if claims.get(name) is not None:  # else an access token could pass for an event, and the reverse
                raise Refusal("invalid_request", f"An event must not have the claim {name}.")
        events = claims.get("events")
        if not isinstance(events, dict) or not events or not all(isinstance(each, dict) for each in events.values()):
            raise Refusal("invalid_request", "The claim events must be an object of objects that is not empty.")

    def _subjects(self, uri: str, event: dict[str, Any], sender: Sender, message: Message) -> list[Subject]:
        action = ACTIONS.get(uri)
        # Without a state it is the transmitter's own idea (SSF 1.0 section 8.1.4.2).
        if uri == VERIFICATION and sender.state and event.get("state") not in (None, sender.state):
            raise Refusal("invalid_state", "The state is not the expected one.")
        if uri == STREAM_UPDATED:
            log_update(sender.name, event)
        if action is None or (action.is_optional and uri.rpartition("/")[2] not in sender.extra_events):
            return []
        # Okta and Google have it in the event, as drafts did before SSF 1.0.
        subject = read_subject(message.claims.get("sub_id") or event.get("subject"))
        if action.formats and subject["format"] not in action.formats:
            raise Refusal("invalid_request", f"The subject must be {' or '.join(sorted(action.formats))}.")
        if not action.acts(event):
            return []
        return find_subjects(subject, sender, self._issuers, action.opaque or event["principal"].lower())

    def _cut_off(self, events: dict[str, Any], message: Message) -> CutOff:
        """Return the first second after the event: after it happened, if the message says when, not after it came."""
        # A time of 0 is one that its maker left out.
        times: list[Any] = [
            event.get("event_timestamp") or message.claims.get("toe") or None for event in events.values()
        ]
        if not all(each is None or (is_time(each) and each > 0) for each in times):
            raise Refusal("invalid_request", "The time of the event must be a number above 0.")
        if not times or not all(times):
            return self._recorder.cut_off_since(message.time("iat"))
        # One that lies ahead would lock the user out.
        happened: float = min(max(map(_seconds, times)), self._recorder.latest())
        return math.floor(happened) + 1


def _seconds(time: float) -> float:
    """Return the seconds of a time that may be in milliseconds, as Okta's are: 10**11 seconds are the year 5138."""
    return min(time, 10**15) / 1000 if time > 10**11 else time


def _reason(events: dict[str, Any]) -> str:
    """Return what an operator reads with the entry: the kind of event, and what its sender's administrator wrote."""
    [uri, event] = next(iter(events.items()))
    name = uri.rpartition("/")[2]
    texts = event.get("reason_admin")
    # By language; older drafts had one text.
    text = texts.get("en", next(iter(texts.values()), "")) if isinstance(texts, dict) else texts
    name += f": {text}" if isinstance(text, str) and text else ""
    return name[:LONGEST_REASON]

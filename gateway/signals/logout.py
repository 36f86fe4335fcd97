"""POST /-/logout: OpenID Connect Back-Channel Logout 1.0, sections 2.4 to 2.8."""

from __future__ import annotations

from gateway.auth.signed import Message
from gateway.http.values import value_text
from gateway.http.wsgi import Environ, context
from gateway.signals.answers import Answer, Refusal, read_form, read_one
from gateway.signals.record import Notice, Recorder
from gateway.signals.senders import LOGOUT, Sender
from gateway.signals.subjects import Subject, check_user

EVENT = "http://schemas.openid.net/event/backchannel-logout"
# Section 2.4 recommends logout+jwt, and knows that to require it breaks most of what is deployed.
TYPES = frozenset(("logout+jwt", "jwt", ""))


class Logout:
    """Blacklists a session for good, and a user's tokens with a cut-off."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self, environ: Environ, body: bytes) -> Answer:
        """Return 200 once the entries last. Raises `Refusal` or `Problem`."""
        about, text = context(environ), read_one(read_form(environ, body), "logout_token")
        sender, message = self._recorder.senders.read(text, TYPES, LOGOUT, about)
        expires_at = self._check(sender, message)
        notice = Notice(
            kind=LOGOUT,
            sender=sender,
            subjects=_subjects(sender, message),
            cut_off=self._recorder.cut_off_since(message.time("iat")),
            jti=message.text("jti"),
            kept_until=expires_at,
        )
        if not self._recorder.record(notice, about):
            raise Refusal("invalid_request", "The logout token was taken before.")
        return Answer()

    def _check(self, sender: Sender, message: Message) -> float:
        """Check all that section 2.6 says; return when the token expires."""
        claims = message.claims
        message.check(sender.audience, self._recorder.latest())
        has_exp = claims.get("exp") is not None or not sender.without_exp
        expires_at = message.time("exp") if has_exp else message.time("iat") + sender.without_exp
        if self._recorder.now() >= expires_at + self._recorder.leeway:
            raise Refusal("invalid_request", "The logout token has expired.")
        events = claims.get("events")
        if not isinstance(events, dict) or not isinstance(events.get(EVENT), dict):
            raise Refusal("invalid_request", "The claim events must be an object with the logout event, an object.")
        if "nonce" in claims:  # else an ID token could pass for one
            raise Refusal("invalid_request", "A logout token must not have a nonce.")
        return expires_at


def _subjects(sender: Sender, message: Message) -> list[Subject]:
    found = {}
    for name in ("sid", "sub"):
        if (value := message.claims.get(name)) is not None:  # some makers write null where there is none
            text = value_text(value)
            if text is None:
                raise Refusal("invalid_request", f"The claim {name} must be text that is not empty.")
            found[name] = text
    if not found:
        raise Refusal("invalid_request", "A logout token must have sub, sid or both.")
    subjects = []
    for issuer in sender.issuers_about():
        if "sid" in found:
            subjects.append(Subject(issuer, sender.claims["session"], found["sid"], for_good=True))
        if "sub" in found and (sender.by_subject or "sid" not in found):
            subjects.append(Subject(issuer, sender.claims["user"], found["sub"]))
    return check_user(subjects, sender)

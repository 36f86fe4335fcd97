"""POST /-/global-token-revocation: draft-parecki-oauth-global-token-revocation, as Okta's Universal Logout sends it."""

from __future__ import annotations

from urllib.parse import urljoin

from gateway.auth.issuers import Issuers
from gateway.auth.signed import Message
from gateway.http.body import JSON, media_type
from gateway.http.problems import REALM, Problem
from gateway.http.strict_json import json_object
from gateway.http.wsgi import Environ, context
from gateway.signals.answers import Answer, Refusal
from gateway.signals.record import Notice, Recorder
from gateway.signals.senders import REVOCATION, Sender
from gateway.signals.subjects import NotAbout, Subject, Unmatched, find_subjects, read_subject

PATH = "/-/global-token-revocation"
TYPES = frozenset(("global-token-revocation+jwt",))

FORBIDDEN, UNPROCESSABLE = "403 Forbidden", "422 Unprocessable Content"


class Revocation:
    """Blacklists all tokens that one user has been issued until now.

    `resource` is the URL of this API as its clients know it, if that is set.
    """

    def __init__(self, recorder: Recorder, issuers: Issuers, resource: str | None) -> None:
        self._recorder, self._issuers, self._resource = recorder, issuers, resource

    def __call__(self, environ: Environ, body: bytes) -> Answer:
        """Return 204 once the entries last. Raises `Refusal` or `Problem`."""
        sender, jti, issued, expires_at = self._authenticate(environ)
        subjects, cut_off = self._read(environ, body, sender), self._recorder.cut_off_since(issued)
        notice = Notice(
            kind=REVOCATION, sender=sender, subjects=subjects, cut_off=cut_off, jti=jti, kept_until=expires_at
        )
        if not self._recorder.record(notice, context(environ)):
            raise _unauthorized("The credential was used before.")
        return Answer("204 No Content")

    def _authenticate(self, environ: Environ) -> tuple[Sender, str, float, float]:
        """Return who asks, and the credential's `jti`, beginning and end; "" where it may be used again."""
        field = str(environ.get("HTTP_AUTHORIZATION", ""))
        if not field:
            raise _unauthorized("A credential is required.", error="")
        if sender := self._recorder.senders.by_authorization(field, REVOCATION):
            context(environ).refusal_log = {"sender": sender.name}
            return sender, "", 0, 0
        scheme, _, text = field.partition(" ")
        if scheme.lower() != "bearer":
            raise _unauthorized("The credential is not known.")
        try:
            sender, message = self._recorder.senders.read(text, TYPES, REVOCATION, context(environ))
            return sender, message.text("jti"), message.time("iat"), self._check(environ, sender, message)
        except Problem as problem:
            if problem.status != 401:
                raise
            raise _unauthorized(problem.detail) from problem
        except Refusal as refusal:
            raise Refusal(refusal.error, refusal.why, FORBIDDEN) from refusal

    def _check(self, environ: Environ, sender: Sender, message: Message) -> float:
        # Okta names this very URL, as it was given there, and in `sub` the client that we are to it.
        is_ours = str(message.claims.get("sub")) in sender.audience  # it may be a list, by which nothing can be found
        accepted = sender.audience | (_own_urls(environ, self._resource) if is_ours else set())
        message.check(accepted, self._recorder.latest())
        expires_at = message.time("exp")
        if self._recorder.now() >= expires_at + self._recorder.leeway:
            raise Problem("token-expired")
        return expires_at

    def _read(self, environ: Environ, body: bytes, sender: Sender) -> list[Subject]:
        if media_type(environ) != JSON:
            raise Refusal("invalid_request", f"The body must be {JSON}.")
        try:
            members = json_object(body)
        except ValueError as error:
            raise Refusal("invalid_request", "The body is not one JSON object with unique members.") from error
        try:
            # The draft has `sub_id`, Okta's and Auth0's own documents `subject`.
            return find_subjects(read_subject(members.get("sub_id") or members.get("subject")), sender, self._issuers)
        except NotAbout as reason:
            raise Refusal("access_denied", reason.why, FORBIDDEN) from reason
        except Unmatched as reason:
            if reason.not_supported:
                raise
            raise Refusal("unmatched", reason.why, UNPROCESSABLE) from reason


def _own_urls(environ: Environ, resource: str | None) -> set[str]:
    if resource:  # then the host is not whatever the client says: a proxy may take the resource's path away
        return {urljoin(resource, PATH), resource.rstrip("/") + PATH}
    # Behind a proxy that ends TLS we see http.
    return {f"{scheme}://{environ.get('HTTP_HOST', '')}{PATH}" for scheme in ("https", "http")}


def _unauthorized(why: str, error: str = "invalid_token") -> Refusal:
    challenge = f'Bearer realm="{REALM}"' + (f', error="{error}"' if error else "")
    return Refusal(error or "missing_credential", why, "401 Unauthorized", [("WWW-Authenticate", challenge)])

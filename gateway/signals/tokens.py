"""POST /-/revoke (RFC 7009) and POST /-/introspect (RFC 7662), for the JWTs of every issuer we know."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from gateway.auth.kinds import is_other_type, other_kind
from gateway.auth.signed import refuse_if_stale
from gateway.auth.tokens import Token, Verifier, clients_of, decode_object
from gateway.blacklist.rules import LARGEST_LEEWAY, Actor, Blacklist
from gateway.http.problems import Problem
from gateway.http.wsgi import Environ, context
from gateway.signals.answers import LARGEST_BODY, Answer, Refusal, read_form, read_one
from gateway.signals.clients import Client, Clients

REVOKE, INTROSPECT = "revoke", "introspect"
INACTIVE = {"active": False}


class Tokens:
    """Blacklists clients' tokens, and tells protected resources whether a token would pass, and its claims."""

    def __init__(self, clients: Clients, verifier: Verifier, blacklist: Blacklist) -> None:
        self._clients, self._verifier, self._blacklist = clients, verifier, blacklist
        # What would not pass here may pass at a gateway on the same store that serves another API.
        of_any = [
            replace(each, audience=frozenset(), client_ids=frozenset(), required=()) for each in verifier.issuers.all
        ]
        self._revocable = Verifier(of_any, max_bytes=LARGEST_BODY, cache_size=0, now=verifier.now)

    def revoke(self, environ: Environ, body: bytes) -> Answer:
        """Return 200 once the entry lasts, or where none is needed. Raises `Refusal` or `Problem`."""
        form = read_form(environ, body)
        client = self._clients.authenticate(environ, form, REVOKE)
        # A line feed of the file that it was read from would make it another text, of which 200 says nothing.
        text = read_one(form, "token").strip()
        token = self._genuine(text, form.get("token_type_hint") == "refresh_token")
        outcome = "nothing-to-do"
        # Another gateway may tolerate more, or greater ages, than this one does.
        if token and self._verifier.now() < token.expires_at + LARGEST_LEEWAY:
            _check_owner(token, client)
            about = context(environ)
            self._blacklist.add_token(token, Actor(f"client:{client.name}", about.client, REVOKE, about.trace))
            outcome = "taken"
        context(environ).signals += ((REVOKE, outcome),)
        return Answer()

    def _genuine(self, text: str, is_refresh: bool) -> Token | None:
        came = time.monotonic()
        # One that would not pass may be a refresh token, if its client says so.
        verifier = self._verifier if is_refresh else self._revocable
        try:
            return verifier.genuine(text)
        except Problem as problem:
            header, claims = _decode(text)
            refuse_if_stale(problem, verifier.issuers.of(claims), came)
            if problem.status == 503:  # RFC 7009 section 2.2.1: the token still exists
                raise
            if is_refresh or other_kind(claims) or is_other_type(str(header.get("typ", ""))):
                # It lives at the authorization server: 200 would say that it is gone.
                raise Refusal("unsupported_token_type", "Only access tokens can be revoked here.") from problem
            return None  # RFC 7009 section 2.2: whatever is invalid already needs no revoking

    def introspect(self, environ: Environ, body: bytes) -> Answer:
        """Return the claims of a token that would pass, and nothing about any other. Raises `Refusal` or `Problem`."""
        form = read_form(environ, body)
        client = self._clients.authenticate(environ, form, INTROSPECT)
        token = self._passing(read_one(form, "token").strip(), client)
        context(environ).signals += ((INTROSPECT, "active" if token else "inactive"),)
        return Answer(members=_claims(token) if token else INACTIVE)

    def _passing(self, text: str, client: Client) -> Token | None:
        try:
            token = self._verifier.verify(text)
            if client.knows(token.issuer.name) and not self._blacklist.has(token):
                return token
        except Problem as problem:
            if problem.status == 503:
                raise
        return None


def _decode(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and claims of a token that is not accepted, none where it is no JWT."""
    try:
        header, claims = map(decode_object, text.split(".")[:2])
    except (Problem, ValueError):
        return {}, {}
    return header, claims


def _check_owner(token: Token, client: Client) -> None:
    """Raise `Refusal` for a token that was issued to another client (RFC 7009 section 2.1)."""
    if not client.knows(token.issuer.name) or any(owner != client.name for owner in clients_of(token.claims)):
        raise Refusal("unauthorized_client", "The token was issued to another client.")


def _claims(token: Token) -> dict[str, object]:
    given = {name: value for name, value in token.claims.items() if value is not None}
    scopes = given.get("scope", given.get("scp"))
    named = {"scope": " ".join(map(str, scopes)) if isinstance(scopes, list) else scopes}
    named["client_id"] = given.get("client_id", given.get("azp"))
    texts = {name: value for name, value in named.items() if isinstance(value, str)}
    return {**token.claims, **texts, "token_type": "Bearer", "active": True}

"""Who may revoke and introspect tokens: OAuth clients, by Basic or in the body (RFC 6749 section 2.3.1)."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

from gateway.auth.issuers import is_named
from gateway.auth.secrets import is_same_secret
from gateway.http.problems import REALM
from gateway.http.wsgi import Environ, context
from gateway.signals.answers import Form, Refusal, read_one

FAILURES_A_MINUTE = 10  # of one client from one address
MOST_COUNTED = 10_000  # clients and addresses that are counted at a time

_CHALLENGE = [("WWW-Authenticate", f'Basic realm="{REALM}", charset="UTF-8"')]
UNAUTHORIZED = "401 Unauthorized"


@dataclass(frozen=True, slots=True)
class Client:
    """A client: its secrets, newest first, what it may (`revoke`, `introspect`), and whose tokens (none: all).

    `per_minute` is how many requests of it each worker answers.
    """

    name: str
    secrets: tuple[str, ...] = field(repr=False)
    may: frozenset[str]
    issuers: frozenset[str]
    per_minute: int

    def knows(self, issuer: str) -> bool:
        """Return whether the issuer's tokens are any business of the client's."""
        return not self.issuers or is_named(issuer, self.issuers)


class Clients:
    """Authenticates clients, and limits them: what fails by client and address, what succeeds by client.

    Each process counts for itself, by the minute.
    """

    def __init__(self, clients: Iterable[Client]) -> None:
        self._clients = {client.name: client for client in clients}
        self._minute = 0
        self._counts: dict[tuple[str, ...], int] = {}

    def any_may(self, what: str) -> bool:
        """Return whether any client may do that."""
        return any(what in client.may for client in self._clients.values())

    def authenticate(self, environ: Environ, form: Form, what: str) -> Client:
        """Return the client that asks, if it may do that.

        Raises `Refusal` invalid_request, invalid_client, unauthorized_client, or, beyond a limit, slow_down.
        """
        names, offered = _credentials(environ, form)
        client = next((self._clients[name] for name in names if name in self._clients), None)
        place = (client.name if client else "", context(environ).client or environ.get("REMOTE_ADDR", ""))
        self._check(FAILURES_A_MINUTE, *place)
        # Every secret is compared, and an unknown client takes as long: the time reveals nothing.
        secrets = client.secrets if client else ("",)
        is_right = sum(is_same_secret(each, secret) for each in secrets for secret in offered) > 0
        if client is None or not is_right:
            self._add(*place)
            raise Refusal("invalid_client", "No client has this name and secret.", UNAUTHORIZED, _CHALLENGE)
        self._check(client.per_minute, client.name)
        self._add(client.name)
        if what not in client.may:
            raise Refusal("unauthorized_client", "The client may not do this.")
        return client

    def _check(self, most: int, *key: str) -> None:
        """Raise `Refusal` slow_down once so many have been counted within this minute."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute or len(self._counts) > MOST_COUNTED:
            self._minute, self._counts = minute, {}
        if self._counts.get(key, 0) >= most:
            raise Refusal("slow_down", "There are too many requests.", "429 Too Many Requests", [("Retry-After", "60")])

    def _add(self, *key: str) -> None:
        self._counts[key] = self._counts.get(key, 0) + 1


def _credentials(environ: Environ, form: Form) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return name and secret, which stand in the Authorization field or in the form, and in one of them alone.

    In the field both are form-urlencoded; curl and others send them as they are: each may be either.
    """
    field_value = environ.get("HTTP_AUTHORIZATION")
    if field_value is None:
        if "client_secret" not in form:
            raise Refusal("invalid_client", "The client must authenticate.", UNAUTHORIZED, _CHALLENGE)
        return (read_one(form, "client_id"),), (read_one(form, "client_secret"),)
    scheme, _, encoded = field_value.partition(" ")
    if scheme.lower() != "basic":
        raise Refusal("invalid_client", "The client must authenticate by Basic.", UNAUTHORIZED, _CHALLENGE)
    try:
        name, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        colon = ""
    if not colon:
        raise Refusal("invalid_client", "The credentials are malformed.", UNAUTHORIZED, _CHALLENGE)
    names = (unquote_plus(name), name)
    if "client_secret" in form or form.get("client_id", name) not in names:
        raise Refusal("invalid_request", "The client must authenticate in one way alone.")
    return names, (unquote_plus(secret), secret)

"""CORS (Fetch): which pages of other origins may read the gateway's own answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.gate.public import is_preflight
from gateway.http.answers import respond
from gateway.http.target import BLACKLIST, request_target
from gateway.http.wsgi import Environ, Fields, StartResponse, context

ANY = "*"
_READABLE = "WWW-Authenticate, Retry-After, X-Request-Id"  # what a page sees beyond the safelisted fields
_PREFLIGHT: Fields = [
    ("Access-Control-Allow-Methods", "GET, POST, DELETE"),
    ("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id, Traceparent, Tracestate"),
    ("Access-Control-Max-Age", "600"),  # seconds
    ("Content-Type", "text/plain"),
]


class Cors:
    """Lets pages of `origins` (`https://app.example.com`, or `*`) read refusals and use `/blacklist`.

    Whether they may read the upstream's answers is for the upstream to say. Credentials of the browser's own (cookies)
    are never allowed.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.lower() for origin in origins)

    def make_readable(self, environ: Environ, start_response: StartResponse) -> StartResponse:
        """Return a start_response that opens the gateway's own answers to the page that asks."""
        about = context(environ)
        about.refusal_fields = own = self._origin_fields(environ)

        def start(status: str, fields: Fields, *rest: Any) -> Any:
            if about.refusal or (about.target is not None and about.target.is_own):
                fields = [*fields, *own]
            return start_response(status, fields, *rest)

        return start

    def answers(self, environ: Environ) -> bool:
        """Return whether the request is a preflight for the blacklist, of an origin that may use it."""
        path = request_target(environ).path
        is_ours = path == BLACKLIST or path.startswith(BLACKLIST + "/")
        return is_ours and is_preflight(environ["REQUEST_METHOD"], environ) and self._allows(environ)

    def answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a preflight."""
        return respond(environ, start_response, "200 OK", _PREFLIGHT, b"")

    def _origin_fields(self, environ: Environ) -> Fields:
        # Vary also where the origin is missing or not allowed: a cache must not give that answer to one that is.
        fields = [] if ANY in self._origins else [("Vary", "Origin")]
        if self._allows(environ):
            origin = ANY if ANY in self._origins else environ["HTTP_ORIGIN"]
            fields += [("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", _READABLE)]
        return fields

    def _allows(self, environ: Environ) -> bool:
        origin = environ.get("HTTP_ORIGIN")
        return origin is not None and (ANY in self._origins or origin.lower() in self._origins)

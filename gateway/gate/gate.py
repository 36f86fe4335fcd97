"""Gate: the table of contents of a request."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from time import perf_counter
from typing import Any

from gateway.auth.bearer import bearer_token
from gateway.auth.tokens import Token, Verifier
from gateway.blacklist.resource import Answer, Resource, success
from gateway.blacklist.rules import Blacklist
from gateway.gate.cors import Cors
from gateway.gate.identity import Identity
from gateway.gate.public import Public
from gateway.gate.streams import Streams
from gateway.http.answers import refuse, respond
from gateway.http.body import abandon_body
from gateway.http.problems import Problem
from gateway.http.target import BLACKLIST, is_decision, request_target
from gateway.http.wsgi import App, Context, Environ, StartResponse, call_of, close_body, context, start_lazily


class Gate:
    """A WSGI middleware that lets a request through only with a good token that is not blacklisted.

    It answers `/blacklist` and `/-/…` itself. `pages` are resources that need no token, by path: they
    tell nothing secret, or authenticate their callers themselves. Whatever cannot be decided raises, and does not pass.
    `resource_metadata` is the address that challenges name (RFC 9728), if any. Without `streams` none is ended.
    """

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        app: App,
        *,
        verifier: Verifier,
        blacklist: Blacklist,
        resource: Resource,
        identity: Identity,
        public: Public,
        pages: dict[str, App],
        cors: Cors | None,
        streams: Streams | None,
        resource_metadata: str,
    ) -> None:
        self.app = call_of(app)
        self.streams = streams
        self._resource_metadata = resource_metadata
        self._verifier = verifier
        self._blacklist = blacklist
        # A store on this machine has none: it answers sooner than a request can pause.
        self._find_in_pauses: Any = getattr(blacklist.store, "find_in_pauses", None)
        self._resource = resource
        self._identity = identity
        self._public = public
        self._pages = pages
        self._cors = cors

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or pass it on with the token's identity."""
        if self._cors:
            start_response = self._cors.make_readable(environ, start_response)
        try:
            about = context(environ)
            target = request_target(environ)
            if self._cors and self._cors.answers(environ):
                return self._cors.answer(environ, start_response)
            path = target.path
            if path in self._pages:
                return self._pages[path](environ, start_response)
            about.resource_metadata = self._resource_metadata
            if target.is_own and is_decision(path):
                abandon_body(environ)  # outer proxies send the head alone, and some say that a body follows
            if about.overloaded:
                raise Problem("overloaded")
            if self._public.admits(environ, path):
                return self._go_on(environ, start_response, about, None, None)
            began = perf_counter()
            try:
                token = self._verify(environ, about)
            finally:
                verified = perf_counter()
                about.auth_seconds = verified - began
            if about.resume and self._find_in_pauses:
                return self._look_up_in_pauses(environ, start_response, about, token)
            try:
                refusal = self._blacklist.refusal(token)
            finally:
                about.store_seconds = perf_counter() - verified
            return self._go_on(environ, start_response, about, token, refusal)
        except Problem as problem:
            return refuse(problem, environ, start_response)

    def _verify(self, environ: Environ, about: Context) -> Token:
        credentials = environ.get("HTTP_AUTHORIZATION", "")
        token = self._verifier.cached(credentials)
        if token is None:
            text = bearer_token(credentials)
            about.is_cached = self._verifier.has_cached(text)
            token = self._verifier.genuine(text)
        else:
            about.is_cached = True
        self._verifier.check_times(token)
        about.token = token
        return token

    def _look_up_in_pauses(
        self, environ: Environ, start_response: StartResponse, about: Context, token: Token
    ) -> Generator[bytes, None, None]:
        """Answer once the store has, with no thread held meanwhile."""
        body: Iterable[bytes] = ()
        began = perf_counter()
        try:
            try:
                found = yield from self._find_in_pauses(self._blacklist.lookup_keys(token), about)
            finally:
                about.store_seconds = perf_counter() - began
            body = self._go_on(environ, start_response, about, token, self._blacklist.refusal(token, found))
        except Problem as problem:
            body = refuse(problem, environ, start_response)
        has_ended = False
        try:
            yield from body
            has_ended = True
        finally:
            close_body(body, has_ended=has_ended)

    def _go_on(
        self,
        environ: Environ,
        start_response: StartResponse,
        about: Context,
        token: Token | None,
        refusal: Problem | None,
    ) -> Iterable[bytes]:
        """Answer, or pass the request on, now that the caller's token is known (None where none is needed)."""
        target = about.target
        if refusal and target.path != BLACKLIST:
            raise refusal
        if target.is_own:
            return self._answer_own(environ, start_response, token, refusal is not None)
        self._identity.set(environ, token, about)
        body = self.app(environ, start_response)
        # `watch` is for servers that cannot cut a stream off.
        if about.cut or token is None or self.streams is None or isinstance(body, (list, tuple)):
            return body
        return self.streams.watch(body, token)

    def _answer_own(
        self, environ: Environ, start_response: StartResponse, token: Token | None, blacklisted: bool
    ) -> Iterable[bytes]:
        if is_decision(request_target(environ).path):
            # Without a body no type is needed, but wsgiref.validate wants one.
            fields = [*self._identity.fields(token), ("Content-Type", "text/plain")]
            return respond(environ, start_response, "200 OK", fields, b"")
        if token is None:
            raise Problem("missing-credentials")
        answer = self._resource.answer(environ, token, blacklisted)
        return start_lazily(context(environ), self._answer_blacklist(environ, start_response, answer))

    def _answer_blacklist(
        self, environ: Environ, start_response: StartResponse, answer: Generator[bytes, None, Answer]
    ) -> Generator[bytes, None, None]:
        """Answer for /blacklist, once the request's body is there."""
        try:
            body = success((yield from answer))
        except Problem as problem:
            yield from refuse(problem, environ, start_response)
        else:
            yield from respond(environ, start_response, "200 OK", [("Content-Type", "application/json")], body)

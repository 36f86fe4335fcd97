"""How the resources of signals answer: one WSGI app for all, whose errors have the members each document asks for."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from gateway.http.answers import refuse, respond
from gateway.http.body import FORM, media_type, read_whole
from gateway.http.problems import Problem
from gateway.http.target import collect
from gateway.http.wsgi import Environ, StartResponse, context, start_lazily

LARGEST_BODY = 64 * 1024  # bytes

Form = Mapping[str, str | list[str]]

log = logging.getLogger("gateway.signals")


class Refusal(Exception):
    """A message that is not taken: the document's error code, one sentence that holds no claim's value, the status."""

    def __init__(
        self, error: str, why: str, status: str = "400 Bad Request", fields: Iterable[tuple[str, str]] = ()
    ) -> None:
        super().__init__(error)
        self.error, self.why, self.status, self.fields = error, why, status, tuple(fields)
        self.outcome = error  # for the metrics


class Answer(NamedTuple):
    """What is answered; without members, nothing."""

    status: str = "200 OK"
    members: dict[str, Any] | None = None


class Resource:
    """One resource that is asked by POST and authenticates its callers itself.

    `handle` gets environ and body, and returns an answer, or raises `Refusal` or `Problem`. `names` are the members of
    an error; `errors` has the document's error for a `Problem`'s code, "" standing for all others.
    """

    def __init__(
        self,
        kind: str,
        handle: Callable[[Environ, bytes], Answer],
        *,
        names: tuple[str, str] = ("error", "error_description"),
        errors: Mapping[str, str] | None = None,
    ) -> None:
        self._kind, self._handle, self._names = kind, handle, names
        self._errors = errors or {"": "invalid_request"}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as a WSGI app does."""
        return start_lazily(context(environ), self._respond(environ, start_response))

    def _respond(self, environ: Environ, start_response: StartResponse) -> Generator[bytes, None, None]:
        try:
            if environ["REQUEST_METHOD"] != "POST":
                raise Problem("method-not-allowed", fields=[("Allow", "POST")])
            if context(environ).overloaded:
                raise Problem("overloaded")
            answer = self._handle(environ, (yield from read_whole(environ, LARGEST_BODY)))
        except Refusal as refusal:
            yield from self._refuse(refusal, environ, start_response)
        except Problem as problem:
            if problem.status not in (400, 401):
                yield from refuse(problem, environ, start_response)
            else:  # of a message or its body, not of the caller's own token
                error = self._errors.get(problem.code, self._errors[""])
                context(environ).refusal_log = {**context(environ).refusal_log, **problem.log}
                yield from self._refuse(Refusal(error, problem.detail), environ, start_response)
        else:
            context(environ).refusal_log = {}
            yield from _send(answer, environ, start_response)

    def _refuse(self, refusal: Refusal, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        about = context(environ)
        about.refusal, about.refusal_detail = "signal-refused", refusal.why
        about.signals = about.signals or ((self._kind, refusal.outcome),)
        record = {"error": refusal.error, "from": about.client, **about.refusal_log}
        log.warning("%s refused: %s", self._kind, refusal.why, extra={"record": record})
        body = json.dumps(dict(zip(self._names, (refusal.error, refusal.why), strict=True))).encode()
        # RFC 8935 section 2.3 demands the language; it does no harm elsewhere.
        fields = [("Content-Type", "application/json"), ("Content-Language", "en"), *refusal.fields]
        return respond(environ, start_response, refusal.status, fields, body)


def _send(answer: Answer, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if answer.status.startswith("204"):  # RFC 9110 section 8.6: it has no length
        start_response(answer.status, [("Cache-Control", "no-store")])
        return []
    body = b"" if answer.members is None else json.dumps(answer.members).encode()
    # Without a body no type is needed, but wsgiref.validate wants one.
    kind = "application/json" if body else "text/plain"
    return respond(environ, start_response, answer.status, [("Content-Type", kind)], body)


def read_form(environ: Environ, body: bytes) -> Form:
    """Return the members of a form. Raises `Refusal` for anything else."""
    if media_type(environ) != FORM:
        raise Refusal("invalid_request", f"The body must be {FORM}.")
    try:
        return collect(parse_qsl(body.decode(), keep_blank_values=True, errors="strict"))
    except ValueError as error:
        raise Refusal("invalid_request", "The body is no form.") from error


def read_one(form: Form, name: str) -> str:
    """Return the one value of a form's member. Raises `Refusal` where it is missing or there twice."""
    value = form.get(name)
    if not isinstance(value, str) or not value:
        raise Refusal("invalid_request", f"The form must have one {name}.")
    return value

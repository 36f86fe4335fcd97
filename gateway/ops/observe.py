"""One record per request: the outermost stage, which sees the whole of it and changes nothing."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Protocol

from gateway.http.problems import KINDS, Problem
from gateway.http.protocols import Credential
from gateway.http.target import OPERATORS, PROBES, is_decision
from gateway.http.wsgi import App, Context, Environ, Fields, StartResponse, call_of, close_body, context

CLIENT_LEFT: Final = "client-left"
_CLIENT_LEFT_STATUS: Final = "499"  # nginx's; no client ever sees it

Write = Callable[[str, dict[str, Any]], None]

# Not what may be a token: every JWT's header begins with `{"`.
_SANE_ID: Final = re.compile(r"(?!eyJ)[A-Za-z0-9._:;/+=-]{1,128}")
# The trace's id in W3C Trace Context's `traceparent`: neither it nor its parent's is zero; later versions add parts.
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-+\--~]*)?")


_ids: list[str] = []
os.register_at_fork(after_in_child=_ids.clear)


def _new_id() -> str:
    """Return 16 random hexadecimal digits. Many are made at once: each by itself, they cost 1 % of a request."""
    while True:
        try:
            return _ids.pop()
        except IndexError:  # another thread may take the last one, too
            digits = os.urandom(512).hex()
            _ids.extend(digits[at : at + 16] for at in range(0, len(digits), 16))


class Metrics(Protocol):
    """What counts requests."""

    def started(self) -> None:
        """Count a request in flight."""

    def finished(self, environ: Environ, request: Request) -> None:
        """Count a finished request."""


class Traces(Protocol):
    """What makes a span of each request."""

    def begin(self, environ: Environ, about: Context) -> None:
        """Begin a request's span, and note the trace's id."""

    def finished(self, environ: Environ, request: Request) -> None:
        """End a request's spans."""

    def close(self) -> None:
        """Deliver what waits, within a second."""


class Observe:
    """Passes every request on under an id, and tells the log and the metrics what became of it.

    `client_of` returns the client's address by the rules of trust; `write` takes a line's message and members, and
    `write_probe` those of probes that find nothing wrong, if they are to be told apart. With `in_detail` a line says
    more about the decision.
    """

    def __init__(
        self,
        app: App,
        client_of: Callable[[Environ], str],
        *,
        write: Write | None = None,
        write_probe: Write | None = None,
        metrics: Metrics | None = None,
        traces: Traces | None = None,
        in_detail: bool = False,
    ) -> None:
        self.app = call_of(app)
        self.streams = getattr(app, "streams", None)
        self._client_of = client_of
        self._write, self._write_probe = write, write_probe or write
        self._in_detail = in_detail
        self._metrics = metrics
        self._traces = traces

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as the app does; the request is observed when its response is closed."""
        about = context(environ)
        about.client = self._client_of(environ)
        inbound = environ.get("HTTP_X_REQUEST_ID")
        about.request_id = inbound if inbound and _SANE_ID.fullmatch(inbound) else _new_id()
        environ["HTTP_X_REQUEST_ID"] = about.request_id
        if self._traces:
            self._traces.begin(environ, about)
        elif "HTTP_TRACEPARENT" in environ and (trace := _TRACE.fullmatch(environ["HTTP_TRACEPARENT"])):
            about.trace = trace[1]
        start = partial(_start_with_id, about, start_response)
        if not (self._write or self._metrics or self._traces):
            return self.app(environ, start)
        if self._metrics:
            self._metrics.started()
        seen = Request(environ, about, self._tell)
        try:
            body = self.app(environ, start)
        except BaseException as error:
            seen.fail(error)
            seen.close()
            raise
        return seen.response(body)

    def close(self) -> None:
        """Deliver what is known of requests, within a second: for the server, at its end."""
        if self._traces:
            self._traces.close()

    def _tell(self, environ: Environ, request: Request) -> None:
        if self._metrics:
            self._metrics.finished(environ, request)
        if self._traces:
            self._traces.finished(environ, request)
        write = self._write_probe if is_good_probe(environ, request) else self._write
        if write:
            members = _members(environ, request)
            if self._in_detail:
                members |= _details(environ)
            write(f"{members['method']} {request.status}", members)


class Request:
    """One request as it is observed: it stands between app and server, and tells at its end what became of it.

    `outcome` is the refusal's code, or `passed`; `seconds` is how long it took.
    """

    # Set at its end.
    route: str
    status: int
    outcome: str
    seconds: float

    __slots__ = ("_about", "_began", "_body", "_environ", "_fault", "_tell", "outcome", "route", "seconds", "status")

    def __init__(self, environ: Environ, about: Context, tell: Callable[[Environ, Request], None]) -> None:
        self._environ, self._about, self._tell = environ, about, tell
        self._began = time.perf_counter()
        self._fault = ""
        self._body: Iterable[bytes] = ()

    def response(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Return what the server is to send: a list is over here, anything else when the server closes it."""
        if isinstance(body, list):
            self.close()
            return body
        self._body = body
        self._fault = CLIENT_LEFT  # unless the server takes it to its end
        return self

    def fail(self, error: BaseException) -> None:
        """Note why there is no answer, or no whole one."""
        if isinstance(error, ConnectionError):  # the client's: an upstream's are Problems
            self._fault, self._about.status = CLIENT_LEFT, _CLIENT_LEFT_STATUS
        else:
            self._fault = error.code if isinstance(error, Problem) else "internal-error"

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
            self._fault = ""
        except Exception as error:
            self.fail(error)
            raise

    def close(self) -> None:
        """Close the app's response, and tell."""
        try:
            close_body(self._body, has_ended=not self._fault)
        finally:
            self.seconds = time.perf_counter() - self._began
            about = self._about
            fault, refusal = self._fault, about.refusal
            # A response that was cut off looks like one whose client left, but for the refusal.
            self.outcome = (refusal or fault if fault == CLIENT_LEFT else fault or refusal) or "passed"
            self.route = _route(about.target)
            self.status = int((about.status or _status_of(self.outcome))[:3])
            self._tell(self._environ, self)


def _status_of(outcome: str) -> str:
    """Return the status of an answer that the server gave in the app's place, or that nobody got."""
    if outcome == CLIENT_LEFT:
        return _CLIENT_LEFT_STATUS
    return KINDS[outcome if outcome in KINDS else "internal-error"].status


def _start_with_id(
    about: Context, start_response: StartResponse, status: str, fields: Fields, *rest: Any
) -> Callable[[bytes], object]:
    """Start the response; it names the request's id, unless it names one itself."""
    about.status = status
    for name, _ in fields:  # as a generator it would cost 1 % of a request
        if len(name) == 12 and name.lower() == "x-request-id":
            break
    else:
        fields = [*fields, ("X-Request-Id", about.request_id)]
    write: Callable[[bytes], object] = start_response(status, fields, *rest) if rest else start_response(status, fields)
    return write


def _route(target: Any) -> str:
    """Return the route's class. A path may hold what must not be logged."""
    if target is None:
        return "none"
    if not target.is_own:
        return "upstream"
    if is_decision(target.path):
        return "decision"
    return "operators" if target.path.startswith(OPERATORS) else "blacklist"


def is_good_probe(environ: Environ, request: Request) -> bool:
    """Return whether it is a health check that succeeded: they come thousands of times a day."""
    return request.route == "operators" and request.status == 200 and context(environ).target.path in PROBES


def _details(environ: Environ) -> dict[str, Any]:
    """Return what helps to find out why a request was decided on as it was."""
    about = context(environ)
    found: dict[str, Any] = {"detail": about.refusal_detail} if about.refusal_detail else {}
    if about.is_cached is not None:
        found["remembered"] = about.is_cached
    if about.token is not None:
        found["issuer"] = str(about.token.claims.get("iss"))[:256]
    if about.overloaded:
        found["overloaded"] = True
    return found


# How the values of a line are written that hold nothing to be escaped: sane ids, words of our own and numbers.
PLAIN: Mapping[str, str] = {
    "id": '"%s"',
    "route": '"%s"',
    "status": "%d",
    "outcome": '"%s"',
    "ms": "%.3f",
    "auth_ms": "%.3f",
    "store_ms": "%.3f",
    "upstream_ms": "%.3f",
    "upstream_status": "%d",
    "token": '"%s"',
    "fingerprint": '"%s"',
}


def _members(environ: Environ, request: Request) -> dict[str, Any]:
    about = context(environ)
    members: dict[str, Any] = {
        "id": about.request_id,
        "method": environ["REQUEST_METHOD"][:32],
        "route": request.route,
        "status": request.status,
        "outcome": request.outcome,
        "client": about.client[:64],
        "ms": request.seconds * 1000,
    }
    if (seconds := about.auth_seconds) is not None:
        members["auth_ms"] = seconds * 1000
    if (seconds := about.store_seconds) is not None:
        members["store_ms"] = seconds * 1000
    if (seconds := about.upstream_seconds) is not None:
        members["upstream_ms"] = seconds * 1000
    if (status := about.upstream_status) is not None:
        members["upstream_status"] = status
    if about.cause:
        members["cause"] = about.cause
    if about.trace:
        members["trace"] = about.trace
    if about.refusal_log:
        members |= {name: value[:256] for name, value in about.refusal_log.items()}
    if about.token is not None:
        _add_token(members, about.token)
    return members


def _add_token(members: dict[str, Any], token: Credential) -> None:
    members["token"] = token.fingerprint[:12]
    members["fingerprint"] = token.fingerprint  # with the first digits alone nobody could blacklist it
    subject = token.claims.get("sub")
    if isinstance(subject, (str, int)):
        members["subject"] = str(subject)[:128]

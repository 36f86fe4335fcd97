"""One record per request: the outermost stage, which sees the whole of it and changes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gateway.http.wsgi import App, Context, Environ, Fields, StartResponse, call_of, context
from gateway.ops.request import Request, is_good_probe

if TYPE_CHECKING:
    from gateway.ops.metrics import Metrics
    from gateway.ops.traces import Traces

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
    if (token := about.token) is not None:
        members["token"] = token.fingerprint[:12]
        members["fingerprint"] = token.fingerprint  # with the first digits alone nobody could blacklist it
        subject = token.claims.get("sub")
        if isinstance(subject, (str, int)):
            members["subject"] = str(subject)[:128]
    return members

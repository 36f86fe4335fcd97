"""WSGI's types, and what the server and the stages of the pipeline tell each other about one request."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, cast

from gateway.http.protocols import Credential, Pause

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]
Fields = list[tuple[str, str]]

CONTEXT_KEY: Final = "gateway.context"  # in an environ; a server may set it before it calls the app
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Context:
    """What is known about one request beside its environ. The one named above a value sets it, the others read it.

    A server other than the bundled one sets nothing; then the defaults hold.
    """

    # Made for each request: with a `__dict__` each look at it would take three times as long.
    __slots__ = (
        "auth_seconds", "body_left", "cause", "client", "client_left", "cut", "farewell", "interim", "interims",
        "is_alone", "is_cached", "is_duplex", "is_unread", "overloaded", "pause", "received", "refusal",
        "refusal_detail", "refusal_fields", "refusal_log", "request_id", "resource_metadata", "resume", "signals",
        "span", "status", "store_seconds", "target", "token", "trace", "upstream_seconds", "upstream_span",
        "upstream_status",
    )  # fmt: skip

    def __init__(self) -> None:
        # The bundled server.
        self.received: tuple[str, ...] | None = None  # the environ keys of the client's own fields; None: not known
        self.overloaded = False  # the request has waited longer than QUEUE_TIMEOUT
        self.client_left: Callable[[], bool] | None = None  # return whether the client has closed the connection
        self.pause: Pause | None = None  # None: the server cannot wait, so the stage must
        self.resume: Callable[[], None] | None = None  # end a pause early; callable from any thread. None: no pause
        # End the response visibly, never as if it were complete, for a refusal's code; callable from any thread.
        # Before the response's head was sent, the refusal is the answer.
        self.cut: Callable[[str], None] | None = None
        self.is_alone = False  # no other connection is ready: a response need not let others go first
        # The client does not read what it was sent. Only a response that `is_duplex` is asked then: for b"", or its
        # end.
        self.is_unread = False
        # Send an interim answer at once: status ("103 Early Hints") and fields. HTTP/1.0 clients get none.
        self.interim: Callable[[str, Fields], None] | None = None
        # `http.body`, on servers that cannot pause
        self.body_left: int | None = None  # bytes of the body to be read, -1: not known; None: none was read yet
        # `http.target`, when it is first asked for the target; read by all.
        self.target: Any = None
        # `ops.observe`
        self.client: str = ""  # the client's address by the rules of trust
        self.request_id = ""  # the client's own where it is a sane one; it goes upstream, back, and into the log
        self.trace = ""  # the trace's id (W3C Trace Context), for the log
        self.status = ""  # the answer's, such as "200 OK"; "": none was given
        # `ops.traces`, OpenTelemetry's; None: it is off, or there is none
        self.span: Any = None
        self.upstream_span: Any = None
        # `gate.gate`
        self.token: Credential | None = None
        self.is_cached: bool | None = None  # whether the token was verified before; None: there is no token
        self.auth_seconds: float | None = None  # how long it took to verify the token; None: it was not asked for
        self.store_seconds: float | None = None  # the same of the question to the blacklist
        self.resource_metadata = ""  # the address that challenges name (RFC 9728)
        self.refusal_fields: Iterable[tuple[str, str]] = ()  # `gate.cors`: for a refusal that the server gives itself
        # `signals`
        self.signals: tuple[tuple[str, str], ...] = ()  # kind and outcome of each message that came with the request
        # Whoever refuses, for the log.
        self.refusal = ""
        self.refusal_detail = ""
        self.refusal_log: Mapping[str, str] = _NOTHING
        # `proxy.tunnel`: return the last bytes for a client that is cut off for that code, b"" where there can be none
        self.farewell: Callable[[str], bytes] | None = None
        # `proxy`: whether the response goes on with the request's body while its client does not read
        self.is_duplex = False
        self.interims = 0  # of the upstream's interim answers, how many have come
        # `proxy.exchange`
        self.upstream_seconds: float | None = None  # until the head of the upstream's answer came, or why there is none
        self.upstream_status: int | None = None
        self.cause = ""  # why the upstream gave no (whole) answer, for the log


def context(environ: Environ) -> Context:
    """Return the request's context."""
    try:
        found: Context = environ[CONTEXT_KEY]
    except KeyError:
        found = environ[CONTEXT_KEY] = Context()
    return found


def call_of(app: App) -> App:
    """Return what a call of `app` calls: an object's method, found once, is called sooner than the object."""
    found: Any = app
    return app if isinstance(app, type) else cast(App, found.__call__)


def close_body(body: Any, *, has_ended: bool = False) -> None:
    """Close what an app returned, if it is to be closed (PEP 3333).

    A generator that has ended is not: compiled, it would raise and drop an exception, which takes 1 % of a request.
    """
    if not (has_ended and hasattr(body, "throw")) and hasattr(body, "close"):
        body.close()


def start_lazily(about: Context, body: Generator[bytes, None, None]) -> Iterable[bytes]:
    """Return a body that starts its response when it is asked for its first part.

    Where the server cannot be told to wait, it is asked here: granian takes the status as soon as the app returns.
    """
    if about.pause is not None:
        return body
    from werkzeug.wsgi import ClosingIterator  # it takes a tenth of the start, and the bundled server does without

    first = next(body, None)
    return ClosingIterator(body if first is None else chain([first], body), body.close)

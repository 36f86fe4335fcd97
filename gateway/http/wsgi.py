"""WSGI's types, and what the server and the stages of the pipeline tell each other about one request."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from itertools import chain
from time import perf_counter
from types import MappingProxyType
from typing import Any, TypeVar, TypeVarTuple

from werkzeug.wsgi import ClosingIterator

from gateway.http.protocols import Credential, Pause

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]
Fields = list[tuple[str, str]]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_KEY = "gateway.context"


class Context:
    """What is known about one request beside its environ. Whoever is named first sets a value, the others read it.

    A server other than the bundled one sets nothing; then the defaults hold.
    """

    # The bundled server.
    received: tuple[str, ...] | None = None  # the environ keys of the client's own fields; None: not known
    overloaded = False  # the request has waited longer than QUEUE_TIMEOUT
    client_left: Callable[[], bool] | None = None  # return whether the client has closed the connection
    pause: Pause | None = None  # None: the server cannot wait, so the stage must
    # End the response visibly, never as if it were complete, for a refusal's code; callable from any thread. Before the
    # response's head was sent, the refusal is the answer.
    cut: Callable[[str], None] | None = None
    # The client does not read what it was sent. Only a response that `is_duplex` is asked then: for b"", or its end.
    is_unread = False
    # Send an interim answer at once: status ("103 Early Hints") and fields. HTTP/1.0 clients get none.
    interim: Callable[[str, Fields], None] | None = None
    # `http.body`, on servers that cannot pause
    body_left: int | None = None  # bytes of the body still to be read, -1: not known; None: nothing was read yet
    # `http.target`, when it is first asked for the target; read by all.
    target: Any = None
    # `ops.observe`
    client: str = ""  # the client's address by the rules of trust
    request_id = ""  # the client's own where it is a sane one; it goes upstream, back, and into the log
    trace = ""  # the trace's id (W3C Trace Context), for the log
    seconds: dict[str, float] | None = None  # how long each part took; None: nobody asks
    # `ops.traces`, OpenTelemetry's; None: it is off, or there is none
    span: Any = None
    upstream_span: Any = None
    # `gate.gate`
    token: Credential | None = None
    is_cached: bool | None = None  # whether the token was verified before; None: there is no token
    resource_metadata = ""  # the address that challenges name (RFC 9728)
    # `signals`
    signals: tuple[tuple[str, str], ...] = ()  # kind and outcome of each message that came with the request
    # Whoever refuses, for the log.
    refusal = ""
    refusal_detail = ""
    refusal_log: Mapping[str, str] = MappingProxyType({})
    # `proxy.tunnel`: return the last bytes for a client that is cut off for that code, b"" where there can be none
    farewell: Callable[[str], bytes] | None = None
    # `proxy`: whether the response goes on with the request's body while its client does not read
    is_duplex = False
    # `proxy.exchange`
    upstream_status: int | None = None
    cause = ""  # why the upstream gave no (whole) answer, for the log


def context(environ: Environ) -> Context:
    """Return the request's context."""
    try:
        found: Context = environ[_KEY]
    except KeyError:
        found = environ[_KEY] = Context()
    return found


def give_context(environ: Environ, given: Context) -> None:
    """Have `given` be the request's context: for a server, before it calls the app."""
    environ[_KEY] = given


def start_lazily(environ: Environ, body: Generator[bytes, None, None]) -> Iterable[bytes]:
    """Return a body that starts its response when it is asked for its first part.

    Where the server cannot be told to wait, it is asked here: granian takes the status as soon as the app returns.
    """
    if context(environ).pause is not None:
        return body
    first = next(body, None)
    return ClosingIterator(body if first is None else chain([first], body), body.close)


def measure(about: Context, part: str, work: Callable[[*Ts], T], *args: *Ts) -> T:
    """Return what `work` returns, and note how long it took, also when it raises."""
    began = perf_counter()
    try:
        return work(*args)
    finally:
        if about.seconds is not None:
            about.seconds[part] = perf_counter() - began


def note_seconds(about: Context, part: str, began: float) -> None:
    """Note how long a part took that began at that time of `perf_counter`, if somebody asks for it."""
    if about.seconds is not None:
        about.seconds[part] = perf_counter() - began

"""OpenTelemetry: a span for each request, and within it one for the decision and one for the upstream's part.

This is the one module that imports OpenTelemetry, and nothing imports it while traces are off. Sampling, batches and
the exporter are the SDK's, set by its own environment variables. A span has no token, no claim and no query.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.context import Context as Spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.http.build import VERSION
from gateway.http.target import DECISION
from gateway.http.wsgi import App, Context, Environ, StartResponse, context
from gateway.ops.openapi import own_paths
from gateway.ops.request import Request, is_good_probe

log = logging.getLogger("gateway")

NAME = "jwt-blacklist-gateway"
CLOSE_SECONDS = 1.0  # what a process waits at its end until its last spans are delivered
MAX_PATH = 256  # characters

_W3C = TraceContextTextMapPropagator()
_CARRIED = {"traceparent": "HTTP_TRACEPARENT", "tracestate": "HTTP_TRACESTATE"}
_OWN_PATHS = own_paths()  # nothing else is a name
# Those of RFC 9110 and RFC 5789; others are `_OTHER`, or anybody could make names without end.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
# A part of a path that may be a secret: one that is as long as 120 random bits, unless it is a UUID.
_SECRET = re.compile(
    r"(?<=/)(?!(?i:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?:/|$))(?:eyJ[^/]*|[^/]{20,})"
)

Attributes = dict[str, Any]


class Traces:
    """Makes the spans of this process's requests. `upstream` is the URL of what is behind the gateway.

    Raises ValueError for environment variables that the SDK does not take. `exporter` is for tests.
    """

    def __init__(self, upstream: str, exporter: SpanExporter | None = None) -> None:
        # Its lines have what it cannot read of OTEL_EXPORTER_OTLP_HEADERS: credentials, mostly.
        logging.getLogger("opentelemetry.util.re").addFilter(_hide_values)
        resource = Resource.create({"service.version": VERSION, "process.pid": os.getpid()})
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": NAME}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(Delivery(exporter or OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("gateway", VERSION)
        parts = urlsplit(upstream)
        self._upstream = parts.geturl().rstrip("/")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self._peer = {"server.address": parts.hostname or "", "server.port": port}
        self._is_closed = False
        atexit.register(self.close)  # on servers that do not close their application

    def begin(self, environ: Environ, about: Context) -> None:
        """Begin the request's span, in the trace that a `traceparent` names (W3C Trace Context) or one of its own."""
        carried = {name: environ[key] for name, key in _CARRIED.items() if key in environ}
        method = _method(environ)
        about.span = self._tracer.start_span(
            _span_name(method), _W3C.extract(carried, Spans()), SpanKind.SERVER, {"http.request.method": method}
        )
        about.trace = format(about.span.get_span_context().trace_id, "032x")

    def begin_upstream(self, environ: Environ) -> None:
        """Begin the span of the request that goes on, and name it in that request's `traceparent`."""
        about, method = context(environ), _method(environ)
        within = set_span_in_context(about.span, Spans())
        about.upstream_span = self._tracer.start_span(
            _span_name(method), within, SpanKind.CLIENT, {"http.request.method": method, **self._peer}
        )
        carried: dict[str, str] = {}
        _W3C.inject(carried, set_span_in_context(about.upstream_span, Spans()))
        for name, key in _CARRIED.items():
            if name in carried:
                environ[key] = carried[name]
            else:
                environ.pop(key, None)  # a state without a parent that is one

    def finished(self, environ: Environ, request: Request) -> None:
        """End the spans of a request, with what became of it. Those of successful health checks are dropped."""
        about = context(environ)
        span = about.span
        if span is None or not span.is_recording() or is_good_probe(environ, request):
            return
        path = _path(about)
        if about.auth_seconds is not None:
            self._add_decision(span, request, about)
        if about.upstream_span is not None:
            _end_upstream(about, request, self._upstream + path)
        if route := _own_route(request, path):
            span.update_name(f"{_span_name(_method(environ))} {route}")
            span.set_attribute("http.route", route)
        span.set_attributes(_server_attributes(environ, request, about, path))
        if request.status >= 500:
            span.set_attribute("error.type", request.outcome)
            span.set_status(StatusCode.ERROR)
        span.end()

    def _add_decision(self, span: Any, request: Request, about: Context) -> None:
        """Add the span of the decision, with which the request began."""
        parts = {"auth": about.auth_seconds, "store": about.store_seconds}
        took = {part: seconds for part, seconds in parts.items() if seconds is not None}
        attributes: Attributes = {f"gateway.{part}_ms": round(took[part] * 1000, 3) for part in took}
        attributes["gateway.outcome"] = request.outcome if about.upstream_span is None else "passed"
        if about.is_cached is not None:
            attributes["gateway.remembered"] = about.is_cached
        decision = self._tracer.start_span(
            "decision", set_span_in_context(span, Spans()), attributes=attributes, start_time=span.start_time
        )
        decision.end(span.start_time + int(sum(took.values()) * 1e9))

    def close(self) -> None:
        """Deliver the spans that wait, within CLOSE_SECONDS; what is not delivered by then is lost."""
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(RuntimeError):  # the interpreter ends, and starts no thread any more
            # The SDK would wait for half a minute, and for each retry.
            thread = Thread(target=self._provider.shutdown, name="gateway-traces", daemon=True)
            thread.start()
            thread.join(CLOSE_SECONDS)


class Traced:
    """A WSGI stage before the upstream, which begins its span."""

    def __init__(self, app: App, traces: Traces) -> None:
        self.app = app
        self._traces = traces

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as the app does."""
        self._traces.begin_upstream(environ)
        return self.app(environ, start_response)


class Delivery(SpanExporter):
    """Delivers spans by another exporter, and logs once when that begins to fail, and once when it works again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._fails = False
        self._first_line = _FirstLine()
        library = logging.getLogger("opentelemetry")  # it has a line or more for each failure
        library.handlers, library.propagate = [self._first_line], False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Deliver a batch, in the SDK's own thread."""
        self._first_line.text = ""
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - older ones raise where a collector is down or silent
            result, self._first_line.text = SpanExportResult.FAILURE, type(error).__name__
        fails = result is not SpanExportResult.SUCCESS
        if fails and not self._fails:
            log.warning("traces cannot be delivered, and are lost: %s", self._first_line.text or "no cause is known")
        if self._fails and not fails:
            log.info("traces are delivered again")
        self._fails = fails
        return result

    def shutdown(self) -> None:
        """Give up what is being retried."""
        self._exporter.shutdown()


class _FirstLine(logging.Handler):
    """Keeps the first record of a library as one line: what comes later says that it tries again, and gives up."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or " ".join(record.getMessage().split())[:500]  # it may have the collector's answer


def _hide_values(record: logging.LogRecord) -> bool:
    record.args = ("**********",) * len(record.args or ())
    return True


def _method(environ: Environ) -> str:
    method: str = environ["REQUEST_METHOD"]
    return method if method in _METHODS else "_OTHER"


def _span_name(method: str) -> str:
    return "HTTP" if method == "_OTHER" else method


def _path(about: Context) -> str:
    """Return the path without what may be a secret in it; "" where there is none."""
    path = "" if about.target is None else about.target.path
    return path if path in _OWN_PATHS else _SECRET.sub("REDACTED", path)[:MAX_PATH]


def _own_route(request: Request, path: str) -> str:
    """Return which of the gateway's own routes answered; "" for none."""
    if request.route == "decision":
        return DECISION  # what was asked about may follow
    return path if request.route in ("blacklist", "operators") and path in _OWN_PATHS else ""


def _server_attributes(environ: Environ, request: Request, about: Context, path: str) -> Attributes:
    return {
        "url.scheme": environ["wsgi.url_scheme"],
        "url.path": path,
        "http.response.status_code": request.status,
        "network.protocol.version": environ.get("SERVER_PROTOCOL", "HTTP/1.1")[5:],
        "client.address": about.client[:64],
        "gateway.outcome": request.outcome,
        "gateway.request_id": about.request_id,
    }


def _end_upstream(about: Context, request: Request, url: str) -> None:
    span, status = about.upstream_span, about.upstream_status
    span.set_attribute("url.full", url)
    if status is not None:
        span.set_attribute("http.response.status_code", status)
    failed = request.outcome if request.outcome.startswith("upstream-") else str(status) if (status or 0) >= 400 else ""
    if failed:
        span.set_attribute("error.type", failed)
        span.set_status(StatusCode.ERROR)
    span.end()

"""A collector of traces: OTLP over HTTP, read with OpenTelemetry's own protobuf definitions.

with Collector() as collector:
    Running(directory, upstream.url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    collector.spans, collector.raw
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Span(NamedTuple):
    """One span as it was delivered; ids in hexadecimal, times in nanoseconds, `kind` as in `SERVER`."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    start: int
    end: int
    is_error: bool


class Collector:
    """Takes traces on an ephemeral port of this machine."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.raw: list[bytes] = []
        self.paths: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def named(self, kind: str) -> list[Span]:
        return [span for span in self.spans if span.kind == kind]

    def _take(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        self.raw.append(body)
        self.spans += read_spans(body)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def read_spans(body: bytes) -> list[Span]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    return [
        Span(
            span.name,
            span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            _values(span.attributes),
            _values(of.resource.attributes),
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            span.status.code == 2,
        )
        for of in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in of.scope_spans
        for span in scope.spans
    ]


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}

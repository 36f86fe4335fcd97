"""One trace for a request: what came, the decision, and what went upstream. Off, it is not there at all."""

import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import SECRET, Api, Clock, mint

from gateway import Gateway, Settings
from gateway.cli.check import check_config
from gateway.config.tracing import traces_endpoint
from gateway.ops.observe import Observe

TOKEN = mint(sub="subject-1001", jti="a")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
INBOUND = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}

needs_otel = pytest.mark.skipif(
    "opentelemetry.sdk" not in sys.modules
    and subprocess.run([sys.executable, "-c", "import opentelemetry.sdk"], check=False, capture_output=True).returncode,
    reason="the extra otel is not installed",
)


@pytest.fixture(autouse=True)
def no_variables_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


class Traced:
    """A gate that is traced, and the spans it made."""

    def __init__(self, app: Any, settings: Settings, now: Callable[[], float]) -> None:
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        from gateway.ops.traces import Traced as Stage
        from gateway.ops.traces import Traces

        self.records: list[dict[str, Any]] = []
        self._exporter = InMemorySpanExporter()
        self.traces = Traces("https://api.test/v1/", self._exporter)
        gate = Gateway(Stage(app, self.traces), settings, now=now)
        observed = Observe(
            gate, lambda _: "192.0.2.7", write=lambda _, members: self.records.append(members), traces=self.traces
        )
        self.ask = Api(observed)
        self.store = gate._blacklist.store

    def spans(self) -> dict[str, Any]:
        """Return the spans by kind, once they are delivered."""
        self.traces.close()
        return {span.kind.name: span for span in self._exporter.get_finished_spans()}


@pytest.fixture
def traced(upstream: Any, store_url: str, clock: Clock) -> Iterator[Callable[..., Traced]]:
    made: list[Traced] = []

    def make(app: Any = upstream) -> Traced:
        made.append(Traced(app, Settings(secret=(SECRET,), store=store_url), clock))
        return made[-1]

    yield make
    for each in made:
        each.traces.close()
        each.store.close()


@needs_otel
class TestOneTrace:
    def test_client_decision_and_upstream_are_in_one_trace(self, traced: Any, upstream: Any) -> None:
        watched = traced()
        watched.ask("GET", "/orders/7?secret=1", TOKEN, headers=INBOUND)
        server, decision, client = (watched.spans()[kind] for kind in ("SERVER", "INTERNAL", "CLIENT"))
        assert {format(span.context.trace_id, "032x") for span in (server, decision, client)} == {TRACE}
        assert format(server.parent.span_id, "016x") == PARENT
        assert decision.parent.span_id == client.parent.span_id == server.context.span_id
        sent = upstream.requests[-1]
        assert re.fullmatch(f"00-{TRACE}-{client.context.span_id:016x}-0[13]", sent["HTTP_TRACEPARENT"])
        assert sent["HTTP_TRACESTATE"] == "vendor=1"
        assert watched.records[-1]["trace"] == TRACE
        assert server.start_time <= decision.end_time <= server.end_time
        assert server.start_time <= client.start_time <= client.end_time <= server.end_time

    @pytest.mark.parametrize("inbound", ["", "00-0-0-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01"])
    def test_a_request_without_a_good_traceparent_begins_a_trace(
        self, traced: Any, upstream: Any, inbound: str
    ) -> None:
        watched = traced()
        fields = {"traceparent": inbound, "tracestate": "vendor=1"} if inbound else {}
        watched.ask("GET", "/", TOKEN, headers=fields)
        server = watched.spans()["SERVER"]
        assert server.parent is None
        assert watched.records[-1]["trace"] == f"{server.context.trace_id:032x}" != TRACE
        assert f"{server.context.trace_id:032x}" in upstream.requests[-1]["HTTP_TRACEPARENT"]
        assert "HTTP_TRACESTATE" not in upstream.requests[-1]

    def test_spans_have_what_the_conventions_for_http_ask_for(self, traced: Any) -> None:
        watched = traced()
        watched.ask("PUT", "/orders/7?secret=1", TOKEN)
        spans = watched.spans()
        server = dict(spans["SERVER"].attributes)
        assert server.pop("gateway.request_id") == watched.records[-1]["id"]
        assert server == {
            "http.request.method": "PUT",
            "url.scheme": "http",
            "url.path": "/orders/7",
            "http.response.status_code": 200,
            "network.protocol.version": "1.1",
            "client.address": "192.0.2.7",
            "gateway.outcome": "passed",
        }
        assert dict(spans["CLIENT"].attributes) == {
            "http.request.method": "PUT",
            "server.address": "api.test",
            "server.port": 443,
            "url.full": "https://api.test/v1/orders/7",
        }
        assert {"gateway.outcome", "gateway.remembered", "gateway.auth_ms", "gateway.store_ms"} == set(
            spans["INTERNAL"].attributes
        )
        assert [spans[kind].name for kind in ("SERVER", "INTERNAL", "CLIENT")] == ["PUT", "decision", "PUT"]
        resource = spans["SERVER"].resource.attributes
        assert resource["service.name"] == "jwt-blacklist-gateway"

    def test_a_refusal_is_told_and_is_no_error_of_ours(self, traced: Any) -> None:
        watched = traced()
        watched.ask("GET", "/", mint("another secret"))
        spans = watched.spans()
        assert set(spans) == {"SERVER", "INTERNAL"}
        assert spans["SERVER"].attributes["gateway.outcome"] == "bad-signature"
        assert spans["INTERNAL"].attributes["gateway.outcome"] == "bad-signature"
        assert spans["SERVER"].status.is_unset

    def test_an_upstream_that_fails_is_an_error_of_both(self, traced: Any) -> None:
        def failing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            environ["gateway.context"].refusal = "upstream-unreachable"
            start_response("502 Bad Gateway", [("Content-Type", "text/plain")])
            return [b""]

        watched = traced(failing)
        watched.ask("GET", "/", TOKEN)
        spans = watched.spans()
        for kind in ("SERVER", "CLIENT"):
            assert (spans[kind].attributes["error.type"], spans[kind].status.is_ok) == ("upstream-unreachable", False)

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("/blacklist", "GET /blacklist"),
            ("/-/auth/orders/7", "GET /-/auth"),
            ("/-/global-token-revocation", "GET /-/global-token-revocation"),
            ("/x", "GET"),
            ("/-/x", "GET"),
        ],
    )
    def test_only_our_own_routes_are_names(self, traced: Any, path: str, name: str) -> None:
        watched = traced()
        for token in (TOKEN, None):
            watched.ask("GET", path, token)
        watched.traces.close()
        spans = [span for span in watched._exporter.get_finished_spans() if span.kind.name == "SERVER"]
        assert [span.name for span in spans] == [name] * 2

    def test_probes_that_find_nothing_amiss_have_no_span(self, traced: Any) -> None:
        watched = traced()
        assert watched.ask("GET", "/-/live").status_code == 200
        assert watched.spans() == {}

    def test_a_method_that_nobody_knows_makes_no_name(self, traced: Any) -> None:
        watched = traced()
        watched.ask("SECRETS", "/", TOKEN)
        span = watched.spans()["SERVER"]
        assert (span.name, span.attributes["http.request.method"]) == ("HTTP", "_OTHER")

    def test_no_span_has_a_token_a_claim_or_a_query(self, traced: Any) -> None:
        watched = traced()
        for path in (f"/{TOKEN}", f"/reset/{'s3cr3t' * 5}/now?access_token={TOKEN}", "/?q=of-the-query"):
            fields = {"Cookie": f"jwt={TOKEN}", "Referer": f"/{TOKEN}", "X-Request-ID": TOKEN, "User-Agent": TOKEN}
            watched.ask("GET", path, TOKEN, headers=fields)
        watched.ask("POST", "/blacklist", TOKEN, json={"token": TOKEN, "reason": "of-the-query"})
        watched.traces.close()
        told = " ".join(span.to_json() for span in watched._exporter.get_finished_spans())
        assert "/reset/REDACTED/now" in told
        for part in (*TOKEN.split("."), "subject-1001", "of-the-query", "s3cr3t", "access_token"):
            assert part not in told

    def test_a_long_path_is_cut_and_no_secret_in_two(self, traced: Any) -> None:
        watched = traced()
        watched.ask("GET", "/of/it" * 42 + "/" + "s3cr3t" * 5, TOKEN)  # the limit lies within the secret
        [path] = {span.attributes["url.path"] for kind, span in watched.spans().items() if kind == "SERVER"}
        assert len(path) == 256
        assert "s3cr" not in path

    def test_a_uuid_in_a_path_is_no_secret(self, traced: Any) -> None:
        watched = traced()
        watched.ask("GET", "/orders/0af76519-16cd-43dd-8448-eb211c80319c/lines", TOKEN)
        assert watched.spans()["SERVER"].attributes["url.path"].startswith("/orders/0af76519-16cd-43dd")

    def test_what_is_not_sampled_goes_on_as_such(self, traced: Any, upstream: Any) -> None:
        watched = traced()
        watched.ask("GET", "/", TOKEN, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
        assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-0[02]", upstream.requests[-1]["HTTP_TRACEPARENT"])
        assert PARENT not in upstream.requests[-1]["HTTP_TRACEPARENT"]
        assert watched.spans() == {}

    @pytest.mark.parametrize(("sampler", "is_told"), [("always_off", False), ("traceidratio", True)])
    def test_the_sampler_is_that_of_the_standard_variables(
        self, traced: Any, monkeypatch: pytest.MonkeyPatch, sampler: str, is_told: bool
    ) -> None:
        """A client's word about sampling does not count, where the sampler does not ask for it."""
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
        watched = traced()
        watched.ask("GET", "/", TOKEN, headers={"traceparent": f"00-{TRACE}-{PARENT}-0{int(not is_told)}"})
        assert bool(watched.spans()) == is_told

    def test_two_traceparents_are_none(self, traced: Any) -> None:
        watched = traced()
        watched.ask("GET", "/", TOKEN, headers={"traceparent": f"{INBOUND['traceparent']},{INBOUND['traceparent']}"})
        assert watched.spans()["SERVER"].parent is None

    def test_the_audit_log_names_the_trace(self, traced: Any, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO", "gateway.audit"):
            traced().ask("POST", "/blacklist", TOKEN, headers=INBOUND)
        assert [record.record["trace"] for record in caplog.records if record.name == "gateway.audit"] == [TRACE]


@needs_otel
def test_a_collector_that_is_down_is_told_of_once_and_once_that_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    from opentelemetry.sdk.trace.export import SpanExportResult

    from gateway.ops.traces import Delivery

    class Exporter:
        works = raises = False

        def export(self, spans: Any) -> Any:
            if self.raises:
                raise ConnectionRefusedError
            if not self.works:
                logging.getLogger("opentelemetry.exporter").warning("connection\nrefused")
                logging.getLogger("opentelemetry.exporter").error("given up")
            return SpanExportResult.SUCCESS if self.works else SpanExportResult.FAILURE

    exporter = Exporter()
    delivery = Delivery(exporter)
    with caplog.at_level("INFO", "gateway"):
        for exporter.works in (False, False, True, True, False):
            delivery.export([])
        exporter.works = True
        for exporter.raises in (False, True, True):
            delivery.export([])
    assert [record.getMessage() for record in caplog.records] == [
        "traces cannot be delivered, and are lost: connection refused",
        "traces are delivered again",
        "traces cannot be delivered, and are lost: connection refused",
        "traces are delivered again",
        "traces cannot be delivered, and are lost: ConnectionRefusedError",
    ]


COLLECTOR = "http://collector:4318"


@needs_otel
@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR}, COLLECTOR),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": COLLECTOR + "/v1/traces"}, COLLECTOR + "/v1/traces"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_SERVICE_NAME": "x"}, None),
    ],
)
def test_the_standard_variables_turn_them_on(
    variables: dict[str, str], endpoint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert traces_endpoint() == endpoint


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "not by 'zipkin'"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "not by 'grpc'"),
    ],
)
def test_what_cannot_be_done_is_refused_at_the_start(
    variables: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=told):
        traces_endpoint()


def test_without_the_extra_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setattr("gateway.config.tracing.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install opentelemetry-sdk"):
        traces_endpoint()


@needs_otel
def test_headers_that_the_exporter_cannot_read_are_not_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from gateway.ops.traces import Traces

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization: Bearer s3cret")
    monkeypatch.setattr(logging.getLogger("opentelemetry"), "propagate", True)
    Traces("http://api.test").close()
    assert "Header format invalid" in caplog.text
    assert "s3cret" not in caplog.text


@needs_otel
def test_check_config_refuses_variables_of_the_sdk_with_which_serve_would_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", COLLECTOR)
    assert CliRunner().invoke(check_config).exit_code == 0
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "-1")
    assert "schedule_delay_millis must be positive" in str(CliRunner().invoke(check_config).exception)

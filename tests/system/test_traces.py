"""Traces of a running gateway, as a collector gets them."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from collector import Collector
from helpers import mint
from processes import free_port
from recorder import Recorder, ok, until
from running import Running

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")
pytestmark = pytest.mark.slow

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TOKEN = mint(sub="subject-1001")
PARTS = {"SERVER", "INTERNAL", "CLIENT"}


def test_each_worker_delivers_whole_traces_and_a_worker_that_ends_its_last_ones(tmp_path: Path) -> None:
    with Collector() as collector, Recorder(ok()) as upstream:
        flags = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "edge"}
        with Running(tmp_path, upstream.url, "--workers", "2", OTEL_BSP_SCHEDULE_DELAY="100", **flags) as gateway:

            def have_both_delivered() -> bool:
                gateway.get("/info?secret=1", TOKEN, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
                return {span.resource["process.pid"] for span in collector.spans} == set(gateway.workers)

            assert until(have_both_delivered)
            [traceparent] = upstream.requests[-1].values("traceparent")
            assert gateway.request("POST", "/blacklist", TOKEN).status == 200
        # SIGTERM has ended it: nothing that was answered is missing.
        assert {span.trace for span in collector.named("CLIENT")} == {TRACE}
        last = [span for span in collector.spans if f"-{span.id}-" in traceparent]
        assert [(span.kind, span.attributes["http.response.status_code"]) for span in last] == [("CLIENT", 200)]
        assert {span.kind for span in collector.spans if span.trace == TRACE} == PARTS
        by_id = {span.id: span for span in collector.spans}
        assert all(by_id[span.parent].kind == "SERVER" for span in collector.spans if span.kind != "SERVER")
        [taken_back] = [span for span in collector.spans if span.name == "POST /blacklist"]
        assert taken_back.attributes["gateway.outcome"] == "passed"
        assert {span.resource["service.name"] for span in collector.spans} == {"edge"}
        assert collector.paths == {"/v1/traces"}
        told = b"".join(collector.raw)
        assert not [part for part in (*TOKEN.split("."), "subject-1001", "secret=") if part.encode() in told]
    access = [record for record in gateway.records if record["logger"] == "gateway.access" and record["status"] == 200]
    assert TRACE in {record["trace"] for record in access}
    [audit] = [record for record in gateway.records if record["logger"] == "gateway.audit"]
    assert audit["trace"] == taken_back.trace


def test_a_collector_that_is_down_or_silent_holds_no_request_and_no_exit(tmp_path: Path) -> None:
    with Recorder(ok()) as upstream, socket.create_server(("127.0.0.1", 0)) as silent:
        for number, port in enumerate((free_port(), silent.getsockname()[1])):
            directory = tmp_path / str(number)
            directory.mkdir()
            # A queue of 16 is full at once.
            flags = {"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}
            flags |= {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_TIMEOUT": "60"}
            with Running(directory, upstream.url, "--workers", "1", **flags) as gateway:
                assert [gateway.get("/", TOKEN).status for _ in range(50)] == [200] * 50
                # The SDK itself would wait for thirty seconds; `wait` fails after as many.
                gateway.signal(signal.SIGTERM)
                assert gateway.wait() == 0
            assert "Queue full" not in gateway.log
            assert "Traceback" not in gateway.log


def test_a_gateway_that_cannot_do_what_is_asked_for_does_not_start(tmp_path: Path) -> None:
    flags = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    gateway = Running(tmp_path, "http://127.0.0.1:9", **flags)
    assert gateway.wait() == 2
    assert "OTEL_EXPORTER_OTLP_PROTOCOL: traces go by http/protobuf, not by 'grpc'" in gateway.log


def test_off_they_are_not_even_imported(store_url: str) -> None:
    command = f"import sys; from gateway import *; build_app(Settings(store={store_url!r})); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert not {"opentelemetry", "google.protobuf"} & set(loaded.split())

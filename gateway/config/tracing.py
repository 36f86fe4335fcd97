"""Whether traces are on: OpenTelemetry's own environment variables say it, and no setting of ours."""

from __future__ import annotations

import os
from importlib.util import find_spec

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_DEFAULT = "http://localhost:4318"  # the exporter's own


def traces_endpoint() -> str | None:
    """Return where traces go, None where they are off.

    They are on where OTEL_TRACES_EXPORTER is `otlp`, or is not set and an endpoint is. Raises ValueError for what is
    asked for and cannot be done.
    """
    endpoint = _first(_ENDPOINTS)
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "") or ("otlp" if endpoint else "none")
    if exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if exporter != "otlp":
        raise ValueError(f"OTEL_TRACES_EXPORTER: traces go by otlp or none, not by {exporter!r}")
    protocol = _first(_PROTOCOLS) or _PROTOCOL
    if protocol != _PROTOCOL:
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL: traces go by {_PROTOCOL}, not by {protocol!r}")
    if not _is_installed():
        raise ValueError(
            "OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_TRACES_EXPORTER turns traces on, which need two more packages: "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http; "
            "OTEL_TRACES_EXPORTER=none turns them off"
        )
    return endpoint or _DEFAULT


def _first(names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")


def _is_installed() -> bool:
    try:
        return all(find_spec(name) for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"))
    except ModuleNotFoundError:
        return False

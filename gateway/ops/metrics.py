"""Metrics for Prometheus: each worker process counts, and any process can add up what all of them counted."""

from __future__ import annotations

import os
import time
from collections import Counter as Sum
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from gateway.http.blocking import blocking
from gateway.http.wsgi import Environ, context
from gateway.ops.logs import dropped_lines
from gateway.ops.request import Request

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own: where processes leave their figures
# Seconds, for whole requests and for their parts.
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROUTES = ("upstream", "decision", "blacklist", "operators")
POLL_SECONDS = 1  # how often, at most, the age of keys is looked at


class Metrics:
    """Counts and times the requests of this process.

    `key_age` returns the age of the oldest keys in seconds, `pruned` how many expired entries this process has
    deleted. `registry` is one of prometheus-client's, which takes every name once; None is a new one, for where the
    figures are in files.
    """

    def __init__(self, key_age: Callable[[], float], pruned: Callable[[], int], registry: Any = None) -> None:
        # Imported late: prometheus-client decides at its import whether several processes share the figures.
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        own = registry or CollectorRegistry()  # not the global one: an app may be built twice
        counter, gauge = partial(Counter, registry=own), partial(Gauge, registry=own)
        self._requests = counter("gateway_requests", "Requests", ["route", "outcome"])
        for route in ROUTES:  # no alert sees an increase in a counter that begins at 1
            self._requests.labels(route, "internal-error")
        self._seconds = Histogram("gateway_request_seconds", "Whole requests", buckets=BUCKETS, registry=own)
        parts = Histogram("gateway_part_seconds", "Parts of requests", ["part"], buckets=BUCKETS, registry=own)
        self._parts = [parts.labels(part) for part in ("auth", "store", "upstream")]
        tokens = counter("gateway_tokens", "Tokens, by whether verified before", ["remembered"])
        self._tokens = {True: tokens.labels("yes"), False: tokens.labels("no")}
        told = "Messages and requests of identity providers and clients"
        self._signals = counter("gateway_signals", told, ["kind", "outcome"])
        for kind in ("events", "revocation"):
            self._signals.labels(kind, "unmatched")
        self._errors = counter("gateway_store_errors", "Requests refused as the store is unavailable")
        self._causes = counter("gateway_store_unavailable", "The same, by cause", ["cause"])
        self._pruned = counter("gateway_entries_pruned", "Expired entries deleted")
        self._dropped = counter("gateway_log_lines_dropped", "Log lines that nobody read")
        self._age = gauge("gateway_key_age_seconds", "Age of the oldest keys", multiprocess_mode="livemax")
        self._in_flight = gauge("gateway_requests_in_flight", "Requests in flight", multiprocess_mode="livesum")
        self._key_age = key_age
        self._totals = [(self._pruned, pruned), (self._dropped, dropped_lines)]
        self._before = [count() for _, count in self._totals]
        self._polled = float("-inf")

    def started(self) -> None:
        """Count a request in flight."""
        self._in_flight.inc()

    def finished(self, environ: Environ, request: Request) -> None:
        """Count a finished request."""
        self._in_flight.dec()
        self._requests.labels(request.route, request.outcome).inc()
        self._seconds.observe(request.seconds)
        about = context(environ)
        took = about.auth_seconds, about.store_seconds, about.upstream_seconds
        for part, seconds in zip(self._parts, took, strict=True):
            if seconds is not None:
                part.observe(seconds)
        for kind, outcome in about.signals:
            self._signals.labels(kind, outcome).inc()
        if about.is_cached is not None:
            self._tokens[about.is_cached].inc()
        if request.outcome == "store-unavailable":
            self._errors.inc()
            self._causes.labels(about.refusal_log.get("cause", "unknown")).inc()
        self._poll()

    def _poll(self) -> None:
        before, self._before = self._before, [count() for _, count in self._totals]
        for (counter, _), old, new in zip(self._totals, before, self._before, strict=True):
            if new > old:
                counter.inc(new - old)
        if time.monotonic() - self._polled > POLL_SECONDS:
            self._polled = time.monotonic()
            self._age.set(self._key_age())


def are_shared() -> bool:
    """Return whether the processes' figures can be added up."""
    return DIRECTORY in os.environ


def decisions() -> dict[str, int]:
    """Return how many requests had which outcome since the start, in all processes; probes are left out."""
    counts = Sum[str]()
    with blocking():
        found = list(add_up(Path(os.environ[DIRECTORY]), "counter_*.db"))
    for metric in found:
        for sample in metric.samples:
            if sample.name == "gateway_requests_total" and sample.labels["route"] != "operators" and sample.value:
                counts[sample.labels["outcome"]] += int(sample.value)
    return dict(counts)


def add_up(directory: Path, pattern: str = "*.db") -> Iterable[Any]:
    """Return the metrics that the processes left in the directory."""
    from prometheus_client.multiprocess import MultiProcessCollector

    files = [str(path) for path in directory.glob(pattern) if _has_figures(path)]
    return MultiProcessCollector.merge(files, accumulate=True)  # type: ignore[no-any-return, no-untyped-call]


def _has_figures(path: Path) -> bool:
    """Return whether the collector can read a file: that of a process that is just starting is empty.

    One of a process that has ended may be gone: two scrapers come at once.
    """
    with suppress(FileNotFoundError):
        return path.stat().st_size > 0
    return False

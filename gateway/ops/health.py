"""Whether the process serves, and whether it is ready: what an orchestrator asks, answered without detail."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.http.answers import page
from gateway.http.draining import is_draining
from gateway.http.wsgi import App, Environ, StartResponse, context

live = page(b"live\n", "text/plain")  # the process serves
_ready = page(b"ready\n", "text/plain")
_not_ready = page(b"not ready\n", "text/plain", status="503 Service Unavailable")


def readiness(*checks: Callable[[], object]) -> App:
    """Return a resource that answers 200 if no check raises, else 503 without saying why; in a drain, 503."""

    def ready(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            if is_draining():
                raise RuntimeError("draining")
            for check in checks:
                check()
        except Exception as error:  # noqa: BLE001 - whatever the reason, the answer is "not ready"
            about = context(environ)
            about.refusal, about.refusal_log = getattr(error, "code", "not-ready"), getattr(error, "log", {})
            return _not_ready(environ, start_response)
        return _ready(environ, start_response)

    return ready

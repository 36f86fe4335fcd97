"""The gateway without its gate: all else of the pipeline, but no token, no blacklist, no identity."""

from functools import partial

from gateway.app import build_upstream
from gateway.config.settings import Settings
from gateway.gate.annotate import Annotate
from gateway.ops.observe import Observe
from gateway.proxy.forwarded import client_address
from gateway.server import listening, serve

settings = Settings()


def load() -> Observe:
    """Return all but the gate."""
    client = partial(client_address, trusted_proxies=settings.trusted_proxies)
    return Observe(Annotate(build_upstream(settings), settings.annotate), client)


with listening(settings.host, settings.port) as sock:
    serve(load, sock=sock, workers=settings.workers, threads=settings.threads, renew=lambda: load)

"""The gateway without its gate: all else of the pipeline, but no token, no blacklist, no identity."""

from functools import partial

from gateway.app import build_upstream
from gateway.ops.access_log import Observe
from gateway.proxy.annotate import Annotate
from gateway.proxy.fields import client_address
from gateway.server import serve
from gateway.settings import Settings

settings = Settings()
serve(
    lambda: Observe(
        Annotate(build_upstream(settings), settings.annotate),
        partial(client_address, trusted_proxies=settings.trusted_proxies),
    ),
    host=settings.host, port=settings.port, workers=settings.workers, threads=settings.threads,
)

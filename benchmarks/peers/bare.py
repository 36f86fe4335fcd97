"""The proxy without the gate: the same server, the same way to the upstream, no token and no blacklist."""

from gateway.app import build_upstream
from gateway.server import serve
from gateway.settings import Settings

settings = Settings()
serve(
    lambda: build_upstream(settings), host=settings.host, port=settings.port,
    workers=settings.workers, threads=settings.threads,
)

"""`app`, for any WSGI server: `gunicorn gateway.wsgi:app`, `granian --interface wsgi gateway.wsgi:app`."""

import logging

from gateway.app import build_app
from gateway.ops.logs import configure_logging
from gateway.settings import Settings
from gateway.startup import announce

settings = Settings()
configure_logging(settings.log_format, settings.log_level)
announce(settings)
if settings.metrics_port is not None:
    logging.getLogger("gateway").warning("METRICS_PORT is served by `gateway serve` alone")
app = build_app(settings)

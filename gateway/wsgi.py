"""`app`, for any WSGI server: `gunicorn gateway.wsgi:app`, `granian --interface wsgi gateway.wsgi:app`."""

import logging

from gateway.app import build_app, warnings
from gateway.ops.logs import configure_logging
from gateway.settings import Settings

settings = Settings()
configure_logging(settings.log_format, settings.log_level)
for warning in warnings(settings):
    logging.getLogger("gateway").warning(warning)
app = build_app(settings)

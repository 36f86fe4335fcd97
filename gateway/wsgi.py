"""`app`, for any WSGI server: `gunicorn gateway.wsgi:app`, `granian --interface wsgi gateway.wsgi:app`."""

from gateway.app import build_app
from gateway.ops.logs import configure_logging
from gateway.settings import Settings

settings = Settings()
configure_logging(settings.log_format, settings.log_level)
app = build_app(settings)

"""`app`, for any WSGI server: `gunicorn gateway.wsgi:app`, `granian --interface wsgi gateway.wsgi:app`."""

import logging
import sys

from gateway.app import build_app
from gateway.config.announce import announce
from gateway.config.settings import Settings
from gateway.ops.logs import configure_logging

# What the gateway cannot mend in a server, by the module it is known by: docs/servers.md.
CAUTIONS = {
    "granian": "granian alters targets and fields, and ends cut-off answers as if whole: use it behind another proxy, "
    "for /-/auth alone",
    "gunicorn": "gunicorn waits for slow clients: use it behind a proxy that buffers, with --forwarder-headers ''",
    "uwsgi": "uWSGI forks without telling Python, and then nothing is logged: start it with --enable-threads and "
    "--py-call-uwsgi-fork-hooks",
    "cheroot": "cheroot lets X_Name pass for X-Name before the gateway can tell them apart: do not use it",
}

log = logging.getLogger("gateway")

settings = Settings()
configure_logging(settings.log_format, settings.log_level)
announce(settings)
if settings.metrics_port is not None:
    log.warning("METRICS_PORT is served by `gateway serve` alone")
for name in CAUTIONS.keys() & sys.modules.keys():
    log.warning(CAUTIONS[name])
app = build_app(settings)

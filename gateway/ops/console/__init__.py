"""The console: one page, served as it lies here; all it does goes through the gateway's own routes."""

from __future__ import annotations

from importlib.resources import files

from gateway.http.wsgi import App
from gateway.ops.pages import page

_FILES = {
    "/-/console": ("console.html", "text/html; charset=utf-8"),
    "/-/console/console.css": ("console.css", "text/css; charset=utf-8"),
    "/-/console/console.js": ("console.js", "text/javascript; charset=utf-8"),
}
# Nothing but this page's own files; it can be framed by nobody and sends its forms nowhere.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def console_pages() -> dict[str, App]:
    """Return the console's resources by path; none needs a token, for none tells anything."""
    return {path: _page(*described) for path, described in _FILES.items()}


def _page(name: str, media_type: str) -> App:
    body = files(__name__).joinpath(name).read_bytes()
    return page(body, media_type, ("Content-Security-Policy", _POLICY), ("Referrer-Policy", "no-referrer"))

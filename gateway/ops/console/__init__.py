"""The console: one page, served as it lies here; all it does goes through the gateway's own routes."""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Sequence
from importlib.resources import files

from gateway.http.answers import page
from gateway.http.build import VERSION
from gateway.http.wsgi import App

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


def console_pages(
    claims: Sequence[str], cut_off_claims: Collection[str], admin_claims: Sequence[str], leeway: float
) -> dict[str, App]:
    """Return the console's resources by path. None needs a token: claims' names are all that they tell.

    `claims` can be blacklisted, by default with a cut-off those of `cut_off_claims`; in `admin_claims` stand scopes;
    `leeway` is in seconds.
    """
    # Claims by which a person is logged out come first.
    ordered = sorted(claims, key=lambda name: name not in cut_off_claims)
    filled = {
        "<!-- claims -->": "".join(
            f"<option{' data-cut-off' if name in cut_off_claims else ''}>{html.escape(name)}</option>"
            for name in ordered
        ),
        "<!-- admin claims -->": html.escape(" ".join(admin_claims)),
        "<!-- leeway -->": str(math.ceil(leeway)),
        "<!-- version -->": html.escape(VERSION),
    }
    return {path: _page(name, media_type, filled) for path, (name, media_type) in _FILES.items()}


def _page(name: str, media_type: str, filled: dict[str, str]) -> App:
    text = files(__name__).joinpath(name).read_text("utf-8")
    for place, content in filled.items():
        text = text.replace(place, content)
    fields = ("Content-Security-Policy", _POLICY), ("Referrer-Policy", "no-referrer")
    return page(text.encode(), media_type, *fields)

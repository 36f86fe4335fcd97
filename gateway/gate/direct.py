"""What an application in the same process may call: which apps can be wrapped."""

from __future__ import annotations

import inspect


def refuse_asgi(app: object) -> None:
    """Raise TypeError for what is no WSGI app: an ASGI app would fail at its first request, and pass nothing on."""
    if not callable(app):
        raise TypeError(f"Gateway wraps a WSGI app; {type(app).__name__} cannot be called")
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(type(app).__call__):
        raise TypeError(
            f"Gateway wraps WSGI apps, and {type(app).__name__} is an ASGI app: turn it into one, "
            "Gateway(a2wsgi.ASGIMiddleware(app), ...), or put `gateway serve` in front of its server"
        )

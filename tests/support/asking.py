"""The app `Upstream` asked without a server: what came back, and what was left in the context for the log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from io import BytesIO
from typing import Any, NamedTuple

from gateway.http.wsgi import Context, context
from gateway.proxy.exchange import Upstream


class Told(NamedTuple):
    """One answer, read to its end."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes
    context: Context

    @property
    def code(self) -> str:
        """The refusal's code."""
        return str(json.loads(self.body)["type"].removeprefix("urn:jwt-gateway:"))

    @property
    def cause(self) -> str:
        return self.context.cause


class Asked:
    """One request, whose answer may be read piece by piece."""

    def __init__(self, app: Upstream, method: str = "GET", target: str = "/", body: Any = None, **more: Any) -> None:
        self.environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "REQUEST_URI": target,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_PORT": "4711",
            "HTTP_HOST": "api.test",
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(body) if isinstance(body, bytes) else body or BytesIO(),
        }
        if isinstance(body, bytes):
            self.environ["CONTENT_LENGTH"] = str(len(body))
        self.environ |= more
        self.head: list[Any] = []
        self._body: Iterable[bytes] = app(self.environ, lambda *head: self.head.extend(head))
        self._parts = iter(self._body)

    def next(self) -> bytes:
        """Return the next piece. Raises what the app raises."""
        return next(self._parts)

    def close(self) -> None:
        self._body.close()  # type: ignore[attr-defined]

    def read(self) -> Told:
        try:
            body = b"".join(self._parts)
        finally:
            if hasattr(self._body, "close"):
                self._body.close()
        return Told(int(self.head[0][:3]), self.head[1], body, context(self.environ))


def ask(app: Upstream, method: str = "GET", target: str = "/", body: Any = None, **more: Any) -> Told:
    """Return the whole answer to a request."""
    return Asked(app, method, target, body, **more).read()

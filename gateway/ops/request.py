"""One request as it is observed: what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from gateway.http.draining import SHUT_DOWN
from gateway.http.problems import KINDS, Problem
from gateway.http.target import OPERATORS, PROBES, is_decision
from gateway.http.wsgi import Context, Environ, close_body, context

CLIENT_LEFT: Final = "client-left"
_UNSEEN: Final = {CLIENT_LEFT: "499", SHUT_DOWN: "503"}  # status that no client ever sees: the first is nginx's


class Request:
    """Stands between app and server for one request, and tells at its end what became of it.

    `outcome` is the refusal's code, or `passed`; `seconds` is how long it took.
    """

    # Set at its end.
    route: str
    status: int
    outcome: str
    seconds: float

    __slots__ = ("_about", "_began", "_body", "_environ", "_fault", "_tell", "outcome", "route", "seconds", "status")

    def __init__(self, environ: Environ, about: Context, tell: Callable[[Environ, Request], None]) -> None:
        self._environ, self._about, self._tell = environ, about, tell
        self._began = time.perf_counter()
        self._fault = ""
        self._body: Iterable[bytes] = ()

    def response(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Return what the server is to send: a list is over here, anything else when the server closes it."""
        if isinstance(body, list):
            self.close()
            return body
        self._body = body
        self._fault = CLIENT_LEFT  # unless the server takes it to its end
        return self

    def fail(self, error: BaseException) -> None:
        """Note why there is no answer, or no whole one."""
        if isinstance(error, ConnectionError):  # the client's: an upstream's are Problems
            self._fault, self._about.status = CLIENT_LEFT, _UNSEEN[CLIENT_LEFT]
        else:
            self._fault = error.code if isinstance(error, Problem) else "internal-error"

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
            self._fault = ""
        except Exception as error:
            self.fail(error)
            raise

    def close(self) -> None:
        """Close the app's response, and tell."""
        try:
            close_body(self._body, has_ended=not self._fault)
        finally:
            self.seconds = time.perf_counter() - self._began
            about = self._about
            fault, refusal = self._fault, about.refusal
            # A response that was cut off looks like one whose client left, but for the refusal.
            self.outcome = (refusal or fault if fault == CLIENT_LEFT else fault or refusal) or "passed"
            self.route = _route(about.target)
            self.status = int((about.status or _status_of(self.outcome))[:3])
            self._tell(self._environ, self)


def _status_of(outcome: str) -> str:
    """Return the status of an answer that the server gave in the app's place, or that nobody got."""
    if outcome in _UNSEEN:
        return _UNSEEN[outcome]
    return KINDS[outcome if outcome in KINDS else "internal-error"].status


def _route(target: Any) -> str:
    """Return the route's class. A path may hold what must not be logged."""
    if target is None:
        return "none"
    if not target.is_own:
        return "upstream"
    if is_decision(target.path):
        return "decision"
    return "operators" if target.path.startswith(OPERATORS) else "blacklist"


def is_good_probe(environ: Environ, request: Request) -> bool:
    """Return whether it is a health check that succeeded: these come thousands of times a day."""
    return request.route == "operators" and request.status == 200 and context(environ).target.path in PROBES

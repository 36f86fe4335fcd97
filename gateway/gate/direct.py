"""The blacklist for an application in the same process, without a request; and which apps can be wrapped."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from gateway.auth.tokens import Verifier
from gateway.blacklist.named import Named
from gateway.blacklist.rules import Actor, Blacklist
from gateway.blacklist.target import Target, read_target
from gateway.http.problems import Problem


class Direct:
    """Changes and asks the blacklist as an admin may, with the members that `POST /blacklist` has.

    `issuer` is whose claims they are where the member `issuer` is not given; None: it must be.
    """

    def __init__(self, blacklist: Blacklist, verifier: Verifier, issuer: str | None) -> None:
        self._blacklist = blacklist
        self._verifier = verifier
        self._issuer = issuer

    def add(self, members: dict[str, Any], by: str) -> bool:
        """Blacklist what the members name; return whether that changed anything. Raises `Problem`."""
        target = self._read(members)
        self._blacklist.check_end(target.until)
        named = self._named(target)
        if named.token and self._verifier.has_expired(named.token):
            return False
        return named.add(Actor(by, "", target.reason), target.cut_off, target.until)

    def remove(self, members: dict[str, Any], by: str) -> bool:
        """Lift the entry of what the members name; return whether there was one. Raises `Problem`."""
        target = self._read(members)
        return self._named(target).remove(Actor(by, "", target.reason))

    def has(self, members: dict[str, Any]) -> bool:
        """Return whether what the members name is blacklisted: a token by any entry, a claim by its own."""
        return bool(self._named(self._read(members)).entries())

    def _read(self, members: dict[str, Any]) -> Target:
        target = read_target(members, self._blacklist.claims)
        if target.is_own or target.fingerprint is not None:
            raise Problem("invalid-request", f"Name a token or one of {', '.join(self._blacklist.claims)}.")
        return target

    def _named(self, target: Target) -> Named:
        if target.token is None:
            return Named(self._blacklist, self._issuer_of(target), claim=target.claim)
        token = self._verifier.genuine(target.token)
        return Named(self._blacklist, token.issuer.name, token.fingerprint, token)

    def _issuer_of(self, target: Target) -> str:
        if target.issuer is None and self._issuer is not None:
            return self._issuer
        name = self._verifier.issuers.name_of(target.issuer) if target.issuer else None
        if name is None:
            raise Problem("invalid-request", "issuer must name one of the issuers that are set.")
        return name


def refuse_asgi(app: object) -> None:
    """Raise TypeError for what is no WSGI app: an ASGI app would fail at its first request, and pass nothing on."""
    name = getattr(app, "__name__", type(app).__name__)
    if not callable(app):
        raise TypeError(f"Gateway wraps a WSGI app; {name} cannot be called")
    is_async = inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(type(app).__call__)
    if not is_async and _takes(app, 2):
        return
    if is_async or _takes(app, 3) or _takes(app, 1):  # one argument: ASGI 2
        raise TypeError(
            f"Gateway wraps WSGI apps, and {name} is an ASGI app: turn it into one, "
            "Gateway(a2wsgi.ASGIMiddleware(app), ...), or put `gateway serve` in front of its server"
        )
    raise TypeError(f"Gateway wraps a WSGI app; {name} does not take environ and start_response")


def _takes(app: Callable[..., object], count: int) -> bool:
    """Return whether the app takes `count` arguments; true where that cannot be known."""
    try:
        inspect.signature(app).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        pass  # written in C: nothing is known
    return True

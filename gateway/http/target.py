"""The request target, read once: what is decided on is what is sent on."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, quote

from gateway.http.cache import bounded_cache
from gateway.http.problems import Problem
from gateway.http.wsgi import Environ, context

# The gateway's own routes; every other path is the upstream's.
BLACKLIST: Final = "/blacklist"
OPERATORS: Final = "/-/"
DECISION: Final = "/-/auth"
PROBES: Final = ("/-/live", "/-/ready")
_OWN: Final = (BLACKLIST + "/", OPERATORS)

# RFC 9112 section 3.2.1: origin-form begins with one slash. Two would be read as a host by
# URL joiners (CVE-2020-28724); a fragment or a control character has no business here at all.
_ORIGIN_FORM: Final = re.compile(r"/(?!/)[^#\x00-\x20\x7f]*|/")
_ABSOLUTE_FORM = re.compile(r"(https?)://([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)
_DEFAULT_PORT = {"http": ":80", "https": ":443"}


class Target:
    """The request target as it will be sent (Latin-1 text of its bytes), its two parts, and whether it is our own."""

    __slots__ = ("is_own", "path", "query", "raw")

    def __init__(self, raw: str) -> None:
        self.raw = raw
        self.path, _, self.query = raw.partition("?")
        self.is_own = is_own(self.path)

    def params(self) -> dict[str, str | list[str]]:
        """Return the decoded query parameters; empty values stay, a repeated name becomes a list."""
        return collect(parse_qsl(self.query.encode("latin-1").decode("utf-8", "replace"), keep_blank_values=True))


def collect(pairs: list[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Return name/value pairs as a mapping in which a repeated name has a list."""
    params: dict[str, str | list[str]] = {}
    for name, value in pairs:
        known = params.get(name)
        if known is None:
            params[name] = value
        elif isinstance(known, list):
            known.append(value)
        else:
            params[name] = [known, value]
    return params


def request_target(environ: Environ) -> Target:
    """Return the request's target, byte for byte where the server gives it.

    Raises `Problem` bad-request-target for anything but origin-form, an absolute URI of the host that the
    request's Host names, if it has one (RFC 9112 section 3.2.2), or `*` with OPTIONS; and
    upgrade-unsupported for CONNECT with a target of its own.
    """
    about = context(environ)
    found: Target | None = about.target
    if found is None:
        raw = environ.get("RAW_URI") or environ.get("REQUEST_URI") or _rebuilt(environ)
        if about.received is None and "?" not in raw and (query := environ.get("QUERY_STRING")):
            raw += "?" + query  # test clients of werkzeug and Flask leave it out of the raw one
        in_origin_form = _in_origin_form(raw) if "?" in raw else _in_plain_origin_form(raw)
        found = about.target = in_origin_form or _in_another_form(environ, raw)
    return found


def is_own(path: str) -> bool:
    """Return whether the gateway answers for the path itself."""
    return path == BLACKLIST or path.startswith(_OWN)


def is_decision(path: str) -> bool:
    """Return whether the path asks for the decision alone: Envoy appends the path it asks about."""
    return path == DECISION or path.startswith(DECISION + "/")


def _in_origin_form(raw: str) -> Target | None:
    return Target(raw) if _ORIGIN_FORM.fullmatch(raw) else None


# One with a query is seldom the same twice: to keep those as well would cost more than it saves.
_in_plain_origin_form = bounded_cache(1024, longest=256)(_in_origin_form)


def _in_another_form(environ: Environ, raw: str) -> Target:
    if raw == "*" and environ["REQUEST_METHOD"] == "OPTIONS":
        return Target(raw)
    # Some servers (wsgiref) hand such a target on as the path, of which the app, or what mounts it, sees another one.
    is_read = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}/".startswith("/")
    absolute = _ABSOLUTE_FORM.fullmatch(raw) if is_read else None
    if absolute and _names_host(absolute[1].lower(), absolute[2].lower(), environ.get("HTTP_HOST")):
        if not absolute[3] and environ["REQUEST_METHOD"] == "OPTIONS":
            return Target("*")  # RFC 9112 section 3.2.4
        rest = absolute[3] if absolute[3].startswith("/") else "/" + absolute[3]
        if _ORIGIN_FORM.fullmatch(rest):
            return Target(rest)
    # CONNECT has a target of its own form (RFC 9112 section 3.2.3).
    raise Problem("upgrade-unsupported" if environ["REQUEST_METHOD"] == "CONNECT" else "bad-request-target")


def _names_host(scheme: str, authority: str, host: str | None) -> bool:
    """Return whether an absolute URI is of the host; the scheme's default port may be written or not."""
    port = _DEFAULT_PORT[scheme]

    def without(text: str) -> str:
        return text.removesuffix(port).removesuffix(":")

    # HTTP/1.0 asks for no Host field, and nothing is left to choose: the upstream is always the same.
    return host is None or without(authority) == without(host.lower())


def _rebuilt(environ: Environ) -> str:
    """Return a target made from WSGI's decoded parts, for servers that do not give the raw one."""
    path = quote((environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1"), "/;:@&=+$,!*'()~")
    query = environ.get("QUERY_STRING", "")
    return (path or "/") + ("?" + query if query else "")

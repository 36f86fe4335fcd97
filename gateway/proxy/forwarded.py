"""`Forwarded` and `X-Forwarded-*`: what the gateway says of the client, and of the proxies before it."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

from gateway.http.cache import bounded_cache
from gateway.http.grammar import TOKEN, elements, field_name
from gateway.http.problems import Problem
from gateway.http.wsgi import Environ

LONGEST_HOST = 1024  # characters: 1024 of them are cached

_HOST = re.compile(r"(\[[\w.:%~-]+\]|[\w.~%!$&'()*+;=-]*)(:\d*)?", re.ASCII)
_PAIR = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*"?)+')
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\w+)?|([^:]*):\w+")
_SINGLE = ("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST")

Node = dict[str, str]  # what one hop saw: its `for`, `proto` and `host`


def peer_address(environ: Environ) -> str:
    """Return the address of who is connected; IPv4 where a socket for both names it as IPv6 (RFC 4291 2.5.5.2)."""
    return _plain(environ.get("REMOTE_ADDR") or "unknown")


def client_address(environ: Environ, trusted_proxies: int) -> str:
    """Return the address of the client without its port, as the outermost proxy that is trusted saw it."""
    if not trusted_proxies:
        return peer_address(environ)
    # Nearly always this one field says it, and to read the others as well takes a tenth of a decision at /-/auth.
    if kept := _last_of(environ.get("HTTP_X_FORWARDED_FOR", "").split(","), trusted_proxies):
        return _without_port(_plain(kept[0]))
    first = _read_trusted(environ, trusted_proxies)[0].get("for", [])
    return _without_port(first[0]) if first else peer_address(environ)


def forwarded_fields(environ: Environ, trusted_proxies: int) -> dict[str, str]:
    """Return the fields, which are the caller's own. Raises `Problem` invalid-request for a bad Host.

    The last elements of the inbound ones go before what is seen here, one for each trusted hop. The outermost trusted
    proxy must set or remove each of them, or a client's passes for its own.
    """
    peer = peer_address(environ)
    if "." not in peer and ":" not in peer:
        peer = "unknown"  # behind a Unix socket (RFC 7239 section 6.2)
    own = _describe_client((peer, environ["wsgi.url_scheme"], environ.get("HTTP_HOST", "")))
    if not trusted_proxies:
        return own.copy()
    said, others = _read_trusted(environ, trusted_proxies)
    if not said and not others:
        return own.copy()
    chain = [*said.get("for", []), peer]
    seen = {"for": chain}
    for name, key in (("proto", "X-Forwarded-Proto"), ("host", "X-Forwarded-Host")):
        # What no trusted proxy has said is taken from here. No field has more values than the chain: readers pair them.
        seen[name] = said.get(name, [])[-len(chain) :] or ([own[key]] if key in own else [])
    fields = {
        "X-Forwarded-For": ", ".join(chain),
        "X-Forwarded-Proto": ", ".join(seen["proto"]),
        "X-Forwarded-Host": ", ".join(seen["host"]),
    }
    nodes = [
        ";".join(f"{name}={_node(name, values[place])}" for name, values in seen.items() if place < len(values))
        for place in range(len(chain))
    ]
    return {"Forwarded": ", ".join(nodes), **{name: value for name, value in fields.items() if value}, **others}


@bounded_cache(1024)
def _describe_client(seen: tuple[str, str, str]) -> dict[str, str]:
    """Return what the gateway itself knows of a client. Raises `Problem` invalid-request for a bad host."""
    peer, scheme, host = seen
    if len(host) > LONGEST_HOST or not _HOST.fullmatch(host):
        raise Problem("invalid-request", "The Host field is not a host.")
    element = f"for={_node('for', peer)};proto={scheme}"
    fields = {"Forwarded": element, "X-Forwarded-For": peer, "X-Forwarded-Proto": scheme}
    if host:
        fields |= {"Forwarded": f"{element};host={_quote(host)}", "X-Forwarded-Host": host}
    return fields


def _read_trusted(environ: Environ, hops: int) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return what the trusted hops have said of for, proto and host, and their other fields.

    Proxies commonly set `X-Forwarded-*`, and pass a client's `Forwarded` on: it counts only where there are none.
    """
    said: dict[str, list[str]] = {}
    others: dict[str, str] = {}
    for key, value in environ.items():
        if key.startswith("HTTP_X_FORWARDED_"):
            is_single = key in _SINGLE
            # In an address or a host a quote means nothing, and would hide what the next proxy adds.
            values = value.split(",") if is_single else elements(value)
            kept = _last_of(values, hops)
            if is_single and kept:
                said[key.removeprefix("HTTP_X_FORWARDED_").lower()] = [_plain(each) for each in kept]
            elif kept and (name := field_name(key)):
                others[name] = ", ".join(kept)
    if not said:
        for node in map(_read_node, elements(environ.get("HTTP_FORWARDED", ""))[-hops:]):
            for name, value in node.items():
                said.setdefault(name, []).append(value)
    return said, others


def _last_of(values: list[str], hops: int) -> list[str]:
    """Return the last values, at most so many, of those that are not empty."""
    return [each for part in values if (each := part.strip(" \t"))][-hops:]


def _read_node(element: str) -> Node:
    """Return what an element of Forwarded says (RFC 7239 section 4), as X-Forwarded-* would say it."""
    node: Node = {}
    for pair in _PAIR.findall(element):
        name, _, value = pair.strip(" \t").partition("=")
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        if (name := name.strip().lower()) in ("for", "proto", "host") and value:
            is_bracketed = name == "for" and value[0] == "[" and value[-1] == "]"
            node[name] = _plain(value[1:-1] if is_bracketed else value)
    return node


@bounded_cache(1024, longest=64)
def _plain(address: str) -> str:
    """Return an address, with its port if it has one, as IPv4 where it is IPv4 written as IPv6."""
    if "ffff:" not in address.lower():
        return address
    start, _, port = address.removeprefix("[").partition("]")
    try:
        mapped = IPv6Address(start).ipv4_mapped
    except ValueError:
        return address
    return f"{mapped}{port}" if mapped else address


@bounded_cache(1024, longest=64)
def _without_port(node: str) -> str:
    found = _WITH_PORT.fullmatch(node)
    return (found[1] or found[2] or node) if found else node


def _node(name: str, value: str) -> str:
    return _quote(f"[{value}]" if name == "for" and value.count(":") > 1 and value[0] != "[" else value)


def _quote(value: str) -> str:
    return value if TOKEN.fullmatch(value) else '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'

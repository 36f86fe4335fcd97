"""libcurl's options for connections to a peer, and its list of a request's fields."""

from __future__ import annotations

from typing import Any, Final

import pycurl

from gateway.proxy.outbound import Outbound, Peer

_SUPPRESSED: Final = ("Accept:", "Expect:")  # what libcurl would add
_LOOKED_FOR: Final = frozenset({"Host", "Content-Length"})  # libcurl adds its own, unless it finds them in the list
IDLE_SECONDS: Final = 100  # after which a kept connection is not used again: something between may have forgotten it
_ALWAYS: dict[int, Any] = {
    pycurl.PATH_AS_IS: 1,
    pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
    pycurl.HTTP09_ALLOWED: 0,
    pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
    pycurl.FOLLOWLOCATION: 0,
    pycurl.NETRC: pycurl.NETRC_IGNORED,
    pycurl.PROXY: "",  # not even the environment's
    pycurl.NOPROXY: "*",
    pycurl.USERAGENT: "",  # none
    pycurl.SSL_VERIFYPEER: 1,
    pycurl.SSL_VERIFYHOST: 2,
    pycurl.NOSIGNAL: 1,
    pycurl.TCP_NODELAY: 1,
    pycurl.MAXAGE_CONN: IDLE_SECONDS + 10,  # so that `Handle` finds one too old before libcurl does
    pycurl.DNS_CACHE_TIMEOUT: -1,  # what it knows is what `point_to` says
}


def options(peer: Peer) -> dict[int, Any]:
    """Return libcurl's options by number (curl_easy_setopt(3)), for connections to the peer."""
    found: dict[int, Any] = {**_ALWAYS, pycurl.URL: peer.origin}
    if peer.ca_file:
        # These alone: some builds of libcurl believe all authorities of a folder of the system's as well.
        found |= {pycurl.CAINFO: peer.ca_file, pycurl.CAPATH: None}
    if peer.cert:
        found[pycurl.SSLCERT] = found[pycurl.SSLKEY] = peer.cert
    return found


def field_lines(request: Outbound) -> list[str]:
    """Return what has libcurl send these fields, and none of its own.

    libcurl looks at the items of the list for a few fields, and sends each as it is (CURLOPT_HTTPHEADER(3)). So all
    other fields are lines of one item, which takes 5 % off the instructions of a whole request.
    """
    items, lines = [*_SUPPRESSED], []
    if isinstance(request.body, bytes):
        items.append("Content-Type:")  # it would name a form's
    for name, value in request.fields.items():
        if not value:
            items.append(f"{name};")
        elif name in _LOOKED_FOR:
            items.append(f"{name}: {value}")
        else:
            lines.append(f"{name}: {value}")
    if lines:
        items.append("\r\n".join(lines))
    return items

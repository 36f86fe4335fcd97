"""What libcurl is told of every exchange with a peer."""

from __future__ import annotations

from typing import Any, Final

import pycurl

from gateway.proxy.outbound import Peer

IDLE_SECONDS: Final = 100  # after which a kept connection is not used again: something between may have forgotten it
_WEB = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS
_ALWAYS: dict[int, Any] = {
    pycurl.PATH_AS_IS: 1,
    pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
    pycurl.HTTP09_ALLOWED: 0,
    pycurl.PROTOCOLS: _WEB,
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

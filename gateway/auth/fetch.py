"""Key sets over HTTP, found through an identity provider's metadata where that is what an address holds."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import time
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from gateway.auth.keyset import KeysRefused
from gateway.auth.keytext import read_object
from gateway.http.build import VERSION

if TYPE_CHECKING:
    import requests

MAX_BYTES = 4 * 1024 * 1024  # a thousand keys with their certificates

_FIELDS = {
    # Some providers' firewalls turn away what calls itself python-requests.
    "User-Agent": f"jwt-blacklist-gateway/{VERSION}",
    "Accept-Encoding": "identity",
}
_ACCEPT = {"Accept": "application/jwk-set+json, application/json, */*;q=0.1"}


@dataclasses.dataclass(frozen=True, slots=True)
class FetchPolicy:
    """When keys are fetched, how, and how long they serve; times in seconds."""

    refresh: float = 300  # a key that the provider withdraws stops verifying within this time
    retry: float = 1  # after a failed fetch, doubled at each further one, up to max_retry
    max_retry: float = 30
    cool_down: float = 30  # between fetches that tokens bring about, failed or not
    wait: float = 1  # what requests wait for such a fetch, counted from its start
    limit: float = 86_400  # how long the last good keys serve when no newer ones can be fetched
    aliases: tuple[str, ...] = ()  # other names of the issuer that its metadata may give
    connect: float = 3
    read: float = 5
    total: float = 10
    ca_file: str | None = None  # CA certificates, where the system's are not the ones
    proxy: str | None = None  # URL of a proxy for all of these fetches
    insecure_hosts: frozenset[str] = frozenset()  # whose plain http is trusted: of one's own network


def fetch_keys(url: str, names: Collection[str], policy: FetchPolicy) -> bytes:
    """Return the text of a key set: the URL's, or that which the metadata there leads to.

    Where the URL is the issuer's own name, its metadata is looked for in the places of OpenID Connect Discovery
    section 4 and RFC 8414 sections 3 and 5. Raises KeysRefused, which says what went wrong.
    """
    if url.rstrip("/") not in {name.rstrip("/") for name in names}:
        return follow(_get(url, policy), url, names, policy)
    faults = []
    for place in metadata_places(url):
        try:
            text = _get(place, policy)
            if not is_metadata(text):  # many servers answer with a page where there is nothing
                raise KeysRefused(f"{loggable(place)} holds no provider's metadata with a jwks_uri")
            return follow(text, place, names, policy)
        except KeysRefused as fault:
            faults.append(str(fault))
    raise KeysRefused("; ".join(faults))


def metadata_places(issuer: str) -> Iterator[str]:
    """Yield where the metadata of an issuer may be, without those that are the same."""
    base, path = urljoin(issuer, "/").rstrip("/"), urlsplit(issuer).path.rstrip("/")
    yield f"{base}{path}/.well-known/openid-configuration"
    yield f"{base}/.well-known/oauth-authorization-server{path}"
    if path:
        yield f"{base}/.well-known/openid-configuration{path}"


def follow(text: bytes, place: str, names: Collection[str], policy: FetchPolicy) -> bytes:
    """Return the text, or, where it is a provider's metadata, the key set's that it leads to.

    Raises KeysRefused for metadata of another issuer (OpenID Connect Discovery section 4.3, RFC 8414 section 3.3).
    """
    if not is_metadata(text):
        return text
    metadata = read_object(text)
    if (found := metadata.get("issuer")) not in names:
        wanted = " or ".join(repr(name) for name in names)
        raise KeysRefused(f"the metadata at {loggable(place)} is another issuer's: {str(found)[:200]!r}, not {wanted}")
    try:
        jwks_uri = check_url(str(metadata.get("jwks_uri")), policy.insecure_hosts)
    except KeysRefused as fault:
        raise KeysRefused(f"the jwks_uri in the metadata at {loggable(place)} cannot be used: {fault}") from fault
    if place.startswith("https:") and not jwks_uri.startswith("https:"):
        raise KeysRefused(f"the metadata at {loggable(place)} leads to plain http")
    keys = _get(jwks_uri, policy)
    if is_metadata(keys):
        raise KeysRefused(f"the metadata at {loggable(place)} leads to further metadata, not to a key set")
    return keys


def is_metadata(text: bytes) -> bool:
    """Return whether the text is a provider's metadata, and no keys themselves."""
    if b"jwks_uri" not in text:
        return False
    try:
        members = read_object(text)
    except KeysRefused:
        return False
    return "jwks_uri" in members and "keys" not in members


def _get(url: str, policy: FetchPolicy) -> bytes:
    times, trusted = (policy.connect, policy.read), policy.ca_file or True
    try:
        with ask("GET", url, policy.proxy, headers=_ACCEPT, timeout=times, verify=trusted) as response:
            if response.status_code != HTTPStatus.OK:
                place = response.headers.get("Location", "")
                hint = f", a redirect to {loggable(place)}, which is not followed: set that address" if place else ""
                raise KeysRefused(f"{loggable(url)} answered {response.status_code}{hint}")
            return read_body(response, MAX_BYTES, policy.total)
    except KeysRefused:
        raise
    except Exception as error:  # urllib3's own too, of a body that breaks off
        raise KeysRefused(f"{loggable(url)}: {_cause(error)}") from error


@contextmanager
def ask(method: str, url: str, proxy: str | None, **options: Any) -> Iterator[requests.Response]:
    """Lend the answer to one request, its body unread; nothing of the environment's: no cookie, netrc or proxy."""
    import requests  # a sixth of the time to start, which gateways without key sets need not spend

    with requests.Session() as session:
        session.trust_env = False
        session.headers.update(_FIELDS)
        session.proxies = {"http": proxy, "https": proxy} if proxy else {}
        with session.request(method, url, allow_redirects=False, stream=True, **options) as response:
            yield response


def read_body(response: requests.Response, limit: int, seconds: float) -> bytes:
    """Return an answer's body, without gzip, which some servers send unasked.

    Raises KeysRefused for more than `limit` bytes, and where it takes more than so many seconds.
    """
    text, url, deadline = b"", response.url, time.monotonic() + seconds
    # read1 is one read of the socket: a body that drips meets the deadline, one without end the limit.
    while chunk := response.raw.read1(limit, decode_content=False):
        text += chunk
        if len(text) > limit:
            raise KeysRefused(f"{loggable(url)} sent more than {limit} bytes")
        if time.monotonic() > deadline:
            raise KeysRefused(f"{loggable(url)} took too long")
    if not text.startswith(b"\x1f\x8b"):
        return text
    inflate = zlib.decompressobj(wbits=31)
    try:
        inflated = inflate.decompress(text, limit)
    except zlib.error as error:
        raise KeysRefused(f"{loggable(url)} sent gzip that is damaged") from error
    if not inflate.eof:
        raise KeysRefused(f"{loggable(url)} sent gzip that is cut off, or of more than {limit} bytes")
    return inflated


def _cause(error: BaseException) -> str:
    """Return what went wrong, in a few words, from the innermost error that says so."""
    chain: list[BaseException] = []
    todo: list[object] = [error]
    while todo and len(chain) < 20:
        each = todo.pop(0)
        if isinstance(each, BaseException) and each not in chain:
            chain.append(each)
            todo += [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]
    import requests

    if any(isinstance(each, requests.exceptions.ProxyError) for each in chain):
        return "the proxy cannot be reached, or refuses"
    if any(isinstance(each, requests.Timeout | TimeoutError) for each in chain):
        return "no answer in time"
    if texts := [each.verify_message for each in chain if hasattr(each, "verify_message")]:
        hint = " (JWKS_CA names a CA of your own)" if re.search("self.signed|issuer", texts[0]) else ""
        return f"its certificate is not trusted: {texts[0]}{hint}"
    reasons = [each.strerror for each in chain if isinstance(each, OSError) and each.strerror]
    return reasons[-1] if reasons else type(error).__name__


def check_url(url: str, insecure_hosts: Collection[str] = ()) -> str:
    """Return the URL. Raises KeysRefused unless it is https, or http on loopback or of a named host, without user."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        trusted = _is_loopback(host) or not {host, parts.netloc.lower()}.isdisjoint(insecure_hosts)
        safe = parts.scheme == "https" or (parts.scheme == "http" and trusted)
        if not safe or not host or parts.username is not None or parts.fragment:
            raise ValueError
        _ = parts.port  # raises for what is no port
    except ValueError:
        raise KeysRefused(
            "a JWKS URL must be https, or http on loopback or of a host of JWKS_INSECURE_HTTP, without user or fragment"
        ) from None
    return url


def loggable(url: str) -> str:
    """Return a URL for the log: without user and query, which may hold secrets, printable and bounded."""
    try:
        parts = urlsplit("".join(filter(str.isprintable, url)))
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()[:200]
    except ValueError:
        return "a URL"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

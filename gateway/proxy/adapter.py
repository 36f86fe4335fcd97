"""The seam to the upstream that every `requests` transport adapter fits, and requests' own adapter made to fit it."""

from __future__ import annotations

import re
from collections.abc import Callable
from http.client import HTTPException, RemoteDisconnected
from typing import Any

import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter

from gateway.http.blocking import about_to_wait

PIECE_BYTES = 65536

FIELD = re.compile(r"([!#-'*+\-.^-`|~\w]+):[ \t]*([\t -~\x80-\xff]*)", re.ASCII)


class MalformedAnswer(requests.exceptions.ConnectionError):
    """The upstream's answer is not HTTP/1.x as RFC 9112 has it."""


class ClientLeft(ConnectionAbortedError):
    """The client went away before its request, or the answer to it, was complete."""


class UpstreamRequest(requests.PreparedRequest):
    """A request that goes out as it is: nothing prepared, added or rewritten.

    `url` is the origin and the raw target, as Latin-1 text. A `body` (with `read`) is sent chunked
    unless `fields` has Content-Length. `client_left` may be asked during silence.
    """

    def __init__(
        self,
        method: str,
        url: str,
        fields: dict[str, str],
        body: Any = None,
        client_left: Callable[[], bool] | None = None,
    ) -> None:
        self.method = method
        self.url = url
        self.headers = fields  # type: ignore[assignment]
        self.body = body
        self.client_left = client_left


def split_url(url: str) -> tuple[str, str]:
    """Return origin and raw request target of a URL; `*` right after the authority is a target, too."""
    start = url.find("/", 8)
    return (url[:start], url[start:]) if start > 0 else (url.removesuffix("*"), "*" if url.endswith("*") else "/")


class Sent:
    """The answer to a request sent by any adapter, in the terms of `transport.RawAnswer`: all is waited for at once."""

    patience = 0.0

    def __init__(self, adapter: BaseAdapter, request: UpstreamRequest, **options: Any) -> None:
        about_to_wait()
        response = adapter.send(request, stream=True, **options)
        self.status, self.reason = response.status_code, response.reason
        self.headers = response.raw.headers
        self._raw = response.raw

    def take_head(self) -> bool:
        """Tell that the head has come."""
        return True

    def take(self) -> bytes:
        """Return a piece of the body, waiting for it; b"" for the end. Raises what the adapter's answers raise."""
        about_to_wait()
        data: bytes = self._raw.read1(PIECE_BYTES, decode_content=False)
        return data

    def awaited(self) -> None:
        """Tell that there is no descriptor to wait for."""

    def wait(self) -> None:
        """Do nothing: it was waited for."""

    def close(self) -> None:
        """Let the connection go."""
        self._raw.close()

    discard = close


class PlainAdapter(HTTPAdapter):
    """requests' own transport without its additions.

    Against libcurl's it re-spells `%zz`, brackets and lower-case escapes in targets, sends a length
    with every POST, fails on interim answers other than 100 and on more than 100 fields, lets a head
    that was cut off or repaired pass, and neither notices a client that left nor tries again on a
    new connection where a kept one was stale.
    """

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """Return the raw target; requests' own would drop a bare `?`."""
        return split_url(str(request.url))[1]

    def add_headers(self, request: requests.PreparedRequest, **kwargs: Any) -> None:
        """Keep urllib3 from adding fields that the client did not send."""
        for name in ("User-Agent", "Accept-Encoding"):
            request.headers.setdefault(name, urllib3.util.SKIP_HEADER)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request as HTTPAdapter does. Raises `MalformedAnswer` too."""
        try:
            response = super().send(request, *args, **kwargs)
        except requests.exceptions.ConnectionError as error:
            cause = getattr(error.args[0], "args", ())[-1:]
            if cause and isinstance(cause[0], HTTPException) and not isinstance(cause[0], RemoteDisconnected):
                raise MalformedAnswer(request=request) from error
            raise
        except (urllib3.exceptions.HTTPError, requests.exceptions.InvalidHeader) as error:
            raise MalformedAnswer(request=request) from error
        if response.status_code < 200 or not all(_is_sound(*line) for line in response.raw.headers.items()):
            response.close()
            raise MalformedAnswer(request=request)
        return response


def _is_sound(name: str, value: str) -> bool:
    """Tell whether a field could go on, and whether http.client understood it: it ignores codings it does not know."""
    is_understood = name.lower() != "transfer-encoding" or value.lower() == "chunked"
    return is_understood and FIELD.fullmatch(f"{name}:{value}") is not None

"""Key sets fetched from an identity provider: in the background, never in a request's own thread."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import os
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import requests

from gateway.auth.keyset import KeySet, KeysRefused, Snapshot
from gateway.http.blocking import about_to_wait
from gateway.http.problems import Problem
from gateway.http.strict_json import json_object

MAX_BYTES = 512 * 1024

_METADATA = ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server")


@dataclasses.dataclass(frozen=True, slots=True)
class FetchPolicy:
    """When keys are fetched, how, and how long they serve; times in seconds."""

    refresh: float = 300  # a key that the provider takes back stops verifying within this time
    retry: float = 1  # after a failed fetch, doubled at each further one, up to max_retry
    max_retry: float = 30
    cool_down: float = 30  # between fetches that unknown kids bring about, failed or not
    patience: float = 1  # what requests wait for such a fetch, counted from its start
    limit: float = 86_400  # how long the last good keys serve when no newer ones are to be had
    connect: float = 3
    read: float = 5
    total: float = 10
    ca_file: str | None = None  # CA certificates, where the system's are not the ones


class JwksKeys:
    """Keys that a provider publishes, kept fresh by one daemon thread in each process that asks for them.

    The thread starts with the first question, so keys may be built before workers are forked.
    """

    def __init__(
        self,
        algorithms: frozenset[str],
        snapshot: Snapshot,
        fetch: Callable[[], bytes],
        policy: FetchPolicy,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.algorithms = algorithms
        self._snapshot, self._fetch, self._policy, self._now = snapshot, fetch, policy, now
        self._closed = False
        self._forget_thread()
        os.register_at_fork(after_in_child=self._forget_thread)

    def _forget_thread(self) -> None:
        """Begin anew in a forked child: it has no thread, and its lock may have been held by another."""
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._asked = self._done = 0  # numbers of the newest fetch asked for, and of the newest one made
        self._asked_at = 0.0

    def current(self) -> KeySet:
        """Return the keys in force, at first after a moment's wait.

        Raises `Problem` keys-unavailable where there never were any, or the last good ones are too old.
        """
        if self._thread is None:
            self._start()
        try:
            return self._snapshot.current()
        except Problem:
            self._ask()
            return self._snapshot.current()

    def unknown(self, kid: str | None) -> KeySet:
        """Return the keys in force after the fetch that an unknown kid brings about once per cool-down."""
        if not self.current().knows(kid):
            self._ask()
        return self.current()

    def age(self) -> float:
        """Return the seconds since the last good fetch."""
        return self._snapshot.age()

    def close(self) -> None:
        """Let the thread end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _start(self) -> None:
        with self._changed:
            if self._thread is None:
                self._asked, self._asked_at = 1, self._now()
                self._thread = threading.Thread(target=self._run, name="gateway-jwks", daemon=True)
                self._thread.start()

    def _ask(self) -> None:
        """Have the thread fetch, unless it was asked within the cool-down, and wait while patience lasts.

        All who wait share one patience: however many tokens with unknown kids are sent while the
        provider hangs, they hold our threads for one patience per cool-down.
        """
        about_to_wait()
        with self._changed:
            elapsed = self._now() - self._asked_at
            if not 0 <= elapsed < self._policy.cool_down:
                elapsed = 0
                self._asked, self._asked_at = self._asked + 1, self._now()
                self._changed.notify_all()
            ticket = self._asked
            self._changed.wait_for(lambda: self._done >= ticket, self._policy.patience - elapsed)

    def _run(self) -> None:
        delay = 0.0
        while not self._closed:
            number = self._asked
            renewed = self._snapshot.renew(self._fetch)
            delay = 0.0 if renewed else min(2 * delay or self._policy.retry, self._policy.max_retry)
            with self._changed:
                self._done = number
                if number == 1 and renewed:
                    # No unknown kid asked for these: keys that rotate right after the start must not wait.
                    self._asked_at = -math.inf
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._asked > self._done or self._closed, delay or self._policy.refresh)


def fetch_jwks(url: str, issuer: str, policy: FetchPolicy) -> bytes:
    """Return the text of a JWKS, found through the provider's metadata where the URL is the metadata's.

    Raises KeysRefused for an answer that must not be used (OpenID Connect Discovery section 4.3,
    RFC 8414 section 3.3), and whatever `requests` raises.
    """
    if not urlsplit(url).path.endswith(_METADATA):
        return _get(url, policy)
    metadata = json_object(_get(url, policy))
    if metadata.get("issuer") != issuer:
        raise KeysRefused("the provider's metadata names another issuer")
    jwks_uri = checked_url(str(metadata.get("jwks_uri")))
    if url.startswith("https:") and not jwks_uri.startswith("https:"):
        raise KeysRefused("the provider's metadata leads to plain http")
    return _get(jwks_uri, policy)


def _get(url: str, policy: FetchPolicy) -> bytes:
    # One session per fetch, and nothing from the environment: no cookie, netrc or proxy.
    with requests.Session() as session:
        session.trust_env = False
        with session.get(
            url,
            headers={"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"},
            timeout=(policy.connect, policy.read),
            verify=policy.ca_file or True,
            allow_redirects=False,
            stream=True,
        ) as response:
            if response.status_code != requests.codes.ok:
                raise KeysRefused(f"the provider answered {response.status_code}")
            return _body(response, time.monotonic() + policy.total)


def _body(response: requests.Response, deadline: float) -> bytes:
    text = b""
    # read1 is one read of the socket: a body that drips meets the deadline, one without end the limit.
    while chunk := response.raw.read1(MAX_BYTES, decode_content=False):
        text += chunk
        if len(text) > MAX_BYTES:
            raise KeysRefused(f"the provider sent more than {MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise KeysRefused("the provider took too long")
    return text


def checked_url(url: str) -> str:
    """Return the URL. Raises KeysRefused unless it is https, or http on loopback, without user or fragment."""
    try:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))
        if not safe or not parts.hostname or parts.username is not None or parts.fragment:
            raise ValueError
    except ValueError:
        raise KeysRefused("a JWKS URL must be https, or http on loopback, without user or fragment") from None
    return url


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

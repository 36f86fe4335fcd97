"""build_app(settings): the pipeline, written once, in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from gateway.auth.issuers import Issuer
from gateway.auth.keyset import TENANT, KeysRefused
from gateway.auth.tokens import Token, decode_object
from gateway.auth.watched import WatchedKeys
from gateway.blacklist.permissions import Scopes
from gateway.blacklist.resource import Resource
from gateway.blacklist.rules import Blacklist, Rules
from gateway.blacklist.stores import Store, open_store
from gateway.config.announce import misspelled_names, warnings
from gateway.config.public_secret import refuse_public_secret
from gateway.config.settings import Settings
from gateway.config.tracing import traces_endpoint
from gateway.gate.annotate import Annotate
from gateway.gate.cors import Cors
from gateway.gate.direct import Direct, refuse_asgi
from gateway.gate.gate import Gate
from gateway.gate.identity import NONE, Identity
from gateway.gate.public import Public
from gateway.gate.streams import Streams
from gateway.http.problems import Problem
from gateway.http.wsgi import App, Environ, StartResponse, context
from gateway.ops.console import console_pages
from gateway.ops.health import live, readiness
from gateway.ops.logs import line_writer
from gateway.ops.metrics import Metrics, are_shared, decisions
from gateway.ops.observe import PLAIN, Observe
from gateway.ops.openapi import description
from gateway.parties import build_clients, build_issuers, build_senders, build_verifier, name_issuers
from gateway.proxy.exchange import Upstream
from gateway.proxy.forwarded import client_address, peer_address
from gateway.signals.metadata import metadata_pages, metadata_url
from gateway.signals.record import Recorder
from gateway.signals.resources import signal_resources

log = logging.getLogger("gateway")

Clock = Callable[[], float]


class _Pipeline:
    """The gate with all its parts, as the settings have them, in front of an app.

    It has the gate, and is none: compiled classes have no interpreted ones beneath them.
    """

    def __init__(self, app: App, settings: Settings, opened: Store | None, now: Clock = time.time) -> None:
        issuers = build_issuers(settings, now)
        verifier = build_verifier(settings, issuers, now)
        blacklist = build_blacklist(settings, opened, now)
        self._senders = build_senders(settings, issuers, now)
        self.gate = Gate(
            Annotate(app, settings.annotate),
            verifier=verifier,
            blacklist=blacklist,
            resource=Resource(
                blacklist,
                verifier,
                scopes=Scopes(settings.admin_scope, settings.revoke_scope, settings.read_scope, settings.admin_claims),
                restore=settings.restore,
                reports={"/-/decisions": lambda environ: {"decisions": decisions()}} if are_shared() else {},
            ),
            cors=Cors(settings.cors_origins) if settings.cors_origins else None,
            identity=Identity(settings.claims_field, settings.subject_field, settings.forward_authorization),
            public=Public(
                settings.public_paths, pass_preflight=settings.pass_preflight, trusts_outer=settings.trusted_proxies > 0
            ),
            pages={
                **_operators_pages(settings, blacklist, issuers),
                **signal_resources(
                    Recorder(blacklist, self._senders, settings.leeway, now),
                    build_clients(settings),
                    verifier,
                    blacklist,
                    settings.resource,
                ),
            },
            streams=Streams(verifier, blacklist, settings.stream_check) if settings.stream_check else None,
            resource_metadata=metadata_url(settings.resource) if settings.resource else "",
        )
        self.client_of: Callable[[Environ], str] = (
            partial(client_address, trusted_proxies=settings.trusted_proxies)
            if settings.trusted_proxies
            else peer_address
        )
        self._issuers, self._verifier, self._blacklist = issuers, verifier, blacklist

    def key_age(self) -> float:
        """Return the age of the oldest issuer's keys, in seconds."""
        return max(issuer.keys.age() for issuer in self._issuers)

    def pruned(self) -> int:
        """Return how many expired entries this process has deleted; where the store forgets by itself, 0."""
        return getattr(self._blacklist.store, "pruned", 0)


class Gateway(_Pipeline):
    """Wraps any WSGI app: `Gateway(app, Settings(…))`, or `Gateway(app, secret="…", issuer="…")`, never both.

    Raises pydantic's ValidationError for bad settings, TypeError for unknown ones and for an ASGI app, KeysRefused and
    StoreRefused for keys and stores that must not be used: the public secret, where it was not set, is one.
    `opened`, a store in place of that of the settings, and `now` (epoch seconds) are for tests.
    """

    def __init__(
        self,
        app: App,
        settings: Settings | None = None,
        *,
        opened: Store | None = None,
        now: Clock = time.time,
        **values: Any,
    ) -> None:
        refuse_asgi(app)
        if settings and values:
            raise TypeError("either Settings or single settings")
        settings = settings or Settings(**{name: value for name, value in values.items() if value is not None})
        try:
            refuse_public_secret(settings, in_process=True)
        except KeysRefused as fault:
            raise KeysRefused("\n".join([str(fault), *misspelled_names()])) from fault
        super().__init__(_with_claims_of_its_own(app), settings, opened, now)
        for warning in warnings(settings):
            log.warning(warning)
        only = self._issuers[0].name if len(self._issuers) == 1 and TENANT not in self._issuers[0].name else None
        self._direct = Direct(self._blacklist, self._verifier, only)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or pass it on to the app with the token's identity."""
        return self.gate(environ, start_response)

    def blacklist(self, *, by: str = "the application", **members: Any) -> bool:
        """Blacklist a token, or every token with a claim; return whether that changed anything.

        The members are those of `POST /blacklist`: `token="…"`, or `sub="1001"` (or `sid`, `jti`, …) with
        `issued_before`, `until` and, where there are several, `issuer`; and `reason`. `by` is for the audit log.
        Raises `Problem`, and then nothing is sure to be blacklisted: of a token that does not verify, of members that
        say nothing clear, and of a store that could not make it last (`store-unavailable`).
        """
        return self._direct.add(members, by)

    def restore(self, *, by: str = "the application", **members: Any) -> bool:
        """Lift the entry of a token or a claim; return whether there was one. Raises `Problem`, as `blacklist` does."""
        return self._direct.remove(members, by)

    def is_blacklisted(self, **members: Any) -> bool:
        """Return whether a token is blacklisted, by any entry, or a claim by its own. Raises `Problem`."""
        return self._direct.has(members)


def _with_claims_of_its_own(app: App) -> App:
    """Return the app with a copy of the claims: the gate keeps them, and what the app changes must not count there."""

    def call(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        token = context(environ).token
        if isinstance(token, Token):
            environ["gateway.claims"] = decode_object(token.payload)
        return app(environ, start_response)

    return call


def _have_keys(issuers: Sequence[Issuer]) -> None:
    """Ask for the keys of every issuer. Raises `Problem` keys-unavailable where none has any.

    One whose keys are not there stops its own users; it must not take those of all others away with it.
    """
    problems = []
    for issuer in issuers:
        try:
            issuer.keys.current()
        except Problem as problem:
            problems.append(problem)
    if len(problems) == len(issuers):
        raise problems[0]


def _operators_pages(settings: Settings, blacklist: Blacklist, issuers: Sequence[Issuer]) -> dict[str, App]:
    names = [issuer.name for issuer in issuers]
    return {
        "/-/live": live,
        "/-/ready": readiness(blacklist.store.ping, partial(_have_keys, issuers)),
        "/-/openapi.json": description(),
        **(
            console_pages(claims_of(settings), settings.cut_off_claims, settings.admin_claims, settings.leeway)
            if settings.console
            else {}
        ),
        **(metadata_pages(settings.resource, names) if settings.resource else {}),
    }


def observe(gateway: Gateway, registry: Any = None) -> Observe:
    """Return the gateway with a line for each request, to `logging`'s gateway.access, and with metrics.

    The metrics are in `registry`, such as `prometheus_client.REGISTRY`; without one there are none.
    """
    access = logging.getLogger("gateway.access")

    def write(message: str, members: dict[str, Any]) -> None:
        rounded = {name: round(value, 3) for name, value in members.items() if isinstance(value, float)}
        access.info(message, extra={"record": members | rounded})

    return Observe(
        gateway.gate,
        gateway.client_of,
        write=write,
        metrics=Metrics(gateway.key_age, gateway.pruned, registry=registry) if registry else None,
    )


def build_app(settings: Settings | None = None, store: Store | None = None, *, forks: bool = True) -> Observe:
    """Return the gateway in front of the upstream that the settings name (default: the environment's).

    In a process that never `forks` keys are fetched at once: a worker that has not had a request yet must have some
    when the provider fails, and a message may come once.
    """
    settings = settings or Settings()
    upstream: App = build_upstream(settings)
    traces = None
    if traces_endpoint():
        from gateway.ops.traces import Traced, Traces

        traces = Traces(settings.upstream)
        upstream = Traced(upstream, traces)
    gateway = _Pipeline(upstream, settings, store)
    for issuer in (*gateway._issuers, *gateway._senders.all):
        if not forks and isinstance(issuer.keys, WatchedKeys):
            issuer.keys.start()
    is_debug = settings.log_level == "debug"
    access = partial(line_writer, settings.log_format, "gateway.access", plain=PLAIN)
    return Observe(
        gateway.gate,
        gateway.client_of,
        write=access() if settings.log_level in ("debug", "info") else None,
        write_probe=access("debug") if is_debug else lambda message, members: None,
        in_detail=is_debug,
        metrics=_shared_metrics(gateway) if are_shared() else None,
        traces=traces,
    )


def _shared_metrics(gateway: _Pipeline) -> Metrics | None:
    """Return what counts; None, and a line in the log, where its files cannot be made: that must not stop the rest."""
    try:
        return Metrics(gateway.key_age, gateway.pruned)
    except OSError as error:
        log.error("there are no metrics of this process until the gateway is restarted: %s", error)
        return None


def build_upstream(settings: Settings) -> Upstream:
    """Return the way to the upstream, as a WSGI app."""
    return Upstream(
        settings.upstream,
        timeout=(settings.connect_timeout, settings.read_timeout),
        ca_file=settings.upstream_ca,
        cert=settings.upstream_cert,
        preserve_host=settings.preserve_host,
        trusted_proxies=settings.trusted_proxies,
        max_body=settings.max_body_bytes,
        upgrades=settings.upgrades,
        own_fields=[name for name in (settings.claims_field, settings.subject_field) if name != NONE],
    )


def build_blacklist(
    settings: Settings, store: Store | None = None, now: Clock = time.time, *, create: bool = True
) -> Blacklist:
    """Return the blacklist on the store that the settings name. Raises StoreRefused, also for none unless `create`."""
    if store is None:
        store = open_store(
            settings.store, now=now, replicas=settings.replicas, accept_lossy=settings.accept_lossy_store, create=create
        )
    rules = Rules(
        claims_of(settings), settings.cut_off_claims, settings.auth_time, settings.leeway, settings.max_token_age
    )
    return Blacklist(store, rules, issuers=name_issuers(settings), now=now)


def claims_of(settings: Settings) -> tuple[str, ...]:
    """Return the claims that can be blacklisted, those that signals name included."""
    named = [claim for sender in settings.signals for claim in (*sender.claims.values(), *sender.joined, "jti")]
    return tuple(dict.fromkeys((*settings.blacklist_claims, *named)))

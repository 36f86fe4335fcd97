"""Responses under way end when their token is blacklisted, and when it expires: no stream outlives its token."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from threading import Thread

from gateway.auth.tokens import SOON, Token, Verifier
from gateway.blacklist.rules import Blacklist
from gateway.blacklist.stores.base import in_parts
from gateway.http.problems import Problem, StoreUnavailable
from gateway.http.threads import start_thread
from gateway.http.wsgi import Context, close_body

log = logging.getLogger("gateway.streams")

KEYS_AT_ONCE = 100  # in one look-up
# A store that fails once may be failing over. After the second failure in a row nobody knows which of the
# streams' tokens are blacklisted, so all of them end.
FAILURES_ALLOWED = 1


class Streams:
    """Asks about all streams of a process at once, every `seconds`."""

    def __init__(self, verifier: Verifier, blacklist: Blacklist, seconds: float) -> None:
        self.seconds = seconds
        self._verifier = verifier
        self._blacklist = blacklist
        self._mark = ""  # of the store's newest change that was looked at
        self._failures = 0
        self._looked = math.inf  # when all were looked at last, in epoch seconds
        self._ending: list[Context] = []  # those of them whose token ends within SOON seconds
        self._question: Thread | None = None  # that asks the store, whose disk may hang

    def check(self, under_way: Callable[[], Iterable[Context]]) -> None:
        """Cut off those whose token has expired, and have the store asked about the others. For one thread.

        A store that has not answered by the next check counts as one that fails.
        """
        self._cut_expired(under_way)
        if self._question and self._question.is_alive():
            self._fail(under_way)
            return
        self._question = start_thread(self._ask, under_way, name="gateway-streams-store")
        if self._question is None:  # then nobody asks
            self._fail(under_way)

    def _ask(self, under_way: Callable[[], Iterable[Context]]) -> None:
        """Cut off those whose token may not pass any more.

        The store's changes are read before `under_way` is asked for the requests being answered: one that was let
        through before a change is among them, one that comes after it has been refused.
        """
        try:
            mark, changed = self._blacklist.store.changes(self._mark)
            if changed is None or changed or not self._mark:  # at first nobody knows what came before
                self._cut_blacklisted(under_way(), changed if self._mark else None)
            self._mark, self._failures = mark, 0
        except StoreUnavailable:
            self._fail(under_way)
        except Exception:
            log.exception("the streams could not be checked")
            self._fail(under_way)  # nobody knows which of them are blacklisted

    def _fail(self, under_way: Callable[[], Iterable[Context]]) -> None:
        self._failures += 1
        if self._failures > FAILURES_ALLOWED:
            self._cut_all(under_way())

    def _cut_expired(self, under_way: Callable[[], Iterable[Context]]) -> None:
        """Cut off those whose time is over.

        There may be thousands, and a look at each costs cache misses. So all are looked at only every SOON / 2 seconds,
        or when `passed_late` tells of a new one that ends soon; in between only those that end soon.
        """
        now = self._verifier.now()
        if not self._looked <= now < self._looked + SOON / 2 or self._verifier.passed_late >= self._looked - SOON / 2:
            self._looked = now
            self._ending = [about for about in under_way() if _end(about) < now + SOON]
        for about in self._ending:
            if now >= _end(about) and _is_stream(about):
                _cut(about, "token-expired")
        self._ending = [about for about in self._ending if now < _end(about)]

    def _cut_blacklisted(self, known: Iterable[Context], changed: frozenset[str] | None) -> None:
        """Ask about the streams that one of the changed keys may concern; about all, where those are not known."""
        concerned: defaultdict[str, list[tuple[Context, Token]]] = defaultdict(list)
        for about in known:
            token = about.token
            if not isinstance(token, Token) or not _is_stream(about):
                continue
            try:
                keys = self._blacklist.lookup_keys(token)
            except Problem:  # the request is being refused for its token's claims
                continue
            if changed is None or not changed.isdisjoint(keys):
                for key in keys:
                    if changed is None or key in changed:
                        concerned[key].append((about, token))
        for key in self._find(list(concerned)):
            for about, token in concerned[key]:
                if problem := self._blacklist.refusal(token):
                    _cut(about, problem.code)

    def _find(self, keys: list[str]) -> Iterator[str]:
        for part in in_parts(keys, KEYS_AT_ONCE):
            yield from {entry.key for entry in self._blacklist.store.find(part)}

    def _cut_all(self, under_way: Iterable[Context]) -> None:
        live = [about for about in under_way if isinstance(about.token, Token) and _is_stream(about)]
        if live:
            log.warning("%d streams are cut off: the blacklist store does not answer", len(live))
        for about in live:
            _cut(about, "store-unavailable")

    def watch(self, body: Iterable[bytes], token: Token) -> Iterator[bytes]:
        """Return the body of an answer, which ends with a `Problem` once the token may not pass any more.

        For servers that cannot cut a response off: looked at between two parts, so not while none comes.
        """
        looked = time.monotonic()
        try:
            for part in body:
                if time.monotonic() - looked >= self.seconds:
                    looked = time.monotonic()
                    if self._verifier.has_expired(token):
                        raise Problem("token-expired")
                    if problem := self._blacklist.refusal(token):
                        raise problem
                yield part
        finally:
            close_body(body)


def _end(about: Context) -> float:
    """Return when the request's token ends, in epoch seconds; inf where it has none."""
    return about.token.ends_at if isinstance(about.token, Token) else math.inf


def _is_stream(about: Context) -> bool:
    """Return whether the request has been passed on; the gateway's own answers are short."""
    return bool(about.cut and about.target and not about.target.is_own)


def _cut(about: Context, code: str) -> None:
    if about.cut:
        about.cut(code)

"""/blacklist over HTTP: take a token back, restore it, tell its state; list what is blacklisted."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from gateway.auth.tokens import Token, Verifier
from gateway.blacklist.body import Target, body_members, read_target, with_query
from gateway.blacklist.rules import Actor, Blacklist
from gateway.blacklist.stores.base import LATEST, Entry
from gateway.http.body import body_length
from gateway.http.problems import Problem
from gateway.http.target import BLACKLIST, request_target
from gateway.http.wsgi import Environ, context

T = TypeVar("T")
Answer = dict[str, Any]

ENTRIES = BLACKLIST + "/entries"
DEFAULT_PAGE, LARGEST_PAGE = 100, 1000


class Caller(NamedTuple):
    """Who asks: the token presented, whether it is itself blacklisted, and from where."""

    token: Token
    blacklisted: bool
    address: str

    def actor(self, reason: str = "") -> Actor:
        """Return the caller as the author of a change: by `sub`, or by the fingerprint's beginning."""
        by = str(self.token.claims.get("sub") or self.token.fingerprint[:16])
        return Actor(by, self.address, reason)


class Resource:
    """Answers for `/blacklist` and everything below it.

    The gate has verified the caller's token; a blacklisted one it lets come to `/blacklist` alone.
    `reports` are further resources for admins, by path.
    """

    def __init__(
        self,
        blacklist: Blacklist,
        verifier: Verifier,
        *,
        admin_scope: str = "blacklist:admin",
        restore: str = "holder",
        reports: Mapping[str, Callable[[Environ], Answer]] | None = None,
    ) -> None:
        self._blacklist = blacklist
        self._verifier = verifier
        self._admin_scope = admin_scope
        self._restore = restore
        self._reports = {ENTRIES: self._entries, **(reports or {})}
        self._methods: dict[str, Callable[[Caller, Target], Answer]] = {
            "GET": self._state,
            "HEAD": self._state,  # RFC 9110 section 9.1
            "POST": self._add,
            "DELETE": self._remove,
        }

    def answer(self, environ: Environ, token: Token, blacklisted: bool) -> Generator[bytes, None, Answer]:
        """Return the members of the success answer, once the body is there. Raises `Problem` for every refusal.

        To be called with `yield from`.
        """
        caller = Caller(token, blacklisted, context(environ).client or environ.get("REMOTE_ADDR", ""))
        path = request_target(environ).path
        if path == BLACKLIST:
            return (yield from self._blacklist_answer(environ, caller))
        if path not in self._reports:
            raise Problem("not-found")
        _of_method(environ, {"GET": None, "HEAD": None})
        self._require_admin(caller)
        return self._reports[path](environ)

    def _blacklist_answer(self, environ: Environ, caller: Caller) -> Generator[bytes, None, Answer]:
        act = _of_method(environ, self._methods)
        query = request_target(environ)
        params = query.params()
        members = yield from body_members(environ)
        if body_length(environ) is not None:  # it may have taken its time
            caller = self._again(caller)
        claims = self._blacklist.claims
        target = read_target(with_query(members, params, claims), claims)
        if caller.blacklisted and not _is_self(caller.token, target):
            raise Problem("token-blacklisted")
        if target.claim is not None:
            self._require_admin(caller)
        request = {"method": environ["REQUEST_METHOD"], "path": query.path, "params": {**params, **members}}
        return {"request": request, **act(caller, target)}

    def _again(self, caller: Caller) -> Caller:
        """Return the caller as its token is by now."""
        if self._verifier.has_expired(caller.token):
            raise Problem("token-expired")
        return caller._replace(blacklisted=self._blacklist.has(caller.token))

    def _state(self, caller: Caller, target: Target) -> Answer:
        if target.claim is None:
            return self._token_answer(self._token(caller, target), False)
        entry = self._blacklist.find_claim(caller.token.issuer.name, *target.claim)
        return _claim_answer(target.claim, entry, False)

    def _add(self, caller: Caller, target: Target) -> Answer:
        actor = caller.actor(target.reason)
        if target.claim is not None:
            try:
                entry, changed = self._blacklist.add_claim(
                    caller.token.issuer.name, *target.claim, target.issued_before, actor
                )
            except ValueError as error:
                raise Problem("invalid-request", "issued_before must not lie in the future.") from error
            return _claim_answer(target.claim, entry, changed)
        token = self._token(caller, target)
        changed = not self._verifier.has_expired(token) and self._blacklist.add_token(token, actor)
        return self._token_answer(token, changed)

    def _remove(self, caller: Caller, target: Target) -> Answer:
        if self._restore == "admin":
            # The scope first: a holder learns nothing of the state, and a thief restores nothing.
            self._require_admin(caller)
            if caller.blacklisted:
                raise Problem("token-blacklisted")
        actor = caller.actor(target.reason)
        if target.claim is not None:
            changed = self._blacklist.remove_claim(caller.token.issuer.name, *target.claim, actor)
            return _claim_answer(target.claim, None, changed)
        token = self._token(caller, target)
        changed = not self._verifier.has_expired(token) and self._blacklist.remove_token(token, actor)
        return self._token_answer(token, changed)

    def _entries(self, environ: Environ) -> Answer:
        params = request_target(environ).params()
        # A repeated name has a list, whose text is neither a number nor a cursor.
        limit, cursor = str(params.get("limit", DEFAULT_PAGE)), str(params.get("cursor", ""))
        if not (limit.isascii() and limit.isdigit() and len(limit) < 10 and 1 <= int(limit) <= LARGEST_PAGE):
            raise Problem("invalid-request", f"limit must be a whole number from 1 to {LARGEST_PAGE}.")
        try:
            entries, following = self._blacklist.store.page(int(limit), cursor)
        except ValueError as error:
            raise Problem("invalid-request", "cursor must be one that a page gave.") from error
        return {"entries": [described(entry) for entry in entries], "next_cursor": following or None}

    def _token(self, caller: Caller, target: Target) -> Token:
        """Return the token to act on. Holding it, that is presenting its text, is the right to do so."""
        if target.token is None:
            return caller.token
        try:
            return self._verifier.genuine(target.token)
        except Problem as problem:
            if problem.code == "keys-unavailable":
                raise
            raise Problem("invalid-request", "The token in the request does not verify.") from problem

    def _token_answer(self, token: Token, changed: bool) -> Answer:
        blacklisted = not self._verifier.has_expired(token) and self._blacklist.has(token)
        return {
            "message": _message("token", blacklisted),
            "token": token.text,
            "blacklisted": blacklisted,
            "changed": changed,
            "expires_at": timestamp(int(min(token.expires_at, LATEST))),
        }

    def _require_admin(self, caller: Caller) -> None:
        scope = caller.token.claims.get("scope")
        scopes = scope.split(" ") if isinstance(scope, str) else scope
        if not isinstance(scopes, list) or self._admin_scope not in scopes:
            raise Problem("insufficient-scope", scope=self._admin_scope)


def described(entry: Entry) -> Answer:
    """Return an entry as it is listed: by fingerprint or claim, times in RFC 3339 but for the cut-off."""
    kind, _, digest = entry.key.partition(":")
    return {
        **({"fingerprint": digest} if kind == "token" else {"claim": dict([entry.claim or ("", "")])}),
        "issued_before": entry.issued_before,
        "created_at": timestamp(entry.created_at),
        "expires_at": timestamp(entry.expires_at),
        "by": entry.by,
        "reason": entry.reason,
    }


def timestamp(seconds: int | None) -> str | None:
    """Return epoch seconds as RFC 3339 in UTC, null for never."""
    return None if seconds is None else datetime.fromtimestamp(max(seconds, 0), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def success(members: Answer) -> bytes:
    """Return the body of a success answer."""
    return (json.dumps({"success": True, **members}) + "\n").encode()


def _claim_answer(claim: tuple[str, Any], entry: Entry | None, changed: bool) -> Answer:
    return {
        "message": _message("claim", entry is not None),
        "claim": dict([claim]),
        "issued_before": entry and entry.issued_before,
        "blacklisted": entry is not None,
        "changed": changed,
        "expires_at": entry and timestamp(entry.expires_at),
    }


def _message(what: str, blacklisted: bool) -> str:
    return f"The {what} is blacklisted." if blacklisted else f"The {what} is not blacklisted."


def _is_self(token: Token, target: Target) -> bool:
    named = target.token
    return target.claim is None and (named is None or named.rpartition(".")[0] == token.text.rpartition(".")[0])


def _of_method(environ: Environ, methods: Mapping[str, T]) -> T:
    try:
        return methods[environ["REQUEST_METHOD"]]
    except KeyError:
        raise Problem("method-not-allowed", fields=[("Allow", ", ".join(methods))]) from None

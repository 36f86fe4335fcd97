"""/blacklist over HTTP: add, restore, show the state; list what is blacklisted."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

from gateway.auth.issuers import ANY
from gateway.auth.tokens import Claims, Token, Verifier
from gateway.blacklist.body import body_members, restate
from gateway.blacklist.entries import entry_to_json, fingerprint_of, timestamp
from gateway.blacklist.listing import list_entries
from gateway.blacklist.named import Named
from gateway.blacklist.permissions import Scopes
from gateway.blacklist.rules import Actor, Blacklist
from gateway.blacklist.stores.base import LATEST, Entry
from gateway.blacklist.target import Target, read_target, read_text, with_query
from gateway.http.body import body_length
from gateway.http.problems import Problem
from gateway.http.target import BLACKLIST, request_target
from gateway.http.values import value_text
from gateway.http.wsgi import Environ, context

T = TypeVar("T")
Answer = dict[str, Any]

ENTRIES = BLACKLIST + "/entries"


class Caller(NamedTuple):
    """Who asks: the token presented, whether it is itself blacklisted, from where, and in which trace."""

    token: Token
    blacklisted: bool
    address: str
    trace: str

    def actor(self, reason: str = "") -> Actor:
        """Return the caller as the author of a change: by `sub`, or by the fingerprint's beginning."""
        by = value_text(self.token.claims.get("sub")) or self.token.fingerprint[:16]
        return Actor(by, self.address, reason, self.trace, self.token.issuer.name)


class Resource:
    """Answers for `/blacklist` and everything below it.

    The gate has verified the caller's token; with a blacklisted one it lets pass to `/blacklist` alone.
    `reports` are further resources for those who may look up, by path.
    """

    def __init__(
        self,
        blacklist: Blacklist,
        verifier: Verifier,
        *,
        scopes: Scopes,
        restore: str,
        reports: Mapping[str, Callable[[Environ], Answer]],
    ) -> None:
        self._blacklist = blacklist
        self._verifier = verifier
        self._scopes = scopes
        self._restore = restore
        self._reports = reports
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
        about, path = context(environ), request_target(environ).path
        caller = Caller(token, blacklisted, about.client or environ.get("REMOTE_ADDR", ""), about.trace)
        if path == BLACKLIST:
            return (yield from self._blacklist_answer(environ, caller))
        if path != ENTRIES and path not in self._reports:
            raise Problem("not-found")
        _by_method(environ, {"GET": None, "HEAD": None})
        self._require(self._scopes.may_look_up, caller, asked=path)
        if path in self._reports:
            return self._reports[path](environ)
        params = request_target(environ).params()
        issuer = self._within(caller, read_text(params, "issuer"), asked=path) if "issuer" in params else None
        entries, cursor = list_entries(self._blacklist, params, caller.token.issuer, issuer)
        return {"entries": [entry_to_json(entry) for entry in entries], "next_cursor": cursor or None}

    def _blacklist_answer(self, environ: Environ, caller: Caller) -> Generator[bytes, None, Answer]:
        act = _by_method(environ, self._methods)
        query = request_target(environ)
        params = query.params()
        members = yield from body_members(environ)
        if body_length(environ) is not None:  # it may have come slowly
            caller = self._renew(caller)
        claims = self._blacklist.claims
        target = read_target(with_query(members, params, claims), claims)
        if caller.blacklisted and not target.is_token(caller.token.text):
            raise Problem("token-blacklisted")
        restated = {name: restate(value) for name, value in {**params, **members}.items()}
        # A HEAD request is restated as GET, whose answer has the same length (RFC 9110 section 8.6).
        method = environ["REQUEST_METHOD"].replace("HEAD", "GET")
        request = {"method": method, "path": query.path, "params": restated}
        return {"request": request, **act(caller, target)}

    def _renew(self, caller: Caller) -> Caller:
        """Return the caller as its token is by now. Raises `Problem` where it has expired, or its key is withdrawn."""
        token = self._verifier.verify(caller.token.text)
        return caller._replace(token=token, blacklisted=self._blacklist.has(token))

    # What is done.

    def _state(self, caller: Caller, target: Target) -> Answer:
        if target.is_for_admins:
            self._require(self._scopes.may_look_up, caller, asked="state")
        return self._answer(caller, self._named(caller, target, asked="state"), False)

    def _add(self, caller: Caller, target: Target) -> Answer:
        if target.is_for_admins:
            self._require(self._scopes.may_add, caller, asked="add")
        self._blacklist.check_end(target.until)
        named = self._named(caller, target, asked="add")
        self._check_whose(caller, target, named)
        changed = not named.has_expired and named.add(caller.actor(target.reason), target.cut_off, target.until)
        if target.fingerprint is not None:  # whose entry it is may have been settled by another at this moment
            named = self._named(caller, target, asked="add")
            self._check_whose(caller, target, named)
        return self._answer(caller, named, changed)

    def _check_whose(self, caller: Caller, target: Target, named: Named) -> None:
        """Refuse a fingerprint without an issuer if its entry leaves in doubt that the token is another issuer's."""
        is_whole = target.fingerprint == named.fingerprint
        if target.issuer is not None or not is_whole or named.issuer == caller.token.issuer.name:
            return
        # Older gateways did not note `by_fingerprint` where there was an `until`.
        if any(entry.by_fingerprint or entry.expires_at is None for entry in named.entries()):
            raise Problem("invalid-request", f"There is an entry for a token of {named.issuer}: name the issuer.")

    def _remove(self, caller: Caller, target: Target) -> Answer:
        if self._restore == "admin" or target.is_for_admins:
            # The scope first: a holder learns nothing of the state, and a thief restores nothing.
            self._require(self._scopes.may_do_all, caller, asked="remove")
        if self._restore == "admin" and caller.blacklisted:
            raise Problem("token-blacklisted")
        named = self._named(caller, target, asked="remove")
        if self._restore == "admin" and not target.is_for_admins:
            self._within(caller, named.issuer, asked="remove")
        changed = not named.has_expired and named.remove(caller.actor(target.reason))
        return self._answer(caller, named, changed)

    # What is meant.

    def _named(self, caller: Caller, target: Target, *, asked: str) -> Named:
        """Return what to act on. Holding a token, that is presenting its text, is the right to do so."""
        if target.fingerprint is not None:
            return self._by_fingerprint(caller, target.fingerprint, target.issuer, asked=asked)
        if target.claim is not None:
            return Named(self._blacklist, self._within(caller, target.issuer, asked=asked), claim=target.claim)
        token = caller.token if target.token is None else self._verify(target.token)
        return Named(
            self._blacklist, token.issuer.name, token.fingerprint, token, has_expired=self._verifier.has_expired(token)
        )

    def _verify(self, text: str) -> Token:
        try:
            token = self._verifier.genuine(text)
            self._blacklist.lookup_keys(token)
        except Problem as problem:
            if problem.code == "keys-unavailable":
                raise
            # Not a 401, which would speak of the caller's own token.
            raise Problem("invalid-request", f"The token in the request does not verify: {problem.code}.") from problem
        return token

    def _by_fingerprint(self, caller: Caller, digits: str, spelling: str | None, **asked: object) -> Named:
        asked |= {"fingerprint": digits}
        entry = self._blacklist.find_fingerprint(digits)
        if entry is None:
            whose = self._within(caller, spelling, **asked)
            return Named(self._blacklist, whose, digits, made_by=whose)
        issuer = self._within(caller, entry.issuer, **asked)
        if spelling is not None and self._within(caller, spelling, **asked) != issuer:
            raise Problem("invalid-request", "The entry is of another issuer.")
        return Named(self._blacklist, issuer, fingerprint_of(entry), made_by=entry.issuer)

    # Who may.

    def _require(self, may: Callable[[Claims], bool], caller: Caller, **asked: object) -> None:
        if not may(caller.token.claims):
            self._forbid(caller, "", **asked)

    def _within(self, caller: Caller, spelling: str | None, **asked: object) -> str:
        """Return the name of the issuer to act in, the caller's own where none is named."""
        own = caller.token.issuer
        name = own.name if spelling is None else self._verifier.issuers.name_of(spelling)
        if name is None and ANY in own.administers:
            raise Problem("invalid-request", "There is no such issuer.")
        if name is None or not own.may_administer(name):
            detail = "The target's issuer is not the token's own, nor one that this administers."
            self._forbid(caller, detail, issuer=spelling, **asked)
        return name

    def _forbid(self, caller: Caller, detail: str, **asked: object) -> NoReturn:
        self._blacklist.record("refuse", caller.actor(), by_fingerprint=caller.token.fingerprint, **asked)
        raise Problem("insufficient-scope", detail, scope=self._scopes.admin)

    # What is answered.

    def _answer(self, caller: Caller, named: Named, changed: bool) -> Answer:
        entries = named.entries()
        entry = entries[0] if entries else None
        ends, members = entry.expires_at if entry else None, named.to_json()
        if named.token is None:
            members |= {"issuer": named.issuer, "issued_before": entry and entry.issued_before, "until": ends}
        else:
            ends, members = int(min(named.token.expires_at, LATEST)), {"token": named.token.text}
        return {
            "message": _message(named, entries, changed),
            **members,
            "blacklisted": entry is not None,
            "changed": changed,
            "expires_at": timestamp(ends),
            "entries": [self._describe_entry(caller, each) for each in entries],
        }

    def _describe_entry(self, caller: Caller, entry: Entry) -> Answer:
        may_know = (
            not caller.blacklisted
            and self._scopes.may_look_up(caller.token.claims)
            and caller.token.issuer.may_administer(self._blacklist.issuer_of(entry))
        )
        return entry_to_json(entry) if may_know else {"kind": "claim" if entry.claim else "token"}


def success(members: Answer) -> bytes:
    """Return the body of a success answer."""
    return (json.dumps({"success": True, **members}) + "\n").encode()


def _message(named: Named, entries: Sequence[Entry], changed: bool) -> str:
    what = "token" if named.claim is None else "claim"
    if named.has_expired:
        return "The token has expired."
    if named.token and changed and entries and all(entry.claim for entry in entries):
        return "The token's own entry is lifted; an entry for one of its claims still blacklists it."
    if entries:
        return f"The {what} is blacklisted{_if_it_is_of(named, entries[0])}."
    if named.token is None and named.claim is None:  # its claims are not known
        return "The token has no entry of its own; one for a claim of it may still blacklist it."
    return f"The {what} is not blacklisted."


def _if_it_is_of(named: Named, entry: Entry) -> str:
    """Return whose the token must be for the entry to count, where a fingerprint alone named it; else ""."""
    issuers = named.blacklist.issuers
    if named.token or not entry.by_fingerprint or issuers.may_act_in_all(entry.issuer, entry.administers):
        return ""
    others = entry.administers or issuers.administered_by(entry.issuer)
    return f", if it is of {entry.issuer}" + (" or of an issuer that this one administers" if others else "")


def _by_method(environ: Environ, methods: Mapping[str, T]) -> T:
    try:
        return methods[environ["REQUEST_METHOD"]]
    except KeyError:
        raise Problem("method-not-allowed", fields=[("Allow", ", ".join(methods))]) from None

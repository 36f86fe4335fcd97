"""Security Event Tokens fetched by polling (RFC 8936): acknowledged once they last, or reported with their fault."""

from __future__ import annotations

import logging
from codecs import BOM_UTF8
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from gateway.auth.fetch import ask, loggable, read_body
from gateway.auth.keyset import KeysRefused
from gateway.http.problems import Problem
from gateway.http.strict_json import json_object
from gateway.http.wsgi import Context
from gateway.signals.answers import Refusal
from gateway.signals.events import ERRORS, Events
from gateway.signals.senders import Poll

MAX_EVENTS = 100  # asked for at once
LARGEST_ANSWER = 16 * 1024 * 1024  # bytes
CONNECT_SECONDS, READ_SECONDS = 5, 120  # a transmitter may hold its answer back until there are events

log = logging.getLogger("gateway.signals")


class PollFailed(Exception):
    """The transmitter did not answer as RFC 8936 says; the text is one sentence."""


@dataclass(slots=True)
class Poller:
    """Fetches one sender's events. What was taken is acknowledged with the next request, after a failed one again."""

    events: Events
    poll: Poll
    _acks: list[str] = field(default_factory=list, init=False)
    _faults: dict[str, dict[str, str]] = field(default_factory=dict, init=False)

    @property
    def place(self) -> str:
        """Where the events come from, as the log may have it."""
        return loggable(self.poll.url)

    def fetch(self, *, wait: bool) -> bool:
        """Fetch and take events once; return whether any were new: there may be more, and they are to be acknowledged.

        `wait` lets the transmitter hold its answer back until there are events. Raises PollFailed, and
        `StoreUnavailable` or keys-unavailable as `Problem`: what was not taken by then comes again.
        """
        asked = {"maxEvents": MAX_EVENTS, "returnImmediately": not wait, "ack": self._acks}
        answer = self._ask({**asked, **({"setErrs": self._faults} if self._faults else {})})
        done = {*self._acks, *self._faults}
        self._acks, self._faults = [], {}
        sets = answer.get("sets") or {}  # a transmitter in Go writes null for none
        if not isinstance(sets, dict):
            raise PollFailed("the member sets of its answer is no object")
        put_off: Problem | None = None
        for jti, text in sets.items():
            try:
                self._take(jti, text)
            except Problem as problem:
                if problem.code != "keys-unavailable":
                    raise
                put_off = problem  # the others may be signed with keys that we have
        if put_off:
            raise put_off
        # Whatever a transmitter says of more, one that sends nothing, or the same again, is not asked again at once.
        return not sets.keys() <= done

    def _take(self, jti: str, text: object) -> None:
        """Take one token. RFC 8936 section 2.4: it is acknowledged only now, or its error is kept for the next poll."""
        about = Context()
        try:
            if not isinstance(text, str):
                raise Refusal("invalid_request", "The Security Event Token is no text.")
            self.events.take(text, about, None)
            self._acks.append(jti)
        except Refusal as refusal:
            self._fault(jti, refusal.error, refusal.why, about)
        except Problem as problem:
            if problem.status != 401:
                raise
            self._fault(jti, ERRORS.get(problem.code, ERRORS[""]), problem.detail, about)

    def _fault(self, jti: str, error: str, why: str, about: Context) -> None:
        record = {"error": error, "from": self.place, **about.refusal_log}
        log.warning("event refused: %s", why, extra={"record": record})
        self._faults[jti] = {"err": error, "description": why}

    def _ask(self, members: dict[str, Any]) -> dict[str, Any]:
        fields = {"Accept": "application/json", "Content-Language": "en"}  # of faults: RFC 8936 section 2.6
        if self.poll.authorization:
            fields["Authorization"] = self.poll.authorization
        url, proxy, trusted = self.poll.url, self.poll.proxy, self.poll.ca_file or True
        times = (CONNECT_SECONDS, READ_SECONDS)
        try:
            with ask("POST", url, proxy, json=members, headers=fields, timeout=times, verify=trusted) as response:
                if response.status_code != HTTPStatus.OK:
                    raise PollFailed(f"it answered {response.status_code}")
                return json_object(read_body(response, LARGEST_ANSWER, READ_SECONDS).removeprefix(BOM_UTF8))
        except PollFailed:
            raise
        except KeysRefused as fault:
            raise PollFailed("its answer is too long, takes too long, or is damaged gzip") from fault
        except Exception as error:  # urllib3's own too, of an answer that breaks off
            raise PollFailed(f"no usable answer: {type(error).__name__}") from error

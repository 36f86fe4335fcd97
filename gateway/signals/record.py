"""Blacklists what a message names, once, in one change of the store: it lasts before anything is answered."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.blacklist.rules import LARGEST_LEEWAY, NOW, Actor, Blacklist, ClaimTarget, CutOff
from gateway.blacklist.stores.base import LATEST, Entry
from gateway.http.wsgi import Context
from gateway.signals.senders import Sender, Senders
from gateway.signals.subjects import Subject

audit = logging.getLogger("gateway.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What one message says: whose tokens it blacklists, by a cut-off where they do not end for good.

    `jti` is the message's id, kept until `kept_until`; "" where the message may come again.
    """

    kind: str
    sender: Sender
    subjects: Sequence[Subject]
    cut_off: CutOff = NOW
    reason: str = ""
    jti: str
    kept_until: float


class Recorder:
    """Blacklists what senders name. `leeway` is in seconds, `now` returns epoch seconds."""

    # A message comes once: one that is refused because its sender's clock is ahead would be lost.
    AHEAD_SECONDS = 30

    def __init__(self, blacklist: Blacklist, senders: Senders, leeway: float, now: Callable[[], float]) -> None:
        self.senders, self.leeway, self.now = senders, leeway, now
        self._blacklist = blacklist

    def latest(self) -> float:
        """Return the latest time of issue that a message may have."""
        return self.now() + max(self.leeway, self.AHEAD_SECONDS)

    def cut_off_since(self, issued: float) -> CutOff:
        """Return the cut-off of whatever passes at this moment, and of what was issued before a message."""
        latest = math.ceil(issued)
        return NOW if latest <= self._blacklist.cut_off_now() else latest

    def record(self, notice: Notice, about: Context) -> bool:
        """Blacklist what the notice names, and return whether it comes for the first time: else nothing changes.

        One that blacklists nothing is not kept: streams of sign-ins would fill the store. Raises `StoreUnavailable`;
        then the same message can come again.
        """
        targets = [
            ClaimTarget(each.issuer, each.claim, each.value, None if each.for_good else notice.cut_off)
            for each in notice.subjects
        ]
        actor = Actor(f"{notice.kind}:{notice.sender.name}", about.client, notice.reason or notice.kind, about.trace)
        added = self._blacklist.add_targets(targets, actor, once=self._mark(notice)) if targets else []
        outcome = "repeated" if added is None else "taken" if targets else "nothing-to-do"
        about.signals += ((notice.kind, outcome),)
        record = {"signal": notice.kind, "sender": notice.sender.name, "what": notice.reason, "subjects": len(targets)}
        audit.info("signal %s", outcome, extra={"record": record})
        return added is not None

    def _mark(self, notice: Notice) -> Entry | None:
        if not notice.jti:
            return None
        digest = hashlib.sha256(json.dumps([notice.kind, notice.sender.name, notice.jti]).encode()).hexdigest()
        # A second longer than any gateway that shares the store could take the message.
        ends = min(math.ceil(min(notice.kept_until, LATEST)) + LARGEST_LEEWAY + 1, LATEST)
        return Entry("seen:" + digest, notice.sender.name, int(self.now()), ends)

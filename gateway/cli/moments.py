"""Moments as people write them: epoch seconds, ISO 8601, or a time from now."""

from __future__ import annotations

import math
import re
import time
from datetime import datetime
from typing import Any, Literal

import click

from gateway.blacklist.rules import NOW
from gateway.blacklist.stores.base import LATEST

# Whole words: `2months` must not be two minutes.
_SPAN = re.compile(r"(?:in )?(\d{1,9}) ?(s|m|h|d|w|(?:sec|min|second|minute|hour|hr|day|week)s?)( ago)?", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Moment(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """A moment; `direction` says where from now a bare `2h` lies: -1 before, 1 after."""

    name = "moment"

    def __init__(self, direction: int) -> None:
        self._direction = direction

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["now"]:
        """Return epoch seconds, rounded up; a cut-off `NOW` stays as it is, for each gateway to read for itself."""
        if value == NOW and self._direction < 0:
            return NOW
        try:
            moment = math.ceil(self._seconds(str(value).strip()))
        except (ValueError, OverflowError):
            moment = -1
        if not 0 <= moment <= LATEST:
            self.fail("must be epoch seconds, an ISO date such as 2026-01-31T12:00Z, or a time such as 2h", param, ctx)
        return moment

    def _seconds(self, text: str) -> float:
        if text.isascii() and text.isdigit():
            if len(text) in (8, 12):  # 20260131 and 202601311200 are dates as well, and no seconds that anybody means
                raise ValueError
            return int(text)
        if found := _SPAN.fullmatch(text):
            direction = -1 if found[3] else 1 if text.startswith("in ") else self._direction
            return time.time() + direction * int(found[1]) * _SECONDS[found[2][0]]
        # Without a zone it is local time, as `date` writes it.
        return datetime.fromisoformat(text).timestamp()

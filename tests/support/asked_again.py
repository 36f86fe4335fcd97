"""An SQLite store that is asked as it is for tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.blacklist.stores.base import Entry
from gateway.blacklist.stores.sqlite.store import SqliteStore


class AskedAgain(SqliteStore):
    """A store that is given its last answer to each question, as it is for a token that was seen before."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._last: dict[tuple[str, ...], Any] = {}
        super().__init__(*args, **options)

    def find(self, keys: Sequence[str]) -> Sequence[Entry]:
        question = tuple(keys)
        self._last[question], found = self.find_again(question, self._last.get(question))
        return found

"""What is worked out from texts that clients write, remembered in bounded space."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

T = TypeVar("T")

LONGEST = 4096  # characters


def remembered(count: int) -> Callable[[Callable[[str], T]], Callable[[str], T]]:
    """Return a decorator like `lru_cache(count)`, for which long texts are worked out anew each time.

    `lru_cache` counts but does not weigh: with 3,000 texts of 200 KB a stranger, without a token, took
    1.2 GB of a worker.
    """

    def decorate(function: Callable[[str], T]) -> Callable[[str], T]:
        memory = lru_cache(count)(function)

        @wraps(function)
        def call(text: str) -> T:
            return memory(text) if len(text) <= LONGEST else function(text)

        return call

    return decorate

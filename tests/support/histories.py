"""Recorded histories of one blacklist entry, and whether any order of the operations explains them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Operation(NamedTuple):
    """What a client did to an entry and was told, between two moments of the machine's monotonic clock.

    `told` is whether the entry was there before; None where no answer came: it may have happened or not.
    """

    kind: str  # add, remove or find
    began: int
    ended: int
    told: bool | None


def timed(kind: str, act: Callable[[], bool | None]) -> Operation:
    """Return what came of an operation, with its times."""
    began = time.monotonic_ns()
    told = act()
    return Operation(kind, began, time.monotonic_ns(), told)


def is_linearizable(clients: Sequence[Sequence[Operation]], present: bool = False) -> bool:
    """Return whether each operation can have happened at one moment between its begin and its end.

    `clients` holds the operations of each in its own order (Wing and Gong's search, remembering
    where it has been).
    """
    reached, seen = [((0,) * len(clients), present)], set()
    while reached:
        state = reached.pop()
        if state in seen:
            continue
        seen.add(state)
        done, present = state
        waiting = {which: ops[at] for which, (ops, at) in enumerate(zip(clients, done, strict=True)) if at < len(ops)}
        if not waiting:
            return True
        first_end = min(operation.ended for operation in waiting.values())
        for which, operation in waiting.items():
            if operation.began <= first_end:
                after = tuple(at + (which == other) for other, at in enumerate(done))
                if operation.told in (None, present):
                    reached.append((after, {"add": True, "remove": False}.get(operation.kind, present)))
                if operation.told is None:
                    reached.append((after, present))
    return False

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


def is_linearizable(clients: Sequence[Sequence[Operation]]) -> bool:
    """Return whether each operation can have happened at one moment between its begin and its end.

    `clients` holds the operations of each in its own order (Wing and Gong's search, remembering
    where it has been). A change without an answer may have happened at any time after its begin: its bytes may have
    been held back. Of such changes those that began first are taken first, for whatever they do, the others do.
    """
    answered = [[operation for operation in client if operation.told is not None] for client in clients]
    pending = [
        sorted(
            operation.began for client in clients for operation in client if (operation.kind, operation.told) == each
        )
        for each in (("remove", None), ("add", None))
    ]
    reached, seen = [((0,) * len(clients), (0, 0), False)], set()
    while reached:
        state = reached.pop()
        if state in seen:
            continue
        seen.add(state)
        done, used, present = state
        waiting = {which: ops[at] for which, (ops, at) in enumerate(zip(answered, done, strict=True)) if at < len(ops)}
        if not waiting:
            return True
        first_end = min(operation.ended for operation in waiting.values())
        other = not present
        if used[other] < len(pending[other]) and pending[other][used[other]] <= first_end:
            reached.append((done, (used[0] + (not other), used[1] + other), other))
        for which, operation in waiting.items():
            if operation.began <= first_end and operation.told == present:
                after = tuple(at + (which == each) for each, at in enumerate(done))
                reached.append((after, used, {"add": True, "remove": False}.get(operation.kind, present)))
    return False

"""The states of a connection: it is always in exactly one, and every step it may take stands here.

A connection is served by one thread at a time, who holds its lock. Between two servings it waits: for its client, for
what its response named in a pause, for its time to be over, or merely for its turn.
"""

from __future__ import annotations

from enum import IntEnum
from math import inf
from typing import Final


class State(IntEnum):
    """What is to be done next with a connection."""

    HEAD = 0  # read a request's head, and call the app; between requests, too
    ANSWER = 1  # ask the response for its next part
    PAUSE = 2  # the same, once something has happened that the response waits for
    SEND = 3  # send what is made, before more is made
    SKIP = 4  # read what is left of a body that nobody took, and throw it away: the connection goes on after it
    LINGER = 5  # all is sent and the connection ends: throw away what comes, so that its end is no reset (RFC 9112 9.6)
    CLOSED = 6
    UNREAD = 7  # the client does not read: go on with what it sends, for it may read only once that is taken


# Each by a name of its own, which compiled code need not look up.
HEAD: Final[State] = State.HEAD
ANSWER: Final[State] = State.ANSWER
PAUSE: Final[State] = State.PAUSE
SEND: Final[State] = State.SEND
SKIP: Final[State] = State.SKIP
LINGER: Final[State] = State.LINGER
CLOSED: Final[State] = State.CLOSED
UNREAD: Final[State] = State.UNREAD
WAITING: Final = frozenset({PAUSE, UNREAD})  # the response has named what it waits for

# From each state, those that may follow when it was served once. Every state may end in CLOSED.
TRANSITIONS: dict[State, frozenset[State]] = {
    # Stays where the head is not whole. Then the app was called, or the request refused: maybe it is answered already.
    HEAD: frozenset({HEAD, ANSWER, PAUSE, SEND, SKIP, LINGER}),
    # A part goes to the client before the next is asked for; a response may end without one.
    ANSWER: frozenset({ANSWER, PAUSE, SEND, SKIP, HEAD, LINGER}),
    PAUSE: frozenset({ANSWER, PAUSE, SEND, SKIP, HEAD, LINGER}),
    # Stays where the client reads slowly. Then the response goes on, or its end has been sent.
    SEND: frozenset({SEND, UNREAD, ANSWER, PAUSE, SKIP, HEAD, LINGER}),
    # Stays until the client reads again, or the response has ended.
    UNREAD: frozenset({UNREAD, ANSWER, SEND}),
    SKIP: frozenset({SKIP, HEAD}),
    LINGER: frozenset({LINGER}),
    CLOSED: frozenset(),
}
TRANSITIONS = {state: following | {CLOSED} for state, following in TRANSITIONS.items()}

# What is under way is served before what is new: answers, then what is to be sent, then what clients send.
STAGES: Final = 3
STAGE: Final[dict[State, int]] = {ANSWER: 0, PAUSE: 0, UNREAD: 0, SEND: 1, HEAD: 2, SKIP: 2, LINGER: 2, CLOSED: 2}

HEAD_SECONDS: Final = 30.0  # for a whole head, however it trickles
# Without a byte: between requests, within a body that is waited for, or of a reader that stopped.
QUIET_SECONDS: Final = 75.0
LINGER_SECONDS: Final = 30.0  # in which what comes after the answer is thrown away
GRACE_SECONDS: Final = 1.0  # in a drain: a client that just spoke may be about to speak again


class Deadlines:
    """How long a client may take. `keep_alive` is how long it may be silent between requests, in seconds.

    Times are of `time.monotonic`.
    """

    __slots__ = ("_keep_alive", "heard", "is_quiet_allowed", "since")

    def __init__(self, keep_alive: float, now: float) -> None:
        self._keep_alive = keep_alive
        self.is_quiet_allowed = False  # whether the client speaks another protocol, and may say nothing for hours
        self.heard = now  # when the client last sent or took a byte
        # When the head that is coming began, or the lingering; None: no head has started.
        self.since: float | None = now

    def end(self, state: State, *, awaits_body: bool = False, draining: bool = False) -> float:
        """Return when the client has had its time; inf where it is the app's time."""
        if state is HEAD:
            if draining:
                return self.heard + GRACE_SECONDS
            if self.since is None:
                return self.heard + self._keep_alive
            return min(self.since + HEAD_SECONDS, self.heard + QUIET_SECONDS)
        if state is LINGER:
            end = (self.since or self.heard) + LINGER_SECONDS
            return min(end, self.heard + GRACE_SECONDS) if draining else end
        if state in (SEND, SKIP, UNREAD) or (state is PAUSE and awaits_body and not self.is_quiet_allowed):
            return self.heard + QUIET_SECONDS
        return inf

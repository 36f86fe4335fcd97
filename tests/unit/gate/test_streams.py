"""Streams: at each check those are cut off whose token has ended since the last, and no other."""

import contextlib
import random
import sqlite3
import threading
from functools import partial
from pathlib import Path

import pytest
from helpers import ISSUER, SECRET, Clock, mint

from gateway.auth.issuers import Issuer
from gateway.auth.keys import build_keys
from gateway.auth.tokens import Token, Verifier
from gateway.blacklist.rules import Actor, Blacklist
from gateway.blacklist.stores import open_store
from gateway.gate.streams import Streams
from gateway.http.target import Target
from gateway.http.wsgi import Context

LIVES = [1, 5, 16, 26, 29, 31, 44, 46, 61, 90]  # seconds


def test_streams_end_where_no_thread_is_left_to_ask_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = build_keys(issuer=ISSUER, secrets=(SECRET,), public_key=None, jwks_url=None, algorithms=("HS256",))
    verifier = Verifier([Issuer(ISSUER, keys.algorithms, frozenset(), keys)])
    streams = Streams(verifier, Blacklist(open_store(f"sqlite:///{tmp_path}/store")), 1.0)
    about, cut = Context(), list[str]()
    about.token, about.target, about.cut = verifier.verify(mint()), Target("/events"), cut.append
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    streams.check(lambda: [about])
    assert cut == []  # it may be a moment's
    streams.check(lambda: [about])
    assert cut == ["store-unavailable"]


def test_a_token_that_is_refused_for_its_claims_keeps_no_stream_open(tmp_path: Path) -> None:
    keys = build_keys(issuer=ISSUER, secrets=(SECRET,), public_key=None, jwks_url=None, algorithms=("HS256",))
    verifier = Verifier([Issuer(ISSUER, keys.algorithms, frozenset(), keys)])
    blacklist = Blacklist(open_store(f"sqlite:///{tmp_path}/store"))
    streams, cut = Streams(verifier, blacklist, 1.0), list[str]()
    refused, stream = Context(), Context()
    for about, token in ((refused, mint(sid=list(range(65)))), (stream, mint())):
        about.token, about.target, about.cut = verifier.verify(token), Target("/events"), cut.append
    assert isinstance(stream.token, Token)
    blacklist.add_token(stream.token, Actor())
    streams._ask(lambda: [refused, stream])
    assert cut == ["token-blacklisted"]


def test_streams_end_where_what_the_store_says_cannot_be_read(tmp_path: Path) -> None:
    keys = build_keys(issuer=ISSUER, secrets=(SECRET,), public_key=None, jwks_url=None, algorithms=("HS256",))
    verifier, store = Verifier([Issuer(ISSUER, keys.algorithms, frozenset(), keys)]), f"{tmp_path}/store"
    blacklist = Blacklist(open_store(f"sqlite:///{store}"))
    streams = Streams(verifier, blacklist, 1.0)
    about, cut = Context(), list[str]()
    about.token, about.target, about.cut = verifier.verify(mint()), Target("/events"), cut.append
    streams._ask(lambda: [about])
    blacklist.add_token(verifier.verify(mint(jti="another")), Actor())
    with contextlib.closing(sqlite3.connect(store)) as conn:
        conn.execute("UPDATE history SET keys = 'damaged'")
        conn.commit()
    streams._ask(lambda: [about])
    assert cut == []  # it may be a moment's
    streams._ask(lambda: [about])
    assert cut == ["store-unavailable"]


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("lives", [LIVES, LIVES[5:]], ids=["of any length", "long ones"])
@pytest.mark.parametrize(
    "steps",
    [[0.8] * 120, [20.0] * 10, [70.0] * 4, [0.8] * 40 + [-50.0] + [0.8] * 40 + [40.0] + [0.8] * 40],
    ids=["usual", "rare", "rarer than all", "a clock that jumps"],
)
def test_a_stream_ends_at_the_first_check_after_its_token(tmp_path: Path, steps: list[float], lives: list[int]) -> None:
    """However long it still had to live as it began, and whatever others have."""
    clock, chance = Clock(), random.Random(1)
    keys = build_keys(issuer=ISSUER, secrets=(SECRET,), public_key=None, jwks_url=None, algorithms=("HS256",))
    verifier = Verifier([Issuer(ISSUER, keys.algorithms, frozenset(), keys)], leeway=2, max_age=60, now=clock)
    streams = Streams(verifier, Blacklist(open_store(f"sqlite:///{tmp_path}/store", now=clock), now=clock), 1.0)
    open_ones: dict[Context, float] = {}
    cut: list[tuple[Context, str]] = []
    for step in steps:
        for _ in range(chance.choice([0, 0, 1, 3])):
            about, began = Context(), int(clock())
            expires = began + chance.choice(lives)
            about.token = verifier.verify(mint(iat=began, exp=expires, jti=str(chance.random())))
            about.target = Target("/events")
            about.cut = partial(lambda about, code: cut.append((about, code)), about)
            open_ones[about] = min(expires, began + 60) + 2
        clock.advance(step)
        streams.check(lambda: list(open_ones))
        assert streams._question is not None
        streams._question.join()  # one that is over counts as alive for another moment
        assert set(cut) == {(about, "token-expired") for about, end in open_ones.items() if clock() >= end}
        for about, _ in cut:
            del open_ones[about]
        cut.clear()

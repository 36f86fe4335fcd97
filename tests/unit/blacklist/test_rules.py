"""The rules: what blacklists a token, what does not, and what each change changes."""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from helpers import ABSENT, EXPIRES, ISSUER, NOW, SECRET, Clock, mint, signature_spellings

from gateway.auth.issuers import Issuer
from gateway.auth.keys import build_keys
from gateway.auth.tokens import Token, Verifier
from gateway.blacklist.rules import BY_CLAIM, LARGEST_LEEWAY, Actor, Blacklist, ClaimTarget, Rules
from gateway.blacklist.stores import Entry, open_store
from gateway.http.problems import StoreUnavailable

OTHER_ISSUER = "https://other.test/"
SOMEBODY = Actor("somebody", "192.0.2.1", "stolen")


def _issuer(name: str) -> Issuer:
    keys = build_keys(secrets=[SECRET], public_key=None, jwks_url=None, algorithms=["HS256"], issuer=name)
    return Issuer(name, keys.algorithms, frozenset(), keys)


VERIFIER = Verifier([_issuer(ISSUER), _issuer(OTHER_ISSUER)], now=Clock())


def token(**claims: Any) -> Token:
    return VERIFIER.genuine(mint(**claims))


@pytest.fixture
def make_blacklist(store_url: str, clock: Clock) -> Callable[..., Blacklist]:
    return lambda **rules: Blacklist(open_store(store_url, now=clock), Rules(**rules), now=clock)


@pytest.fixture
def blacklist(make_blacklist: Callable[..., Blacklist]) -> Blacklist:
    return make_blacklist()


def add_claim(
    blacklist: Blacklist, issuer: str, name: str, value: str, issued_before: int | None, actor: Actor
) -> tuple[Entry, bool]:
    """Take a claim back, with the cut-off that it gets when None is named."""
    cut_off = BY_CLAIM if issued_before is None else issued_before
    changed = blacklist.add_claims(issuer, name, [value], cut_off, None, actor)
    return blacklist.find_claims(issuer, name, [value])[0], changed


def remove_claim(blacklist: Blacklist, issuer: str, name: str, value: str, actor: Actor) -> bool:
    return blacklist.remove_claims(issuer, name, [value], actor)


def find_claim(blacklist: Blacklist, issuer: str, name: str, value: str) -> Entry | None:
    return next(iter(blacklist.find_claims(issuer, name, [value])), None)


# A token's own entry.


def test_a_token_is_blacklisted_until_it_is_restored(blacklist: Blacklist) -> None:
    stolen = token(sub="1001")
    assert not blacklist.has(stolen)
    assert blacklist.add_token(stolen, SOMEBODY)
    assert blacklist.has(stolen)
    assert blacklist.remove_token(stolen, SOMEBODY)
    assert not blacklist.has(stolen)


def test_a_change_that_changes_nothing_says_so(blacklist: Blacklist) -> None:
    stolen = token()
    assert not blacklist.remove_token(stolen, SOMEBODY)
    assert [blacklist.add_token(stolen, SOMEBODY) for _ in range(3)] == [True, False, False]
    assert [blacklist.remove_token(stolen, SOMEBODY) for _ in range(3)] == [True, False, False]


def test_no_other_token_is_blacklisted_however_alike(blacklist: Blacklist) -> None:
    blacklist.add_token(token(sub="1001", jti="a", iat=1), SOMEBODY)
    assert not blacklist.has(token(sub="1001", jti="a", iat=2))
    assert not blacklist.has(token(sub="1001", jti="a"))
    assert not blacklist.has(token(sub="1001", jti="a", iat=1, iss=OTHER_ISSUER))


def test_every_spelling_of_a_blacklisted_token_is_blacklisted(blacklist: Blacklist) -> None:
    first, *others = signature_spellings(mint())
    blacklist.add_token(VERIFIER.genuine(first), SOMEBODY)
    assert all(blacklist.has(VERIFIER.genuine(text)) for text in [mint(), *others])
    assert blacklist.remove_token(VERIFIER.genuine(others[0]), SOMEBODY)
    assert not blacklist.has(VERIFIER.genuine(first))


@pytest.mark.parametrize("exp", [EXPIRES + 0.5, 2**63, 10**18, 10**400, 1e308, 253_402_300_800])
def test_an_absurd_expiry_is_clamped_and_the_entry_lasts(blacklist: Blacklist, clock: Clock, exp: Any) -> None:
    eternal = token(exp=exp)
    assert blacklist.add_token(eternal, SOMEBODY)
    clock.seconds = EXPIRES
    assert blacklist.has(eternal)
    assert not blacklist.add_token(eternal, SOMEBODY)


@pytest.mark.parametrize("leeway", [0, 30, 0.5])
def test_an_entry_lives_as_long_as_anybody_could_let_its_token_through(
    make_blacklist: Any, clock: Clock, leeway: float
) -> None:
    blacklist, stolen = make_blacklist(leeway=leeway), token(exp=int(NOW) + 100)
    blacklist.add_token(stolen, SOMEBODY)
    clock.seconds = NOW + 100 + LARGEST_LEEWAY - 0.001
    assert blacklist.has(stolen)
    clock.seconds = NOW + 100 + LARGEST_LEEWAY
    assert not blacklist.has(stolen)
    assert not blacklist.store.page(10)[0]


# A claim's entry.


@pytest.mark.parametrize("name", ["jti", "sub", "sid"])
def test_an_entry_for_a_claim_blacklists_every_token_that_has_it(blacklist: Blacklist, name: str) -> None:
    assert add_claim(blacklist, ISSUER, name, "a", None, SOMEBODY)[1]
    assert blacklist.has(token(**{name: "a"}))
    assert blacklist.has(token(**{name: "a"}, iat=int(NOW)))
    assert not blacklist.has(token(**{name: "b"}))
    assert not blacklist.has(token())
    assert remove_claim(blacklist, ISSUER, name, "a", SOMEBODY)
    assert not blacklist.has(token(**{name: "a"}))


def test_a_claim_is_blacklisted_under_its_own_name_alone(blacklist: Blacklist) -> None:
    add_claim(blacklist, ISSUER, "jti", "a", None, SOMEBODY)
    assert not blacklist.has(token(sub="a", sid="a"))


def test_only_the_claims_that_are_set_are_looked_at(make_blacklist: Any) -> None:
    blacklist = make_blacklist(claims=("tenant",))
    add_claim(blacklist, ISSUER, "tenant", "a", None, SOMEBODY)
    add_claim(blacklist, ISSUER, "sub", "a", None, SOMEBODY)
    assert blacklist.has(token(tenant="a"))
    assert not blacklist.has(token(sub="a"))


def test_a_claim_belongs_to_its_issuer(blacklist: Blacklist) -> None:
    add_claim(blacklist, ISSUER, "sub", "1001", None, SOMEBODY)
    assert not blacklist.has(token(sub="1001", iss=OTHER_ISSUER))
    assert find_claim(blacklist, OTHER_ISSUER, "sub", "1001") is None


LOOKALIKES = ["7001", "7001.0", "7001 ", '"7001"', "07001", "1", "true", "0.1", "á", "a\u0301", "7.001e3", "+7001"]


@pytest.mark.parametrize("value", LOOKALIKES)
def test_text_is_compared_as_it_is(blacklist: Blacklist, value: str) -> None:
    add_claim(blacklist, ISSUER, "sub", value, None, SOMEBODY)
    assert [other for other in LOOKALIKES if blacklist.has(token(sub=other))] == [value]


@pytest.mark.parametrize("value", ["", None, True, False, [], {}, {"a": 1}])
def test_what_is_no_claim_value_is_never_looked_up(blacklist: Blacklist, value: Any) -> None:
    """An empty jti is no jti; True is not 1."""
    add_claim(blacklist, ISSUER, "jti", "1", None, SOMEBODY)
    assert not blacklist.has(token(jti=value))


@pytest.mark.parametrize("value", ["\ud800", "\0", "a\0b", "x" * 1_000_000, "é", "\U0010ffff", "1" + "0" * 400])
def test_odd_values_neither_escape_nor_break_anything(blacklist: Blacklist, value: str) -> None:
    _, changed = add_claim(blacklist, ISSUER, "sub", value, None, SOMEBODY)
    found = find_claim(blacklist, ISSUER, "sub", value)
    assert changed
    assert found is not None
    assert found.claim == ("sub", value)
    assert remove_claim(blacklist, ISSUER, "sub", value, SOMEBODY)


# Cut-offs.


@pytest.mark.parametrize(
    ("iat", "refused"), [(999, True), (999.999, True), (1000, False), (1001, False), (ABSENT, True)]
)
def test_a_cut_off_refuses_what_was_issued_strictly_before_it(blacklist: Blacklist, iat: Any, refused: bool) -> None:
    add_claim(blacklist, ISSUER, "sub", "1001", 1000, SOMEBODY)
    assert blacklist.has(token(sub="1001", iat=iat)) is refused


@pytest.mark.parametrize("fraction", [0, 0.001, 0.999])
def test_the_cut_off_is_the_next_whole_second(blacklist: Blacklist, clock: Clock, fraction: float) -> None:
    """With iat in whole seconds, now would spare a token stolen in this very second."""
    clock.advance(fraction)
    entry, _ = add_claim(blacklist, ISSUER, "sub", "1001", None, SOMEBODY)
    assert entry.issued_before == NOW + 1
    assert blacklist.has(token(sub="1001", iat=int(NOW)))
    assert not blacklist.has(token(sub="1001", iat=int(NOW) + 1))


@pytest.mark.parametrize("leeway", [0.5, 1, 30])
def test_now_covers_what_passes_with_the_leeway(make_blacklist: Any, clock: Clock, leeway: float) -> None:
    blacklist = make_blacklist(leeway=leeway)
    entry, _ = add_claim(blacklist, ISSUER, "sub", "1001", None, SOMEBODY)
    assert entry.issued_before == NOW + 1 + math.ceil(leeway)
    assert blacklist.has(token(sub="1001", iat=NOW + leeway))


def test_a_cut_off_in_the_future_locks_the_subject_out_until_then(blacklist: Blacklist, clock: Clock) -> None:
    add_claim(blacklist, ISSUER, "sub", "1001", int(NOW) + 100, SOMEBODY)
    clock.advance(99)
    assert blacklist.has(token(sub="1001", iat=int(NOW) + 99))
    assert not blacklist.has(token(sub="1001", iat=int(NOW) + 100))


@pytest.mark.parametrize("iat", [0, int(NOW) + 1, int(NOW) + 10**6, ABSENT])
def test_without_a_cut_off_every_token_is_blacklisted_whenever_issued(blacklist: Blacklist, iat: Any) -> None:
    add_claim(blacklist, ISSUER, "sid", "a", None, SOMEBODY)
    blacklist.add_targets([ClaimTarget(ISSUER, "sub", "1001", None)], SOMEBODY)
    assert blacklist.has(token(sid="a", iat=iat))
    assert blacklist.has(token(sub="1001", iat=iat))
    add_claim(blacklist, ISSUER, "sid", "a", 1000, SOMEBODY)
    assert blacklist.has(token(sid="a", iat=iat))


def test_an_entry_ends_when_it_was_asked_to(blacklist: Blacklist, clock: Clock) -> None:
    blacklist.add_targets([ClaimTarget(ISSUER, "sub", "1001", None, int(NOW) + 10)], SOMEBODY)
    clock.advance(9)
    assert blacklist.has(token(sub="1001"))
    clock.advance(1)
    assert not blacklist.has(token(sub="1001"))


def test_the_latest_cut_off_wins_and_none_is_lowered(blacklist: Blacklist) -> None:
    cut_offs, answers = [1000, 500, 1000, 2000, 0], []
    for cut_off in cut_offs:
        entry, changed = add_claim(blacklist, ISSUER, "sub", "1001", cut_off, SOMEBODY)
        answers.append((entry.issued_before, changed))
    assert answers == [(1000, True), (1000, False), (1000, False), (2000, True), (2000, False)]


def test_claim_entries_live_until_they_are_lifted(blacklist: Blacklist, clock: Clock) -> None:
    entry, _ = add_claim(blacklist, ISSUER, "sub", "1001", 0, SOMEBODY)
    assert entry.expires_at is None
    clock.seconds = EXPIRES - 1
    assert find_claim(blacklist, ISSUER, "sub", "1001") == entry


@pytest.mark.parametrize("issued_before", [None, 0, int(NOW) - 10_000, int(NOW) + 500])
def test_what_has_a_cut_off_is_forgotten_once_no_token_can_be_older(
    make_blacklist: Any, clock: Clock, issued_before: int | None
) -> None:
    blacklist = make_blacklist(max_token_age=3600)
    entry, changed = add_claim(blacklist, ISSUER, "sub", "1001", issued_before, SOMEBODY)
    assert changed
    ends = max(issued_before or 0, NOW + 1 + LARGEST_LEEWAY) + 3600 + LARGEST_LEEWAY
    assert entry.expires_at == ends
    clock.seconds = ends - 1
    assert find_claim(blacklist, ISSUER, "sub", "1001") == entry
    clock.seconds = ends
    assert find_claim(blacklist, ISSUER, "sub", "1001") is None


def test_what_has_no_cut_off_is_never_forgotten(make_blacklist: Any, clock: Clock) -> None:
    """A session goes on for longer than any token of it."""
    blacklist = make_blacklist(max_token_age=3600)
    entry, _ = add_claim(blacklist, ISSUER, "sid", "a", None, SOMEBODY)
    assert entry.expires_at is None


def test_a_token_and_its_claim_each_blacklist_alone(blacklist: Blacklist) -> None:
    stolen = token(sub="1001")
    assert add_claim(blacklist, ISSUER, "sub", "1001", None, SOMEBODY)[1]
    assert blacklist.add_token(stolen, SOMEBODY)
    assert blacklist.remove_token(stolen, SOMEBODY)
    assert blacklist.has(stolen)
    assert blacklist.add_token(stolen, SOMEBODY)
    assert remove_claim(blacklist, ISSUER, "sub", "1001", SOMEBODY)
    assert blacklist.has(stolen)


# The store.


class CountingStore:
    """A store that passes on and counts, or fails."""

    def __init__(self, store: Any, failing: bool = False) -> None:
        self.store, self.failing = store, failing
        self.questions: list[Sequence[str]] = []

    def __getattr__(self, name: str) -> Any:
        if self.failing:
            raise StoreUnavailable
        return getattr(self.store, name)

    def find(self, keys: Sequence[str]) -> Sequence[Entry]:
        self.questions.append(keys)
        if self.failing:
            raise StoreUnavailable
        return self.store.find(keys)


def test_every_look_up_is_one_look_up_and_none_is_cached(blacklist: Blacklist) -> None:
    store = blacklist.store = CountingStore(blacklist.store)  # type: ignore[assignment]
    asked = token(sub="1001", jti="a", sid="b")
    for _ in range(3):
        blacklist.has(asked)
    assert [len(keys) for keys in store.questions] == [4, 4, 4]


def test_what_another_process_changes_counts_at_the_next_question(make_blacklist: Any) -> None:
    ours, theirs, stolen = make_blacklist(), make_blacklist(), token(sub="1001")
    for _ in range(3):
        assert theirs.add_token(stolen, SOMEBODY)
        assert ours.has(stolen)
        assert ours.remove_token(stolen, SOMEBODY)
        assert not theirs.has(stolen)


@pytest.mark.parametrize(
    "ask",
    [
        lambda blacklist: blacklist.has(token()),
        lambda blacklist: blacklist.add_token(token(), SOMEBODY),
        lambda blacklist: blacklist.remove_token(token(), SOMEBODY),
        lambda blacklist: find_claim(blacklist, ISSUER, "sub", "1001"),
        lambda blacklist: add_claim(blacklist, ISSUER, "sub", "1001", None, SOMEBODY),
        lambda blacklist: remove_claim(blacklist, ISSUER, "sub", "1001", SOMEBODY),
    ],
)
def test_a_store_that_fails_is_never_an_answer(
    blacklist: Blacklist, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    blacklist.store = CountingStore(blacklist.store, failing=True)  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable):
        ask(blacklist)
    assert not caplog.records


def test_racing_changes_of_one_token_end_in_one_of_the_two_states(blacklist: Blacklist) -> None:
    stolen, balance = token(), []

    def change(number: int) -> None:
        for _ in range(20):
            if number % 2:
                balance.append(int(blacklist.add_token(stolen, SOMEBODY)))
            else:
                balance.append(-int(blacklist.remove_token(stolen, SOMEBODY)))

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(balance) == 80
    assert sum(balance) == blacklist.has(stolen) == len(blacklist.store.page(10)[0])


# The audit.


def test_every_change_is_one_record_without_a_token(blacklist: Blacklist, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.audit")
    stolen = token(sub="1001", email="secret@example.test")
    blacklist.add_token(stolen, SOMEBODY)
    blacklist.remove_token(stolen, SOMEBODY)
    add_claim(blacklist, ISSUER, "sub", "1001", 1000, SOMEBODY)
    remove_claim(blacklist, ISSUER, "sub", "1001", SOMEBODY)
    remove_claim(blacklist, ISSUER, "sub", "1001", SOMEBODY)
    who = {"by": "somebody", "from": "192.0.2.1", "reason": "stolen"}
    claim = {"issuer": ISSUER, "claim": {"sub": "1001"}}
    assert [vars(record)["record"] for record in caplog.records] == [
        {"action": "add", "changed": True, "issuer": ISSUER, "fingerprint": stolen.fingerprint, **who},
        {"action": "remove", "changed": True, "issuer": ISSUER, "fingerprint": stolen.fingerprint, **who},
        {"action": "add", "changed": True, **claim, "issued_before": 1000, "until": None, **who},
        {"action": "remove", "changed": True, **claim, **who},
        {"action": "remove", "changed": False, **claim, **who},
    ]
    assert stolen.text not in caplog.text


def test_an_entry_tells_who_made_it_when_and_why(blacklist: Blacklist) -> None:
    blacklist.add_token(token(), SOMEBODY)
    (entry,), _ = blacklist.store.page(1)
    assert (entry.by, entry.reason, entry.created_at, entry.expires_at) == (
        "somebody",
        "stolen",
        NOW,
        EXPIRES + LARGEST_LEEWAY,
    )

"""The rules: what blacklists a token, what does not, and what each change changes."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from helpers import ISSUER, NOW, SECRET, Clock, mint

from gateway.auth.issuers import Issuer
from gateway.auth.keys import build_keys
from gateway.auth.tokens import Token, Verifier
from gateway.blacklist.rules import BY_CLAIM, LARGEST_LEEWAY, Actor, Blacklist, Rules
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


def test_no_other_token_is_blacklisted_however_alike(blacklist: Blacklist) -> None:
    blacklist.add_token(token(sub="1001", jti="a", iat=1), SOMEBODY)
    assert not blacklist.has(token(sub="1001", jti="a", iat=2))
    assert not blacklist.has(token(sub="1001", jti="a"))
    assert not blacklist.has(token(sub="1001", jti="a", iat=1, iss=OTHER_ISSUER))


# A claim's entry.


def test_a_claim_is_blacklisted_under_its_own_name_alone(blacklist: Blacklist) -> None:
    add_claim(blacklist, ISSUER, "jti", "a", None, SOMEBODY)
    assert not blacklist.has(token(sub="a", sid="a"))


def test_only_the_claims_that_are_set_are_looked_at(make_blacklist: Any) -> None:
    blacklist = make_blacklist(claims=("tenant",))
    add_claim(blacklist, ISSUER, "tenant", "a", None, SOMEBODY)
    add_claim(blacklist, ISSUER, "sub", "a", None, SOMEBODY)
    assert blacklist.has(token(tenant="a"))
    assert not blacklist.has(token(sub="a"))


LOOKALIKES = [
    "a",
    "A",
    "7001",
    "7001.0",
    "7001 ",
    '"7001"',
    "07001",
    "1",
    "true",
    "0.1",
    "á",
    "a\u0301",
    "7.001e3",
    "+7001",
]


@pytest.mark.parametrize("value", LOOKALIKES)
def test_text_is_compared_as_it_is(blacklist: Blacklist, value: str) -> None:
    add_claim(blacklist, ISSUER, "sub", value, None, SOMEBODY)
    assert [other for other in LOOKALIKES if blacklist.has(token(sub=other))] == [value]


@pytest.mark.parametrize("value", ["", None, True, False, [], {}, {"a": 1}])
def test_what_is_no_claim_value_is_never_looked_up(blacklist: Blacklist, value: Any) -> None:
    """An empty jti is no jti; True is not 1."""
    add_claim(blacklist, ISSUER, "jti", "1", None, SOMEBODY)
    assert not blacklist.has(token(jti=value))


# Cut-offs.


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
        return self.find_again(keys, None)[1]

    def find_again(self, keys: Sequence[str], last: Any) -> tuple[Any, Sequence[Entry]]:
        self.questions.append(keys)
        if self.failing:
            raise StoreUnavailable
        return self.store.find_again(keys, last)


def test_every_look_up_is_one_look_up_and_none_is_cached(blacklist: Blacklist) -> None:
    store = blacklist.store = CountingStore(blacklist.store)  # type: ignore[assignment]
    asked = token(sub="1001", jti="a", sid="b")
    for _ in range(3):
        blacklist.has(asked)
    assert [len(keys) for keys in store.questions] == [4, 4, 4]


@pytest.mark.parametrize(
    "ask",
    [
        lambda blacklist: blacklist.has(token()),
        lambda blacklist: blacklist.add_token(token(), SOMEBODY),
        lambda blacklist: blacklist.remove_fingerprint(ISSUER, token().fingerprint, SOMEBODY),
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


# The audit.


def test_every_change_is_one_record_without_a_token(blacklist: Blacklist, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.audit")
    stolen = token(sub="1001", email="secret@example.test")
    blacklist.add_token(stolen, SOMEBODY)
    blacklist.remove_fingerprint(ISSUER, stolen.fingerprint, SOMEBODY)
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


def test_of_text_that_may_be_a_number_each_value_has_its_records(
    blacklist: Blacklist, caplog: pytest.LogCaptureFixture
) -> None:
    """Who reads the log sees that each entry that was added has been lifted."""
    caplog.set_level(logging.INFO, "gateway.audit")
    blacklist.add_claims(ISSUER, "sub", ("1000", "1e3"), None, None, SOMEBODY)
    blacklist.remove_claims(ISSUER, "sub", ("1000", "1e3"), SOMEBODY)
    records = [vars(record)["record"] for record in caplog.records]
    assert [(each["action"], each["claim"]["sub"]) for each in records] == [
        ("add", "1000"), ("add", "1e3"), ("remove", "1000"), ("remove", "1e3"),
    ]  # fmt: skip

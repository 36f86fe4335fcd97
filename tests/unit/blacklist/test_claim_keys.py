"""What a claim's value is, and under which keys it is kept."""

import hashlib
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.blacklist.keys import claim_key, legacy_claim_keys
from gateway.blacklist.stores import Entry
from gateway.http.strict_json import json_object
from gateway.http.values import number_text, value_text


def read(spelling: str) -> Any:
    """Return what a member with this JSON text is read as."""
    return json_object(b'{"value": %s}' % spelling.encode())["value"]


@pytest.mark.parametrize(
    ("spellings", "text"),
    [
        (["7001", "7001.0", "7.001e3", "70010E-1", "7001.000", '"7001"', "0.7001e+4", "7.001E+00000000003"], "7001"),
        (["0", "-0", "0.0", "-0.0e7", "0e999999999", "0.0E-99999999999"], "0"),
        (["-7001", "-7001.0", "-7.001e3"], "-7001"),
        (["12345678901234567890", "12345678901234567890.0", "1234567890123456789e1"], "12345678901234567890"),
        (["1e25", "10000000000000000000000000"], "1" + "0" * 25),
        (["9007199254740993.0"], "9007199254740993"),
        (["1.5", "1.50", "15e-1", "0.15E1"], "1.5"),
        (["0.00012", "12e-5"], "0.00012"),
        (["1e-99999999999", "10.0e-100000000000"], "1e-99999999999"),
        (['"7001.0"'], "7001.0"),
        (['"07001"'], "07001"),
        (['"1e3"'], "1e3"),
        (['" 7001"'], " 7001"),
        ([r'"\u0000"'], "\0"),
    ],
)
def test_a_number_and_its_decimal_text_are_one_value(spellings: list[str], text: str) -> None:
    assert {value_text(read(spelling)) for spelling in spellings} == {text}


@pytest.mark.parametrize("digits", [4299, 4300, 60_000])
def test_an_exponent_may_be_as_long_as_anybody_reads(digits: int) -> None:
    assert (number_text("12345e-" + "9" * (digits - 1)) is None) is (digits >= 4300)


@pytest.mark.parametrize("value", ["", None, True, False, [], ["a"], {}, {"a": 1}, float("inf"), float("nan"), b"a"])
def test_what_is_no_value_has_no_text(value: Any) -> None:
    assert value_text(value) is None


@given(st.integers(-(10**40), 10**40), st.integers(-60, 60), st.integers(0, 30))
def test_every_spelling_of_a_number_has_one_text_that_reads_back(digits: int, exponent: int, zeros: int) -> None:
    number = Decimal(f"{digits}e{exponent}")
    text = number_text(f"{digits}e{exponent}")
    assert text is not None
    assert Decimal(text) == number
    assert number_text(text) == text
    assert text == value_text(read(f"{number:f}"))
    assert text == value_text(read(f"{digits * 10**zeros}E{exponent - zeros}"))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_of_python_has_a_text(number: float) -> None:
    text = value_text(number)
    assert text is not None
    assert float(text) == number


def key_of_today(issuer: str, name: str, value: Any) -> str:
    return "claim:" + hashlib.sha256(json.dumps([issuer, name, value]).encode()).hexdigest()


@pytest.mark.parametrize("value", ["7001", "a", "é", "\0", "\ud800", "07001", "1e3", "NaN", "inf", "1_0"])
def test_text_keeps_its_key(value: str) -> None:
    assert claim_key("i", "sub", value) == key_of_today("i", "sub", value)


@pytest.mark.parametrize("value", [7001, 7001.0, 0, -3, 1.5, 10**20, 1e20, 2**63, 10**400, 1e308, 5e-324])
def test_an_older_gateways_key_of_a_number_is_among_the_legacy_ones(value: float) -> None:
    text = value_text(value)
    assert text is not None
    assert key_of_today("i", "sub", value) in legacy_claim_keys("i", "sub", text)


@pytest.mark.parametrize("text", ["a", "07001", "7001.0", "1e3", "-0", "", "inf", "nan", "1_0", "٣", "1.50", "1e400"])
def test_text_that_is_no_numbers_has_no_legacy_keys(text: str) -> None:
    assert legacy_claim_keys("i", "sub", text) == ()


@pytest.mark.parametrize("text", [str(2**53 + 1), "9" * 400])
def test_a_number_that_no_float_is_has_only_its_own_key_besides(text: str) -> None:
    """The nearest float's is another subject's."""
    assert legacy_claim_keys("i", "sub", text) == (key_of_today("i", "sub", int(text)),)


def test_a_number_longer_than_python_reads_has_no_legacy_keys() -> None:
    assert legacy_claim_keys("i", "sub", "9" * 5000) == ()


@pytest.mark.parametrize("value", [7001, 7001.0, "7001"])
def test_an_entry_that_an_older_gateway_kept_has_the_values_text(value: Any) -> None:
    entry = Entry.from_json("claim:x", {"issuer": "i", "created_at": 1, "claim": {"sub": value}})
    assert entry.claim == ("sub", "7001")


@pytest.mark.parametrize("value", [None, True, "", [], {}])
def test_an_entry_without_a_value_is_none(value: Any) -> None:
    with pytest.raises(ValueError, match="value"):
        Entry.from_json("claim:x", {"issuer": "i", "created_at": 1, "claim": {"sub": value}})


# How two entries with one key become one.


def entry(issued_before: int | None = None, expires_at: int | None = None, reason: str = "", created: int = 1) -> Entry:
    return Entry("claim:x", "i", created, expires_at, ("sub", "1"), issued_before, "somebody", reason)


@given(*[st.builds(entry, st.none() | st.integers(0, 5), st.none() | st.integers(0, 5))] * 2)
def test_the_later_cut_off_and_the_later_end_win_and_none_beats_any(first: Entry, second: Entry) -> None:
    merged = first.merged(second)
    cut_offs = (first.issued_before, second.issued_before)
    ends = (first.expires_at, second.expires_at)
    assert merged.issued_before == (None if None in cut_offs else max(c for c in cut_offs if c is not None))
    assert merged.expires_at == (None if None in ends else max(e for e in ends if e is not None))
    assert (merged is first) == first.covers(second)


def test_an_entry_of_another_issuer_changes_nothing_where_nobody_saw_the_token() -> None:
    mine, other = Entry("token:x", "a", 1, 10), Entry("token:x", "b", 2, None, by_fingerprint=True)
    assert mine.merged(other) is mine


def test_of_two_entries_of_a_token_that_was_seen_the_later_end_counts_whoever_its_issuer_is() -> None:
    """An import, or an issuer's former name, has left one that ends before the token."""
    shorter, longer = (Entry("token:x", issuer, 1, end, reason=issuer) for issuer, end in (("a", 5), ("b", 9)))
    assert shorter.merged(longer) == longer
    assert longer.merged(shorter) is longer


def test_a_token_that_was_seen_is_its_own_issuers_whoever_named_its_fingerprint() -> None:
    named, seen = (Entry("token:x", issuer, 1, end, by_fingerprint=end == 5) for issuer, end in (("a", 5), ("b", 9)))
    assert named.merged(seen) == seen
    assert seen.merged(named) is seen

"""The Authorization field: one scheme, one space, one token, or a refusal (RFC 6750 section 2.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.bearer import bearer_token
from gateway.http.problems import Problem

REFUSED = [
    (None, "missing-credentials"),
    ("", "missing-credentials"),
    ("Basic dXNlcjpwYXNz", "unsupported-scheme"),
    ("Digest username=x, realm=y", "unsupported-scheme"),
    ("DPoP aaa.bbb.ccc", "unsupported-scheme"),
    ("Bearerx aaa.bbb.ccc", "unsupported-scheme"),
    ("aaa.bbb.ccc", "unsupported-scheme"),
    ("Bearer", "malformed-credentials"),
    ("Bearer ", "malformed-credentials"),
    ("Bearer  aaa.bbb.ccc", "malformed-credentials"),
    ("Bearer\taaa.bbb.ccc", "malformed-credentials"),
    ("Bearer \taaa.bbb.ccc", "malformed-credentials"),
    ("Bearer aaa.bbb.ccc\t", "malformed-credentials"),
    ("Bearer aaa.bbb.ccc ", "malformed-credentials"),
    (" Bearer aaa.bbb.ccc", "malformed-credentials"),
    ("Bearer aaa.bbb.ccc ddd.eee.fff", "malformed-credentials"),
    ("Bearer aaa.bbb.ccc,ddd.eee.fff", "malformed-credentials"),
    ("Bearer aaa.bbb.ccc,Bearer ddd.eee.fff", "malformed-credentials"),
    ("Bearer aaa.bbb.ccc, Basic dXNlcjpwYXNz", "malformed-credentials"),
    ("Bearer,aaa.bbb.ccc", "malformed-credentials"),
    (",", "malformed-credentials"),
    ('"Bearer" aaa.bbb.ccc', "malformed-credentials"),
]


@pytest.mark.parametrize(("field", "code"), REFUSED)
def test_a_field_that_is_not_one_bearer_token_is_refused(field: str | None, code: str) -> None:
    with pytest.raises(Problem) as refusal:
        bearer_token(field)
    assert refusal.value.code == code


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_name_of_the_scheme_is_case_insensitive(scheme: str) -> None:
    assert bearer_token(f"{scheme} aaa.bbb.ccc") == "aaa.bbb.ccc"


@pytest.mark.parametrize("second", ["Bearer aaa.bbb.ccc", "Basic dXNlcjpwYXNz"])
def test_an_unsupported_scheme_in_the_first_of_two_fields_is_refused_either_way(second: str) -> None:
    with pytest.raises(Problem) as refusal:
        bearer_token(f"Basic dXNlcjpwYXNz,{second}")
    assert refusal.value.code in ("unsupported-scheme", "malformed-credentials")


@given(st.binary().map(lambda raw: raw.decode("latin-1")) | st.text("Bearer ,\tab.", max_size=20))
def test_whatever_stands_in_the_field_is_a_token_or_a_refusal(field: str) -> None:
    """Servers hand over Latin-1 text; what is let through is all of the field after one space."""
    try:
        token = bearer_token(field)
    except Problem:
        return
    assert field[:7].lower() == "bearer "
    assert token == field[7:]
    assert not set(token) & set(" \t,")

"""Refusals: problem+json (RFC 9457) with RFC 6750's challenges."""

import json
import re

import pytest
from processes import ROOT

from gateway.http.problems import KINDS, Problem, StoreUnavailable

# The contract's table: code, status, RFC 6750 error ("" a challenge without, None no challenge).
INVALID_TOKEN = [
    "malformed-token",
    "bad-signature",
    "algorithm-not-allowed",
    "unknown-key",
    "missing-claim",
    "invalid-claim",
    "wrong-issuer",
    "wrong-audience",
    "token-expired",
    "token-not-yet-valid",
    "token-blacklisted",
]
TABLE = [
    ("missing-credentials", 401, ""),
    ("unsupported-scheme", 401, ""),
    ("malformed-credentials", 400, "invalid_request"),
    *((code, 401, "invalid_token") for code in INVALID_TOKEN),
    ("sign-in-required", 401, "insufficient_user_authentication"),
    ("insufficient-scope", 403, "insufficient_scope"),
    ("not-found", 404, None),
    ("invalid-request", 400, None),
    ("payload-too-large", 413, None),
    ("unsupported-media-type", 415, None),
    ("method-not-allowed", 405, None),
    ("bad-request-target", 400, None),
    ("fields-too-large", 431, None),
    ("upgrade-unsupported", 501, None),
    ("not-implemented", 501, None),
    ("internal-error", 500, None),
    ("loop-detected", 508, None),
    ("upstream-unreachable", 502, None),
    ("upstream-protocol", 502, None),
    ("upstream-timeout", 504, None),
    ("overloaded", 503, None),
    ("store-unavailable", 503, None),
    ("keys-unavailable", 503, None),
]
# RFC 6750 section 3: what a challenge's text may hold.
QUOTED = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]*")


def challenge_of(problem: Problem) -> dict[str, str] | None:
    _, fields, _ = problem.response()
    found = [value for name, value in fields if name == "WWW-Authenticate"]
    if not found:
        return None
    (text,) = found
    assert text.startswith("Bearer ")
    parts = re.findall(r'([a-z_]+)="([^"]*)"', text)
    assert "Bearer " + ", ".join(f'{name}="{value}"' for name, value in parts) == text
    assert all(QUOTED.fullmatch(value) for _, value in parts)
    assert len(dict(parts)) == len(parts)
    return dict(parts)


@pytest.mark.parametrize(("code", "status", "error"), TABLE)
def test_a_refusal_has_the_contracts_status_and_challenge(code: str, status: int, error: str | None) -> None:
    problem = Problem(code)
    challenge = challenge_of(problem)
    assert problem.response()[0].startswith(f"{status} ")
    assert (challenge is None) == (error is None)
    if challenge is not None:
        assert challenge["realm"] == "gateway"
        assert challenge.get("error", "") == error


@pytest.mark.parametrize("code", KINDS)
def test_a_refusal_is_problem_json(code: str) -> None:
    status, fields, body = Problem(code, "Why it is so.").response()
    assert dict(fields)["Content-Type"] == "application/problem+json"
    assert json.loads(body) == {
        "success": False,
        "type": f"urn:jwt-gateway:{code}",
        "title": KINDS[code].title,
        "status": int(status[:3]),
        "detail": "Why it is so.",
        "help": f"docs/problems.md#{code}-{status[:3]}",
    }


@pytest.mark.parametrize("code", KINDS)
def test_the_help_is_the_address_of_a_paragraph(code: str) -> None:
    help_address = json.loads(Problem(code).response()[2])["help"]
    path, _, anchor = help_address.partition("#")
    headings = [line[4:] for line in (ROOT / path).read_text().splitlines() if line.startswith("### ")]
    assert anchor in [re.sub(r"[^a-z0-9 -]", "", heading).replace(" ", "-") for heading in headings]


def test_a_sign_in_that_is_too_old_is_asked_for_anew() -> None:
    """RFC 9470 section 3."""
    challenge = challenge_of(Problem("sign-in-required", max_age=60))
    assert (challenge["error"], challenge["max_age"]) == ("insufficient_user_authentication", "60")


@pytest.mark.parametrize("code", KINDS)
def test_a_challenge_says_nothing_but_fixed_words(code: str) -> None:
    """What led to the refusal may hold a token or a claim."""
    with_detail, without = challenge_of(Problem(code, "secret detail")), challenge_of(Problem(code))
    assert with_detail == without


def test_every_401_has_a_challenge_and_every_503_says_when_to_come_back() -> None:
    for code, kind in KINDS.items():
        names = [name for name, _ in Problem(code).response()[1]]
        assert ("WWW-Authenticate" in names) or not kind.status.startswith("401")
        assert ("Retry-After" in names) == kind.status.startswith("503")


def test_a_lacking_scope_is_named() -> None:
    assert challenge_of(Problem("insufficient-scope", scope="blacklist:admin")) == {
        "realm": "gateway",
        "error": "insufficient_scope",
        "error_description": KINDS["insufficient-scope"].title,
        "scope": "blacklist:admin",
    }


def test_further_fields_are_sent() -> None:
    assert ("Allow", "GET") in Problem("method-not-allowed", fields=[("Allow", "GET")]).response()[1]


def test_a_store_that_fails_is_a_refusal_of_its_own() -> None:
    assert StoreUnavailable().code == "store-unavailable"


def test_there_is_no_other_code() -> None:
    assert {code for code, _, _ in TABLE} == set(KINDS)
    with pytest.raises(KeyError):
        Problem("whatever")

"""What is wrong with a setting is said by its name, its place and in plain words."""

import pytest
from pydantic import ValidationError

from gateway.config.faults import faults
from gateway.config.settings import Settings

FIRST, NONE, NO_JSON = ", number 1", "there is no such member", ": is not JSON: "


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ISSUERS", '[{"issuer": "a", "secert": "x"}]', f"{FIRST}, secert: {NONE}; did you mean secret?"),
        ("SIGNALS", '[{"issuer": "a", "audiance": "x"}]', f"{FIRST}, audiance: {NONE}; did you mean audience?"),
        ("CLIENTS", '[{"client_id": "a", "secret": "b", "qqqq": "x"}]', f"{FIRST}, qqqq: {NONE}"),
        ("ISSUERS", '[{"secret": "x"}]', f"{FIRST}, issuer: is missing"),
        ("ISSUERS", '[\n{"issuer": "a"]', f"{NO_JSON}Expecting ',' delimiter at line 2, column 15"),
        ("ISSUERS", '[{"issuer": "a', f"{NO_JSON}Unterminated string starting at line 1, column 13"),
        ("ISSUERS", '{"issuer": "a"}', ': must be a JSON list of objects: [{"…": "…"}]'),
        ("ISSUERS", '["a"]', f"{FIRST}: must be a JSON object"),
        ("PORT", "x", ": must be a whole number"),
        ("LEEWAY", "x", ": must be a number"),
        ("CONSOLE", "maybe", ": must be true or false"),
        ("RESTORE", "x", ": must be 'holder' or 'admin'"),
        ("PORT", "70000", ": must be less than or equal to 65535"),
        ("ADMIN_SCOPE", "a b", ": must be one scope: no blanks, quotes or backslashes, ASCII alone"),
        ("CLAIMS_FIELD", "X_Claims", ": must be a letter, then letters, digits and hyphens"),
        ("SUBJECT_FIELD", "X-Sub\n", ": must be a letter, then letters, digits and hyphens"),
    ],
)  # fmt: skip
def test_a_fault_is_told_by_name_and_place(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    monkeypatch.setenv(f"GATEWAY_{name}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert list(faults(refused.value)) == [f"GATEWAY_{name}{told}"]

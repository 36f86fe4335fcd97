"""The examples of the final texts of CAEP, RISC and SSF, signed anew with npm jose: not a library of ours."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import ISSUER, NOW, Api, mint
from processes import ROOT

EXAMPLES = json.loads((Path(__file__).parent / "examples.json").read_text())["examples"]
NAMES = [f"{each['document']} {next(iter(each['claims']['events'])).rpartition('/')[2]}" for each in EXAMPLES]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "node_modules/jose").exists(), reason="not installed: npm ci"),
]


def moved(claims: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the claims with their times moved to now, and a number of their own: the examples share theirs."""
    shift = int(NOW) - 5 - claims["iat"]
    events = {
        uri: {**event, **({"event_timestamp": event["event_timestamp"] + shift} if "event_timestamp" in event else {})}
        for uri, event in claims["events"].items()
    }
    return {**claims, "iat": claims["iat"] + shift, "jti": f"{claims['jti']}-{number}", "events": events}


@pytest.fixture(scope="module")
def signed() -> Any:
    claims = [moved(each["claims"], number) for number, each in enumerate(EXAMPLES)]
    command = ["node", str(ROOT / "tests/support/sign_events.mjs")]
    done = subprocess.run(command, input=json.dumps(claims), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture
def gate_api(make_api: Callable[..., Api], signed: Any) -> Api:
    audiences = {name for each in EXAMPLES for name in [each["claims"]["aud"]] if isinstance(name, str)}
    sender = {
        "audience": [*sorted(audiences), "receiver.example.com/web"],
        "about": ISSUER,
        "jwks_url": json.dumps(signed["jwks"]),
        "email_claim": "email",
        "device_claim": "device",
        "tenant": "123456789",
        "extra_events": ["assurance-level-change", "device-compliance-change", "risk-level-change"],
    }
    issuers = sorted({each["claims"]["iss"] for each in EXAMPLES})
    return make_api(signals=json.dumps([{**sender, "issuer": issuer} for issuer in issuers]))


@pytest.mark.parametrize("number", range(len(EXAMPLES)), ids=NAMES)
def test_an_example_takes_back_what_it_says_or_is_refused(gate_api: Api, signed: Any, number: int) -> None:
    example, token = EXAMPLES[number], signed["tokens"][number]
    answer = gate_api("POST", "/-/events", data=token, content_type="application/secevent+jwt")
    assert answer.status_code == example["status"], answer.data
    if answer.status_code == 400:
        assert "cannot be matched" in answer.json["description"]
    entries = gate_api("GET", "/blacklist/entries", mint(sub="admin", scope="blacklist:admin")).json["entries"]
    assert [entry["claim"] for entry in entries] == ([example["taken"]] if example["taken"] else [])
    if example["taken"]:
        [(name, value)] = example["taken"].items()
        claims = dict(zip(name.split(" & "), json.loads(value), strict=True)) if " & " in name else example["taken"]
        assert gate_api("GET", "/", mint(iat=int(NOW) - 1000, **claims)).status_code == 401

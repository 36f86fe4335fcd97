"""Whatever a sender says, rightly signed, is taken or refused: no error of ours, no entry for somebody else."""

import itertools
import json
from collections.abc import Callable
from typing import Any
from wsgiref.validate import validator

import pytest
from helpers import ISSUER, NOW, Api, mint, sign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import Gateway
from gateway.signals.event_kinds import ACTIONS, STREAM_UPDATED, VERIFICATION

LOGOUT = "http://schemas.openid.net/event/backchannel-logout"
SENDER = {
    "issuer": ISSUER,
    "audience": "us",
    "email_claim": "email",
    "device_claim": "device",
    "tenant_claim": "tid",
    "extra_events": ["assurance-level-change", "device-compliance-change", "risk-level-change"],
    "authorization": "Bearer ours",
}
numbers = itertools.count()

names = st.sampled_from(
    [
        "format",
        "iss",
        "sub",
        "id",
        "email",
        "jti",
        "identifiers",
        "user",
        "session",
        "device",
        "tenant",
        "group",
        "\ud800",
    ]
)
formats = st.sampled_from(["iss_sub", "opaque", "email", "jwt_id", "aliases", "complex", "did", ""])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.just(2**70),
    st.text(max_size=5),
    st.sampled_from([ISSUER, "\0", "\ud800", "1001", "x" * 5000]),
)
values = st.recursive(
    scalars | formats,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
subjects = st.recursive(
    st.fixed_dictionaries({"format": formats}, optional=dict.fromkeys(("iss", "sub", "id", "email", "jti"), values)),
    lambda inner: (
        st.dictionaries(st.sampled_from(["user", "session", "device", "tenant"]), inner, max_size=3).map(
            lambda parts: {"format": "complex", **parts}
        )
        | st.lists(inner, max_size=3).map(lambda each: {"format": "aliases", "identifiers": each})
    ),
    max_leaves=5,
)
events = st.dictionaries(
    st.sampled_from([*ACTIONS, VERIFICATION, STREAM_UPDATED, "other"]),
    st.dictionaries(
        st.sampled_from(
            [
                "event_timestamp",
                "change_type",
                "credential_type",
                "claims",
                "current_status",
                "reason_admin",
                "state",
                "status",
            ]
        ),
        values,
        max_size=4,
    )
    | values,
    max_size=2,
)
claims = st.dictionaries(
    st.sampled_from(["iss", "aud", "iat", "exp", "nbf", "jti", "sub", "sid", "sub_id", "events", "toe", "nonce"]),
    values,
)

pytestmark = pytest.mark.filterwarnings("error")
hostile = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def api(make_gate: Callable[..., Gateway]) -> Api:
    return Api(validator(make_gate(signals=json.dumps([SENDER]))))


def signed(typ: str, members: dict[str, Any]) -> str:
    return sign({"alg": "HS256", "typ": typ}, json.dumps(members).encode())


@hostile
@given(subject=subjects | values, told=events | values, more=claims)
def test_events(api: Api, subject: Any, told: Any, more: dict[str, Any]) -> None:
    members = {
        "iss": ISSUER,
        "aud": "us",
        "iat": int(NOW),
        "jti": str(next(numbers)),
        "sub_id": subject,
        "events": told,
    }
    for changed in ({}, more):
        answer = api(
            "POST",
            "/-/events",
            data=signed("secevent+jwt", {**members, **changed}),
            content_type="application/secevent+jwt",
            headers={"Authorization": "Bearer ours"},
        )
        assert answer.status_code in (202, 400), answer.data
    assert api("GET", "/", mint(sub="somebody else", sid="s", iat=int(NOW) - 5)).status_code == 200
    assert api("GET", "/blacklist/entries?limit=1000", mint(sub="admin", scope="blacklist:admin")).status_code == 200


@hostile
@given(more=claims)
def test_logout_tokens(api: Api, more: dict[str, Any]) -> None:
    members = {
        "iss": ISSUER,
        "aud": "us",
        "iat": int(NOW),
        "exp": int(NOW) + 9,
        "jti": str(next(numbers)),
        "sid": "s-1",
    }
    token = signed("logout+jwt", {**members, "events": {LOGOUT: {}}, **more})
    answer = api("POST", "/-/logout", data={"logout_token": token})
    assert answer.status_code in (200, 400), answer.data
    assert api("GET", "/", mint(sub="somebody else", sid="s", iat=int(NOW) - 5)).status_code == 200


@hostile
@given(subject=subjects | values)
def test_revocations(api: Api, subject: Any) -> None:
    answer = api("POST", "/-/global-token-revocation", "ours", json={"sub_id": subject})
    assert answer.status_code in (204, 400, 403, 422), answer.data
    assert api("GET", "/", mint(sub="somebody else", sid="s", iat=int(NOW) - 5)).status_code == 200


@hostile
@given(body=st.binary(max_size=200))
@pytest.mark.parametrize("path", ["logout", "global-token-revocation", "events"])
def test_bytes(api: Api, path: str, body: bytes) -> None:
    for media_type in ("application/x-www-form-urlencoded", "application/json", "application/secevent+jwt", ""):
        answer = api("POST", f"/-/{path}", "ours", data=body, content_type=media_type)
        assert answer.status_code == 400, answer.data

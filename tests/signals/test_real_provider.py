"""A certified OpenID provider signs users out, and the gateway, in processes of its own, refuses their tokens."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from openid_provider import OpenIdProvider
from processes import ROOT, free_port
from recorder import Recorder, ok
from running import Running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "node_modules/oidc-provider").exists(), reason="not installed: npm ci"),
]

TRIES = 12  # over connections of their own: every worker is asked


class World:
    """Provider, gateway with two workers, and upstream."""

    def __init__(self, gateway: Running, provider: OpenIdProvider) -> None:
        self.gateway, self.provider = gateway, provider

    def login(self, name: str, user: str) -> str:
        return str(self.provider("login", name, user=user)["access_token"])

    def statuses(self, token: str) -> set[int]:
        return {self.gateway.get("/", token).status for _ in range(TRIES)}


def worlds(directory: Path, has_sid: bool) -> Iterator[World]:
    port = free_port()
    issuer = f"http://127.0.0.1:{port}"
    sender = {"issuer": issuer, "audience": "api-client", "sessions": "session" if has_sid else "subject"}
    environ = {
        "GATEWAY_ISSUER": issuer,
        "GATEWAY_JWKS_URL": f"{issuer}/jwks",
        "GATEWAY_AUDIENCE": "urn:api",
        "GATEWAY_SIGNALS": json.dumps([sender]),
    }
    with Recorder(ok()) as upstream, Running(directory, upstream.url, "--workers", "2", **environ) as gateway:
        provider = OpenIdProvider(port, f"{gateway.url}/-/logout", *(["sid"] if has_sid else []))
        try:
            yield World(gateway, provider)
        finally:
            provider.close()


@pytest.fixture
def with_sid(tmp_path: Path) -> Iterator[World]:
    yield from worlds(tmp_path, has_sid=True)


@pytest.fixture
def without_sid(tmp_path: Path) -> Iterator[World]:
    yield from worlds(tmp_path, has_sid=False)


def test_signing_out_ends_that_session_on_every_worker_and_no_other(with_sid: World) -> None:
    phone, laptop = with_sid.login("phone", "1001"), with_sid.login("laptop", "1001")
    bob = with_sid.login("bob", "1002")
    assert [with_sid.statuses(token) for token in (phone, laptop, bob)] == [{200}] * 3
    # To take such a token as success the provider wants 200 or 204.
    assert with_sid.provider("logout", "phone")["told"] == "success"
    assert [with_sid.statuses(token) for token in (phone, laptop, bob)] == [{401}, {200}, {200}]
    # Its refresh token still works there, and what it gets does not pass.
    refreshed = with_sid.provider("refresh", "phone")["access_token"]
    assert refreshed != phone
    assert with_sid.statuses(refreshed) == {401}
    assert with_sid.statuses(with_sid.login("phone", "1001")) == {200}


def test_where_tokens_have_no_session_the_users_tokens_end(without_sid: World) -> None:
    phone, bob = without_sid.login("phone", "1001"), without_sid.login("bob", "1002")
    assert without_sid.provider("logout", "phone")["told"] == "success"
    assert [without_sid.statuses(token) for token in (phone, bob)] == [{401}, {200}]

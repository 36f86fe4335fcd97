"""Somebody is logged out everywhere, and a certified OpenID provider goes on refreshing: what passes then."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from openid_provider import INSTALLED, OpenIdProvider
from processes import ROOT, free_port
from recorder import Recorder, ok
from running import Running

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not INSTALLED, reason="not installed: npm ci")]

TRIES = 6  # over connections of their own: both workers are asked


class World:
    """The provider, and two gateways of two workers: of one AUTH_TIME is on, of the other it is not."""

    def __init__(self, provider: OpenIdProvider, gateways: dict[bool, Running], environs: dict[bool, Any]) -> None:
        self.provider, self.gateways, self.environs = provider, gateways, environs

    def answers(self, token: str, auth_time: bool) -> set[str]:
        """Return what becomes of the token: "passes", or the refusal's code."""
        answers = [self.gateways[auth_time].get("/", token) for _ in range(TRIES)]
        return {"passes" if each.status == 200 else each.json["type"].rpartition(":")[2] for each in answers}

    def log_out(self, sub: str) -> None:
        """Take back what the person was issued until now, on the command line."""
        for environ in self.environs.values():
            command = [sys.executable, "-m", "gateway", "revoke", "--sub", sub, "--reason", "lost"]
            done = subprocess.run(
                command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60, check=True
            )
            assert done.stdout.startswith("blacklisted (changed)")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    port = free_port()
    issuer = f"http://127.0.0.1:{port}"
    gateways, environs = {}, {}
    with Recorder(ok()) as upstream:
        provider = OpenIdProvider(port, "http://127.0.0.1:1/", "auth_time")
        try:
            for auth_time in (True, False):
                directory = tmp_path / str(auth_time)
                directory.mkdir()
                environs[auth_time] = {
                    "GATEWAY_ISSUER": issuer,
                    "GATEWAY_JWKS_URL": issuer,
                    "GATEWAY_AUDIENCE": "urn:api",
                    "GATEWAY_AUTH_TIME": str(auth_time),
                    "GATEWAY_STORE": f"sqlite:///{directory}/blacklist.sqlite3",
                }
                running = Running(directory, upstream.url, "--workers", "2", **environs[auth_time])
                gateways[auth_time] = running.__enter__()
            yield World(provider, gateways, environs)
        finally:
            provider.close()
            for running in gateways.values():
                running.__exit__()


def seconds(token: str, claim: str) -> int:
    return int(jwt.decode(token, options={"verify_signature": False})[claim])


def test_a_refresh_does_not_undo_it_where_the_sign_in_counts_and_a_new_sign_in_does(world: World) -> None:
    phone = world.provider("login", "phone", user="1001")["access_token"]
    bob = world.provider("login", "bob", user="1002")["access_token"]
    for auth_time in (True, False):
        assert [world.answers(token, auth_time) for token in (phone, bob)] == [{"passes"}] * 2
    world.log_out("1001")
    assert world.answers(phone, True) == {"sign-in-required"}
    assert world.answers(phone, False) == {"token-blacklisted"}

    # The provider knows nothing of it, and goes on. Its next token is of a later second than the cut-off.
    cut_off = int(time.time()) + 1
    while time.time() < cut_off:
        time.sleep(0.05)
    refreshed = world.provider("refresh", "phone")["access_token"]
    silent = world.provider("again", "phone")["access_token"]
    for token in (refreshed, silent):
        assert seconds(token, "iat") >= cut_off
        assert seconds(token, "auth_time") == seconds(phone, "auth_time")
        assert world.answers(token, True) == {"sign-in-required"}
        assert world.answers(token, False) == {"passes"}

    # The challenge says what to ask the provider for (RFC 9470), which then lets the person sign in anew.
    challenge = world.gateways[True].get("/", refreshed).fields["WWW-Authenticate"]
    found = re.search(r'error="insufficient_user_authentication".*max_age="(\d+)"', challenge)
    assert found
    anew = world.provider("again", "phone", max_age=found[1])["access_token"]
    assert seconds(anew, "auth_time") >= cut_off
    for auth_time in (True, False):
        assert [world.answers(token, auth_time) for token in (anew, bob)] == [{"passes"}] * 2
    assert world.answers(phone, True) == {"sign-in-required"}

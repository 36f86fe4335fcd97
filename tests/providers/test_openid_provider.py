"""Tokens of a certified OpenID provider, in a process of its own, pass the gateway, and are taken back."""

import json
import subprocess
import sys
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

Setup = tuple[Running, OpenIdProvider, dict[str, str]]


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """Return gateway, provider and settings; of the provider the gateway knows the address alone."""
    port = free_port()
    issuer = f"http://127.0.0.1:{port}"
    environ = {
        "GATEWAY_ISSUER": issuer,
        "GATEWAY_JWKS_URL": issuer,
        "GATEWAY_AUDIENCE": "urn:api",
        "GATEWAY_REQUIRED_CLAIMS": "sub,sid,client_id=api-client",
    }
    with Recorder(ok()) as upstream, Running(tmp_path, upstream.url, "--workers", "2", **environ) as gateway:
        provider = OpenIdProvider(port, f"{gateway.url}/-/logout", "sid")
        try:
            yield gateway, provider, environ | {"GATEWAY_STORE": f"sqlite:///{tmp_path}/blacklist.sqlite3"}
        finally:
            provider.close()


def command(environ: dict[str, str], *arguments: str) -> str:
    """Run a command of the gateway's beside it."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        check=False,
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def statuses(gateway: Running, *tokens: str) -> list[int]:
    return [gateway.get("/", token).status for token in tokens]


def claims(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


def test_its_tokens_pass_and_are_taken_back_by_token_session_and_person(setup: Setup) -> None:
    gateway, provider, environ = setup
    phone, laptop, tablet = (
        provider("login", name, user="1001")["access_token"] for name in ("phone", "laptop", "tablet")
    )
    bob = provider("login", "bob", user="1002")
    everybody = (phone, laptop, tablet, bob["access_token"])
    assert statuses(gateway, *everybody) == [200] * 4
    # An ID token lacks what access tokens have.
    assert gateway.get("/", bob["id_token"]).json["type"] == "urn:jwt-gateway:missing-claim"
    # The holder, a session, and a person; refreshed within the session, it stays out.
    assert gateway.request("POST", "/blacklist", phone).status == 200
    assert statuses(gateway, *everybody) == [401, 200, 200, 200]
    command(environ, "revoke", "--sid", claims(laptop)["sid"])
    refreshed = provider("refresh", "laptop")["access_token"]
    assert claims(refreshed)["sid"] == claims(laptop)["sid"]
    assert statuses(gateway, *everybody, refreshed) == [401, 401, 200, 200, 401]
    command(environ, "revoke", "--sub", "1001")
    assert statuses(gateway, *everybody) == [401, 401, 401, 200]


def test_check_config_says_what_its_key_set_is(setup: Setup) -> None:
    _, provider, environ = setup
    told = command(environ, "check-config")
    assert f"# keys of {provider.issuer}: 1 for " in told
    assert json.dumps("discogs") not in told

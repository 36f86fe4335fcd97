"""A certified client library revokes, introspects and discovers, at a gateway in processes of its own."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ISSUER, mint
from processes import ROOT, free_port
from recorder import Recorder, ok
from running import Running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "node_modules/openid-client").exists(), reason="not installed: npm ci"),
]

CLIENTS = {"shop": "s3cret of the shop", "odd: client": "p%ss+w:rd &ü"}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    port = free_port()
    environ = {
        "GATEWAY_CLIENTS": json.dumps([{"client_id": name, "secret": secret} for name, secret in CLIENTS.items()]),
        "GATEWAY_RESOURCE": f"http://127.0.0.1:{port}",
    }
    with Recorder(ok()) as upstream:
        flags = ("--workers", "2", "--port", str(port))
        with Running(tmp_path, upstream.url, *flags, **environ) as running:
            yield running


def ask(*arguments: str) -> Any:
    command = ["node", str(ROOT / "tests/support/openid_client.mjs"), *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("way", ["basic", "post"])
def test_it_introspects_and_revokes(gateway: Running, name: str, way: str) -> None:
    token = mint(sub="1001", client_id=name, scope="read")
    asked = (gateway.url, ISSUER, name, CLIENTS[name], way)
    told = ask(*asked, "introspect", token)
    assert (told["active"], told["sub"], told["client_id"], told["scope"]) == (True, "1001", name, "read")
    assert ask(*asked, "revoke", token) == "done"
    assert ask(*asked, "introspect", token) == {"active": False}
    assert {gateway.get("/", token).status for _ in range(8)} == {401}
    assert ask(*asked, "revoke", "unknown") == "done"


def test_it_understands_refusals(gateway: Running) -> None:
    token = mint(sub="1001", client_id="another")
    assert ask(gateway.url, ISSUER, "shop", CLIENTS["shop"], "basic", "revoke", token) == {
        "error": "unauthorized_client"
    }
    refused = ask(gateway.url, ISSUER, "shop", "wrong", "post", "revoke", token)
    assert refused["error"] in ("invalid_client", "OAUTH_WWW_AUTHENTICATE_CHALLENGE")


def test_it_finds_the_resources_metadata(gateway: Running) -> None:
    assert ask(gateway.url, "resource")["authorization_servers"] == [ISSUER]
    challenge = gateway.get("/").fields["WWW-Authenticate"]
    assert challenge.endswith(f'resource_metadata="{gateway.url}/.well-known/oauth-protected-resource"')

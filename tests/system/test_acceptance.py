"""Both Postman collections, run by newman against `gateway serve` in front of the sample upstream."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT

NEWMAN = ROOT / "node_modules/.bin/newman"
OWN_COLLECTION = ROOT / "postman/jwt-blacklist-gateway.postman_collection.json"
ASSIGNMENT_PORT = "35000"  # written into the assignment's collection; replaced, as any outgoing connection may hold it
PATIENCE = 30  # seconds after which a process that does not answer has failed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NEWMAN.exists(), reason="newman is not installed: npm ci"),
]


@contextmanager
def running(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


@contextmanager
def gateway_on(port: int, directory: Path) -> Iterator[str]:
    """Run the sample upstream and two gateway workers; give the gateway's URL when it is ready."""
    with running("upstream", "--port", "0") as upstream:
        assert upstream.stdout
        settings = {
            "GATEWAY_UPSTREAM": upstream.stdout.readline().split()[-1],
            "GATEWAY_STORE": f"sqlite:///{directory / 'blacklist.sqlite3'}",
            "GATEWAY_PORT": str(port),
            "GATEWAY_WORKERS": "2",
            "GATEWAY_LOG_LEVEL": "error",
        }
        with running("gateway", "serve", **settings) as gateway:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(gateway, url)
            yield url


def wait_until_ready(process: subprocess.Popen[str], url: str) -> None:
    for _ in range(PATIENCE * 10):
        assert process.poll() is None, "the gateway did not start"
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=PATIENCE):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("the gateway does not get ready")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def newman(collection: Path, *options: str) -> list[Any]:
    """Run a collection; give what newman says of each request. Fails when an assertion of the collection does."""
    report = collection.with_suffix(".report.json") if collection != OWN_COLLECTION else Path(os.devnull)
    command = [NEWMAN, "run", collection, "--color", "off", "--reporters", "cli,json", *options]
    done = subprocess.run(
        [*command, "--reporter-json-export", report], capture_output=True, text=True, timeout=PATIENCE * 4, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = report.read_text()
    return json.loads(text)["run"]["executions"] if text else []


def test_our_own_collection_passes(tmp_path: Path) -> None:
    with gateway_on(free_port(), tmp_path) as url:
        newman(OWN_COLLECTION, "--env-var", f"base_url={url}")


def assignment(port: int) -> Any:
    """The assignment's collection, asking `port` in place of its own."""
    path = os.environ.get("ASSIGNMENT_COLLECTION")
    if not path:
        pytest.skip("ASSIGNMENT_COLLECTION does not name the assignment's Postman collection")
    text = Path(path).read_text()
    assert ASSIGNMENT_PORT in text
    return json.loads(text.replace(ASSIGNMENT_PORT, str(port)))


def statuses(collection: Any, items: list[int], token: str, directory: Path) -> list[int]:
    """Run these items of the collection with the token in place of `replace-me`."""
    chosen = {**collection, "item": [collection["item"][number] for number in items]}
    path = directory / "collection.json"
    path.write_text(json.dumps(chosen).replace("replace-me", token))
    return [execution["response"]["code"] for execution in newman(path)]


def signed_by_postman(collection: Any, directory: Path) -> str:
    """The very token that Postman signs for the collection's first request."""
    path = directory / "first.json"
    path.write_text(json.dumps({**collection, "item": collection["item"][:1]}))
    fields = {field["key"]: field["value"] for field in newman(path)[0]["request"]["header"]}
    return str(fields["Authorization"].removeprefix("Bearer "))


def test_the_assignments_collection_passes(tmp_path: Path) -> None:
    port = free_port()
    collection = assignment(port)
    info, blacklist, restore = range(3)
    with gateway_on(port, tmp_path):
        token = signed_by_postman(collection, tmp_path)
        assert statuses(collection, [info, blacklist, restore], token, tmp_path) == [200, 200, 200]
        story = [info, blacklist, info, restore, info]
        assert statuses(collection, story, token, tmp_path) == [200, 200, 401, 200, 200]

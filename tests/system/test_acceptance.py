"""Both Postman collections, run by newman against `gateway serve` in front of the sample upstream."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE, ROOT, free_port
from running import Running

NEWMAN = ROOT / "node_modules/.bin/newman"
OWN_COLLECTION = ROOT / "postman/jwt-blacklist-gateway.postman_collection.json"
ASSIGNMENT_PORT = "35000"  # written into the assignment's collection; replaced, as any outgoing connection may hold it

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NEWMAN.exists(), reason="newman is not installed: npm ci"),
]


@contextmanager
def gateway_on(port: int, directory: Path) -> Iterator[str]:
    """Run the sample upstream and two gateway workers; give the gateway's URL."""
    command = [sys.executable, "-m", "upstream", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as upstream:
        assert upstream.stdout
        url = upstream.stdout.readline().split()[-1]
        try:
            with Running(directory, url, "--workers", "2", "--port", str(port)) as gateway:
                yield gateway.url
        finally:
            upstream.terminate()


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

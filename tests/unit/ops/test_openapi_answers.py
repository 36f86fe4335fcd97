"""What `/-/openapi.json` promises is what a running gateway answers."""

import itertools
import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import hypothesis
import pytest
from helpers import ISSUER, mint
from processes import ROOT
from recorder import Recorder, ok
from running import Running

pytestmark = pytest.mark.slow
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from schemathesis.core import NOT_SET  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
)

pytest_plugins = ["schemathesis.pytest.plugin"]  # each run of pytest would load it otherwise

DESCRIBED = json.loads((ROOT / "gateway/ops/openapi.json").read_text())
OPERATIONS = [
    (method.upper(), path, operation.get("security", DESCRIBED["security"]) != [])
    for path, methods in DESCRIBED["paths"].items()
    for method, operation in methods.items()
    if "signals" not in operation["tags"]  # their callers are asked for something else
]
numbers = itertools.count()
schemathesis.serializer.alias("application/secevent+jwt", "text/plain")
schema = schemathesis.openapi.from_dict(DESCRIBED)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("openapi")
    flags = ("--console", "yes", "--metrics-port", "0", "--workers", "1", "--resource", "https://api.example")
    environ = {
        "GATEWAY_SIGNALS": json.dumps([{"issuer": ISSUER, "audience": "us"}]),
        "GATEWAY_CLIENTS": json.dumps([{"client_id": "a", "secret": "b"}]),
    }
    with Recorder(ok()) as upstream, Running(directory, upstream.url, *flags, **environ) as running:
        yield running


@schema.parametrize()
@hypothesis.settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
def test_answers_are_as_described(case: Any, gateway: Running) -> None:
    # A token of its own for each request: the one before may have been blacklisted.
    token = mint(jti=f"openapi {next(numbers)}", sub=f"openapi {next(numbers)}", scope="blacklist:admin")
    fields = {"Authorization": f"Bearer {token}"}
    # No schema can say that a token must verify and that a cursor comes from a page.
    beyond = [positive_data_acceptance]
    if case.path == "/-/auth":  # nor that any method will do
        beyond += [unsupported_method]
    if case.body is NOT_SET:  # what a query says beyond its parameters is restated, not refused
        beyond += [negative_data_rejection]
    if case.operation.definition.raw["tags"] == ["signals"]:
        # Nor that another type, or another client, is refused in their documents' own words.
        fields, beyond = {}, [*beyond, negative_data_rejection]
    case.call_and_validate(base_url=gateway.url, headers=fields, excluded_checks=beyond)


@pytest.mark.parametrize(("method", "path", "needs_token"), OPERATIONS)
def test_what_is_said_to_need_a_token_needs_a_good_one(
    gateway: Running, method: str, path: str, needs_token: bool
) -> None:
    expected = {401} if needs_token else {200}
    for token in (None, "garbage", mint("another secret"), mint(exp=1000)):
        assert {gateway.request(method, path, token).status} == expected


def test_the_description_is_served_with_the_version(gateway: Running) -> None:
    answer = gateway.get("/-/openapi.json")
    assert answer.fields["Content-Type"] == "application/json"
    info = {**DESCRIBED["info"], "version": version("jwt-blacklist-gateway")}
    assert answer.json == {**DESCRIBED, "info": info}

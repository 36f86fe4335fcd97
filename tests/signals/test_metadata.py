"""/.well-known/oauth-protected-resource (RFC 9728), and the challenges that name it."""

import json
from collections.abc import Callable

import pytest
from helpers import ISSUER, Api, assert_refused, mint

WELL_KNOWN = "/.well-known/oauth-protected-resource"

Make = Callable[..., Api]


@pytest.mark.parametrize(
    ("resource", "path", "url"),
    [
        ("https://api.example", WELL_KNOWN, f"https://api.example{WELL_KNOWN}"),
        ("https://api.example/", WELL_KNOWN, f"https://api.example{WELL_KNOWN}"),
        ("https://api.example/v1/", f"{WELL_KNOWN}/v1/", f"https://api.example{WELL_KNOWN}/v1/"),
        ("https://api.example/v1/", f"{WELL_KNOWN}/v1", f"https://api.example{WELL_KNOWN}/v1/"),
        ("https://api.example/v1/mcp", f"{WELL_KNOWN}/v1/mcp", f"https://api.example{WELL_KNOWN}/v1/mcp"),
    ],
)
def test_it_is_where_the_rfc_says_and_challenges_name_it(make_api: Make, resource: str, path: str, url: str) -> None:
    api = make_api(resource=resource)
    answer = api("GET", path)
    assert answer.json == {
        "resource": resource,
        "authorization_servers": [ISSUER],
        "bearer_methods_supported": ["header"],
    }
    assert api("GET", WELL_KNOWN).json == answer.json
    for refused in (api("GET", "/"), api("GET", "/", "garbage"), api("GET", "/blacklist/entries", mint())):
        assert refused.headers["WWW-Authenticate"].endswith(f', resource_metadata="{url}"')


def test_every_issuer_is_an_authorization_server(make_api: Make) -> None:
    issuers = json.dumps([{"issuer": ISSUER, "secret": "discogs"}, {"issuer": "https://b.test", "secret": "other"}])
    api = make_api(issuers=issuers, resource="https://api.example")
    assert api("GET", WELL_KNOWN).json["authorization_servers"] == [ISSUER, "https://b.test"]


def test_an_issuer_with_tenants_is_no_address(make_api: Make) -> None:
    issuers = [{"issuer": "https://login.test/{tenantid}/v2.0", "secret": "x"}, {"issuer": ISSUER, "secret": "discogs"}]
    api = make_api(issuers=json.dumps(issuers), resource="https://api.example")
    assert api("GET", WELL_KNOWN).json["authorization_servers"] == [ISSUER]
    api = make_api(issuers=json.dumps(issuers[:1]), resource="https://api.example")
    assert "authorization_servers" not in api("GET", WELL_KNOWN).json


def test_it_is_read_alone(make_api: Make) -> None:
    assert_refused(make_api(resource="https://api.example")("POST", WELL_KNOWN), "method-not-allowed")


def test_without_a_resource_the_path_is_the_upstreams(api: Api) -> None:
    assert_refused(api("GET", WELL_KNOWN), "missing-credentials")
    assert api("GET", WELL_KNOWN, mint()).json == {"path": WELL_KNOWN}
    assert "resource_metadata" not in api("GET", "/").headers["WWW-Authenticate"]

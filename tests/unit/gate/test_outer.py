"""What an outer proxy may say at /-/auth about the request it asks for, and who else may not."""

from collections.abc import Callable

import pytest
from helpers import Api, assert_refused, mint

from gateway.gate.outer import asked_about

PUBLIC = ("/public", "/open/*")
PREFLIGHT = {"Origin": "https://app.test", "Access-Control-Request-Method": "DELETE"}
WORDS = ["X-Forwarded-Uri", "X-Original-URI"]


@pytest.fixture
def trusting(make_api: Callable[..., Api]) -> Api:
    return make_api(public_paths=PUBLIC, pass_preflight=True, trusted_proxies=1)


@pytest.fixture
def untrusting(make_api: Callable[..., Api]) -> Api:
    return make_api(public_paths=PUBLIC, pass_preflight=True)


@pytest.mark.parametrize("path", ["/-/auth", "/-/auth/", "/-/auth/info?x=1", "/-/auth/blacklist"])
def test_the_decision_is_taken_at_auth_and_below(api: Api, path: str) -> None:
    assert_refused(api("GET", path), "missing-credentials")
    admitted = api("DELETE", path, mint(sub="1001"))
    assert (admitted.status_code, admitted.data) == (200, b"")
    assert admitted.headers["X-Token-Subject"] == "1001"


def test_no_other_path_is_a_decision(api: Api) -> None:
    assert_refused(api("GET", "/-/authority", mint()), "not-found")


@pytest.mark.parametrize("name", WORDS)
def test_a_trusted_proxy_may_ask_about_a_public_path(trusting: Api, name: str) -> None:
    for uri in ("/public", "/public?ids=1,2", "/open/to/all"):
        admitted = trusting("GET", "/-/auth", headers={name: uri})
        assert admitted.status_code == 200
        assert admitted.headers["X-Token-Subject"] == admitted.headers["X-Token-Claims"] == ""
    for uri in ("", "/secret", "/secret?/public", "/open/../secret", "http://api.test/public", "public"):
        assert_refused(trusting("GET", "/-/auth", headers={name: uri}), "missing-credentials")


def test_a_trusted_proxy_may_append_the_path_it_asks_about(trusting: Api) -> None:
    assert trusting("GET", "/-/auth/public?x").status_code == 200
    assert_refused(trusting("GET", "/-/auth/secret"), "missing-credentials")
    assert_refused(trusting("GET", "/-/auth/-/auth/public"), "missing-credentials")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/-/auth/secret", {"X-Forwarded-Uri": "/public"}),
        ("/-/auth/public", {"X-Original-URI": "/secret"}),
        ("/-/auth", {"X-Forwarded-Uri": "/public", "X-Original-URI": "/secret"}),
        ("/-/auth", {"X-Forwarded-Uri": "/public, /secret"}),
        ("/-/auth", {"X-Forwarded-Uri": "/open/to,/secret"}),
        ("/-/auth", {"X-Forwarded-Uri": "/public?x,/secret"}),
        ("/-/auth/public", {"X-Forwarded-Method": "GET", "X-Original-Method": "PUT"}),
        ("/-/auth/secret", {"X-Forwarded-Method": "OPTIONS", **PREFLIGHT}),
        # One path with a comma in it is no public one, twice.
        ("/-/auth", {"X-Forwarded-Uri": "/public,/public"}),
        ("/-/auth/public,/public", {}),
        ("/-/auth", {"X-Original-URL": "https://api.test/public,https://api.test/public"}),
    ],
)
def test_where_the_words_disagree_a_token_is_needed(trusting: Api, path: str, headers: dict[str, str]) -> None:
    assert_refused(trusting("GET", path, headers=headers), "missing-credentials")


@pytest.mark.parametrize("name", ["X-Forwarded-Method", "X-Original-Method"])
def test_a_preflight_is_told_by_the_method_asked_about(trusting: Api, name: str) -> None:
    asked = {"X-Forwarded-Uri": "/secret", **PREFLIGHT}
    assert trusting("GET", "/-/auth", headers={**asked, name: "OPTIONS"}).status_code == 200
    assert trusting("OPTIONS", "/-/auth/secret", headers=PREFLIGHT).status_code == 200
    assert_refused(trusting("OPTIONS", "/-/auth", headers={**asked, name: "DELETE"}), "missing-credentials")
    assert_refused(trusting("GET", "/-/auth", headers=asked), "missing-credentials")


@pytest.mark.parametrize("path", ["/blacklist", "/-/ready", "/-/auth"])
def test_the_gateways_own_paths_are_never_open(make_api: Callable[..., Api], path: str) -> None:
    api = make_api(public_paths=("/*", path), pass_preflight=True, trusted_proxies=1)
    for headers in ({}, {**PREFLIGHT, "X-Forwarded-Method": "OPTIONS"}):
        assert_refused(api("GET", "/-/auth", headers={"X-Forwarded-Uri": path, **headers}), "missing-credentials")


@pytest.mark.parametrize("name", WORDS)
def test_without_trust_nobodys_word_counts(untrusting: Api, name: str) -> None:
    assert_refused(untrusting("GET", "/-/auth", headers={name: "/public"}), "missing-credentials")
    assert_refused(untrusting("GET", "/-/auth/public"), "missing-credentials")
    spoofed = {name: "/secret", "X-Forwarded-Method": "OPTIONS", **PREFLIGHT}
    assert_refused(untrusting("OPTIONS", "/-/auth", headers=spoofed), "missing-credentials")


@pytest.mark.parametrize("name", WORDS)
def test_away_from_auth_nobodys_word_counts(trusting: Api, name: str) -> None:
    assert_refused(trusting("GET", "/secret", headers={name: "/public"}), "missing-credentials")
    spoofed = {name: "/public", "X-Forwarded-Method": "OPTIONS", **PREFLIGHT}
    assert_refused(trusting("GET", "/secret", headers=spoofed), "missing-credentials")


def test_a_blacklisted_token_is_refused_for_a_public_path_too(trusting: Api) -> None:
    token = mint(sub="1001")
    assert trusting("POST", "/blacklist", token).status_code == 200
    assert_refused(trusting("GET", "/-/auth", token, headers={"X-Forwarded-Uri": "/public"}), "token-blacklisted")


INGRESS = "https://api.test/health?x=/y"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HTTP_X_ORIGINAL_URL": INGRESS, "HTTP_X_ORIGINAL_METHOD": "POST"}, ("POST", "/health")),
        ({"HTTP_X_ORIGINAL_URL": "http://a:8080/"}, ("GET", "/")),
        ({"HTTP_X_ORIGINAL_URL": INGRESS, "HTTP_X_ORIGINAL_URI": "/secret"}, ("", "")),
        ({"HTTP_X_ORIGINAL_URL": f"{INGRESS}, https://api.test/secret"}, ("", "")),
        ({"HTTP_X_ORIGINAL_URL": "/health"}, ("GET", "")),
        ({"HTTP_X_ORIGINAL_URL": "https://api.test"}, ("GET", "")),
    ],
)
def test_ingress_nginx_says_it_with_a_whole_url(environ: dict[str, str], expected: tuple[str, str]) -> None:
    assert asked_about({"REQUEST_METHOD": "GET", **environ}, "/-/auth") == expected

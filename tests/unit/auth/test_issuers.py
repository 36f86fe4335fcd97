"""Which issuer a token's claims name, and within which issuers an admin acts."""

from typing import Any

import pytest
from helpers import SECRET

from gateway.auth.issuers import Issuer, Issuers
from gateway.auth.keys import build_keys

KEYS = build_keys(secrets=(SECRET,), public_key=None, jwks_url=None, algorithms=("HS256",), issuer="x")
ENTRA = "https://login.microsoftonline.com/{tenantid}/v2.0"
ENTRA_V1 = "https://sts.windows.net/{tenantid}/"
A, B = "a0000000-0000-0000-0000-00000000000a", "b0000000-0000-0000-0000-00000000000b"


def issuer(name: str, **members: Any) -> Issuer:
    return Issuer(name, KEYS.algorithms, frozenset(), KEYS, **members)


def entra(tenant: str, version: str = ENTRA) -> str:
    return version.replace("{tenantid}", tenant)


def named(issuers: Issuers, **claims: Any) -> str | None:
    found = issuers.of(claims)
    return found.name if found else None


def test_an_alias_is_another_spelling_of_one_issuer() -> None:
    issuers = Issuers([issuer("https://a.test/", aliases=("https://a.test", "a")), issuer("b")])
    for spelling in ("https://a.test/", "https://a.test", "a"):
        assert named(issuers, iss=spelling) == issuers.name_of(spelling) == "https://a.test/"
    assert named(issuers, iss="b") == "b"
    for other in ("A", "https://a.test//", "", None, 7, ["a"]):
        assert named(issuers, iss=other) is None


def test_each_tenant_is_an_issuer_of_its_own() -> None:
    issuers = Issuers([issuer(ENTRA, aliases=(ENTRA_V1,))])
    assert named(issuers, iss=entra(A), tid=A) == entra(A)
    assert named(issuers, iss=entra(B, ENTRA_V1), tid=B) == issuers.name_of(entra(B, ENTRA_V1)) == entra(B)


@pytest.mark.parametrize("tid", [B, A.upper(), "", None, 7, [A], "{tenantid}", ".*"])
def test_a_token_whose_tenant_is_not_its_issuers_is_nobodys(tid: Any) -> None:
    issuers = Issuers([issuer(ENTRA)])
    assert named(issuers, iss=entra(A), tid=tid) is None
    assert named(issuers, iss=entra(A)) is None


@pytest.mark.parametrize("tenant", ["", "a/b", "../x", "a b", "a\n", "{tenantid}", "x" * 65, "é"])
def test_what_is_no_tenants_id_is_nobodys(tenant: str) -> None:
    assert named(Issuers([issuer(ENTRA)]), iss=entra(tenant), tid=tenant) is None


def test_the_text_around_a_tenant_is_taken_literally() -> None:
    issuers = Issuers([issuer("https://a.b/{tenantid}/c/{tenantid}")])
    assert named(issuers, iss=f"https://a.b/{A}/c/{A}", tid=A)
    assert named(issuers, iss=f"https://a.b/{A}/c/{B}", tid=A) is None
    assert named(issuers, iss=f"https://aXb/{A}/c/{A}", tid=A) is None


def test_only_the_tenants_of_the_list_are_let_in() -> None:
    issuers = Issuers([issuer(ENTRA, tenants=frozenset((A,)))])
    assert named(issuers, iss=entra(A), tid=A) == entra(A)
    assert named(issuers, iss=entra(A.upper()), tid=A.upper()) == entra(A)
    assert named(issuers, iss=entra(B), tid=B) is None
    assert issuers.name_of(entra(B)) is None


def test_admins_act_within_their_own_issuer_and_those_it_administers() -> None:
    assert issuer("a").may_administer("a")
    assert not issuer("a").may_administer("b")
    assert issuer("a", administers=frozenset(("b",))).may_administer("b")
    assert not issuer("a", administers=frozenset(("b",))).may_administer("c")
    assert issuer("a", administers=frozenset("*")).may_administer("c")


def test_who_administers_an_issuer_with_tenants_administers_each_of_them() -> None:
    admin = issuer("a", administers=frozenset((ENTRA,)))
    assert admin.may_administer(entra(A))
    assert not admin.may_administer(entra(A, ENTRA_V1))
    one = Issuers([issuer(ENTRA)]).of({"iss": entra(A), "tid": A})
    assert one
    assert one.may_administer(entra(A))
    assert not one.may_administer(entra(B))

"""SIGNALS, CLIENTS and RESOURCE: what cannot work is told at the start, and no secret is shown."""

import json
from typing import Any

import pytest
from helpers import ISSUER
from processes import ROOT
from provider import Provider, signer
from pydantic import ValidationError

from gateway import Settings
from gateway.auth.keyset import KeysRefused
from gateway.config.announce import in_force
from gateway.config.signals import ClientSettings, SignalSettings
from gateway.parties import build_issuers, build_senders

OTHER = "https://other.test/"

BAD_SENDERS: dict[str, Any] = {
    "no issuer": [{"audience": "api"}],
    "no audience": [{"issuer": ISSUER}],
    "a member that is none": [{"issuer": ISSUER, "audience": "api", "audiance": "x"}],
    "a member of ISSUERS": [{"issuer": ISSUER, "audience": "api", "administers": "*"}],
    "no keys": [{"issuer": OTHER, "audience": "api", "about": ISSUER}],
    "about nobody": [{"issuer": OTHER, "audience": "api", "secret": "s"}],
    "about somebody unknown": [{"issuer": ISSUER, "audience": "api", "about": OTHER}],
    "twice": [{"issuer": ISSUER, "audience": "a"}, {"issuer": ISSUER, "audience": "b"}],
    "a kind that is none": [{"issuer": ISSUER, "audience": "api", "takes": ["everything"]}],
    "logout without an audience": [{"issuer": ISSUER, "authorization": "Bearer x", "takes": ["logout"]}],
    "one field for two": [
        {"issuer": ISSUER, "authorization": "Bearer x"},
        {"issuer": OTHER, "about": ISSUER, "authorization": "Bearer x"},
    ],
    "one field for two, once without its scheme": [
        {"issuer": ISSUER, "authorization": "Bearer x"},
        {"issuer": OTHER, "about": ISSUER, "authorization": "x"},
    ],
    "an empty field": [{"issuer": ISSUER, "authorization": ""}],
    "a field with the end of its file's line": [{"issuer": ISSUER, "authorization": "Bearer x\n"}],
    "a field with a blank before it": [{"issuer": ISSUER, "authorization": " Bearer x"}],
    "a scheme alone": [{"issuer": ISSUER, "authorization": "Bearer "}],
    "a field that is not ASCII": [{"issuer": ISSUER, "authorization": "Bearer ü"}],
    "a field of two lines for polling": [
        {"issuer": ISSUER, "audience": "a", "poll_url": "https://idp.test/", "poll_authorization": "Bearer x\nBearer y"}
    ],
    "sessions that are neither": [{"issuer": ISSUER, "audience": "api", "sessions": "none"}],
    "an event that is always on": [{"issuer": ISSUER, "audience": "api", "extra_events": ["session-revoked"]}],
    "polling in clear": [{"issuer": ISSUER, "audience": "api", "poll_url": "http://idp.test/poll"}],
    "polling of what is not taken": [
        {"issuer": ISSUER, "audience": "api", "poll_url": "https://idp.test/poll", "takes": ["logout"]}
    ],
    "polling without an audience": [
        {"issuer": ISSUER, "authorization": "Bearer x", "poll_url": "https://idp.test/poll"}
    ],
    "polling with a password": [{"issuer": ISSUER, "audience": "api", "poll_url": "https://a:b@idp.test/poll"}],
    "an hour and more without exp": [{"issuer": ISSUER, "audience": "api", "without_exp": 3601}],
    "a claim that requests have otherwise": [{"issuer": ISSUER, "audience": "api", "session_claim": "token"}],
    "two with one alias": [
        {"issuer": ISSUER, "audience": "a", "aliases": [OTHER]},
        {"issuer": "https://third.test/", "audience": "b", "secret": "s", "about": ISSUER, "aliases": [OTHER]},
    ],
    "an alias that is a sender": [
        {"issuer": ISSUER, "audience": "a", "aliases": [OTHER]},
        {"issuer": OTHER, "audience": "b", "secret": "s", "about": ISSUER},
    ],
    "an empty audience": [{"issuer": ISSUER, "audience": [""]}],
    "no list": {"issuer": ISSUER, "audience": "api"},
}


@pytest.mark.parametrize("signals", BAD_SENDERS.values(), ids=BAD_SENDERS)
def test_a_sender_that_cannot_work_is_refused(signals: Any) -> None:
    with pytest.raises(ValidationError, match="signals"):
        Settings(signals=json.dumps(signals))


def test_an_alias_of_a_sender_is_no_other_issuers_name() -> None:
    issuers = [{"issuer": ISSUER, "secret": "s"}, {"issuer": OTHER, "secret": "t", "aliases": ["https://spelt.test/"]}]
    for alias in (OTHER, "https://spelt.test/"):
        signals = [{"issuer": ISSUER, "audience": "api", "aliases": [alias]}]
        with pytest.raises(ValidationError, match="another issuer of access tokens"):
            Settings(issuers=json.dumps(issuers), signals=json.dumps(signals))


BAD_CLIENTS: dict[str, Any] = {
    "no name": [{"secret": "s"}],
    "no secret": [{"client_id": "a"}],
    "an empty secret": [{"client_id": "a", "secret": ""}],
    "no secrets": [{"client_id": "a", "secret": []}],
    "twice": [{"client_id": "a", "secret": "s"}, {"client_id": "a", "secret": "t"}],
    "what nobody may": [{"client_id": "a", "secret": "s", "may": ["list"]}],
    "an unknown issuer": [{"client_id": "a", "secret": "s", "issuers": OTHER}],
}


@pytest.mark.parametrize("clients", BAD_CLIENTS.values(), ids=BAD_CLIENTS)
def test_a_client_that_cannot_work_is_refused(clients: Any) -> None:
    with pytest.raises(ValidationError, match="clients"):
        Settings(clients=json.dumps(clients))


@pytest.mark.parametrize("resource", ["api", "/v1", "ftp://api.test", "https://a:b@api.test", "https://api.test/#x"])
def test_a_resource_is_a_url(resource: str) -> None:
    with pytest.raises(ValidationError, match="resource"):
        Settings(resource=resource)


def test_names_may_be_aliases_and_messages_may_have_them() -> None:
    issuers = [{"issuer": OTHER, "secret": "s", "aliases": "other"}, {"issuer": ISSUER, "secret": "t"}]
    signals = [
        {"issuer": "other", "audience": "api"},
        {"issuer": "soc", "authorization": "x", "about": ["other", ISSUER]},
    ]
    settings = Settings(issuers=json.dumps(issuers), signals=json.dumps(signals))
    other, soc = build_senders(settings, build_issuers(settings)).all
    assert (other.name, other.aliases, other.about) == (OTHER, ("other",), (OTHER,))
    assert (soc.name, soc.about, soc.takes) == ("soc", (OTHER, ISSUER), frozenset(["revocation"]))


def test_a_senders_metadata_may_name_it_by_an_alias_that_issuers_gives() -> None:
    with Provider([signer("RS256", "a")], plain=True) as provider:
        issuer = {"issuer": ISSUER, "secret": "s", "aliases": [provider.issuer]}
        sender = {"issuer": provider.issuer, "audience": "api", "jwks_url": provider.metadata_url}
        settings = Settings(issuers=json.dumps([issuer]), signals=json.dumps([sender]))
        [found] = build_senders(settings, build_issuers(settings)).all
        assert len(found.keys.ask().keys) == 1


def test_events_are_fetched_by_the_way_that_the_keys_are() -> None:
    way = {"jwks_url": "https://idp.test/", "jwks_ca": "/ca.pem", "jwks_proxy": "http://proxy.test:3128"}
    sender = {"issuer": OTHER, "audience": "api", "poll_url": "https://idp.test/poll"}
    elsewhere = {**sender, "jwks_url": "https://another.test/"}
    for issuer, signal, ca_file in (
        ({"issuer": OTHER, **way}, sender, "/ca.pem"),
        ({"issuer": OTHER, "secret": "s"}, {**sender, **way}, "/ca.pem"),
        ({"issuer": OTHER, **way}, elsewhere, None),
        ({"issuer": OTHER, "secret": "s"}, sender, None),
    ):
        settings = Settings(issuers=json.dumps([issuer]), signals=json.dumps([signal]))
        [found] = build_senders(settings, build_issuers(settings)).all
        assert found.poll
        assert (found.poll.ca_file, found.poll.proxy) == (ca_file, ca_file and way["jwks_proxy"])


def test_keys_that_cannot_be_used_are_told_of_with_their_sender() -> None:
    sender = {"issuer": OTHER, "audience": "api", "about": ISSUER, "public_key": "/nowhere.pem"}
    settings = Settings(signals=json.dumps([sender]))
    with pytest.raises(KeysRefused, match=OTHER):
        build_senders(settings, build_issuers(settings))


def test_algorithms_that_no_key_of_the_issuer_goes_with_are_told_of() -> None:
    settings = Settings(signals=json.dumps([{"issuer": ISSUER, "audience": "api", "algorithms": ["RS256"]}]))
    with pytest.raises(KeysRefused, match="algorithms of SIGNALS"):
        build_senders(settings, build_issuers(settings))


def test_no_secret_is_shown() -> None:
    sender = {
        "issuer": ISSUER,
        "audience": "api",
        "secret": "s3cret-1",
        "authorization": "s3cret-2",
        "poll_url": "https://idp.test/poll",
        "poll_authorization": "s3cret-3",
    }
    settings = Settings(
        signals=json.dumps([sender]), clients=json.dumps([{"client_id": "a", "secret": ["s3cret-4", "s3cret-5"]}])
    )
    assert "s3cret" not in str(in_force(settings)) + repr(settings)
    assert "s3cret" not in repr(build_senders(settings, build_issuers(settings)).all)


@pytest.mark.parametrize("query", ["api_key=s3", "code=s3", "sig=s3", "access_token=s3&x=1"])
def test_the_key_in_an_address_is_not_shown(query: str) -> None:
    sender = {"issuer": ISSUER, "audience": "api", "poll_url": f"https://idp.test/poll?stream=1&{query}"}
    shown = in_force(Settings(signals=json.dumps([sender])))["signals"]
    assert "s3" not in shown
    assert "/poll?stream=1&" in shown


@pytest.mark.parametrize("name", ["issuers", "signals"])
def test_a_secret_in_an_address_hides_itself_alone(name: str) -> None:
    party = {"issuer": ISSUER, "audience": ["api"], "jwks_url": "https://idp.test/", "jwks_proxy": "http://a:s3@b.test"}
    [shown] = json.loads(in_force(Settings(**{name: json.dumps([party])}))[name])
    assert shown.items() >= {**party, "jwks_proxy": "http://**********@b.test"}.items()


@pytest.mark.parametrize("settings", [SignalSettings, ClientSettings])
def test_docs_signals_names_every_member(settings: Any) -> None:
    of_tokens = {"administers", "client_ids", "required_claims", "tenants", "aliases"}
    page = (ROOT / "docs/signals.md").read_text()
    assert [name for name in settings.model_fields if f"`{name}`" not in page and name not in of_tokens] == []

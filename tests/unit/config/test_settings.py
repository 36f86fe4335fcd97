"""Every setting: where it comes from, what is refused, and that all faults are told together."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import ISSUER
from provider import jwks, pem, private_key, private_pem, signer
from pydantic import ValidationError

from gateway import Gateway
from gateway.auth.keyset import KeysRefused
from gateway.config.announce import announce, flag_warnings, in_force, misspelled_names, warnings
from gateway.config.settings import PUBLIC_SECRET, Settings
from gateway.parties import build_issuers, build_senders

DEFAULTS = {
    "upstream": "http://127.0.0.1:35001",
    "host": "0.0.0.0",
    "port": 35000,
    "threads": 8,
    "issuer": "https://www.discogs.com/",
    "algorithms": ("HS256",),
    "public_key": None,
    "jwks_url": None,
    "issuers": (),
    "audience": (),
    "leeway": 0,
    "store": "sqlite:///blacklist.sqlite3",
    "blacklist_claims": ("jti", "sub", "sid"),
    "cut_off_claims": ("sub",),
    "auth_time": False,
    "admin_scope": "blacklist:admin",
    "admin_claims": ("scope", "scp"),
    "revoke_scope": "blacklist:revoke",
    "read_scope": "blacklist:read",
    "restore": "holder",
    "max_token_age": None,
    "annotate": ("/info",),
    "public_paths": (),
    "pass_preflight": False,
    "claims_field": "X-Token-Claims",
    "subject_field": "X-Token-Subject",
    "forward_authorization": True,
    "trusted_proxies": 0,
    "connect_timeout": 3,
    "read_timeout": 60,
    "max_token_bytes": 8192,
    "metrics_port": None,
    "log_format": "json",
    "log_level": "info",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No env file of the clone's counts."""
    monkeypatch.chdir(tmp_path)


def secrets(settings: Settings) -> list[str]:
    return [secret.get_secret_value() for secret in settings.secret]


def faults(**values: Any) -> set[str]:
    """Return the names of the settings that are refused."""
    with pytest.raises(ValidationError) as refused:
        Settings(**values)
    return {str(fault["loc"][0]) for fault in refused.value.errors()}


def test_the_defaults_are_the_assignments() -> None:
    settings = Settings()
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS
    assert secrets(settings) == [PUBLIC_SECRET] == ["discogs"]
    assert settings.workers >= 1


def test_every_setting_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "8080")
    monkeypatch.setenv("GATEWAY_SECRET", "new, old")
    monkeypatch.setenv("GATEWAY_PASS_PREFLIGHT", "yes")
    monkeypatch.setenv("GATEWAY_PUBLIC_PATHS", "/health,/static/*")
    settings = Settings()
    assert (settings.port, settings.pass_preflight) == (8080, True)
    assert settings.public_paths == ("/health", "/static/*")
    assert secrets(settings) == ["new", "old"]


def test_a_line_of_a_secrets_file_is_a_secret_whatever_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["Tr0ub,4dor", '["a", "b"]', "base64:AAECAw==", "with blanks  inside"]
    (tmp_path / "gateway_secret").write_text("\r\n".join(lines) + "\r\n\r\n")
    monkeypatch.setattr("gateway.config.settings.SECRETS_DIR", tmp_path)
    assert secrets(Settings()) == lines
    monkeypatch.setattr("gateway.config.settings.SECRETS_DIR", tmp_path / "none")
    monkeypatch.setenv("GATEWAY_SECRET_FILE", str(tmp_path / "gateway_secret"))
    assert secrets(Settings()) == lines


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("store", "redis://:hush@127.0.0.1:6379/0"),
        ("jwks-proxy", "http://somebody:hush@proxy.test:3128"),
        (
            "issuers",
            '[{"issuer": "https://idp.test/", "jwks_url": "https://idp.test/", "jwks_proxy": "http://a:b@c.d"}]',
        ),
        ("signals", '[{"issuer": "https://www.discogs.com/", "audience": "a", "poll_authorization": "hush"}]'),
    ],
)
def test_every_flag_that_holds_a_secret_is_named(flag: str, value: str) -> None:
    beside = {"jwks_url": "https://idp.test/jwks"} if flag == "jwks-proxy" else {}
    [warning] = flag_warnings(Settings(**{flag.replace("-", "_"): value}, **beside))
    assert warning.startswith(f"--{flag} holds a secret")


@pytest.mark.parametrize(
    "fetched", [{"jwks_insecure_http": "idp"}, {"jwks_proxy": "http://proxy.test:3128"}, {"jwks_ca": "/ca.pem"}]
)
def test_the_key_set_of_a_sender_alone_is_fetched_as_all_are(fetched: dict[str, str]) -> None:
    sender = {"issuer": "http://idp:8080/", "audience": "a", "about": ISSUER, "jwks_url": "https://idp:8080/certs"}
    if "jwks_insecure_http" in fetched:
        sender["jwks_url"] = "http://idp:8080/certs"
    settings = Settings(secret="x" * 32, signals=json.dumps([sender]), **fetched)
    assert build_senders(settings, build_issuers(settings)).all[0].has_own_keys


@pytest.mark.parametrize("setting", ["public_key", "jwks_url"])
@pytest.mark.parametrize("members_of", [None, "issuers", "signals"])
def test_keys_that_are_given_as_text_are_not_shown(setting: str, members_of: str | None) -> None:
    """A private one may have been put there by mistake, and the start writes all settings into the log."""
    text = private_pem(private_key("ES256")).decode() if setting == "public_key" else '{"keys": [{"d": "MIGHAgEA"}]}'
    member = {"issuer": "https://idp.test/", setting: text, **({"audience": "a"} if members_of == "signals" else {})}
    about = {"about": "https://www.discogs.com/"} if members_of == "signals" else {}
    settings = Settings(**{members_of: json.dumps([member | about])} if members_of else {setting: text})
    shown = " ".join(in_force(settings).values())
    assert f"({len(text)} characters of keys)" in shown
    assert "MIGHAgEA" not in shown


def test_keys_may_be_docker_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.config.settings.SECRETS_DIR", tmp_path)
    text = pem(private_key("ES256")).decode()
    (tmp_path / "gateway_public_key").write_text(text)
    (issuer,) = build_issuers(Settings(issuer="https://own.test/"))
    assert issuer.keys.current().candidates(None, "ES256")
    (tmp_path / "gateway_public_key").rename(tmp_path / "gateway_jwks_url")
    (tmp_path / "gateway_jwks_url").write_bytes(jwks(signer("ES256", "a")))
    (issuer,) = build_issuers(Settings(issuer="https://own.test/"))
    assert issuer.keys.current().candidates("a", "ES256")


def test_the_first_record_has_what_was_set_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gateway"):
        announce(Settings(issuer="https://own.test/", secret="hush" * 8, port=8080))
    record = caplog.records[-1].record  # type: ignore[attr-defined]
    assert record == {"settings": {"issuer": "https://own.test/", "secret": "**********", "port": "8080"}}


def test_a_secret_without_its_prefix_is_hinted_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store_url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"SECRET={'x' * 32}\n")
    with pytest.raises(KeysRefused, match=r"SECRET sets nothing; did you mean GATEWAY_SECRET\?"):
        in_process(issuer="https://own.test/", store=store_url)
    (tmp_path / ".env").unlink()
    (tmp_path / "jwks_url").write_text("https://own.test/jwks")
    monkeypatch.setattr("gateway.config.public_secret.SECRETS_DIR", tmp_path)
    with pytest.raises(KeysRefused, match=r"jwks_url sets nothing; did you mean GATEWAY_JWKS_URL\?"):
        in_process(issuer="https://own.test/", store=store_url)


def in_process(**values: Any) -> Gateway:
    return Gateway(lambda *_: [], **values)


def test_in_process_the_public_secret_must_be_set(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, store_url: str
) -> None:
    monkeypatch.setenv("GATEWAY_STORE", store_url)
    monkeypatch.setenv("GATEWAY_SECERT", "x" * 32)
    for values in ({}, {"issuer": "https://own.test/"}, {"settings": Settings()}, {"issuer": ISSUER}):
        with pytest.raises(
            KeysRefused, match=r"no secret is set(.|\n)*GATEWAY_SECERT sets nothing; did you mean GATEWAY_SECRET"
        ):
            in_process(**values)
    assert caplog.messages == []
    in_process(issuer="https://own.test/", secret="x" * 32)
    in_process(issuer="https://own.test/", public_key=pem(private_key("ES256")).decode())
    in_process(issuers=LISTED)
    monkeypatch.setenv("GATEWAY_SECRET", PUBLIC_SECRET)
    monkeypatch.delenv("GATEWAY_SECERT")
    caplog.clear()
    in_process()
    assert [("public example" in message) for message in caplog.messages] == [True]


@pytest.mark.parametrize("empty", ["[]", "null"])
def test_an_empty_list_of_issuers_does_not_bring_the_public_secret_back(empty: str) -> None:
    with pytest.raises(KeysRefused, match="no secret is set"):
        build_issuers(Settings(issuers=empty))


def test_a_list_is_text_with_commas_or_json() -> None:
    assert Settings(audience="a").audience == ("a",)
    assert Settings(audience="a, b,,c").audience == ("a", "b", "c")
    assert Settings(audience='["a,b", "c"]').audience == ("a,b", "c")
    assert secrets(Settings(secret='["with, comma"]')) == ["with, comma"]
    assert faults(audience='["a"') == faults(audience="[1]") == {"audience"}


def test_flags_beat_files_and_files_beat_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image may have set the plain variable; who names a file means it."""
    (tmp_path / "store").write_text("redis://store\n")
    monkeypatch.setenv("GATEWAY_STORE", "sqlite:////data/blacklist.sqlite3")
    assert Settings().store == "sqlite:////data/blacklist.sqlite3"
    monkeypatch.setenv("GATEWAY_STORE_FILE", str(tmp_path / "store"))
    assert Settings().store == "redis://store"
    assert Settings(store="sqlite:///flag").store == "sqlite:///flag"


def test_the_environment_beats_the_env_file_and_that_the_docker_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.config.settings.SECRETS_DIR", tmp_path)
    (tmp_path / "gateway_issuer").write_text("of the secrets")
    (tmp_path / "another").mkdir()
    (tmp_path / "env").write_text("GATEWAY_ISSUER=of the env file\nGATEWAY_PORT=1\nOTHER=x\n")
    assert Settings().issuer == "of the secrets"
    assert Settings(_env_file=tmp_path / "env").issuer == "of the env file"
    monkeypatch.setenv("GATEWAY_ISSUER", "of the environment")
    settings = Settings(_env_file=tmp_path / "env")
    assert (settings.issuer, settings.port) == ("of the environment", 1)


def test_what_one_source_sets_to_nothing_is_what_the_next_one_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.config.settings.SECRETS_DIR", tmp_path)
    (tmp_path / "gateway_audience").write_text("api")
    (tmp_path / "secret").write_text("of the file")
    (tmp_path / ".env").write_text(f"GATEWAY_AUDIENCE=\nGATEWAY_SECRET_FILE={tmp_path}/secret\nGATEWAY_RESTORE=admin\n")
    for name in ("AUDIENCE", "SECRET_FILE", "RESTORE"):
        monkeypatch.setenv(f"GATEWAY_{name}", "")
    settings = Settings()
    assert (settings.audience, secrets(settings), settings.restore) == (("api",), ["of the file"], "admin")
    assert "GATEWAY_RESTORE is empty in the environment, and set in .env, which counts" in warnings(settings)


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_never_replaced_by_a_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    for name in ("SECRET", "PUBLIC_KEY", "STORE"):
        monkeypatch.setenv(f"GATEWAY_{name}_FILE", str(tmp_path / "file"))
        with pytest.raises(ValueError, match=f"GATEWAY_{name}_FILE"):
            Settings()
        monkeypatch.delenv(f"GATEWAY_{name}_FILE")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("/nowhere")])
def test_a_docker_secret_that_cannot_be_read_is_never_replaced_by_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    """Docker mounts an empty directory where the host has no such file."""
    monkeypatch.setattr("gateway.config.settings.SECRETS_DIR", tmp_path)
    make(tmp_path / "gateway_secret")
    assert faults() == {"secret"}


def test_the_env_file_may_name_files_too(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the file")
    (tmp_path / ".env").write_text(f"GATEWAY_SECRET_FILE={tmp_path}/secret\n")
    assert secrets(Settings()) == ["of the file"]


def test_a_line_of_the_env_file_that_sets_nothing_is_a_fault_unless_it_is_anothers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("if true\nGATEWAY_LEEWAY=1\n")
    assert Settings().leeway == 1
    for line in ("GATEWAY_AUDIENCE x", "GATEWAY_SECRET: s3cret", "GATEWAY_ISSUER='https://i.example"):
        (tmp_path / ".env").write_text(f"A=1\n{line}\n")
        with pytest.raises(ValueError, match=r"line 2 of .*env is not NAME=value") as fault:
            Settings()
        assert "s3cret" not in str(fault.value)
    (tmp_path / ".env").write_text("# GATEWAY_LEEWAY\nGATEWAY_AUTH_TIME\nOTHER\n")
    with pytest.raises(ValueError, match="line 2"):
        Settings()
    monkeypatch.setenv("GATEWAY_AUTH_TIME", "yes")
    assert Settings().auth_time


def test_names_of_files_may_be_in_small_letters_as_those_of_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("of the file")
    (tmp_path / "env").write_text(f"gateway_secret_file={tmp_path}/secret\n")
    monkeypatch.setenv("gateway_env_file", str(tmp_path / "env"))
    assert secrets(Settings()) == ["of the file"]


def test_an_env_file_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_ENV_FILE", "/does/not/exist")
    with pytest.raises(ValueError, match="cannot read /does/not/exist: No such file"):
        Settings()


def test_an_env_file_that_can_be_read_once_alone_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in `GATEWAY_ENV_FILE=<(sops decrypt settings.env)`."""
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("GATEWAY_ENV_FILE", str(tmp_path / "pipe"))
    with pytest.raises(ValueError, match="can be read more than once"):
        Settings()
    assert misspelled_names() == []


def test_an_env_file_that_is_not_utf8_is_a_fault_as_any_other(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GATEWAY_ISSUER=https://issuer.example/\n", "utf-16")
    with pytest.raises(ValueError, match=r"cannot read .*/\.env: it is not UTF-8"):
        Settings()


def test_a_folder_beside_is_no_env_file_and_a_link_to_nowhere_one_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()  # as some call their virtual environment
    assert Settings().issuer == "https://www.discogs.com/"
    (tmp_path / ".env").rmdir()
    (tmp_path / ".env").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"cannot read .*/\.env: No such file"):
        Settings()


def test_what_editors_of_windows_put_into_a_file_is_no_part_of_a_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfGATEWAY_ISSUER=https://issuer.example/\r\nGATEWAY_PORT=8080\r\n")
    (tmp_path / "secret").write_bytes(b"\xef\xbb\xbfnew\r\nold\r\n")
    monkeypatch.setenv("GATEWAY_SECRET_FILE", str(tmp_path / "secret"))
    settings = Settings()
    assert (settings.issuer, settings.port, secrets(settings)) == ("https://issuer.example/", 8080, ["new", "old"])


@pytest.mark.parametrize("value", ["", " ", ",", "[]", '[""]', '["good", ""]'])
def test_an_empty_secret_is_refused_and_never_replaced_by_the_example(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    assert faults(secret=value) == {"secret"}
    monkeypatch.setenv("GATEWAY_SECRET", value)
    assert faults() == {"secret"}
    monkeypatch.delenv("GATEWAY_SECRET")
    (tmp_path / "env").write_text(f"GATEWAY_SECRET='{value}'\n")
    assert faults(_env_file=tmp_path / "env") == {"secret"}


def test_what_else_is_set_to_nothing_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a compose file's `${PORT:-}`."""
    for name in ("PORT", "AUDIENCE", "MAX_TOKEN_AGE", "STORE", "METRICS_PORT", "ISSUERS", "RESTORE"):
        monkeypatch.setenv(f"GATEWAY_{name}", "")
    assert {name: getattr(Settings(), name) for name in DEFAULTS} == DEFAULTS


LISTED = '[{"issuer": "a", "secret": "x"}]'
BAD: dict[str, list[Any]] = {
    "upstream": [
        "127.0.0.1:35001",
        "ftp://a",
        "http://",
        "http://a?b",
        "http://a#b",
        "http://u:p@a",
        "//a",
        "/x",
        "http://a:99999",
        "http://a:b",
        "http://a:0",
        "http://a b",
        "http://ä",
    ],
    "port": [-1, 65536, "http", "tcp://10.0.0.1:80"],
    "workers": [0, 257, "many"],
    "threads": [0, -1],
    "leeway": [-1, 301, "nan", "inf"],
    "max_token_bytes": [0, 63, 65537],
    "connect_timeout": [0, -1, "inf", "nan"],
    "read_timeout": [0, -1],
    "max_token_age": [0, -1, "1.5", "9" * 400],
    "restore": ["nobody", "Admin"],
    "blacklist_claims": ["sub,sub", *(f"sub,{name}" for name in ("token", "reason", "issuer", "until", "fingerprint"))],
    "cut_off_claims": ["tenant"],
    "auth_time": ["perhaps"],
    "revoke_scope": ["a b"],
    "read_scope": ['a"b'],
    "admin_scope": ['a"b', "a b", "a\\b", "é", "\n"],
    "public_paths": ["health", "/a,b", "*"],
    "annotate": ["info"],
    "claims_field": ["X Token", "X_Token", "X:Token", "X-Token\n", "-X", "é", "Via", "Content-Type"],
    "subject_field": ["X_Token", "x-token-claims", "forwarded", "X-Forwarded-For", "Proxy-Authorization"],
    "trusted_proxies": [-1, "all"],
    "log_format": ["xml"],
    "log_level": ["loud"],
    "pass_preflight": ["maybe"],
    "metrics_port": [-1, 65536, 35000],
    "metrics_host": ["unix:/run/metrics.sock"],
    "audience": [",", " ", " , \n"],  # as a template makes of variables that are not set
    "required_claims": [",", "=x", "sub=", "typ=a|", "typ=|a"],
    "algorithms": ["[]", ","],
    "issuers": [
        "{}",
        "x",
        '[{"issuer": ""}]',
        '[{"secret": "a"}]',
        '[{"issuer": "a", "unknown": 1}]',
        '["a"]',
        '[{"issuer": "a"}, {"issuer": "a"}]',
        '[{"issuer": "a", "aliases": ["b"]}, {"issuer": "b"}]',
        '[{"issuer": "a", "aliases": ["a"]}]',
        '[{"issuer": "a", "aliases": ["{tenantid}"]}]',
        '[{"issuer": "{tenantid}", "aliases": ["a"]}]',
        '[{"issuer": "a", "tenants": ["t"]}]',
        '[{"issuer": "a", "required_claims": ["="]}]',
        '[{"issuer": "a", "jwks_ca": "/ca"}]',
        '[{"issuer": "a", "jwks_url": "https://a/", "jwks_proxy": "proxy:3128"}]',
        '[{"issuer": "a", "administers": ["b"]}]',
        '[{"issuer": "a", "administers": ["*", "b"]}]',
        '[{"issuer": "a", "administers": true}]',
    ],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_by_name(name: str, value: Any) -> None:
    assert faults(**{name: value}) == {name}


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"port": 35001}, "port"),
        ({"port": 8000, "host": "::", "upstream": "http://localhost:8000"}, "port"),
        ({"issuers": LISTED, "audience": "api"}, "issuers"),
        ({"issuers": LISTED, "issuer": "b"}, "issuers"),
        ({"issuers": LISTED, "secret": "another"}, "issuers"),
        ({"jwks_ca": "/ca"}, "jwks_ca"),
        ({"jwks_ca": "/ca", "issuers": LISTED}, "jwks_ca"),
        ({"replicas": 1}, "replicas"),
        ({"upstream_ca": "/ca"}, "upstream_ca"),
        ({"upstream_cert": "/cert"}, "upstream_cert"),
    ],
)
def test_what_would_have_no_effect_beside_another_setting_is_refused(values: dict[str, Any], refused: str) -> None:
    assert faults(**values) == {refused}


@pytest.mark.parametrize("name", ["h2c", "H2C", "h2", "HTTP/2.0", "TLS/1.3"])
def test_no_upgrade_hides_requests_from_the_gateway(name: str) -> None:
    assert faults(upgrades=f"websocket,{name}") == {"upgrades"}


def test_what_goes_together_is_taken() -> None:
    assert Settings(claims_field="None", subject_field="NONE").claims_field == "none"
    assert Settings(upgrades="").upgrades == ()
    Settings(port=35001, host="10.0.0.5")
    Settings(jwks_ca="/ca", jwks_url="https://a.test/jwks")
    Settings(jwks_ca="/ca", issuers='[{"issuer": "a", "jwks_url": "https://a.test/jwks"}]')
    Settings(replicas=1, store="redis://a")
    Settings(upstream_ca="/ca", upstream_cert="/cert", upstream="https://a")


def test_all_faults_are_told_together() -> None:
    assert faults(port=-1, upstream="x", secret="", restore="x", threads=0) == {
        "port",
        "upstream",
        "secret",
        "restore",
        "threads",
    }


def test_no_fault_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", '["hush-hush", ""]')
    monkeypatch.setenv("GATEWAY_ISSUERS", '[{"issuer": "a", "secret": "hush-hush", "x": 1}]')
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert "hush" not in str(refused.value)
    assert "hush" not in repr(Settings(secret="hush-hush", issuers="[]"))
    monkeypatch.delenv("GATEWAY_SECRET")
    assert "hush" not in repr(Settings(issuers='[{"issuer": "a", "secret": "hush-hush"}]'))


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_the_upstreams_path_is_kept_without_its_last_slash() -> None:
    assert Settings(upstream="http://api.test/v1/").upstream == "http://api.test/v1"


def test_several_issuers_are_a_json_list_of_objects() -> None:
    listed = [
        {"issuer": "https://a.test/", "secret": ["new", "old"], "audience": "x"},
        {"issuer": "https://b.test/", "jwks_url": "https://b.test/jwks", "algorithms": ["RS256", "ES256"]},
    ]
    one, two = Settings(issuers=json.dumps(listed)).issuers
    assert [secret.get_secret_value() for secret in one.secret] == ["new", "old"]
    assert (one.audience, two.algorithms, two.jwks_url) == (("x",), ("RS256", "ES256"), "https://b.test/jwks")


def test_an_issuer_names_its_aliases_its_tenants_and_those_it_administers() -> None:
    listed = [
        {"issuer": "{tenantid}", "tenants": "T1, t2", "administers": "*"},
        {"issuer": "b", "aliases": ["b/", "B"], "administers": ["{tenantid}", "B"]},
    ]
    one, two = Settings(issuers=json.dumps(listed)).issuers
    assert (one.tenants, one.administers) == (("t1", "t2"), ("*",))
    assert (two.aliases, two.administers) == (("b/", "B"), ("{tenantid}", "b"))


def test_an_env_file_may_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("GATEWAY_ISSUER=of the env file\nELSE=x\n")
    monkeypatch.setenv("GATEWAY_ENV_FILE", str(tmp_path / "env"))
    assert Settings().issuer == "of the env file"


def test_null_in_an_issuer_is_as_good_as_nothing() -> None:
    (issuer,) = Settings(issuers='[{"issuer": "a", "secret": "x", "jwks_url": null, "audience": null}]').issuers
    assert (issuer.jwks_url, issuer.audience) == (None, ())


def test_a_misspelt_keyword_is_a_fault() -> None:
    with pytest.raises(TypeError, match="secrets"):
        Settings(secrets="x")


def test_a_misspelt_name_in_any_source_is_named_with_the_nearest_right_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("gateway.config.announce.SECRETS_DIR", tmp_path)
    (tmp_path / "gateway_sekret").touch()
    (tmp_path / "another").touch()
    (tmp_path / ".env").write_text("GATEWAY_STOR=x\nOTHER=x\n")
    monkeypatch.setenv("GATEWAY_SECRETS", "x")
    monkeypatch.setenv("GATEWAY_SECRET_FILE", "/x")
    monkeypatch.setenv("gateway_upstraem", "x")
    monkeypatch.setenv("GATEWAY_QQQQ", "x")
    assert misspelled_names() == [
        "GATEWAY_QQQQ sets nothing",
        "GATEWAY_SECRETS sets nothing; did you mean GATEWAY_SECRET?",
        "GATEWAY_SEKRET sets nothing; did you mean GATEWAY_SECRET?",
        "GATEWAY_STOR sets nothing; did you mean GATEWAY_STORE?",
        "GATEWAY_UPSTRAEM sets nothing; did you mean GATEWAY_UPSTREAM?",
    ]


def test_any_server_warns_of_the_public_secret(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import gateway.wsgi"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert told.stderr.count("public example") == 1


@pytest.mark.parametrize("name", ["ISSUER", "SECRET", "ADMIN_CLAIMS"])
@pytest.mark.parametrize(
    ("around", "what"), [('"{}"', "quotes"), ("'{}'", "quotes"), ("{}\r", "a line end"), (" {}", "a blank")]
)
def test_what_stands_around_a_value_is_warned_of_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, around: str, what: str
) -> None:
    """`docker run --env-file` takes quotes for a part of the value, and a shell the line ends of Windows."""
    if name != "ISSUER" and what != "quotes":
        return  # the blanks around the members of a list are left out
    monkeypatch.setenv("GATEWAY_SECRET", "s" * 32)
    monkeypatch.setenv(f"GATEWAY_{name}", around.format("v" * 40))
    [warning] = warnings(Settings())
    assert warning.startswith(f"GATEWAY_{name} has ")
    assert what in warning
    assert "vv" not in warning


def test_a_path_that_looks_like_a_pattern_and_is_none_is_warned_of() -> None:
    paths = "/static*,/a/*,/*,/b,/*/c"
    told = [f"GATEWAY_PUBLIC_PATHS: {path} is one exact path; a prefix ends in /*" for path in ("/static*", "/*/c")]
    assert warnings(Settings(secret="x" * 32, public_paths=paths)) == told


@pytest.mark.parametrize("more", [{"secret": "x" * 32}, {"extra_events": "risk-level-change"}, {"without_typ": True}])
def test_what_a_sender_without_an_audience_has_in_vain_is_warned_of(more: dict[str, Any]) -> None:
    sender = {"issuer": "https://idp.test/", "authorization": "Bearer x", "about": "https://www.discogs.com/"}
    for members, told in ((sender, []), ({**sender, **more}, ["https://idp.test/ has no audience"])):
        found = warnings(Settings(secret="x" * 32, signals=json.dumps([members])))
        assert [each.removeprefix("GATEWAY_SIGNALS: ").partition(",")[0] for each in found] == told


def test_braces_that_no_tenants_id_stands_for_are_warned_of() -> None:
    for name, told in (("{tenantid}", []), ("{tenantId}", ["{tenantId}"])):
        found = warnings(Settings(issuer=f"https://login.test/{name}/v2.0", secret="x" * 32))
        assert [each.split("/")[3] for each in found] == told


def test_the_public_secret_and_weak_ones_are_warned_of() -> None:
    assert ["public example" in warning for warning in warnings(Settings())] == [True]
    assert ["shorter than its hash" in warning for warning in warnings(Settings(secret="x" * 31))] == [True]
    [told] = warnings(Settings(secret="x" * 32, algorithms="HS256,HS512"))
    assert told.endswith(": set 64 random bytes")
    sender = {"issuer": "https://idp.test/", "audience": "a", "about": ISSUER, "secret": "short"}
    [warning] = warnings(Settings(secret="x" * 32, signals=json.dumps([sender])))
    assert "a secret of https://idp.test/ is shorter than its hash" in warning
    assert warnings(Settings(secret="x" * 32)) == []
    assert "discogs" not in warnings(Settings(issuer="https://other.test/"))[0]


@pytest.mark.parametrize("name", ["issuers", "signals", "clients"])
def test_a_member_that_is_there_twice_is_refused(name: str) -> None:
    """The last one would count, and nobody could tell which was meant."""
    with pytest.raises(ValidationError, match=f"{name}\n.*duplicate member"):
        Settings(**{name: '[{"issuer": "https://a.test/", "secret": "s", "secret": "t"}]'})


def test_an_empty_audience_is_refused() -> None:
    """A variable that was not set, in a template: tokens for nobody would pass."""
    with pytest.raises(ValidationError, match="audience"):
        Settings(audience='["api", ""]')
    with pytest.raises(ValidationError, match="audience"):
        Settings(issuers='[{"issuer": "https://a.test/", "secret": "s", "audience": [""]}]')
    with pytest.raises(ValidationError, match="audience"):
        Settings(issuers='[{"issuer": "https://a.test/", "secret": "s", "audience": ""}]')

"""The commands, on the store beside a running gateway: what they print, and how they end."""

import io
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from signal import SIGHUP
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from helpers import EXPIRES, ISSUER, Api, assert_refused, fingerprint, mint
from processes import free_port, listens
from provider import Provider, content, pem, private_key, private_pem, signer, status
from recorder import until
from redis_servers import RedisServer
from running import Running

from gateway import Gateway, Settings
from gateway.app import build_blacklist
from gateway.blacklist.keys import claim_key, legacy_claim_keys
from gateway.blacklist.rules import Actor, ClaimTarget
from gateway.blacklist.stores import Entry, open_store
from gateway.blacklist.stores.history import MOST_KEYS
from gateway.blacklist.stores.sqlite.store import SqliteStore
from gateway.cli import gateway as commands
from gateway.cli import main
from gateway.http.problems import StoreUnavailable

TOKEN = mint(sub="1001", jti="a", iat=1000)
COMMANDS = sorted(commands.commands)
PRIVATE = private_pem(private_key("ES256")).decode()
DONE, BLACKLISTED, USAGE, UNAVAILABLE = range(4)


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store_url: str, tmp_path: Path
) -> Command:
    """Run a command in this process, on this test's store."""
    open_store(store_url).close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATEWAY_STORE", store_url)
    monkeypatch.setattr("gateway.cli.entries.configure_logging", lambda *_: None)

    def run(*arguments: Any, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["gateway", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def passes(store_url: str, upstream: Any) -> Callable[[str], bool]:
    """Tell what a gateway beside the commands, on the same store, makes of a token."""
    gate: list[Gateway] = []

    def ask(token: str) -> bool:
        gate[:] = gate or [Gateway(upstream, Settings(store=store_url, secret="discogs"))]
        answer = Api(gate[0])("GET", "/", token)
        if answer.status_code != 200:
            assert_refused(answer, "token-blacklisted")
        return bool(answer.status_code == 200)

    return ask


def claims_of(token: str) -> Any:
    return jwt.decode(token, options={"verify_signature": False})


# Help.


def test_help_teaches_the_commands_and_the_exit_codes(command: Command) -> None:
    for flag in ("--help", "-h"):
        help_ = command(flag)
        assert help_.code == DONE
        assert all(name in help_.out for name in COMMANDS)
        assert "Exit codes" in help_.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(command: Command, name: str) -> None:
    help_ = command(name, "--help")
    assert (help_.code, help_.err) == (DONE, "")
    assert "Usage: gateway " + name in help_.out
    assert len(help_.out.splitlines()) > 5


def test_every_setting_is_a_flag_of_serve(command: Command) -> None:
    help_ = command("serve", "--help").out
    assert [name for name in Settings.model_fields if f"--{name.replace('_', '-')}" not in help_] == []


def test_the_version_is_told(command: Command) -> None:
    assert command("--version").out.startswith("gateway, version ")


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["--nonsense"], ["revoke", "--nonsense"], ["list", "--limit", "0"], ["list", "--limit", "9" * 20]],
)
def test_wrong_usage_ends_with_2(command: Command, arguments: list[str]) -> None:
    ended = command(*arguments)
    assert (ended.code, ended.out) == (USAGE, "")
    assert "Usage: gateway" in ended.err


# token


def test_token_mints_a_token_that_passes(command: Command, passes: Any) -> None:
    ended = command("token")
    token = ended.out.strip()
    claims = claims_of(token)
    assert (ended.code, ended.err) == (DONE, "")
    assert (claims["iss"], claims["sub"]) == (ISSUER, "1001")
    assert claims["exp"] - claims["iat"] == 3600
    assert passes(token)
    assert claims_of(command("token").out.strip())["jti"] != claims["jti"]


def test_token_takes_any_claims(command: Command) -> None:
    minted = command(
        "token", "--sub", "7", "--scope", "a b", "--lifetime", "-5", "--claim", "n=5", "--claim", "t=text=more",
        "--claim", 'l=["a"]', "--claim", "settings=1", "--claim", "key=2", "--claim", "lifetime=3",
    )  # fmt: skip
    claims = claims_of(minted.out.strip())
    assert (claims["sub"], claims["scope"], claims["n"], claims["t"], claims["l"]) == (
        "7",
        "a b",
        5,
        "text=more",
        ["a"],
    )
    assert (claims["settings"], claims["key"], claims["lifetime"]) == (1, 2, 3)
    assert claims["exp"] - claims["iat"] == -5
    deep = "[" * 5000
    odd = claims_of(command("token", "--claim", "sub=7001", "--claim", f"deep={deep}").out.strip())
    assert (odd["sub"], odd["deep"]) == (7001, deep)


def test_token_is_signed_with_the_newest_secret(command: Command) -> None:
    token = command("token", "--secret", "-", "--audience", "api", "--kid", "k", stdin="new\nold\n").out.strip()
    assert jwt.get_unverified_header(token)["kid"] == "k"
    assert (
        Api(Gateway(lambda *_: [], Settings(store="sqlite:///x.sqlite3", secret="old")))("GET", "/", token)
        .json["type"]
        .endswith("bad-signature")
    )
    assert claims_of(token)["aud"] == "api"


@pytest.mark.parametrize(
    ("key", "named", "algorithm"),
    [
        ("RS256", "", "RS256"),
        ("RS256", "ES256,PS384", "PS384"),
        ("ES256", "", "ES256"),
        ("ES384", "", "ES384"),
        ("EdDSA", "", "EdDSA"),
        ("EdDSA", "Ed25519", "Ed25519"),
    ],
)
def test_a_private_key_signs_with_what_fits_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, named: str, algorithm: str
) -> None:
    monkeypatch.setenv("GATEWAY_ALGORITHMS", named)
    private = private_key(key)
    (tmp_path / "key.pem").write_bytes(private_pem(private))
    token = command("token", "--key", tmp_path / "key.pem").out.strip()
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    gateway = Gateway(
        lambda *_: [], public_key=pem(private).decode(), algorithms=algorithm, store="sqlite:///x.sqlite3"
    )
    assert Api(gateway)("GET", "/blacklist", token).status_code == 200


def test_what_cannot_sign_is_told(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encrypted = private_key("ES256").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    for text, told in (
        (encrypted, "has a password"),
        (pem(private_key("ES256")), "no private key in PEM"),
        (b"any text", "no private key in PEM"),
        (b"", "no private key in PEM"),
    ):
        (tmp_path / "key.pem").write_bytes(text)
        ended = command("token", "--key", tmp_path / "key.pem")
        assert (ended.code, ended.out) == (USAGE, "")
        assert told in ended.err
    # The public secret would sign what no gateway with these settings accepts.
    monkeypatch.setenv("GATEWAY_PUBLIC_KEY", pem(private_key("ES256")).decode())
    assert "give a private key with --key" in command("token").err
    assert "demo signs its tokens with a shared secret, and none is set" in command("demo").err


# revoke, restore, status


@pytest.mark.parametrize("before", ["Bearer ", "Authorization: Bearer "])
def test_a_token_in_its_field_is_not_taken_for_a_broken_one(command: Command, before: str) -> None:
    """As it stands in the file that `gateway token --header` makes."""
    for refused in (command("revoke", before + TOKEN), command("revoke", "-", stdin=f"{before}{TOKEN}\n")):
        assert refused.code == USAGE
        assert "name the token alone" in refused.err
        assert TOKEN not in refused.err


@pytest.mark.parametrize("where", ["argument", "stdin"])
def test_a_token_is_revoked_and_restored(command: Command, passes: Any, where: str) -> None:
    def run(name: str) -> Ended:
        ended = command(name, TOKEN) if where == "argument" else command(name, "-", stdin=TOKEN + "\n")
        news, *named = ended.out.splitlines()
        assert {line.split(maxsplit=1)[0] for line in named} >= {"target", "issuer", "store"}
        return ended._replace(out=news + "\n")

    assert (run("status").code, passes(TOKEN)) == (DONE, True)
    assert run("revoke") == (DONE, "blacklisted (changed)\n", "")
    assert run("revoke") == (DONE, "blacklisted (nothing to change)\n", "")
    assert run("status") == (BLACKLISTED, "blacklisted\n", "")
    assert not passes(TOKEN)
    assert run("restore") == (DONE, "not blacklisted (changed)\n", "")
    assert run("restore") == (DONE, "not blacklisted (nothing to change)\n", "")
    assert run("status") == (DONE, "not blacklisted\n", "")
    assert passes(TOKEN)


@pytest.mark.parametrize(
    "named", [["--jti", "a"], ["--sub", "1001"], ["--claim", "sub=1001x"], ["--claim", 'sub="1001"']]
)
def test_a_claim_is_revoked_and_restored(command: Command, passes: Any, named: list[str]) -> None:
    blacklisted = named[1] != "sub=1001x"
    assert command("status", *named).code == DONE
    assert command("revoke", *named).out.startswith("blacklisted (changed)\n")
    assert command("status", *named).code == BLACKLISTED
    assert passes(TOKEN) is not blacklisted
    assert command("restore", *named).out.startswith("not blacklisted (changed)\n")
    assert passes(TOKEN)


def test_a_cut_off_may_be_set(command: Command, passes: Any) -> None:
    assert command("revoke", "--sub", "1001", "--issued-before", "1000").code == DONE
    assert (passes(mint(sub="1001", iat=999)), passes(TOKEN)) == (False, True)
    ahead = mint(sub="1001", iat=int(time.time()))
    assert passes(ahead)
    assert command("revoke", "--sub", "1001", "--issued-before", int(time.time()) + 100).code == DONE
    assert not passes(ahead)


def test_json_is_for_scripts(command: Command, store_url: str) -> None:
    place = {
        "issuer": ISSUER,
        "store": store_url,
        "expired": False,
    }
    revoked = json.loads(command("revoke", TOKEN, "--json").out)
    (entry,) = revoked.pop("entries")
    assert revoked == {"fingerprint": fingerprint(TOKEN), "blacklisted": True, "changed": True, **place}
    assert (entry["fingerprint"], entry["issuer"]) == (fingerprint(TOKEN), ISSUER)
    assert json.loads(command("status", TOKEN, "--json").out) == {
        "fingerprint": fingerprint(TOKEN),
        "blacklisted": True,
        "entries": [entry],
        **place,
    }
    assert json.loads(command("restore", "--claim", "sub=7", "--json").out) == {
        "claim": {"sub": "7"},
        "blacklisted": False,
        "changed": False,
        "entries": [],
        **place,
    }


def test_what_is_counted_is_for_scripts_too(command: Command) -> None:
    assert json.loads(command("import", "--json", stdin=json.dumps(GOOD)).out)["imported"] == 1
    assert json.loads(command("purge", "--json").out)["deleted"] == 0


def test_an_expired_token_needs_no_revoking(command: Command) -> None:
    ended = command("revoke", mint(exp=1))
    assert ended.code == DONE
    assert ended.out.startswith("not blacklisted: the token has expired (nothing to change)\n")


def test_what_has_just_expired_here_is_blacklisted_for_gateways_that_tolerate_more(
    command: Command, store_url: str, upstream: Any
) -> None:
    tolerant = Api(Gateway(upstream, Settings(store=store_url, secret="discogs", leeway=60)))
    token = mint(exp=int(time.time()) - 5)
    assert tolerant("GET", "/", token).status_code == 200
    assert command("revoke", token).out.startswith("not blacklisted: the token has expired (changed)\n")
    assert_refused(tolerant("GET", "/", token), "token-blacklisted")


def test_an_end_that_is_past_is_wrong_usage(command: Command) -> None:
    assert command("revoke", "--sub", "1001", "--until", "1000").code == USAGE
    assert json.loads(command("list", "--json").out) == []


@pytest.mark.parametrize("token", ["garbage", mint("wrong"), mint(iss="https://evil.test/"), mint(exp="soon"), ""])
@pytest.mark.parametrize("name", ["revoke", "restore", "status"])
def test_a_token_that_does_not_verify_is_wrong_usage(command: Command, name: str, token: str) -> None:
    ended = command(name, token)
    assert (ended.code, ended.out) == (USAGE, "")
    assert ended.err.startswith("gateway: The token")
    assert not token or token not in ended.err


@pytest.mark.parametrize(
    "named",
    [
        [],
        [TOKEN, "--sub", "a"],
        ["--sub", "a", "--jti", "a"],
        ["--sub", "a", "--claim", "jti=a"],
        ["--sub", ""],
        ["--claim", "sub=true"],
        ["--claim", "sub=null"],
        ["--claim", "sub=NaN"],
        ["--claim", "sub=[1]"],
        ["--claim", "sub"],
        ["--claim", "=a"],
        ["--claim", "iss=a"],
        ["--sub", "a", "--issuer", "https://evil.test/"],
        [TOKEN, "--issuer", "https://evil.test/"],
        ["--fingerprint", fingerprint(TOKEN), "--issuer", "https://evil.test/"],
    ],
)
@pytest.mark.parametrize("name", ["revoke", "restore", "status"])
def test_one_thing_must_be_named(command: Command, name: str, named: list[str]) -> None:
    ended = command(name, *named)
    assert (ended.code, ended.out) == (USAGE, "")
    assert json.loads(command("list", "--json").out) == []


@pytest.mark.parametrize("name", ["revoke", "restore", "status"])
def test_an_argument_that_is_not_utf_8_names_nobody(command: Command, name: str) -> None:
    for named in (("--sub", "M\udcfcller"), ("--claim", "sub=\udcff")):
        assert command(name, *named)[:2] == (USAGE, "")
    assert json.loads(command("list", "--json").out) == []


def test_a_token_that_never_passes_is_not_said_to_be_taken_back(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_BLACKLIST_CLAIMS", "groups")
    assert command("revoke", mint(groups=[*range(65)]))[:2] == (USAGE, "")
    assert json.loads(command("list", "--json").out) == []


def test_what_signals_take_back_is_looked_up_and_lifted_too(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = {"issuer": ISSUER, "audience": "a", "email_claim": "mail", "device_claim": "device"}
    monkeypatch.setenv("GATEWAY_SIGNALS", json.dumps([sender]))
    for named in (("--claim", "mail=a@b.test"), ("--claim", 'mail & device=["a@b.test", "d"]')):
        assert command("revoke", *named).code == DONE
        assert command("status", *named).code == BLACKLISTED
        assert command("restore", *named).code == DONE
    told = command("revoke", "--claim", "email=a")
    assert (told.code, told.out) == (USAGE, "")
    assert "mail & device" in told.err
    assert command("revoke", "--claim", "mail & device=a").code == USAGE


def test_an_entry_of_a_fingerprint_for_another_issuer_is_not_confirmed(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuers = [{"issuer": name, "secret": "hush" * 8} for name in ("https://a.test/", "https://b.test/")]
    monkeypatch.setenv("GATEWAY_ISSUERS", json.dumps(issuers))
    command("import", os.devnull)
    digits, of_a = fingerprint(TOKEN), ("--issuer", "https://a.test/")
    assert command("revoke", "--fingerprint", digits, *of_a).code == DONE
    refused = command("revoke", "--fingerprint", digits)
    assert (refused.code, "there is an entry for a token of https://a.test/" in refused.err) == (USAGE, True)
    assert command("revoke", "--fingerprint", digits, "--issuer", "https://b.test/").code == USAGE
    assert command("revoke", "--fingerprint", digits, *of_a).code == DONE
    assert command("revoke", "--fingerprint", digits[:12]).code == DONE  # of the entry that is there
    assert command("restore", "--fingerprint", digits).code == DONE


def test_of_a_fingerprint_nothing_is_said_that_its_claims_may_belie(command: Command) -> None:
    command("revoke", "--sub", "1001")
    told = command("status", "--fingerprint", fingerprint(TOKEN))
    assert told.code == DONE
    assert told.out.startswith("not blacklisted by an entry of its own; one for a claim of it may still blacklist it")


def test_a_cut_off_goes_with_a_claim(command: Command) -> None:
    assert command("revoke", TOKEN, "--issued-before", "1").code == USAGE
    assert command("status", TOKEN).code == DONE


def test_an_issuer_that_nobody_set_is_said_to_be_the_default(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's own may have come by a flag: then nothing of it is blacklisted."""
    warning = "(the default: GATEWAY_ISSUER is not set)"
    assert f"{ISSUER} {warning}" in command("revoke", "--sub", "1001").out
    assert warning not in command("status", TOKEN).out
    refused = command("revoke", "--sub", "1001", "--issuer", "https://other.test/")
    assert (refused.code, "GATEWAY_ISSUER or GATEWAY_ISSUERS sets" in refused.err) == (USAGE, True)
    monkeypatch.setenv("GATEWAY_ISSUER", ISSUER)
    assert warning not in command("revoke", "--sub", "1001").out


def test_among_several_issuers_one_must_be_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    issuers = [{"issuer": ISSUER, "secret": "discogs"}, {"issuer": "https://other.test/", "secret": "x"}]
    monkeypatch.setenv("GATEWAY_ISSUERS", json.dumps(issuers))
    assert command("revoke", "--sub", "1001").code == USAGE
    assert command("revoke", "--sub", "1001", "--issuer", "https://other.test/").code == DONE
    assert command("status", "--sub", "1001", "--issuer", ISSUER).code == DONE
    assert command("status", "--sub", "1001", "--issuer", "https://other.test/").code == BLACKLISTED
    assert command("revoke", TOKEN).code == DONE
    assert len(json.loads(command("list", "--json", "--issuer", "https://other.test/").out)) == 1


def test_an_issuers_entries_are_listed_by_any_of_its_spellings(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("revoke", "--sub", "1001")
    issuers = [{"issuer": ISSUER, "secret": "discogs", "aliases": ["https://www.discogs.com"]}]
    monkeypatch.setenv("GATEWAY_ISSUERS", json.dumps(issuers))
    assert len(json.loads(command("list", "--json", "--issuer", "https://www.discogs.com").out)) == 1
    assert json.loads(command("list", "--json", "--issuer", "https://other.test/").out) == []


def test_who_did_it_and_why_is_kept(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ops")
    command("revoke", "--sub", "1001", "--reason", "left")
    monkeypatch.delenv("USER")
    command("revoke", TOKEN)
    entries = json.loads(command("list", "--json").out)
    assert {(entry["by"], entry["reason"]) for entry in entries} == {("cli:ops", "left"), (f"cli:{os.getuid()}", "")}


@pytest.mark.parametrize("arguments", [["revoke", "--sub", "1001"], ["restore", TOKEN], ["status", TOKEN], ["list"],
                                       ["purge"], ["export"]])  # fmt: skip
def test_only_what_fills_a_store_makes_one(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str]
) -> None:
    monkeypatch.setenv("GATEWAY_STORE", "sqlite:///elsewhere.sqlite3")
    ended = command(*arguments)
    assert (ended.code, ended.out) == (USAGE, "")
    assert str(tmp_path / "elsewhere.sqlite3") in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_where_it_looked_is_told_of_redis_too_and_without_a_password(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisServer() as server:
        monkeypatch.setenv("GATEWAY_STORE", f"{server.url}?prefix=mine&password=")
        ended = command("revoke", "--sub", "1001")
        assert (ended.code, ended.out, server.ask("DBSIZE")) == (USAGE, "", 0)
        assert f"Looked in redis://127.0.0.1:{server.port}/0?prefix=mine" in ended.err


@pytest.mark.parametrize(("when", "ago"), [("2h", 7200), ("90 min ago", 5400), ("3days", 259_200), ("1w", 604_800)])
def test_a_cut_off_is_a_time_ago(command: Command, when: str, ago: int) -> None:
    command("revoke", "--sub", "1001", "--issued-before", when)
    (entry,) = json.loads(command("list", "--json").out)
    assert abs(entry["issued_before"] - (time.time() - ago)) <= 60


@pytest.mark.parametrize(
    ("when", "seconds"),
    [("1767225600", 1767225600), ("2026-01-01T00:00:00Z", 1767225600), ("2026-01-01T01:00:00.5+01:00", 1767225601)],
)
def test_a_cut_off_is_a_date(command: Command, when: str, seconds: int) -> None:
    command("revoke", "--sub", "1001", "--issued-before", when)
    (entry,) = json.loads(command("list", "--json").out)
    assert entry["issued_before"] == seconds


def test_a_cut_off_now_covers_what_passes_with_more_leeway(
    command: Command, monkeypatch: pytest.MonkeyPatch, upstream: Any, store_url: str
) -> None:
    gate = Api(Gateway(upstream, Settings(store=store_url, secret="discogs", leeway=30)))
    for named in (("--sub", "1001"), ("--sid", "s", "--issued-before", "now")):
        ahead = mint(**{named[0].strip("-"): named[1]}, iat=int(time.time()) + 20)
        assert gate("GET", "/", ahead).status_code == 200
        assert command("revoke", *named).code == DONE
        assert gate("GET", "/", ahead).status_code == 401
        assert gate("GET", "/", mint(sid="s", iat=int(time.time()) + 40)).status_code == 401  # not valid yet
    assert command("revoke", "--sub", "1002", "--until", "now").code == USAGE


@pytest.mark.parametrize(
    "when",
    ["", "yesterday", "2h3", "-5", "1e9", "2026-13-01", "99999999999999", "2months", "3 mo", "1M", "5ms", "2 hairs",
     "1y", "20260131", "202601311200", "0001-01-01"],
)  # fmt: skip
def test_what_is_no_moment_is_wrong_usage(command: Command, when: str) -> None:
    ended = command("revoke", "--sub", "1001", "--issued-before", when)
    assert (ended.code, ended.out) == (USAGE, "")


def test_what_has_no_cut_off_is_taken_back_whenever_issued(command: Command, passes: Any) -> None:
    ahead = mint(sub="1001", iat=int(time.time()))
    command("revoke", "--sub", "1001", "--issued-before", "1000")
    assert passes(ahead)
    command("revoke", "--sub", "1001", "--all", "--until", "2h")
    assert not passes(ahead)
    (entry,) = json.loads(command("list", "--json").out)
    assert (entry["issued_before"], entry["expires_at"]) == (None, None)
    assert command("revoke", "--sub", "1001", "--all", "--issued-before", "1000").code == USAGE
    assert command("revoke", "--sub", "1002", "--until", "2020-01-01").code == USAGE


def test_a_token_is_named_by_its_fingerprint(command: Command, passes: Any) -> None:
    assert command("revoke", "--fingerprint", fingerprint(TOKEN)[:12]).code == USAGE
    assert command("revoke", "--fingerprint", fingerprint(TOKEN).upper()).code == DONE
    assert not passes(TOKEN)
    assert command("status", "--fingerprint", fingerprint(TOKEN)[:12]).code == BLACKLISTED
    assert command("restore", "--fingerprint", fingerprint(TOKEN)[:12]).code == DONE
    assert passes(TOKEN)
    for flags, is_endless in ((["--until", "2h"], False), ([], True), ([], True)):
        command("revoke", "--fingerprint", fingerprint(TOKEN), *flags)
        (entry,) = json.loads(command("list", "--json").out)
        assert (entry["expires_at"] is None) is is_endless


def test_text_that_may_be_a_number_is_both_and_in_quotes_text_alone(command: Command, passes: Any) -> None:
    command("revoke", "--claim", "sub=7.001e3")
    assert [passes(mint(sub=sub)) for sub in (7001, "7001", "7.001e3")] == [False, False, False]
    command("revoke", "--claim", 'sub="8e3"')
    assert [passes(mint(sub=sub)) for sub in (8000, "8000", "8e3")] == [True, True, False]
    command("revoke", "--sub", "9001")
    assert [passes(mint(sub=sub)) for sub in (9001, "9001")] == [False, False]


def test_what_a_holder_chose_does_not_reach_the_terminal_as_it_is(command: Command) -> None:
    reason = "\r\n\x1b[2Jgone\x1b]0;title\x07\x7f\u202e\x9b"
    command("revoke", "--sub", "\x1b[31m1001", "--reason", reason)
    for name, *rest in (
        ["list"],
        ["list", "--json"],
        ["status", "--sub", "\x1b[31m1001"],
        ["revoke", "--sub", "\x1b[31m1001"],
    ):
        ended = command(name, *rest)
        shown = ended.out.replace("\n", "")
        assert "gone" in shown
        assert shown.isprintable()
        assert shown.isascii() or "--json" not in rest


def test_status_says_by_whom_when_and_why(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ops")
    command("revoke", "--sub", "1001", "--reason", "left")
    told = command("status", TOKEN).out
    assert all(text in told for text in ("sub 1001", "cli:ops", "left", ISSUER, fingerprint(TOKEN)))


# list, purge


def test_list_shows_entries_newest_first(command: Command) -> None:
    assert command("list")[:2] == (DONE, "")
    assert json.loads(command("list", "--json").out) == []
    command("revoke", TOKEN)
    command("revoke", "--sub", "1001", "--issued-before", "1000", "--reason", "left")
    first, second = command("list").out.splitlines()
    assert first.startswith("sub 1001 ")
    assert all(text in first for text in (ISSUER, "1970-01-01T00:16:40Z", "lifted"))
    assert first.endswith("left")
    assert fingerprint(TOKEN)[:16] in second
    assert "2035-01-24T02:40:52Z" in second
    assert TOKEN not in first + second
    page = command("list", "--limit", "1")
    assert len(page.out.splitlines()) == 1
    assert "there are more" in page.err
    assert "2 in all" in command("list").err
    claim, token = json.loads(command("list", "--json").out)
    assert (claim["claim"], claim["issued_before"]) == ({"sub": "1001"}, 1000)
    assert token["fingerprint"] == fingerprint(TOKEN)


def test_a_list_goes_on_over_pages_that_have_fewer_than_were_asked_for(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.blacklist.stores.sqlite.store.LOOKED_AT", 1)
    for claim in ("--sub", "--sid", "--jti", "--sid", "--sub"):
        command("revoke", claim, "a" if claim != "--sub" else str(time.time()))
    assert len(json.loads(command("list", "--json", "--claim", "sub", "--limit", "2").out)) == 2


def test_purge_deletes_what_has_expired(command: Command, store_url: str) -> None:
    command("revoke", TOKEN)
    assert command("purge").out == "0 expired entries deleted\n"
    with closing(open_store(store_url, now=lambda: time.time() - 60)) as store:
        store.add([Entry(f"token:{0:064}", ISSUER, int(time.time()) - 60, int(time.time()) - 1)])
    assert command("purge")[:2] == (DONE, "1 expired entries deleted\n")
    assert len(json.loads(command("list", "--json").out)) == 1


# export, import


def test_what_is_exported_can_be_imported_elsewhere(command: Command, tmp_path: Path) -> None:
    command("revoke", TOKEN, "--reason", "lost é")
    command("revoke", "--claim", "sub=7001", "--issued-before", "1000")
    exported = command("export")
    assert exported.code == DONE
    assert len([json.loads(line) for line in exported.out.splitlines()]) == 2
    assert TOKEN not in exported.out
    elsewhere = ("--store", f"sqlite:///{tmp_path}/elsewhere.sqlite3")
    assert command("import", "-", *elsewhere, stdin=exported.out).out == "2 entries imported\n"
    assert command("status", TOKEN, *elsewhere).code == BLACKLISTED
    assert command("status", "--claim", "sub=7001", *elsewhere).code == BLACKLISTED
    assert sorted(command("export", *elsewhere).out.splitlines()) == sorted(exported.out.splitlines())
    assert command("export", "-").out == exported.out
    assert command("export", tmp_path / "entries.jsonl").out == ""
    assert (tmp_path / "entries.jsonl").read_text() == exported.out
    assert (tmp_path / "entries.jsonl").stat().st_mode & 0o777 == 0o600
    ended = {**GOOD, "expires_at": 1001}
    assert command("import", stdin=json.dumps(ended)).out == "0 entries imported, 1 have expired\n"


@pytest.mark.parametrize("value", [7001, 7001.0, "7001"])
def test_what_an_older_gateway_exported_is_taken_over_under_todays_keys(
    command: Command, passes: Any, value: Any
) -> None:
    keys = (claim_key(ISSUER, "sub", "7001"), *legacy_claim_keys(ISSUER, "sub", "7001"))
    lines = [json.dumps({**GOOD, "key": key, "claim": {"sub": value}, "issued_before": 1000}) for key in keys]
    assert command("import", stdin="\n".join(lines)).code == DONE
    (entry,) = json.loads(command("list", "--json").out)
    assert entry["claim"] == {"sub": "7001"}
    assert [passes(mint(sub=sub, iat=999)) for sub in (7001, "7001", 7001.0)] == [False] * 3


def test_an_import_says_which_token_it_could_not_blacklist(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another issuer's admin has named its fingerprint: whose it is, nobody knows."""
    named = {**GOOD, "key": f"token:{fingerprint(TOKEN)}", "by_fingerprint": True}
    issuers = json.dumps([{"issuer": ISSUER, "secret": "discogs"}, {"issuer": "https://b.test/", "secret": "b" * 32}])
    monkeypatch.setenv("GATEWAY_ISSUERS", issuers)
    theirs = json.dumps({**named, "issuer": "https://b.test/"})
    assert command("import", stdin=theirs).out == "1 entries imported\n"
    kept = command("import", stdin=f"{json.dumps(named)}\n{json.dumps(GOOD)}\n")
    assert (kept.code, kept.out) == (USAGE, "1 entries imported\n")
    assert f"1 were not imported, that of {fingerprint(TOKEN)} among them" in kept.err
    # A token that was seen is its own issuer's.
    seen = json.dumps({name: value for name, value in named.items() if name != "by_fingerprint"})
    assert command("import", stdin=seen).out == "1 entries imported\n"
    assert json.loads(command("status", TOKEN, "--json").out)["blacklisted"]


@pytest.mark.parametrize("is_link", [False, True])
def test_an_export_that_fails_leaves_an_older_one_as_it_was(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool
) -> None:
    command("revoke", TOKEN)
    (tmp_path / "there").mkdir()
    older, name = tmp_path / "there" / "entries.jsonl", tmp_path / "entries.jsonl"
    older.write_text("older")
    older.chmod(0o640)
    name.symlink_to(older) if is_link else older.rename(name)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda file: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
        failed = command("export", name)
    assert (failed.code, failed.err) == (USAGE, f"gateway: {name}: No space left on device\n")
    assert name.read_text() == "older"
    assert command("export", name).code == DONE
    assert (name.read_text(), name.is_symlink()) == (command("export").out, is_link)
    assert name.stat().st_mode & 0o777 == 0o640
    assert not list(tmp_path.rglob(".gateway-export.*"))


def test_an_export_may_go_into_a_pipe(command: Command, tmp_path: Path) -> None:
    command("revoke", TOKEN)
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["/bin/cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        assert command("export", tmp_path / "pipe").code == DONE
        assert reader.stdout
        assert reader.stdout.read().decode() == command("export").out


def test_an_import_lowers_and_lifts_nothing(command: Command) -> None:
    command("revoke", "--sub", "1001", "--issued-before", "500")
    older = command("export").out
    command("revoke", "--sub", "1001", "--issued-before", "1000")
    command("revoke", TOKEN)
    command("import", stdin=older)
    entries = json.loads(command("list", "--json").out)
    assert [entry["issued_before"] for entry in entries if "claim" in entry] == [1000]
    assert command("status", TOKEN).code == BLACKLISTED


def test_a_lockout_that_has_ended_does_not_come_back_with_an_old_export(command: Command, passes: Any) -> None:
    command("revoke", "--sub", "1001", "--issued-before", "1000")
    ended = {"key": claim_key(ISSUER, "sub", "1001"), "claim": {"sub": "1001"}, "expires_at": 1001}
    assert command("import", stdin=json.dumps({**GOOD, **ended})).out == "0 entries imported, 1 have expired\n"
    assert passes(TOKEN)


def test_a_tokens_entry_under_another_name_is_never_gone_while_it_gets_the_tokens_end(
    command: Command, passes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {**GOOD, "key": f"token:{fingerprint(TOKEN)}", "issuer": "https://b.test/", "expires_at": EXPIRES - 1}
    command("import", stdin=json.dumps(theirs))
    monkeypatch.setattr(SqliteStore, "remove", lambda *_: pytest.fail("it was gone"))
    assert command("revoke", TOKEN).code == DONE
    (entry,) = json.loads(command("list", "--json").out)
    assert (entry["issuer"], not passes(TOKEN)) == (ISSUER, True)


KEY = "token:" + "0" * 64
GOOD = {"key": KEY, "issuer": ISSUER, "created_at": 1000, "expires_at": EXPIRES}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "garbage",
        "[]",
        "{}",
        "null",
        json.dumps(GOOD)[:-1],
        json.dumps({**GOOD, "key": None}),
        json.dumps({**GOOD, "key": "generation"}),
        json.dumps({**GOOD, "key": "token:" + "0" * 63}),
        json.dumps({**GOOD, "key": "token:" + "G" * 64}),
        json.dumps({**GOOD, "key": "claim:" + "0" * 64}),
        json.dumps({**GOOD, "claim": {"sub": "a"}}),
        json.dumps({**GOOD, "key": "claim:" + "0" * 64, "claim": {"sub": ""}}),
        json.dumps({**GOOD, "key": "claim:" + "0" * 64, "claim": {"sub": "a", "jti": "a"}}),
        json.dumps({**GOOD, "key": "claim:" + "0" * 64, "claim": "sub"}),
        json.dumps({**GOOD, "issuer": None}),
        json.dumps({**GOOD, "issuer": ""}),
        json.dumps({**GOOD, "by_fingerprint": True, "administers": [1]}),
        json.dumps({**GOOD, "issuer": 5}),
        json.dumps({**GOOD, "created_at": "now"}),
        json.dumps({**GOOD, "created_at": None}),
        json.dumps({**GOOD, "created_at": True}),
        json.dumps({**GOOD, "expires_at": "never"}),
        json.dumps({**GOOD, "expires_at": 1e12}),
        json.dumps({**GOOD, "expires_at": False}),
        json.dumps({**GOOD, "as_of": 1000}),
        json.dumps(
            {**GOOD, "key": claim_key(ISSUER, "sub", "a"), "claim": {"sub": "a"}, "as_of": 9, "issued_before": 8}
        ),
        json.dumps({**GOOD, "expires_at": 2**63}),
        json.dumps({**GOOD, "issued_before": "x"}),
        json.dumps({**GOOD, "issued_before": 1000}),
        json.dumps({**GOOD, "key": claim_key(ISSUER, "sub", "b"), "claim": {"sub": "a"}}),
        json.dumps({**GOOD, "key": claim_key(ISSUER, "sub", "a"), "claim": {"sub": "a"}, "issued_before": -1}),
        json.dumps({**GOOD, "key": claim_key(ISSUER, "sub", "a"), "claim": {"sub": "a"}, "issued_before": 10**12}),
        json.dumps({**GOOD, "reason": 5}),
        json.dumps({**GOOD, "by": []}),
        json.dumps(GOOD).replace("{", '{"key": "x", ', 1),
    ],
)
def test_a_line_that_is_no_entry_stops_the_import_by_its_number(command: Command, passes: Any, line: str) -> None:
    """A row that no store can read would be taken for damage, and nothing would pass any more."""
    ended = command("import", stdin=f"{json.dumps(GOOD)}\n{line}\n")
    assert (ended.code, ended.out) == (USAGE, "")
    assert "line 2 is not an entry" in ended.err
    assert passes(TOKEN)
    assert command("list").code == DONE


def test_an_import_is_in_the_audit_log_also_where_a_line_stops_it(
    command: Command, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "gateway.audit")
    monkeypatch.setattr("gateway.cli.transfer.AT_ONCE", 1)
    monkeypatch.setenv("USER", "operator")
    assert command("import", stdin=f"{json.dumps(GOOD)}\ngarbage\n").code == USAGE
    assert [(record["action"], record["imported"], record["by"]) for record in map(audited, caplog.records)] == [
        ("import", 1, "cli:operator")
    ]


def audited(record: Any) -> Any:
    return record.record


def test_an_import_names_the_line_that_is_no_text_and_the_claims_that_nothing_asks_for(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "entries"
    claim = {**GOOD, "key": claim_key(ISSUER, "email", "a"), "claim": {"email": "a"}}
    file.write_bytes(f"{json.dumps(claim)}\n".encode() + b"\xff\xfe\n")
    assert "line 2 is not an entry" in command("import", str(file)).err
    file.write_bytes(f"{json.dumps(claim)}\n".encode())
    ended = command("import", str(file))
    assert (ended.code, ended.out) == (DONE, "1 entries imported\n")
    assert "BLACKLIST_CLAIMS does not name email: these entries blacklist nothing" in ended.err


def test_an_import_names_issuers_whose_claims_nothing_asks_for(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [ISSUER, "https://other.test", "https://gone.test/"]
    lines = [
        json.dumps({**GOOD, "key": claim_key(name, "sub", "a"), "claim": {"sub": "a"}, "issuer": name})
        for name in names
    ]
    issuers = [{"issuer": ISSUER, "secret": "a"}, {"issuer": "https://other.test/", "aliases": names[1], "secret": "b"}]
    monkeypatch.setenv("GATEWAY_ISSUERS", json.dumps(issuers))
    told = command("import", stdin="\n".join(lines))
    assert (told.code, told.out) == (DONE, "3 entries imported\n")
    assert "has the name https://gone.test/:" in told.err
    assert "has the name" not in command("import", stdin=lines[0]).err


def test_a_large_import_and_export_goes_in_batches(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("gateway.cli.transfer.BATCH", 100)
    lines = [json.dumps({**GOOD, "key": f"token:{number:064x}"}) for number in range(250)]
    assert command("import", stdin="\n".join(lines)).out == "250 entries imported\n"
    assert sorted(command("export").out.splitlines()) == sorted(lines)


@pytest.mark.parametrize("changed", [1, MOST_KEYS + 1])
def test_an_export_has_what_is_changed_while_it_is_written(
    command: Command, monkeypatch: pytest.MonkeyPatch, store_url: str, changed: int
) -> None:
    """An entry that is changed moves to the first page, which was read before."""
    monkeypatch.setattr("gateway.cli.transfer.BATCH", 2)
    for number in range(5):
        command("revoke", "--sub", str(number), "--issued-before", "1000")
    blacklist = build_blacklist(Settings(store=store_url))
    page, targets = SqliteStore.page, [ClaimTarget(ISSUER, "sub", str(number), 2000) for number in range(changed)]

    def changing(store: SqliteStore, limit: int, cursor: str = "", **only: Any) -> Any:
        found = page(store, limit, cursor, **only)
        if not cursor:
            blacklist.add_targets(targets, Actor())
        return found

    monkeypatch.setattr(SqliteStore, "page", changing)
    lines = [json.loads(line) for line in command("export").out.splitlines()]
    assert {line["claim"]["sub"]: line["issued_before"] for line in lines} == {
        str(number): 2000 if number < changed else 1000 for number in range(max(5, changed))
    }


def test_an_export_that_fails_leaves_the_older_one_as_it_is(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command("revoke", TOKEN)
    file = tmp_path / "entries.jsonl"
    assert command("export", file).code == DONE
    older = file.read_text()
    page = SqliteStore.page

    def failing(store: SqliteStore, limit: int, cursor: str = "", **only: Any) -> Any:
        if cursor:
            raise StoreUnavailable("unreachable")
        return page(store, limit, cursor, **only)

    command("revoke", "--sub", "1001")
    monkeypatch.setattr("gateway.cli.transfer.BATCH", 1)
    monkeypatch.setattr(SqliteStore, "page", failing)
    assert command("export", file).code == UNAVAILABLE
    assert file.read_text() == older != ""


# check-config


def printed(checked: Ended) -> dict[str, str]:
    """Return what check-config prints of each setting."""
    return dict(line.split("=", 1) for line in checked.out.splitlines() if line.startswith("GATEWAY_"))


def test_check_config_prints_what_is_in_force_with_secrets_masked(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "hush-hush-hush-hush-hush-hush-hush")
    monkeypatch.setenv("GATEWAY_PORT", "8080")
    checked = command("check-config", "--restore", "admin")
    lines = printed(checked)
    assert (checked.code, checked.err) == (DONE, "")
    assert lines.keys() == {f"GATEWAY_{name.upper()}" for name in Settings.model_fields}
    assert (lines["GATEWAY_PORT"], lines["GATEWAY_RESTORE"], lines["GATEWAY_AUDIENCE"]) == ("8080", "admin", "")
    assert (lines["GATEWAY_ALGORITHMS"], lines["GATEWAY_SECRET"]) == ("HS256", "**********")
    assert lines["GATEWAY_BLACKLIST_CLAIMS"] == "jti,sub,sid"
    assert "hush" not in checked.out


def test_check_config_says_where_each_setting_was_set(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("GATEWAY_THREADS=3\n")
    (tmp_path / "secret").write_text("x" * 32)
    (tmp_path / "gateway_admin_scope").write_text("root")
    for module in ("settings", "announce"):
        monkeypatch.setattr(f"gateway.config.{module}.SECRETS_DIR", tmp_path)
    monkeypatch.setenv("GATEWAY_PORT", "8080")
    monkeypatch.setenv("GATEWAY_SECRET_FILE", str(tmp_path / "secret"))
    lines = command("check-config", "--restore", "admin").out.splitlines()
    assert lines[: lines.index("# by default:")] == [
        "# set by GATEWAY_SECRET_FILE:",
        "GATEWAY_SECRET=**********",
        "# set by flags:",
        "GATEWAY_RESTORE=admin",
        "# set in .env:",
        "GATEWAY_THREADS=3",
        f"# set in {tmp_path}:",
        "GATEWAY_ADMIN_SCOPE=root",
        "# set in the environment:",
        "GATEWAY_PORT=8080",
        f"GATEWAY_STORE={os.environ['GATEWAY_STORE']}",
    ]


def test_a_store_of_an_older_version_is_left_to_serve(command: Command, store_url: str) -> None:
    if not store_url.startswith("sqlite"):
        return  # Redis holds what both versions read
    path = store_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA user_version=1")
    told = f"{path} is of an older version: `gateway serve` of this one brings it up to date."
    checked = command("check-config")
    assert checked.code == DONE
    assert f"# store: {told}" in checked.out
    for arguments in (["list"], ["revoke", "--sub", "1001"], ["export", "-"], ["check-config", "--port", "x"]):
        refused = command(*arguments)
        assert refused.code == USAGE
        assert (told in refused.err) == (arguments[0] != "check-config")


def test_check_config_makes_no_store_and_says_where_it_will_be(command: Command, tmp_path: Path) -> None:
    checked = command("check-config", "--store", "sqlite:///new.sqlite3")
    assert checked.code == DONE
    assert f"# store: none yet; serve makes sqlite:///{tmp_path}/new.sqlite3" in checked.out.splitlines()
    assert not (tmp_path / "new.sqlite3").exists()
    refused = command("check-config", "--store", "sqlite:///none/new.sqlite3")
    assert refused.code == USAGE
    assert f"There is no store: {tmp_path}/none/new.sqlite3 does not exist" in refused.err


def test_a_file_that_cannot_be_written_is_named_plainly(command: Command) -> None:
    command("import", os.devnull)
    for name, why in (("/none/x", "No such file or directory"), (f"{__file__}/x", "Not a directory")):
        ended = command("export", name)
        assert (ended.code, ended.err) == (USAGE, f"gateway: {name}: {why}\n")


def test_a_store_behind_links_that_lead_round_is_no_store(command: Command, tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    for words in (["list"], ["import", os.devnull]):
        ended = command(*words, "--store", f"sqlite:///{tmp_path}/round")
        assert ended.code == USAGE
        assert f"{tmp_path}/round" in ended.err


def test_entries_of_a_name_that_has_become_an_alias_go_on_under_the_new_one(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, key = "https://old.test/{tenantid}", "https://new.test/{tenantid}", "a" * 64
    monkeypatch.setenv("GATEWAY_ISSUERS", json.dumps([{"issuer": old, "secret": "hush" * 8}]))
    command("import", os.devnull)
    command("revoke", "--sub", "1001", "--of-issuer", "https://old.test/one")
    command("revoke", "--fingerprint", key, "--until", "2h", "--of-issuer", "https://old.test/one")
    monkeypatch.setenv("GATEWAY_ISSUERS", json.dumps([{"issuer": new, "secret": "hush" * 8, "aliases": [old]}]))
    subject = "--sub", "1001", "--of-issuer", "https://new.test/one"
    assert command("status", *subject).code == BLACKLISTED
    assert command("restore", *subject).out.startswith("not blacklisted (changed)")
    named = "--fingerprint", key, "--of-issuer", "https://new.test/one"
    assert json.loads(command("revoke", *named, "--json").out)["entries"][0]["expires_at"] is None
    assert command("restore", *named).out.startswith("not blacklisted")


def test_a_flag_that_holds_a_secret_is_warned_of(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    issuers = json.dumps([{"issuer": "https://a.test/", "secret": "hush" * 8}])
    clients = json.dumps([{"client_id": "a", "secret": "hush" * 8}])
    warned = command("check-config", "--issuers", issuers, "--clients", clients).err
    assert [line.partition(" holds a secret")[0] for line in warned.splitlines()] == [
        "warning: --clients",
        "warning: --issuers",
    ]
    monkeypatch.setenv("GATEWAY_ISSUERS", issuers)
    assert command("check-config").err == ""


def test_check_config_prints_issuers_as_they_are_in_force(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_ISSUERS", '[{"issuer": "https://a.test/", "secret": "hush-hush"}]')
    lines = printed(command("check-config"))
    (issuer,) = json.loads(lines["GATEWAY_ISSUERS"])
    assert issuer == {"issuer": "https://a.test/", "secret": ["**********"], "algorithms": ["HS256"]}
    assert (lines["GATEWAY_SECRET"], lines["GATEWAY_ISSUER"], lines["GATEWAY_ALGORITHMS"]) == ("", "", "")


def test_check_config_asks_the_key_sets(command: Command) -> None:
    with Provider([signer("RS256", "a"), signer("ES256", "b")], plain=True) as provider:
        checked = command("check-config", "--issuer", provider.issuer, "--jwks-url", provider.jwks_url)
        assert (checked.code, checked.err) == (DONE, "")
        assert f"# keys of {provider.issuer}: 1 for RS256, 1 for ES256; kid 'a', 'b'" in checked.out
        assert "# store: 0 live entries" in checked.out
        lines = printed(checked)
        assert "HS256" not in lines["GATEWAY_ALGORITHMS"]
        assert {"RS256", "ES256", "EdDSA"} <= set(lines["GATEWAY_ALGORITHMS"].split(","))
        assert lines["GATEWAY_SECRET"] == ""  # none is used


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (status(404), "answered 404"),
        (content(b"<html>sign in</html>"), "the key set is HTML or XML"),
        (content(b'{"keys": []}'), "there is no usable key"),
        (
            content(b'{"issuer": "https://other.test/", "jwks_uri": "https://other.test/"}'),
            "another issuer's: 'https://other.test/'",
        ),
    ],
)
def test_check_config_tells_what_is_wrong_with_a_key_set(command: Command, answer: Any, told: str) -> None:
    with Provider(plain=True) as provider:
        provider.answer = answer
        checked = command("check-config", "--issuer", provider.issuer, "--jwks-url", provider.jwks_url)
    assert checked.code == USAGE
    assert f"issuer '{provider.issuer}': " in checked.err
    assert told in checked.err


def test_check_config_tells_of_every_issuer_whose_keys_cannot_be_had(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [{"issuer": name, "jwks_url": "http://127.0.0.1:1/jwks"} for name in ("a", "b")]
    monkeypatch.setenv("GATEWAY_ISSUERS", json.dumps(listed))
    checked = command("check-config")
    assert checked.code == USAGE
    for name in ("a", "b"):
        assert f"issuer '{name}': http://127.0.0.1:1/jwks: Connection refused" in checked.err


@pytest.mark.parametrize("text", [PRIVATE, json.dumps({"keys": [{"kty": "oct", "k": "hush"}]})])
def test_a_text_of_keys_is_never_printed(command: Command, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("GATEWAY_PUBLIC_KEY", text)
    checked = command("check-config")
    assert checked.code == USAGE
    assert "hush" not in checked.out + checked.err
    assert "PRIVATE KEY" not in checked.out + checked.err


# The public secret


def test_with_an_issuer_of_ones_own_the_public_secret_must_be_set(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_ISSUER", "https://own.test/")
    monkeypatch.setenv("GATEWAY_SECERT", "x" * 32)
    for arguments in (
        ["check-config"],
        ["serve", "--port", "0"],
        ["demo", "--port", "0"],
        ["token"],
        ["status", TOKEN],
    ):
        told = command(*arguments)
        assert (told.code, told.out) == (USAGE, ""), arguments
        assert "no secret is set, and the default one is public" in told.err
        assert "GATEWAY_SECERT sets nothing; did you mean GATEWAY_SECRET?" in told.err
    assert command("revoke", "--sub", "1001").code == DONE  # needs no key
    monkeypatch.setenv("GATEWAY_SECRET", "discogs")
    checked = command("check-config")
    assert checked.code == DONE
    assert "the secret of https://own.test/ is the public example" in checked.err


def test_a_secret_comes_from_a_file_or_standard_input_and_never_from_the_command_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET_FILE", "")
    (tmp_path / "secret").write_text("of the file, all in one, 32 bytes\n  and an older one\n\n")
    by_file = command("token", "--secret-file", tmp_path / "secret").out.strip()
    assert jwt.decode(by_file, "of the file, all in one, 32 bytes", ["HS256"])
    monkeypatch.setenv("GATEWAY_SECRET_FILE", "")
    by_input = command("token", "--secret", "-", stdin="of standard input, also 32 bytes\n").out.strip()
    assert jwt.decode(by_input, "of standard input, also 32 bytes", ["HS256"])
    for arguments in (["token", "--secret", "hush"], ["serve", "--secret=hush"]):
        told = command(*arguments)
        assert (told.code, told.out) == (USAGE, "")
        assert "every list of processes would show" in told.err
        assert "hush" not in told.err
    assert command("token", "--secret", "-", stdin="\n").code == USAGE


def test_a_short_secret_that_a_comma_cut_out_is_refused_at_the_start(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = "Tr0ub,4dor-4dor-4dor-4dor-4dor-4dor-4dor"
    monkeypatch.setenv("GATEWAY_SECRET", whole)
    told = command("check-config")
    assert told.code == USAGE
    assert "secret 1 has 5 characters, and was cut out at a comma" in told.err
    assert "Tr0ub" not in told.err
    monkeypatch.setenv("GATEWAY_ISSUERS", json.dumps([{"issuer": "a", "secret": whole}]))
    monkeypatch.delenv("GATEWAY_SECRET")
    assert "issuer 'a': secret 1 has 5 characters" in command("check-config").err
    monkeypatch.delenv("GATEWAY_ISSUERS")
    for value in (f"{'x' * 32},{'y' * 32}", f"{'x' * 32},discogs", json.dumps([whole, "short"]), "short", "x\ny"):
        monkeypatch.setenv("GATEWAY_SECRET", value)
        assert command("check-config").code == DONE, value
    (tmp_path / "secret").write_text(whole)
    monkeypatch.setenv("GATEWAY_SECRET_FILE", str(tmp_path / "secret"))
    assert command("check-config").err == ""
    assert jwt.decode(command("token").out.strip(), whole, ["HS256"])


def test_check_config_warns(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SEKRET", "x")
    checked = command("check-config")
    assert checked.code == DONE
    assert "public example" in checked.err
    assert "GATEWAY_SEKRET sets nothing; did you mean GATEWAY_SECRET?" in checked.err


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("UPSTREAM", "http://127.0.0.1:35000", "GATEWAY_PORT: must not be the port of UPSTREAM"),
        ("CLAIMS_FIELD", "X-Token-Subject", "GATEWAY_SUBJECT_FIELD: must not be the field of the claims"),
        ("CLAIMS_FIELD", "content-length", "GATEWAY_CLAIMS_FIELD: must not be a field by which HTTP itself is spoken"),
        ("SUBJECT_FIELD", "Host", "GATEWAY_SUBJECT_FIELD: must not be a field by which HTTP itself is spoken"),
        ("PUBLIC_KEY", "/none", "the file that PUBLIC_KEY names cannot be read: No such file or directory"),
        ("JWKS_URL", "/none", "the file that JWKS_URL names cannot be read: No such file or directory"),
    ],
)
def test_a_default_that_does_not_go_with_what_is_set_is_a_fault(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(f"GATEWAY_{name}", value)
    for subcommand in ("check-config", "serve"):
        checked = command(subcommand)
        assert checked.code == USAGE
        assert told in checked.err


def test_a_fault_of_issuers_is_not_followed_by_those_of_issuers_that_nobody_meant(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_ISSUERS", '[{"issuer": "a", "secrt": "x"}]')
    monkeypatch.setenv("GATEWAY_PORT", "x")
    checked = command("check-config")
    assert checked.code == USAGE
    assert checked.err.splitlines()[1:] == [
        "  - GATEWAY_PORT: must be a whole number",
        "  - GATEWAY_ISSUERS, number 1, secrt: there is no such member; did you mean secret?",
    ]


def test_faults_of_files_keys_and_the_store_are_told_with_those_of_settings(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    monkeypatch.setenv("GATEWAY_SECRET_FILE", "/does/not/exist")
    monkeypatch.setenv("GATEWAY_UPSTREAM", "https://api.test")
    monkeypatch.setenv("GATEWAY_UPSTREAM_CERT", str(tmp_path / "no.pem"))
    monkeypatch.setenv("GATEWAY_UPSTREAM_CA", "/does/not/exist.pem")
    monkeypatch.setenv("GATEWAY_UPSTREEM", "http://api.test")
    issuers = [{"issuer": "a", "algorithms": "RS256"}, {"issuer": "b", "secret": "x", "public_key": "/k"}]
    sender = {"issuer": "c", "audience": "us", "about": "a", "jwks_url": "https://c.test/", "jwks_ca": "/no.pem"}
    monkeypatch.setenv("GATEWAY_SIGNALS", json.dumps([sender]))
    for name in ("check-config", "serve"):
        told = command(name, "--port", "x", "--store", "mysql://db", "--issuers", json.dumps(issuers))
        assert (told.code, told.out) == (USAGE, "")
        expected = [
            "GATEWAY_PORT: ",
            "GATEWAY_SECRET: GATEWAY_SECRET_FILE: cannot read /does/not/exist",
            "GATEWAY_UPSTREAM_CA: cannot use /does/not/exist.pem: No such file",
            f"GATEWAY_UPSTREAM_CERT: cannot use {tmp_path}/no.pem: it must have a certificate and its key",
            "GATEWAY_SIGNALS, c, JWKS_CA: cannot use /no.pem",
            "issuer 'a': ",
            "issuer 'b': ",
            "No store has the scheme mysql",
            "GATEWAY_UPSTREEM sets nothing; did you mean GATEWAY_UPSTREAM?",
        ]
        lines = told.err.splitlines()
        assert lines[0] == "gateway: this cannot work as it is set up:"
        assert [line[4 : 4 + len(start)] for line, start in zip(lines[1:], expected, strict=True)] == expected


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--store", "redis://:hush@127.0.0.1:1/0"], ""),
        (["--store", "redis:user:hush@127.0.0.1:1/0"], "No store has the scheme redis"),
        (["--store", "redis//:hush@127.0.0.1:1/0"], "STORE is no URL"),
        (["--store", "redis://127.0.0.1:1/0?db=1&pasword=hush"], "not a URL of a Redis server"),
        (["--issuers", '[{"issuer": "a", "secret": "hush", "algorithms": "RS256"}]'], "'a'"),
        (["--public-key", "/does/not/exist"], "cannot be read"),
        (["--algorithms", "HS256,RS256"], "need a public key or a JWKS"),
        (["--secret", "hush", "--algorithms", "none"], "--secret takes no value"),
        (["--algorithms", "none"], "'none'"),
        (["--store", "sqlite:////does/not/exist/hush"], ""),
    ],
)
def test_what_cannot_work_is_told_without_a_trace_and_without_secrets(
    command: Command, flags: list[str], words: str
) -> None:
    checked = command("check-config", *flags)
    assert checked.code in (USAGE, UNAVAILABLE)
    assert words in checked.err
    assert "Traceback" not in checked.err
    assert "hush" not in (checked.out + checked.err).replace("/hush", "")


def test_a_blacklist_that_cannot_be_asked_ends_with_neither_0_nor_1(command: Command, store_url: str) -> None:
    command("revoke", TOKEN)
    os.truncate(store_url.removeprefix("sqlite:///"), 0)
    for arguments in (["status", TOKEN], ["revoke", TOKEN], ["restore", TOKEN], ["list"], ["purge"], ["export"]):
        ended = command(*arguments)
        assert ended.code in (USAGE, UNAVAILABLE)


# serve


def test_all_but_the_flags_is_read_anew_where_that_is_asked_for_and_not_by_a_worker_that_starts_later(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    started: dict[str, Callable[[], Any]] = {}
    monkeypatch.setattr("gateway.cli.run.serve_app", lambda load, **more: started.update(more, load=load))
    monkeypatch.setattr("gateway.cli.run.configure_logging", lambda *_: None)
    monkeypatch.setenv("GATEWAY_SECRET_FILE", str(tmp_path / "secret"))
    (tmp_path / "secret").write_text("discogs")
    (tmp_path / ".env").write_text("GATEWAY_LEEWAY=1\n")
    served = command("serve", "--admin-scope", "root", "--port", "0")
    assert (served.code, served.out, served.err, caplog.text.count("public example")) == (DONE, "", "", 1)
    (tmp_path / "secret").write_text("a new one")
    load = started["renew"]()
    (tmp_path / "secret").write_text("")
    for made, secret, other in ((started["load"], "discogs", "a new one"), (load, "a new one", "discogs")):
        api = Api(made())
        assert api("GET", "/blacklist/entries", mint(secret, scope="root")).status_code == 200
        assert_refused(api("GET", "/blacklist/entries", mint(other, scope="root")), "bad-signature")
    monkeypatch.setenv("GATEWAY_UPSTREAM", "https://api.test")
    monkeypatch.setenv("GATEWAY_UPSTREAM_CA", str(tmp_path / "secret"))
    with pytest.raises(ValueError, match=r"is empty\n.*UPSTREAM_CA: cannot use .* it must have certificates"):
        started["renew"]()
    (tmp_path / ".env").unlink()
    with pytest.raises(ValueError, match=r"\.env sets nothing any more"):
        started["renew"]()


@pytest.mark.slow
def test_who_ends_the_demo_while_it_starts_ends_its_upstream_too(tmp_path: Path) -> None:
    upstream, flags = free_port(), ["--port", "0", "--store", f"sqlite:///{tmp_path}/blacklist.sqlite3"]
    command = [sys.executable, "-m", "gateway", "demo", *flags, "--upstream", f"http://127.0.0.1:{upstream}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            assert until(lambda: listens(upstream))
        finally:
            process.terminate()
    assert process.returncode == 0
    assert not listens(upstream)


@pytest.mark.parametrize("name", ["serve", "demo"])
def test_a_port_that_is_taken_is_told_at_once(command: Command, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for named, flags in (
            ("--host, --port", ["--port", port]),
            ("--metrics-host, --metrics-port", ["--port", 0, "--metrics-port", port]),
        ):
            ended = command(name, "--host", "127.0.0.1", *flags)
            assert (ended.code, ended.out) == (USAGE, "")
            assert ended.err == f"Error: cannot listen on 127.0.0.1:{port} ({named}): Address already in use\n"
        if name == "demo":
            ended = command(name, "--host", "127.0.0.1", "--port", 0, "--upstream", f"http://127.0.0.1:{port}")
            assert (ended.code, ended.out) == (USAGE, "")


@pytest.mark.parametrize("flag", ["--host", "--metrics-host"])
def test_what_is_no_hosts_name_is_told_with_its_flag(command: Command, flag: str) -> None:
    ended = command("serve", "--host", "127.0.0.1", "--port", 0, "--metrics-port", 0, flag, "a..b")
    assert ended.code == USAGE
    assert ended.err.startswith(f"Error: cannot listen on a..b:0 ({flag}, ")


@pytest.mark.slow
def test_a_signal_to_renew_that_comes_while_it_starts_is_kept_until_it_serves(tmp_path: Path) -> None:
    port = free_port()
    gateway = Running(tmp_path, "http://127.0.0.1:1", "--port", str(port), "--workers", "1")
    assert until(lambda: listens(port))
    gateway.signal(SIGHUP)
    with gateway:
        assert until(lambda: "the app is loaded anew" in gateway.log)


def test_the_first_sentence_of_every_command_fits_into_the_list_of_commands(command: Command) -> None:
    listed = command("--help").out.partition("Commands:")[2]
    assert "..." not in listed
    assert all(f"\n  {name} " in listed for name in commands.commands)


def test_without_a_sender_to_poll_poll_events_says_so(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.poll.configure_logging", lambda *_: None)
    monkeypatch.setenv("GATEWAY_SIGNALS", json.dumps([{"issuer": ISSUER, "audience": "us"}]))
    told = command("poll-events")
    assert (told.code, "has a poll_url" in told.err) == (USAGE, True)


# As real processes.


def process(
    *arguments: str, stdin: str = "", redirections: str = "", **environ: str
) -> subprocess.CompletedProcess[str]:
    program = ["sh", "-c", f'exec "$0" -W error -m gateway "$@" {redirections}', sys.executable, *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    root = str(Path(__file__).parents[3])
    return subprocess.run(
        program, input=stdin, env={**clean, "PYTHONPATH": root, **environ}, capture_output=True, text=True, check=False
    )


def test_a_command_is_a_process_too(store_url: str) -> None:
    open_store(store_url).close()
    revoked = process("revoke", "-", stdin=TOKEN, GATEWAY_STORE=store_url)
    assert (revoked.returncode, revoked.stdout.splitlines()[0]) == (DONE, "blacklisted (changed)")
    record = json.loads(revoked.stderr)
    assert (record["logger"], record["action"], record["changed"]) == ("gateway.audit", "add", True)
    assert record["by"].startswith("cli:")
    assert TOKEN not in revoked.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("closed", "arguments"),
    [
        ("<&-", "status -"),
        ("<&-", "import"),
        ("<&-", "accept-store"),
        ("<&-", "check-config --secret -"),
        (">&-", "status --sub 1001"),
        (">&-", "list --json"),
        ("<&- >&-", "check-config"),
    ],
)
def test_a_stream_that_is_closed_is_a_fault_and_no_answer(store_url: str, closed: str, arguments: str) -> None:
    open_store(store_url).close()
    told = process(*arguments.split(), redirections=closed, GATEWAY_STORE=store_url)
    assert (told.returncode, "Traceback" in told.stderr) == (USAGE, False)
    assert told.stderr.endswith("gateway: [Errno 9] Bad file descriptor\n")


def test_faults_are_printed_escaped(command: Command, tmp_path: Path) -> None:
    told = command("list", "--store", f"sqlite:///{tmp_path}/\x1b[31mred")
    assert "\\x1b[31mred does not exist" in told.err
    issuer = "https://\x1b[31mred.test/"
    entry = {"key": f"token:{0:064}", "issuer": issuer, "created_at": 1, "expires_at": 2**32, "by": "", "reason": ""}
    command("import", stdin=json.dumps(entry))
    told = command("status", "--fingerprint", f"{0:064}", "--issuer", ISSUER)
    assert (told.code, "\\x1b[31mred.test" in told.err) == (USAGE, True)

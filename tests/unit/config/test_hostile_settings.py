"""Settings nobody meant: any environment makes settings, or a list of their faults, and neither shows a secret."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.cli.options import check_settings, faults
from gateway.config.announce import in_force, misspelled_names, warnings
from gateway.config.settings import Settings

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "40"))
HUSH = "hush-1f3a"  # stands where secrets and passwords do

# Whatever the system can put into an environment, and what means something to one setting or another.
texts = st.binary(max_size=20).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))
texts |= st.sampled_from(["-1", "1e400", "nan", "9" * 5000, "yes", "[", "[" * 9000, '[""]', "{}", "[1]", "HS256,RS256"])
texts |= st.sampled_from(["/info", "/dev/null", "none", "https://[", "http://127.0.0.1:x", "http://\u2100", "\u0661"])
plain = texts.map(lambda text: "".join(letter for letter in text if letter not in '@/?#[]\\"'))
secrets = st.tuples(plain, plain).map(HUSH.join)
HOLD_SECRETS = {
    "SECRET": texts.map(lambda text: text + HUSH) | secrets,
    "ISSUERS": st.tuples(secrets, texts).map(lambda both: f'[{{"issuer": "a", "secret": "{both[0]}"}}{both[1]}'),
    "UPSTREAM": st.tuples(secrets, texts).map(lambda both: f"http://u:{both[0]}@{both[1]}"),
    "JWKS_URL": st.tuples(secrets, texts).map(lambda both: f"https://u:{both[0]}@{both[1]}"),
    "STORE": st.tuples(secrets, texts).map(lambda both: f"redis://u:{both[0]}@127.0.0.1:1/{both[1]}"),
}
names = sorted(name.upper() for name in Settings.model_fields)
values = {name: HOLD_SECRETS.get(name, texts) for name in names} | {f"{name}_FILE": texts for name in names}
environs = st.lists(st.sampled_from(sorted(values)), max_size=6).flatmap(
    lambda chosen: st.fixed_dictionaries({f"GATEWAY_{name}": values[name] for name in chosen})
)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(environ=environs)
@example(environ={"GATEWAY_AUDIENCE": "[" * 9000})
@example(environ={"GATEWAY_UPSTREAM": f"http://u:{HUSH}@\u2100.test"})
@example(environ={"GATEWAY_STORE": f"redis://u:a {HUSH}@127.0.0.1:1/0"})
@example(environ={"GATEWAY_STORE": f"redis://u:{HUSH}@127.0.0.1:1/0?unknown={HUSH}", "GATEWAY_PORT": "x"})
@example(environ={"GATEWAY_STORE": f"{HUSH}\u2100://[", "GATEWAY_PORT": "x"})
def test_any_environment_is_settings_or_a_list_of_faults(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with patch.dict(os.environ, {"GATEWAY_STORE": "none://", **environ}):
        try:
            found = check_settings({})
            told = [*warnings(found), *in_force(found).values()]
        except ValueError as error:
            told = [*faults(error), *misspelled_names()]
            assert told
    assert HUSH not in "\n".join(told) + caplog.text

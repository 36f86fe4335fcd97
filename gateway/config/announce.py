"""What the log says at the start: the settings in force, and warnings."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import SecretStr

from gateway.auth.keys import allowed_algorithms
from gateway.auth.keyset import HMAC, TENANT
from gateway.auth.keytext import is_key_text
from gateway.auth.secrets import weak_secrets
from gateway.config.files import MAY_BE_EMPTY, env_file, env_file_values
from gateway.config.settings import OF_ONE_ISSUER, PREFIX, PUBLIC_SECRET, SECRETS_DIR, Settings, issuer_settings
from gateway.config.tracing import traces_endpoint
from gateway.config.values import IssuerSettings, nearest
from gateway.http.build import BUILD, VERSION

MASK = "**********"  # pydantic's own
BY_FLAGS = "set by flags"

log = logging.getLogger("gateway")


def announce(settings: Settings, more: Iterable[str] = ()) -> None:
    """Log at the start every warning (`more` are those not about settings), and what was set."""
    for warning in (*warnings(settings), *flag_warnings(settings), *more):
        log.warning(warning)
    was_set = {name: text for name, text in in_force(settings).items() if name in settings.model_fields_set}
    log.info("version %s (%s) starts; what was set:", VERSION, BUILD, extra={"record": {"settings": was_set}})
    if endpoint := traces_endpoint():
        log.info("traces go to %s", mask(endpoint))


def warnings(settings: Settings) -> list[str]:
    """Return warnings about the settings, one sentence each."""
    found = [*misspelled_names(), *_empty_warnings(settings), *_quote_warnings(settings)]
    patterns = [path for path in settings.public_paths if "*" in path.removesuffix("/*")]
    found += [f"GATEWAY_PUBLIC_PATHS: {path} is one exact path; a prefix ends in /*" for path in patterns]
    for sender in settings.signals:
        if not sender.audience and (sender.has_keys or sender.extra_events or sender.state or sender.without_typ):
            found.append(f"GATEWAY_SIGNALS: {sender.issuer} has no audience, so no event that it signs is taken")
    for issuer in (*issuer_settings(settings), *settings.signals):
        if "{" in issuer.issuer.replace(TENANT, ""):
            found.append(f"{issuer.issuer} is taken as it is written: {TENANT} alone stands for a tenant's id")
        secrets = [secret.get_secret_value() for secret in issuer.secret]
        if PUBLIC_SECRET in secrets:
            found.append(f"the secret of {issuer.issuer} is the public example: set GATEWAY_SECRET, 32 random bytes")
        elif weak_secrets(secrets, names := HMAC.intersection(issuer.algorithms or ("HS256",))):
            size = max(int(name.removeprefix("HS")) for name in names) // 8
            found.append(f"a secret of {issuer.issuer} is shorter than its hash (RFC 7518): set {size} random bytes")
    return found


def _empty_warnings(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each variable that is empty, but set in a weaker place: was that meant to count?"""
    empty = {name.upper() for name, value in os.environ.items() if not value}
    for name, place in sorted(given_by(settings).items()):
        if (variable := PREFIX + name.upper()) in empty and place.startswith("set in"):
            yield f"{variable} is empty in the environment, and {place}, which counts"


def _quote_warnings(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each setting with quotes or blanks around it: a shell would have taken them away."""
    for name in sorted(settings.model_fields_set):
        value = getattr(settings, name)
        for part in value if isinstance(value, tuple) else (value,):
            text = part.get_secret_value() if isinstance(part, SecretStr) else part if isinstance(part, str) else ""
            if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
                yield f"{PREFIX}{name.upper()} has quotes around it, which are taken as part of the value"
            elif text != text.strip():
                yield f"{PREFIX}{name.upper()} has a blank or a line end around it, which is taken as part of the value"


def flag_warnings(settings: Settings) -> list[str]:
    """Return a sentence for each flag that holds a secret, where every user of the machine can read it."""
    shown = _show(settings)
    # The value of --secret is `-`: it comes from standard input.
    flags = [name for name, place in given_by(settings).items() if place == BY_FLAGS and name != "secret"]
    return [
        f"--{name.replace('_', '-')} holds a secret, which every list of processes shows: put it in a file that "
        f"{PREFIX}{name.upper()}_FILE names"
        for name in sorted(flags)
        if MASK in shown[name]
    ]


def _show(settings: Settings) -> dict[str, str]:
    """Return every setting as text, with secrets masked."""
    return {name: _to_text(_hide(value)) for name, value in settings.model_dump(mode="json").items()}


def in_force(settings: Settings) -> dict[str, str]:
    """Return every setting that is in force, as text: secrets masked, and only where they are used."""
    shown = _show(settings)
    issuers = [_only_used(issuer) for issuer in issuer_settings(settings)]
    if settings.issuers:
        dumped = [_hide(issuer.model_dump(mode="json")).items() for issuer in issuers]
        members = [{name: value for name, value in each if value not in (None, [])} for each in dumped]
        # The settings of a single issuer are not in force then.
        return {**shown, **dict.fromkeys(OF_ONE_ISSUER, ""), "issuers": json.dumps(members)}
    secrets = ",".join(MASK for _ in issuers[0].secret)
    return {**shown, "secret": secrets, "algorithms": ",".join(issuers[0].algorithms)}


def _only_used(issuer: IssuerSettings) -> IssuerSettings:
    """Return an issuer's settings with the algorithms that are allowed, and secrets only if they are used."""
    allowed = allowed_algorithms(issuer.algorithms, issuer.secret, issuer.public_key or issuer.jwks_url)
    used = issuer.secret if HMAC & set(allowed) else ()
    return issuer.model_copy(update={"algorithms": tuple(sorted(allowed)), "secret": used})


def _hide(value: Any) -> Any:
    """Return a setting's value with credentials masked, and lengths for keys: a private one may have been put there."""
    if isinstance(value, dict):
        return {name: _hide(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_hide(member) for member in value]
    if not isinstance(value, str):
        return value
    return f"({len(value)} characters of keys)" if is_key_text(value) else mask(value)


def _to_text(value: object) -> str:
    """Return a setting's value as it is set."""
    if isinstance(value, list):
        is_plain = all(isinstance(member, str) for member in value)
        return ",".join(value) if is_plain else json.dumps(value)
    return "" if value is None else str(value)


def given_by(settings: Settings) -> dict[str, str]:
    """Return where each setting that was set comes from, by its name: as a heading for people."""
    sources = (env_file_values(env_file()), f"set in {env_file()}"), (os.environ, "set in the environment")
    may_be_empty = [(PREFIX + name).upper() for name in MAY_BE_EMPTY]
    places = {
        name.upper(): place
        for values, place in sources
        for name, value in values.items()
        if value or name.upper() in may_be_empty
    }
    found = {}
    for name in settings.model_fields_set:
        variable = (PREFIX + name).upper()
        if name in settings._arguments:
            found[name] = BY_FLAGS
        elif f"{variable}_FILE" in places:
            found[name] = f"set by {variable}_FILE"
        else:
            found[name] = places.get(variable, f"set in {SECRETS_DIR}")
    return found


def mask(text: str) -> str:
    """Return a text in which the credentials of URLs are hidden, also of those that are misspelled."""
    text = re.sub(r"(?s)(?<=://).+(?=@)|(?<=password=)[^&]*", MASK, text)  # a store's URL may hold a password
    if "://" not in text:
        text = re.sub(r"(?s)\A[\w+.-]*(?::|//).+(?=@)", MASK, text)
    named = r"[^=&]*(?:pas|pwd|auth|secret|token)[^=&]*|[^=&]*(?:key|code|sig)"
    return re.sub(rf"(?i)([?&](?:{named})=)[^&]*", rf"\1{MASK}", text)


def misspelled_names() -> list[str]:
    """Return a sentence for each `GATEWAY_*` name in any source that sets nothing, with the nearest right name."""
    known = [name.upper() for name in Settings.model_fields]
    known += [name + "_FILE" for name in known] + ["ENV_FILE"]
    secrets = (path.name for path in SECRETS_DIR.glob("*"))
    given = {name.upper() for name in (*os.environ, *env_file_values(env_file()), *secrets)}
    named = sorted(name.removeprefix(PREFIX) for name in given if name.startswith(PREFIX))
    return [f"{PREFIX}{name} sets nothing{nearest(name, known, PREFIX + '{}')}" for name in named if name not in known]

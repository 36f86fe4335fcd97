"""Settings whose value stands in a file: one that a `…_FILE` variable names, or a Docker secret.

A file that is there and cannot be used is never passed over for a weaker source: that could be the default.
"""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

# An empty value counts as not set, but for these: a lost secret must not become the public one.
MAY_BE_EMPTY = ("secret", "upgrades")
LINE_BY_LINE = ("secret",)  # each line of such a file is one value, commas included


class Unreadable(NamedTuple):
    """Stands for a value whose file cannot be used: it fails as the value would, together with all other faults."""

    fault: str


class _Source(PydanticBaseSettingsSource):
    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Return nothing: all is read at once."""
        return None, field_name, False


class WhatIsSet(_Source):
    """What another source sets, without empty values: for those, the next source counts."""

    def __init__(self, settings_cls: type[BaseSettings], source: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._source = source

    def __call__(self) -> dict[str, Any]:
        """Return the values by the settings' names."""
        return {name: value for name, value in self._source().items() if value != "" or name in MAY_BE_EMPTY}


class _Files(_Source):
    def __init__(self, settings_cls: type[BaseSettings], place: Path) -> None:
        super().__init__(settings_cls)
        self._place = place
        self._prefix = self.config.get("env_prefix", "")


class NamedFiles(_Files):
    """The content of the files that the environment, or the env file, names; `Unreadable` where there is none."""

    def __call__(self) -> dict[str, Any]:
        """Return the values by the settings' names."""
        sources = env_file_values(self._place), os.environ
        given = {variable.upper(): path for source in sources for variable, path in source.items() if path}
        variables = {name: f"{self._prefix}{name}_FILE".upper() for name in self.settings_cls.model_fields}
        return {
            name: _content(name, Path(path), f"{variable}: ")
            for name, variable in variables.items()
            if (path := given.get(variable))
        }


class DockerSecrets(_Files):
    """The content of a directory's files that are named as settings are, `gateway_secret` for one.

    pydantic's own source takes a missing host file, which Docker mounts as an empty directory, for no secret at all.
    """

    def __call__(self) -> dict[str, Any]:
        """Return the values by the settings' names."""
        if not self._place.is_dir():
            return {}
        files = {path.name.lower(): path for path in self._place.iterdir()}
        names = {f"{self._prefix}{name}".lower(): name for name in self.settings_cls.model_fields}
        return {names[file]: _content(names[file], path) for file, path in files.items() if file in names}


def _content(name: str, path: Path, named_by: str = "") -> str | list[str] | Unreadable:
    try:
        content = path.read_text("utf-8-sig").strip()  # Windows' editors begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        return Unreadable(f"{named_by}cannot read {path.absolute()}: {_why(error)}")
    if not content:
        return Unreadable(f"{named_by}{path} is empty")
    return lines_of(content) if name in LINE_BY_LINE else content


def lines_of(text: str) -> list[str]:
    """Return the lines of a text that are not blank, without blanks around."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _why(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or "" if isinstance(error, OSError) else "it is not UTF-8"


def env_file() -> Path:
    """Return where the env file is, or would be."""
    return Path(_named() or ".env")


def _named() -> str:
    """Return what GATEWAY_ENV_FILE says, in capitals or not, as settings may be."""
    return next((path for name, path in os.environ.items() if name.upper() == "GATEWAY_ENV_FILE"), "")


def env_file_fault() -> str:
    """Return why the env file cannot be read, as a sentence; nothing where it can be, or where there need be none."""
    place = env_file()
    if not _named() and (place.is_dir() or not os.path.lexists(place)):
        return ""
    if place.exists() and not place.is_file():  # a pipe's second reader would find no setting in it
        return f"GATEWAY_ENV_FILE: {place} must be a file, which can be read more than once"
    try:
        lines = parse_stream(StringIO(place.read_text("utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        return f"GATEWAY_ENV_FILE: cannot read {place.absolute()}: {_why(error)}"
    # Other lines may mean something to other readers of the file. A name alone is Docker's for what is set outside.
    wrong = [
        line.original.line
        for line in lines
        if line.error or (line.key and line.value is None and line.key not in os.environ)
        if "GATEWAY_" in line.original.string
    ]
    return f"GATEWAY_ENV_FILE: line {wrong[0]} of {place.absolute()} is not NAME=value" if wrong else ""


def env_file_values(path: Path) -> dict[str, str | None]:
    """Return what an env file sets; nothing where it cannot be read, which the settings say."""
    try:
        return dotenv_values(path) if path.is_file() else {}
    except (OSError, UnicodeDecodeError):
        return {}

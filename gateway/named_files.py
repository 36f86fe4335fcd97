"""Settings whose value stands in a file that a `…_FILE` variable names, as Docker secrets do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_settings import EnvSettingsSource


class Unreadable(NamedTuple):
    """Stands for a value whose file cannot be used: it fails as the value would, together with all other faults."""

    fault: str


class NamedFiles(EnvSettingsSource):
    """The content of the files that the environment names, stripped; `Unreadable` where there is none."""

    def __call__(self) -> dict[str, Any]:
        """Return the values by the settings' names."""
        variables = {name: f"{self.env_prefix}{name}_FILE".upper() for name in self.settings_cls.model_fields}
        return {name: _content(variable) for name, variable in variables.items() if os.environ.get(variable)}


def _content(variable: str) -> str | Unreadable:
    path = os.environ[variable]
    try:
        content = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return Unreadable(f"{variable}: cannot read {path}")
    return content or Unreadable(f"{variable}: {path} is empty")

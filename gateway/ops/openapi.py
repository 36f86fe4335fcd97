"""The gateway's own routes, described as OpenAPI 3.1; tests compare the description with the answers."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from importlib.resources import files
from typing import Any

from gateway.http.answers import page
from gateway.http.build import VERSION
from gateway.http.wsgi import App


@functools.cache  # it is always the same
def description() -> App:
    """Return the resource that describes all others. It needs no token: what it says is public anyway."""
    document = _document()
    document["info"]["version"] = VERSION
    return page(json.dumps(document).encode(), "application/json")


def own_paths() -> Collection[str]:
    """Return the paths that are described."""
    return frozenset(_document()["paths"])


def _document() -> Any:
    return json.loads(files(__package__).joinpath("openapi.json").read_bytes())

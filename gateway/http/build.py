"""Which gateway this is: its version, and whether the modules that each request passes through are compiled."""

from __future__ import annotations

from importlib.metadata import version

from gateway.http import wsgi

VERSION = version("jwt-blacklist-gateway")
BUILD = "interpreted" if str(wsgi.__file__).endswith(".py") else "compiled"

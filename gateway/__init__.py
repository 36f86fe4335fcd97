"""A gateway that makes stateless JWTs revocable."""

import os

if not hasattr(os, "fork"):
    raise ImportError("the gateway needs a POSIX system: on Windows, run it in WSL or in Docker")

from gateway.app import Gateway, build_app, observe
from gateway.config.settings import Settings
from gateway.http.problems import Problem
from gateway.ops.logs import LogFormatter

__all__ = ["Gateway", "LogFormatter", "Problem", "Settings", "build_app", "observe"]

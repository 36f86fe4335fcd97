"""A gateway that lets stateless JWTs be taken back."""

from gateway.app import Gateway, build_app, observe
from gateway.config.settings import Settings
from gateway.http.problems import Problem
from gateway.ops.logs import LogFormatter

__all__ = ["Gateway", "LogFormatter", "Problem", "Settings", "build_app", "observe"]

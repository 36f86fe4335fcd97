"""A gateway that lets stateless JWTs be taken back."""

from gateway.app import Gateway, build_app
from gateway.config.settings import Settings

__all__ = ["Gateway", "Settings", "build_app"]

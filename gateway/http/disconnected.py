"""The exception that is raised when the client has gone."""

from __future__ import annotations


class ClientDisconnected(ConnectionAbortedError):
    """The client has left, or stopped reading: nothing can be sent to it, nor the rest of its body be read."""

"""How logs are written: one line per record, JSON or text, to standard error."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

Members = dict[str, Any]

_encode = json.JSONEncoder(separators=(",", ":")).encode


def configure_logging(log_format: str, level: str) -> None:
    """Write the gateway's records from `level` on, and those of libraries from WARNING on.

    Libraries log heads of requests and URLs at DEBUG, and a token could be in them.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(log_format))
    own = logging.getLogger("gateway")
    own.setLevel(level.upper())
    logging.basicConfig(level=max(own.level, logging.WARNING), handlers=[handler], force=True)


def line_writer(log_format: str, logger: str) -> Callable[[str, Members], None]:
    """Return what writes a message and its members as one line at once, past `logging`, which costs twice as much."""
    render = _RENDER[log_format]

    def write(message: str, members: Members) -> None:
        line = render(time.time(), "info", logger, message, members) + "\n"
        with suppress(OSError):  # as `logging` does: nobody reads it
            os.write(2, line.encode())

    return write


class _Formatter(logging.Formatter):
    def __init__(self, log_format: str) -> None:
        super().__init__()
        self._render = _RENDER[log_format]

    def format(self, record: logging.LogRecord) -> str:
        members = dict(getattr(record, "record", ()))
        if record.exc_info and record.exc_info[0]:
            members["exception"] = self.formatException(record.exc_info)
        return self._render(record.created, record.levelname.lower(), record.name, record.getMessage(), members)


def _json(seconds: float, level: str, logger: str, message: str, members: Members) -> str:
    return _encode({"time": _utc(seconds), "level": level, "logger": logger, "message": message, **members})


def _text(seconds: float, level: str, logger: str, message: str, members: Members) -> str:
    exception = members.pop("exception", "")
    shown = "".join(f" {name}={_encode(value)}" for name, value in members.items())
    return f"{_utc(seconds)} {level} {logger}: {message}{shown}" + ("\n" + exception if exception else "")


_RENDER = {"json": _json, "text": _text}


def _utc(seconds: float) -> str:
    return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03}Z"


@lru_cache(2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))

"""How logs are written: one line per record, JSON or text, to standard error."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from gateway.ops.writer import LineWriter

Members = dict[str, Any]

_encode = json.JSONEncoder(separators=(",", ":")).encode


def configure_logging(log_format: str, level: str) -> None:
    """Write the gateway's records from `level` on, and those of libraries from WARNING on.

    Libraries log heads of requests and URLs at DEBUG, and a token could be in them.
    """
    handler = _Handler()
    handler.setFormatter(LogFormatter(log_format))
    own = logging.getLogger("gateway")
    own.setLevel(level.upper())
    logging.basicConfig(level=max(own.level, logging.WARNING), handlers=[handler], force=True)
    _writer.describe_loss = lambda count: _describe_loss(log_format, count)


def line_writer(log_format: str, logger: str, level: str = "info") -> Callable[[str, Members], None]:
    """Return what writes a message and its members as one line, past `logging`, which costs twice as much."""
    render = _RENDER[log_format]

    def write(message: str, members: Members) -> None:
        _writer.write(render(time.time(), level, logger, message, members))

    return write


def dropped_lines() -> int:
    """Return how many lines this process dropped because nobody read them."""
    return _writer.dropped


class _Handler(logging.Handler):
    """Gives records to the thread that writes. `logging.shutdown`, at the exit, flushes it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a log that fails must not make a request fail
            line = traceback.format_exc().rstrip()
        _writer.write(line, at_once=True)

    def flush(self) -> None:
        """Wait until all is written, for a second at most."""
        _writer.flush()


class LogFormatter(logging.Formatter):
    """Formats the gateway's records with all their members, as `json` or `text`."""

    def __init__(self, log_format: str) -> None:
        super().__init__()
        self._render = _RENDER[log_format]

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, or more where it has an exception."""
        members = dict(getattr(record, "record", ()))
        if record.exc_info and record.exc_info[0]:
            members["exception"] = self.formatException(record.exc_info)
        return self._render(record.created, record.levelname.lower(), record.name, record.getMessage(), members)


def _json(seconds: float, level: str, logger: str, message: str, members: Members) -> str:
    return _encode({"time": _utc(seconds), "level": level, "logger": logger, "message": message, **members})


def _text(seconds: float, level: str, logger: str, message: str, members: Members) -> str:
    exception = members.pop("exception", "")
    pairs = "".join(f" {name}={_encode(value)}" for name, value in members.items())
    return f"{_utc(seconds)} {level} {logger}: {message}{pairs}" + ("\n" + exception if exception else "")


_RENDER = {"json": _json, "text": _text}


def _utc(seconds: float) -> str:
    return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03}Z"


@lru_cache(2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _describe_loss(log_format: str, count: int) -> str:
    message = f"{count} log lines were dropped: nobody read them"
    return _RENDER[log_format](time.time(), "warning", __name__, message, {"dropped": count})


# One for the process, as there is one standard error.
_writer = LineWriter(2, lambda count: _describe_loss("json", count))

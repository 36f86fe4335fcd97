"""How logs are written: one line per record, JSON or text, to standard error."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from json.encoder import encode_basestring_ascii as _encode_text
from types import MappingProxyType
from typing import Any

from gateway.http.cache import bounded_cache
from gateway.ops.writer import LineWriter

Members = dict[str, Any]

_encode = json.JSONEncoder(separators=(",", ":")).encode


def configure_logging(log_format: str, level: str) -> None:
    """Write the gateway's records from `level` on, those of its audit always, and those of libraries from WARNING on.

    Libraries log heads of requests and URLs at DEBUG, and a token could be in them.
    """
    handler = _Handler()
    handler.setFormatter(LogFormatter(log_format))
    own = logging.getLogger("gateway")
    own.setLevel(level.upper())
    logging.getLogger("gateway.audit").setLevel(logging.INFO)
    logging.basicConfig(level=max(own.level, logging.WARNING), handlers=[handler], force=True)
    _writer.describe_loss = lambda count: _describe_loss(log_format, count)


def line_writer(
    log_format: str, logger: str, level: str = "info", plain: Mapping[str, str] = MappingProxyType({})
) -> Callable[[str, Members], None]:
    """Return what writes a message and its members as one line, past `logging`, which costs twice as much.

    `plain` says of members' values that JSON need not escape how they are written, such as `"%s"` or `%d`.
    """
    render = _renderer(log_format, logger, level, plain)

    def write(message: str, members: Members) -> None:
        _writer.write(render(time.time(), message, members))

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
        self._is_text = log_format == "text"
        self._renderer = lru_cache(100)(partial(_renderer, log_format))

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, or more where it has an exception."""
        members = dict(getattr(record, "record", ()))
        exception = self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
        if exception and not self._is_text:
            members["exception"] = exception
        render = self._renderer(record.name, record.levelname.lower())
        line = render(record.created, record.getMessage(), members)
        return f"{line}\n{exception}" if exception and self._is_text else line


def _renderer(
    log_format: str, logger: str, level: str, plain: Mapping[str, str] = MappingProxyType({})
) -> Callable[[float, str, Members], str]:
    """Return what makes a line of a time, a message and members.

    What lines with the same names of members have in common is made once, and their values are filled in: JSON's
    encoder would take four times as long.
    """
    template = _TEMPLATES[log_format]
    first = 2 if log_format == "json" else 3  # a text's message is not encoded

    @bounded_cache(100)
    def prepare(names: tuple[str, ...]) -> tuple[str, list[int]]:
        """Return the line with a place for each value, and which values are to be encoded."""
        written = [(name, plain.get(name, "%s")) for name in names]
        places = enumerate(["second", "millisecond", "message", *names])
        return template(logger, level, written), [at for at, name in places if at >= first and name not in plain]

    def render(seconds: float, message: str, members: Members) -> str:
        line, encoded = prepare(tuple(members))
        values: list[Any] = [_second(int(seconds)), seconds % 1 * 1000, message, *members.values()]
        for at in encoded:
            value = values[at]
            # What the encoder does with text, called directly.
            values[at] = _encode_text(value) if type(value) is str else _encode(value)
        return line % tuple(values)

    return render


def _json(logger: str, level: str, members: Iterable[tuple[str, str]]) -> str:
    """Return the template of a JSON line, with how each member's value is written."""
    shown = "".join(f",{_literal(_encode(name))}:{value}" for name, value in members)
    return f'{{"time":"%s.%03dZ","level":{_encode(level)},"logger":{_literal(_encode(logger))},"message":%s{shown}}}'


def _text(logger: str, level: str, members: Iterable[tuple[str, str]]) -> str:
    """Return the same of a line of text."""
    return f"%s.%03dZ {level} {_literal(logger)}: %s" + "".join(f" {_literal(name)}={value}" for name, value in members)


_TEMPLATES = {"json": _json, "text": _text}


def _literal(text: str) -> str:
    return text.replace("%", "%%")


@lru_cache(2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _describe_loss(log_format: str, count: int) -> str:
    message = f"{count} log lines were dropped: nobody read them"
    return _renderer(log_format, __name__, "warning")(time.time(), message, {"dropped": count})


# One for the process, as there is one standard error.
_writer = LineWriter(2, lambda count: _describe_loss("json", count))

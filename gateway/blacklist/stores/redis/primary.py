"""The way to the primary of Redis that a URL names, taken by redis-py: alone, by sentinels, or in a cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from hiredis import ReplyError
from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from gateway.blacklist.stores.redis.client import FAILURES, SECONDS, RedisConnection, pack

_OPTIONS: dict[str, Any] = {
    "socket_timeout": SECONDS,
    "socket_connect_timeout": SECONDS,
    "retry": Retry(NoBackoff(), 0),
    "protocol": 2,  # no round trip for HELLO
}


def primary(url: str, key: str) -> Callable[[], RedisConnection]:
    """Return what opens a connection to the server that holds `key` and takes changes. Raises ValueError.

    `redis://`, `rediss://` and `unix://` as redis-py reads them;
    `redis+sentinel://user:password@host:port,host:port/service/db` and `redis+cluster://host:port,host:port`,
    TLS with `rediss+`. `?sentinel_password=` is what the sentinels themselves ask for.
    """
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if not kind:
        return partial(_connect, _parsed(url))
    user, at, nodes = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    options = _parsed(f"{scheme}://{user}{at}node/{db}?{parts.query}")
    if kind == "cluster" and not service:
        return partial(_owner, key, [_address(node, 6379) for node in nodes.split(",")], options)
    if kind == "sentinel" and service:
        sentinel = _sentinel([_address(node, 26379) for node in nodes.split(",")], options)
        return lambda: _connect(options, *sentinel.discover_master(service))
    raise ValueError("neither redis+sentinel://host/service nor redis+cluster://host")


def node_of(url: str, host: str, port: int) -> Callable[[], RedisConnection]:
    """Return what opens a connection to another node of the URL's cluster."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    options = _parsed(f"{parts.scheme.partition('+')[0]}://{user}{at}node?{parts.query}")
    return partial(_connect, options, host, port)


def _parsed(url: str) -> dict[str, Any]:
    options = dict(parse_url(url))  # type: ignore[no-untyped-call]
    parts = urlsplit(url)
    if parts.scheme != "unix" and not re.fullmatch(r"/?[0-9]*", parts.path):  # redis-py would take it for 0
        raise ValueError("the database is no number")
    own = {name: value for name, value in options.items() if not name.startswith("sentinel_")}
    try:
        own.pop("connection_class", Connection)(**own)  # made, not connected: it alone knows which options there are
    except (TypeError, RedisError) as error:
        raise ValueError("an option is not redis-py's") from error
    return options


def _connect(options: dict[str, Any], *address: Any) -> RedisConnection:
    """Return a connection to the address (host, port), or to the one among the options."""
    chosen = {**options, **_OPTIONS, **dict(zip(("host", "port"), address, strict=False))}
    connection = chosen.pop("connection_class", Connection)(**chosen)
    connection.connect()
    return RedisConnection(connection)


def _sentinel(addresses: Sequence[tuple[str, int]], options: dict[str, Any]) -> Any:
    own = {name: options.pop(name) for name in list(options) if name.startswith("sentinel_")}
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    return Sentinel(  # type: ignore[no-untyped-call]
        addresses,
        sentinel_kwargs={
            **{name.removeprefix("sentinel_"): value for name, value in own.items()},
            **({"ssl": True, **tls} if "connection_class" in options else {}),
            **_OPTIONS,
        },
    )


def _owner(key: str, addresses: list[tuple[str, int]], options: dict[str, Any]) -> RedisConnection:
    """Return a connection to the node of a cluster that holds the key, by asking the first that answers.

    One that does not answer is asked last from now on: else it would use up the time limit each time.
    """
    fault: Exception = ConnectionError("no node of the cluster answers")
    for host, port in list(addresses):
        try:
            connection = _connect(options, host, port)
            connection.ask(pack(("GET", key)), 1)
            return connection
        except ReplyError as error:
            word, *_, place = str(error).split()  # MOVED 3999 127.0.0.1:6381
            if word == "ASK":
                return _connect(options, host, port)  # its slot migrates: this node says of each key where it is
            if word == "MOVED":
                owner, _, owners_port = place.rpartition(":")
                return _connect(options, owner or host, int(owners_port))
            fault = error
        except FAILURES as error:
            fault = error
            addresses[:] = sorted(addresses, key=(host, port).__eq__)
    raise fault


def _address(node: str, port: int) -> tuple[str, int]:
    parts = urlsplit("//" + node)
    if not parts.hostname:
        raise ValueError("a node without a name")
    return parts.hostname, parts.port or port

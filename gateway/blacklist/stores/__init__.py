"""The stores; this module alone names the backends."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from gateway.blacklist.stores.base import Added, Entry, Store, StoreMissing, StoreOutdated, StoreRefused

__all__ = ["Added", "Entry", "Store", "StoreMissing", "StoreOutdated", "StoreRefused", "open_store", "store_warnings"]


def open_store(
    url: str,
    *,
    now: Callable[[], float] = time.time,
    replicas: int = 0,
    accept_lossy: bool = False,
    create: bool = True,
) -> Store:
    """Open the store a URL names: `sqlite:///relative`, `sqlite:////absolute`, or any of Redis's schemes.

    Raises StoreRefused with one sentence when the store must not be used as it is; StoreMissing when there is none, and
    `create` is False.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and rest != "/":
        from gateway.blacklist.stores.sqlite.store import SqliteStore

        path = unquote(rest[1:])
        if "\0" in path:
            raise StoreRefused("STORE has a NUL in its path.")
        return SqliteStore(path, now, create=create)
    if re.fullmatch(r"unix|(redis|valkey)s?(\+.*)?", scheme):
        try:
            from gateway.blacklist.stores.redis.store import RedisStore
        except ImportError as error:
            raise StoreRefused("A Redis store needs two more packages: pip install redis hiredis") from error
        return RedisStore(url, now, replicas=replicas, accept_lossy=accept_lossy, create=create)
    raise StoreRefused(_no_store(url))


def store_warnings(url: str) -> list[str]:
    """Return what an operator should know about the place of the store, one sentence each."""
    scheme, _, rest = url.partition("://")
    if scheme != "sqlite":
        return []
    from gateway.blacklist.stores.sqlite.place import how_it_ends

    path = Path(os.path.realpath(unquote(rest[1:])))
    how = how_it_ends(path)
    return [f"the blacklist {how}, and what was blacklisted passes again. Keep {path} in a volume"] if how else []


def _no_store(url: str) -> str:
    """Return why the URL names no store, without quoting it: it may hold a password."""
    named = re.match(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)", url)
    if named and named[0] == "sqlite":
        return "STORE names no file: it is sqlite:///blacklist.sqlite3, and with an absolute path has four slashes."
    if named is None:
        return "STORE is no URL: a file is sqlite:///blacklist.sqlite3, a server redis://host:6379/0."
    return f"No store has the scheme {named[0]}: use sqlite:///, redis://, rediss://, valkey:// or unix://."

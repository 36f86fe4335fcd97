"""How long the parts of a request took, for the access log and the metrics."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TypeVar, TypeVarTuple

from gateway.http.target import Environ

SECONDS = "gateway.seconds"  # in the environ, if somebody asks: of the parts that were reached, the seconds each took

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def timed(environ: Environ, part: str, work: Callable[[*Ts], T], *args: *Ts) -> T:
    """Return what `work` returns, and note how long it took, also when it raises."""
    began = perf_counter()
    try:
        return work(*args)
    finally:
        note(environ, part, began)


def note(environ: Environ, part: str, began: float) -> None:
    """Note how long a part took that began at that time of `perf_counter`, if somebody asks for it."""
    if SECONDS in environ:
        environ[SECONDS][part] = perf_counter() - began

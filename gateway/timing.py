"""How long the parts of a request took, for the access log and the metrics."""

from __future__ import annotations

from time import perf_counter

from gateway.target import Environ

SECONDS = "gateway.seconds"  # in the environ: the parts that were reached, each with its duration in seconds


class Timed:
    """`with Timed(environ, "store"):` notes how long the block took, also when it raises."""

    __slots__ = ("_began", "_part", "_seconds")

    def __init__(self, environ: Environ, part: str) -> None:
        self._seconds: dict[str, float] = environ.setdefault(SECONDS, {})
        self._part = part

    def __enter__(self) -> None:
        self._began = perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._part] = perf_counter() - self._began
